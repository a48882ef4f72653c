"""The values that sources have for settings, and the settings file.

``gizmopy.config.variables`` reads the environment, ``.env`` and files of secrets, and
``gizmopy.config.flags`` the command line.

A reader yields a ``SourceValue`` for each value and a ``ConfigProblem`` for each entry that is not
valid, and continues: the report of a failed start lists every problem at once.

The sources of pydantic-settings are not used, for three reasons. They stop at the first problem,
they read ``os.environ`` whenever they run, and they do not return the name that a value came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from gizmopy.config.channel_names import channel_key
from gizmopy.config.documents import PARSERS, RepeatedKeyError, parse_json
from gizmopy.config.origin import Origin
from gizmopy.config.plain_text import text_problem
from gizmopy.config.schema import Section, Setting
from gizmopy.config.secrets.masking import is_secret_name
from gizmopy.config.settings_file import read_settings_file
from gizmopy.errors import ConfigProblem
from gizmopy.untrusted.hidden import describe_size

KEEP_ONE = "keep one of them"
REMOVE = "remove it"
"""The remedy for an unknown name that is similar to no known one."""

CONFIG = Setting(
    path=("config",),
    input_keys=("config",),
    environment=("GIZMO_CONFIG",),
    annotation=str,
    default="",
    marked=True,
    description="Path of the settings file: JSON, TOML or YAML, by its suffix.",
)
"""The setting that names the file. It is read from the environment, ``.env`` and flags only."""

SECRETS_DIR = Setting(
    path=("secrets_dir",),
    input_keys=("secrets_dir",),
    environment=("GIZMO_SECRETS_DIR",),
    annotation=str,
    default="",
    marked=True,
    description="Path of a directory that has a file for each secret, named like its variable.",
)
"""The setting that names the directory of secrets. It is read from the same sources."""


@dataclass(frozen=True, slots=True)
class SourceValue:
    """One value that a source has for a setting, or for one entry of a table."""

    setting: Setting
    value: Any = field(repr=False)  # it may be a secret
    origin: Origin
    entry: str = ""
    hidden: bool = False
    """Whether it may be a secret, whatever its setting: ``${NAME}`` was in it, which contains other
    variables, or it comes from the file of a secret."""
    keys: tuple[int | str, ...] = ()
    """The keys of the part of a structured value that it replaces; empty for the whole value."""
    parts: Mapping[tuple[int | str, ...], SourceValue] = field(default_factory=dict)
    """The values from which this one was put together, by their keys."""
    refused: ConfigProblem | None = None
    """Why the source has no usable value."""

    @property
    def name(self) -> str:
        """The path as origins and reports write it: ``topics.CATS``."""
        return f"{self.setting.name}.{self.entry}" if self.entry else self.setting.name

    @property
    def quotable(self) -> bool:
        """Whether an error may quote its value."""
        if self.parts:
            return all(part.quotable for part in self.parts.values())
        names = (self.entry, *map(str, self.keys))
        may_be_secret = self.hidden or any(map(is_secret_name, names))
        return self.setting.quotable and not may_be_secret


Finding = SourceValue | ConfigProblem


def unusable_text(found: SourceValue) -> ConfigProblem | None:
    """Return the problem of a value that cannot be encoded, without the value; None if it can."""
    if found.refused is not None:
        return found.refused
    if (problem := text_problem(found.value)) is None:
        return None
    name, source = found.origin.name, found.origin.source
    return ConfigProblem(name, *problem, source=source, size=describe_size(found.value))


def read_file(schema: Section, config: SourceValue) -> Iterator[Finding]:
    """Yield the settings in the file that ``config`` names, and every key that is not a setting."""
    path = Path(config.value)
    problem = partial(
        ConfigProblem, config.origin.name, source=config.origin.source, value=config.value
    )
    parse = PARSERS.get(path.suffix.lower())
    if parse is None:
        remedy = f"name a file that ends in {', '.join(PARSERS)}"
        yield problem(f"has the unknown suffix {path.suffix!r}", remedy)
        return
    try:
        data = parse(read_settings_file(path))
    except OSError as error:
        yield problem(f"cannot be read: {cause(error)}", "correct the path, or make it readable")
    except RepeatedKeyError as error:
        yield problem(str(error), KEEP_ONE)
    except (ValueError, RecursionError) as error:
        yield problem(f"is not {_format(path)}: {cause(error)}", "correct the file")
    else:
        yield from _from_document(schema, data, str(path), problem)


def _from_document(
    schema: Section, data: object, source: str, problem: Callable[[str, str], ConfigProblem]
) -> Iterator[Finding]:
    if isinstance(data, Mapping):
        yield from _from_mapping(schema, data, source, "")
    elif data is not None:  # an empty YAML file is None
        yield problem("is not a table of settings", "write names and values at its top level")


def _from_mapping(
    section: Section, data: Mapping[Any, Any], source: str, prefix: str
) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for key, value in data.items():
        spelled = f"{prefix}{key}"
        name = section.spellings.get(key)
        if name is None:
            remedy = suggest(str(key).lower().replace("-", "_"), section.children, prefix)
            yield ConfigProblem(spelled, "is not a known setting", remedy, source)
        elif name in seen:
            reason = f"is the same setting as {seen[name]}"
            yield ConfigProblem(spelled, reason, KEEP_ONE, source)
        else:
            seen[name] = spelled
            yield from from_value(section.children[name], value, Origin(source, spelled))


def from_value(node: Setting | Section, value: Any, origin: Origin) -> Iterator[Finding]:
    """Yield the findings in one value for a setting, a table or a section."""
    if isinstance(node, Setting) and node.table is None:
        yield SourceValue(node, value, origin)
    elif value is None:
        return  # in YAML, a section without entries
    elif not isinstance(value, Mapping):
        remedy = 'write names and values, as in {"name": "value"}'
        reason, source = "is not a table", origin.source
        yield ConfigProblem(origin.name, reason, remedy, source, size=describe_size(value))
    elif isinstance(node, Setting):
        yield from entries(
            SourceValue(node, item, Origin(origin.source, f"{origin.name}.{key}"), str(key))
            for key, item in value.items()
        )
    else:
        yield from _from_mapping(node, value, origin.source, f"{origin.name}.")


def entries(given: Iterable[SourceValue]) -> Iterator[Finding]:
    """Yield the entries of a table with their names spelled by ``channel_key``."""
    names: dict[str, str] = {}
    for found in given:
        name, entry = found.origin.name, channel_key(found.entry)
        if entry in names:
            reason = f"is the same channel as {names[entry]}"
            yield ConfigProblem(name, reason, KEEP_ONE, found.origin.source)
        else:
            names[entry] = name
            yield replace(found, entry=entry)


def text_value(setting: Setting, text: str, origin: Origin) -> SourceValue:
    """Return the value that a text has for a setting: None, or a list or object as JSON, or itself.

    Any text that is not of these is unchanged, for pydantic to validate.
    """
    if setting.none_text is not None and text == setting.none_text:
        return SourceValue(setting, None, origin)
    if not (setting.structured and setting.decoded):
        return SourceValue(setting, text, origin)
    return json_value(setting, text, origin)


def json_value(setting: Setting, text: str, origin: Origin) -> SourceValue:
    """Return the list or object that a JSON text is, or else the text."""
    try:
        value = parse_json(text)
    except RepeatedKeyError as error:
        size = describe_size(text)
        problem = ConfigProblem(origin.name, str(error), KEEP_ONE, origin.source, size=size)
        return SourceValue(setting, None, origin, refused=problem)
    except (ValueError, RecursionError):
        return SourceValue(setting, text, origin)
    return SourceValue(setting, value if isinstance(value, (list, dict)) else text, origin)


def suggest(name: str, known: Iterable[str], prefix: str) -> str:
    """Return the remedy for an unknown name: the known name that is most similar."""
    from difflib import get_close_matches  # imported here to keep cold starts short

    close = get_close_matches(name, known, n=1)
    return f"did you mean {prefix}{close[0]}?" if close else REMOVE


def cause(error: OSError | ValueError | RecursionError) -> str:
    """Return why a file cannot be read."""
    if isinstance(error, UnicodeDecodeError):
        return "its text is not UTF-8"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _format(path: Path) -> str:
    return "YAML" if path.suffix.lower() == ".yml" else path.suffix[1:].upper()
