"""Load settings: collect the values of every source, and validate them once.

Each source overrides the ones before it:

    defaults  <  file (--config, GIZMO_CONFIG)  <  .env  <  environment  <  command line

Nested models and the tables of channels are merged. Any other value is replaced as a whole.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import ValidationError

from gizmopy.config.error_translation import ErrorTranslator
from gizmopy.config.flags import read_flags
from gizmopy.config.named_code import REASON, has_code_key, url_names_code
from gizmopy.config.origin import Origin
from gizmopy.config.plain_text import text_problem
from gizmopy.config.schema import Section, read_schema
from gizmopy.config.secrets.redaction import quotable_text
from gizmopy.config.settings import Settings
from gizmopy.config.sources import (
    CONFIG,
    Finding,
    SourceValue,
    read_dotenv,
    read_environment,
    read_file,
    unusable_text,
)
from gizmopy.errors import ConfigError, ConfigProblem
from gizmopy.untrusted.hidden import describe_size

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """Settings, and the origin of each value."""

    settings: S
    origins: Mapping[str, Origin]
    """By the path of a setting (``http_port``, ``database.host``) or of a table's entry
    (``topics.CATS``). A value that no source has given has the source ``default``."""


def load(
    cls: type[S],
    argv: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = Path(".env"),
) -> Loaded[S]:
    """Return the settings that all sources give together, and the origin of each.

    ``argv`` is the command line without the program's name. ``environ`` is the environment
    (default: that of the process). ``dotenv`` is the path of a file of NAME=value lines, which may
    be missing; None: no file. In the environment and in flags, lists and dicts are JSON. Raises
    ConfigError with every problem.
    """
    environ = os.environ if environ is None else environ
    schema = read_schema(cls)
    findings = _read_sources(schema, argv, environ, dotenv)
    problems = [found for found in findings if isinstance(found, ConfigProblem)]
    values = {found.name: found for found in findings if isinstance(found, SourceValue)}
    untrusted = _untrusted_files(dotenv, values.get(CONFIG.name))
    unusable = {
        name: problem
        for name, found in values.items()
        if (problem := unusable_text(found) or _code_problem(found, untrusted))
    }
    # pydantic would report a required setting with an unusable value a second time, as missing.
    consequences = {values[name].setting.environment[0] for name in unusable}
    for name in (CONFIG.name, *unusable):
        values.pop(name, None)
    problems += unusable.values()
    settings, invalid = _validate(cls, schema, values)
    if settings is None or problems:
        problems += (problem for problem in invalid if problem.name not in consequences)
        raise ConfigError(problems)
    return Loaded(settings, _origins(schema, values))


def _read_sources(
    schema: Section, argv: Sequence[str], environ: Mapping[str, str], dotenv: Path | None
) -> list[Finding]:
    """Return the findings in every source; a later value overrides an earlier one."""
    settings = (*schema.settings(), CONFIG)
    findings: list[Finding] = [
        *chain(
            read_dotenv(settings, dotenv, environ) if dotenv is not None else (),
            read_environment(settings, environ, "environment"),
            read_flags(settings, argv),
        )
    ]
    values = {found.name: found for found in findings if isinstance(found, SourceValue)}
    config = values.get(CONFIG.name)
    if config is not None and config.value and not text_problem(config.value):
        return [*read_file(schema, config), *findings]
    return findings


def _untrusted_files(dotenv: Path | None, config: SourceValue | None) -> set[str]:
    """Return the files that may not name code: ``.env``, and the file that it names."""
    untrusted = {str(dotenv)}
    if config is not None and config.origin.source in untrusted:
        untrusted.add(str(Path(config.value)))
    return untrusted


def _code_problem(found: SourceValue, untrusted: Container[str]) -> ConfigProblem | None:
    """Return the problem of a value in an untrusted file that names code; None if there is none."""
    if found.origin.source not in untrusted or not found.value:
        return None
    setting, value = found.setting, found.value
    if not (setting.names_code or url_names_code(value) or has_code_key(value, setting.code_keys)):
        return None
    name, source = found.origin.name, found.origin.source
    remedy = "set it in the environment, by a flag, or in a file that --config names"
    return ConfigProblem(name, REASON, remedy, source, size=describe_size(found.value))


def _validate(
    cls: type[S], schema: Section, values: Mapping[str, SourceValue]
) -> tuple[S | None, list[ConfigProblem]]:
    # Neither exception is chained or shown: both may quote a secret.
    try:
        return cls(**_pydantic_input(schema, values)), []
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
    except Exception as error:  # noqa: BLE001 -- a validator of the user's may raise anything
        return None, [_validator_problem(cls, error)]
    return None, _translate(schema, values, errors)


def _validator_problem(cls: type[Settings], error: Exception) -> ConfigProblem:
    """Return the problem of a validator that has a bug: its place, without the error's text."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    reason = f"its validation raised {type(error).__name__} in {place.filename}:{place.lineno}"
    return ConfigProblem(cls.__name__, reason, "raise ValueError there for a wrong value")


def _pydantic_input(schema: Section, values: Mapping[str, SourceValue]) -> dict[str, Any]:
    """Return the values as input of pydantic, with a dict for every section."""
    tree: dict[str, Any] = {}
    for found in values.values():
        table = tree
        for section in schema.sections_above(found.setting):
            table = table.setdefault(section.input_keys[-1], section.initial_values())
        key = found.setting.input_keys[-1]
        if found.entry:
            entries = table.setdefault(key, found.setting.initial_entries())
            entries[found.entry] = found.value
        else:
            table[key] = found.value
    _add_required_sections(schema, tree)
    return tree


def _add_required_sections(section: Section, table: dict[str, Any]) -> None:
    """Add each required section that no source has, as an empty dict.

    The defaults of its settings may suffice. If they do not, pydantic reports each missing setting,
    instead of the section.
    """
    for child in section.children.values():
        if not isinstance(child, Section):
            continue
        key = child.input_keys[-1]
        if child.required:
            table.setdefault(key, {})
        if key in table:
            _add_required_sections(child, table[key])


def _origins(schema: Section, values: Mapping[str, SourceValue]) -> dict[str, Origin]:
    defaults = {setting.name: Origin("default") for setting in schema.settings()}
    return defaults | {name: found.origin for name, found in values.items()}


def _translate(
    schema: Section, values: Mapping[str, SourceValue], errors: Sequence[ErrorDetails]
) -> list[ConfigProblem]:
    """Translate pydantic's errors; those of one value, one for each type of a union, become one."""
    translator = ErrorTranslator(schema, values.values())
    problems: dict[tuple[str, str], ConfigProblem] = {}
    for error in errors:
        problem = _problem(schema, values, error, translator)
        key = (problem.name, problem.source)
        if key in problems:
            problem = replace(problem, reason=f"{problems[key].reason}, {problem.reason}")
        problems[key] = problem
    return list(problems.values())


def _problem(
    schema: Section,
    values: Mapping[str, SourceValue],
    error: ErrorDetails,
    translator: ErrorTranslator,
) -> ConfigProblem:
    node, rest = schema.find(error["loc"])
    reason, remedy = translator.translate(node, rest, error)
    if isinstance(node, Section):
        return ConfigProblem(node.name or node.model.__name__, reason, remedy)
    found = values.get(".".join(map(str, (*node.path, *rest[:1])))) or values.get(node.name)
    if found is None:
        return ConfigProblem(node.environment[0], reason, remedy)
    name, source = found.origin.name, found.origin.source
    text = quotable_text(found.value, marked=node.marked) if found.quotable else None
    if text is None:
        return ConfigProblem(name, reason, remedy, source, size=describe_size(found.value))
    return ConfigProblem(name, reason, remedy, source, text)
