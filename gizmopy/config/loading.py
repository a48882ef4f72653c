"""Load settings: collect the values of every source, and validate them once.

Each source overrides the ones before it:

    defaults  <  file (--config, GIZMO_CONFIG)  <  .env  <  secrets_dir  <  environment
              <  command line

Nested models, the tables of channels, and the parts that variables name (``LIMITS__CATS``) are
merged. Any other value is replaced as a whole.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import ValidationError

from gizmopy.config.error_translation import ErrorTranslator
from gizmopy.config.flags import read_flags
from gizmopy.config.named_code import REASON, has_code_key, url_names_code
from gizmopy.config.origin import Origin
from gizmopy.config.schema import Section, Setting, read_schema
from gizmopy.config.secrets.redaction import quotable_text
from gizmopy.config.settings import Settings
from gizmopy.config.sources import (
    CONFIG,
    SECRETS_DIR,
    Finding,
    SourceValue,
    read_file,
    unusable_text,
)
from gizmopy.config.structure import MissingItemError, with_part
from gizmopy.config.variables import read_dotenv, read_environment, read_secrets
from gizmopy.errors import ConfigError, ConfigProblem, place_of_field
from gizmopy.untrusted.hidden import describe_size
from gizmopy.untrusted.text import escape

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=Settings)

_DOTENV = Path(".env")
"""The default of ``load``, which ``env_file`` of a settings class replaces."""


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
    dotenv: Path | None = _DOTENV,
) -> Loaded[S]:
    """Return the settings that all sources give together, and the origin of each.

    ``argv`` is the command line without the program's name. ``environ`` is the environment
    (default: that of the process). ``dotenv`` is the path of a file of NAME=value lines, which may
    be missing; None: no file; if it is left out, ``env_file`` of the class is read instead, if it
    is set. In the environment and in flags, lists and dicts are JSON; the lists of hosts, networks
    and origins may have commas instead. Raises ConfigError with every problem, and DeclarationError
    if the class has a declaration without an effect.
    """
    environ = os.environ if environ is None else environ
    schema = read_schema(cls)
    dotenvs = _dotenv_files(cls, dotenv)
    findings, special = _read_sources(schema, argv, environ, dotenvs)
    problems = [found for found in findings if isinstance(found, ConfigProblem)]
    values = _merge(found for found in findings if isinstance(found, SourceValue))
    untrusted = _untrusted_files(dotenvs, special)
    unusable = {
        name: problem
        for name, found in values.items()
        if (problem := _first_problem(found, untrusted)) is not None
    }
    # pydantic would report a required setting with an unusable value a second time, as missing.
    consequences = {values[name].setting.environment[0] for name in unusable}
    for name in unusable:
        values.pop(name)
    problems += unusable.values()
    settings, invalid = _validate(cls, schema, values)
    if settings is None or problems:
        problems += (problem for problem in invalid if problem.name not in consequences)
        raise ConfigError(problems)
    return Loaded(settings, _origins(schema, values))


def read_values(
    cls: type[Settings], names: Iterable[str], *, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return what the sources give for some settings, not validated; one without a value is absent.

    It is for a program beside the daemon, which reads the same sources without its flags. A problem
    of a source is left to the daemon.
    """
    environ = os.environ if environ is None else environ
    findings, _ = _read_sources(read_schema(cls), (), environ, _dotenv_files(cls, _DOTENV))
    values = _merge(found for found in findings if isinstance(found, SourceValue))
    known = {name: values[name] for name in names if name in values}
    return {name: found.value for name, found in known.items() if found.refused is None}


def _dotenv_files(cls: type[Settings], dotenv: Path | None) -> list[Path]:
    """Return the ``.env`` files; a later one overrides those before it."""
    if dotenv is not _DOTENV:  # by identity: the caller has named a file
        return [] if dotenv is None else [dotenv]
    return _paths(cls.model_config.get("env_file")) or [_DOTENV]


def _paths(named: Any) -> list[Path]:
    """Return the paths in an option of pydantic-settings: one path, several, or None."""
    if named is None:
        return []
    return [
        Path(each).expanduser()
        for each in ([named] if isinstance(named, (str, os.PathLike)) else named)
    ]


def _read_sources(
    schema: Section, argv: Sequence[str], environ: Mapping[str, str], dotenvs: Sequence[Path]
) -> tuple[list[Finding], Mapping[str, SourceValue]]:
    """Return the findings in every source, and the values that name other sources.

    A later finding overrides an earlier one.
    """
    from_dotenv = [found for path in dotenvs for found in read_dotenv(schema, path, environ)]
    own = {setting.flag for setting in schema.settings()}
    special_flags = [each for each in (CONFIG, SECRETS_DIR) if each.flag not in own]
    nearer = [
        *read_environment(schema, environ),
        *read_flags((*schema.settings(), *special_flags), argv),
    ]
    special = {
        found.name: found
        for found in (*from_dotenv, *nearer)
        if isinstance(found, SourceValue) and _names_source(found)
    }
    findings = [
        *_read_named_file(schema, special.get(CONFIG.name)),
        *from_dotenv,
        *_read_secrets(schema, special.get(SECRETS_DIR.name)),
        *nearer,
        *filter(None, map(unusable_text, special.values())),
    ]
    return [each for each in findings if not _names_source(each)], special


def _names_source(found: Finding) -> bool:
    return isinstance(found, SourceValue) and found.setting in (CONFIG, SECRETS_DIR)


def _read_named_file(schema: Section, config: SourceValue | None) -> Iterator[Finding]:
    if config is not None and config.value and unusable_text(config) is None:
        yield from read_file(schema, config)


def _read_secrets(schema: Section, named: SourceValue | None) -> Iterator[Finding]:
    """Yield the settings in the directory that is named, or in those of the settings class."""
    if named is None:
        yield from _read_secrets_of_class(schema)
    elif named.value and unusable_text(named) is None:
        yield from read_secrets(schema, Path(named.value), named.origin)


def _read_secrets_of_class(schema: Section) -> Iterator[Finding]:
    missing = schema.config.get("secrets_dir_missing") or "warn"
    name = f"{schema.model.__name__}.model_config['secrets_dir']"
    for path in _paths(schema.config.get("secrets_dir")):
        if path.exists() or missing == "error":
            yield from read_secrets(schema, path, Origin("", name))
        elif missing == "warn":
            # Not an error: the directory is mounted into a container, and tests run without it.
            logger.warning("%s is not read: %s does not exist", name, escape(str(path)))


def _merge(findings: Iterable[SourceValue]) -> dict[str, SourceValue]:
    """Return the value of each setting and entry; a later one overrides those before it.

    The part of a structured value (``LIMITS__CATS``) is put into the value that is there already,
    or else into the default.
    """
    values: dict[str, SourceValue] = {}
    for found in findings:
        if found.keys:
            values[found.name] = _with_part(values.get(found.name), found)
        else:
            values[found.name] = found
    return values


def _with_part(whole: SourceValue | None, part: SourceValue) -> SourceValue:
    setting = part.setting
    if whole is None:
        base, parts = setting.initial_value(), {}
    else:
        base, parts = whole.value, dict(whole.parts) or {(): whole}
    parts[part.keys] = part
    refused = None
    try:
        value = with_part(base, part.keys, part.value)
    except MissingItemError as error:
        name, source = part.origin.name, part.origin.source
        refused = ConfigProblem(name, str(error), "number the items from 0 on", source)
        value, parts[part.keys] = base, replace(part, refused=refused)
    is_secret = any(each.origin.secret for each in parts.values())
    return SourceValue(setting, value, replace(part.origin, secret=is_secret), parts=parts)


def _first_problem(found: SourceValue, untrusted: Container[str]) -> ConfigProblem | None:
    """Return the first problem of a value or of its parts that pydantic would not find."""
    for each in found.parts.values() or (found,):
        if problem := unusable_text(each) or _code_problem(each, untrusted):
            return problem
    return None


def _untrusted_files(dotenvs: Sequence[Path], named: Mapping[str, SourceValue]) -> set[str]:
    """Return the files that may not name code: each ``.env``, and the sources that it names."""
    untrusted = set(map(str, dotenvs))
    for found in named.values():
        if found.origin.source in untrusted and found.refused is None:
            untrusted.add(str(Path(found.value)))
    return untrusted


def _code_problem(found: SourceValue, untrusted: Container[str]) -> ConfigProblem | None:
    """Return the problem of a value in an untrusted file that names code; None if there is none."""
    if found.origin.source not in untrusted or not found.value:
        return None
    setting, value = found.setting, found.value
    if not (
        setting.names_code
        or url_names_code(value)
        or has_code_key(value, setting.code_keys)
        or not setting.code_keys.isdisjoint(found.keys)
    ):
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


def _place_of_default(schema: Section, setting: Setting) -> str:
    """Return the file and line of a setting's default; empty if they are unknown."""
    model = [schema, *schema.sections_above(setting)][-1].model
    name = setting.path[-1]
    owners = (base for base in model.__mro__ if name in vars(base).get("__annotations__", {}))
    place = place_of_field(next(owners, model), name)
    return f"its default in {place}" if place else ""


def _part_at(found: SourceValue | None, location: Sequence[int | str]) -> SourceValue | None:
    """Return the part that has the value at pydantic's ``location``, or the whole value."""
    if found is None or not found.parts:
        return found
    # The location also has the name of each union's member that was tried.
    places = [keys for keys in found.parts if _is_subsequence(keys, location)]
    return found.parts[max(places, key=len)] if places else found


def _is_subsequence(keys: Sequence[int | str], location: Sequence[int | str]) -> bool:
    rest = iter(location)
    return all(key in rest for key in keys)


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
    found = None
    if isinstance(node, Setting):
        entry = values.get(".".join(map(str, (*node.path, *rest[:1]))))
        found = _part_at(entry or values.get(node.name), rest)
    hidden = found is not None and found.hidden
    reason, remedy = translator.translate(node, rest, error, hidden=hidden)
    if isinstance(node, Section):
        return ConfigProblem(node.name or node.model.__name__, reason, remedy)
    if found is None:
        source = "" if node.required else _place_of_default(schema, node)
        remedy = f"correct the default; {remedy}" if source else remedy
        return ConfigProblem(node.environment[0], reason, remedy, source)
    name, source = found.origin.name, found.origin.source
    text = quotable_text(found.value, marked=node.marked) if found.quotable else None
    if text is None:
        return ConfigProblem(name, reason, remedy, source, size=describe_size(found.value))
    return ConfigProblem(name, reason, remedy, source, text)
