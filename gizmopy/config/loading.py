"""Load settings: gather what every source gives, later ones over earlier, and validate it once.

    defaults  <  file (--config, GIZMO_CONFIG)  <  .env  <  environment  <  command line

Nested models and the tables of channels are merged; any other value replaces the one below it.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import ValidationError

from gizmopy.config.flags import read_flags
from gizmopy.config.named_code import REASON, holds_key, value_names_code
from gizmopy.config.origin import Origin
from gizmopy.config.plain_text import text_problem
from gizmopy.config.reasons import Reasons
from gizmopy.config.schema import Section, read_schema
from gizmopy.config.secrets.shown_fields import quotable_text
from gizmopy.config.settings import Settings
from gizmopy.config.sources import (
    CONFIG,
    Finding,
    Given,
    read_dotenv,
    read_environment,
    read_file,
    unreadable,
)
from gizmopy.errors import ConfigError, ConfigProblem
from gizmopy.untrusted.hidden import size

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """Hold settings, and where each of them came from."""

    settings: S
    origins: Mapping[str, Origin]
    """By a setting's path (``http_port``, ``database.host``); a table's entries have their own
    (``topics.CATS``). What no source gives has the source ``default``."""


def load(
    cls: type[S],
    argv: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = Path(".env"),
) -> Loaded[S]:
    """Return the settings that every source together gives, and the origin of each.

    ``argv`` is the command line without the program's name, ``environ`` the environment (default:
    the process's own), ``dotenv`` a file of NAME=value lines that may be missing (None: none).
    Lists and dicts are JSON in the environment and in flags. Raises ConfigError with every problem.
    """
    environ = os.environ if environ is None else environ
    schema = read_schema(cls)
    settings = (*schema.settings(), CONFIG)
    found: Iterator[Finding] = chain(
        (read_dotenv(settings, dotenv, environ) if dotenv is not None else ()),
        read_environment(settings, environ, "environment"),
        read_flags(settings, argv),
    )
    findings = [*found]
    config = {found.name: found for found in findings if isinstance(found, Given)}.get(CONFIG.name)
    if config is not None and config.value and not text_problem(config.value):
        findings = [*read_file(schema, config), *findings]
    problems = [found for found in findings if isinstance(found, ConfigProblem)]
    given = {found.name: found for found in findings if isinstance(found, Given)}
    untrusted = {str(dotenv)}
    if config is not None and config.origin.source in untrusted:
        untrusted.add(str(Path(config.value)))
    refused = {
        name: refusal
        for name, found in given.items()
        if (refusal := unreadable(found) or _names_code(found, untrusted))
    }
    missing = {given[name].setting.environment[0] for name in refused}
    for name in (CONFIG.name, *refused):
        given.pop(name, None)
    problems += refused.values()
    valid, invalid = _validate(cls, schema, given)
    if valid is None or problems:
        raise ConfigError([*problems, *(each for each in invalid if each.name not in missing)])
    return Loaded(valid, _origins(schema, given))


def _names_code(found: Given, untrusted: Container[str]) -> ConfigProblem | None:
    """Return the problem of a value from ``.env``, or from a file that it names, for code."""
    if found.origin.source not in untrusted or not found.value:
        return None
    setting, value = found.setting, found.value
    if not (setting.names_code or value_names_code(value) or holds_key(value, setting.code_keys)):
        return None
    name, source = found.origin.name, found.origin.source
    remedy = "set it in the environment, by a flag, or in a file that --config names"
    return ConfigProblem(name, REASON, remedy, source, size=size(found.value))


def _validate(
    cls: type[S], schema: Section, given: Mapping[str, Given]
) -> tuple[S | None, list[ConfigProblem]]:
    try:
        return cls(**_tree(schema, given)), []
    except ValidationError as error:  # never shown, never chained: it holds what was given
        errors = error.errors(include_url=False, include_input=False)
    except Exception as error:  # noqa: BLE001 -- a validator's own, which may hold the value
        return None, [_broken(cls, error)]
    return None, _problems(schema, given, errors)


def _broken(cls: type[Settings], error: Exception) -> ConfigProblem:
    """Return the problem of a validator that fails in itself: its place, and not its text."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    reason = f"its validation raised {type(error).__name__} in {place.filename}:{place.lineno}"
    return ConfigProblem(cls.__name__, reason, "raise ValueError there for a wrong value")


def _tree(schema: Section, given: Mapping[str, Given]) -> dict[str, Any]:
    """Return the values as pydantic takes them: a dict for every section."""
    tree: dict[str, Any] = {}
    for found in given.values():
        table = tree
        for section in schema.sections_above(found.setting):
            table = table.setdefault(section.keys[-1], section.seed())
        key = found.setting.keys[-1]
        if found.entry:
            table.setdefault(key, found.setting.seed())[found.entry] = found.value
        else:
            table[key] = found.value
    _open_sections(schema, tree)
    return tree


def _open_sections(section: Section, table: dict[str, Any]) -> None:
    """Add what is required, if empty: its own defaults may do, or each missing setting is named."""
    for child in section.children.values():
        if isinstance(child, Section):
            if child.required:
                table.setdefault(child.keys[-1], {})
            if child.keys[-1] in table:
                _open_sections(child, table[child.keys[-1]])


def _origins(schema: Section, given: Mapping[str, Given]) -> dict[str, Origin]:
    defaults = {setting.name: Origin("default") for setting in schema.settings()}
    return defaults | {name: found.origin for name, found in given.items()}


def _problems(
    schema: Section, given: Mapping[str, Given], errors: Sequence[ErrorDetails]
) -> list[ConfigProblem]:
    """Translate pydantic's errors; several of one value (the members of a union) become one."""
    reasons = Reasons(schema, given.values())
    problems: dict[tuple[str, str], ConfigProblem] = {}
    for error in errors:
        problem = _problem(schema, given, error, reasons)
        key = (problem.name, problem.source)
        if key in problems:
            problem = replace(problem, reason=f"{problems[key].reason}, {problem.reason}")
        problems[key] = problem
    return list(problems.values())


def _problem(
    schema: Section, given: Mapping[str, Given], error: ErrorDetails, reasons: Reasons
) -> ConfigProblem:
    node, rest = schema.find(error["loc"])
    reason, remedy = reasons.of(node, rest, error)
    if isinstance(node, Section):
        return ConfigProblem(node.name or node.model.__name__, reason, remedy)
    found = given.get(".".join(map(str, (*node.path, *rest[:1])))) or given.get(node.name)
    if found is None:
        return ConfigProblem(node.environment[0], reason, remedy)
    name, source = found.origin.name, found.origin.source
    shown = quotable_text(found.value, marked=node.marked) if found.quotable else None
    if shown is None:
        return ConfigProblem(name, reason, remedy, source, size=size(found.value))
    return ConfigProblem(name, reason, remedy, source, shown)
