"""Read the sources of settings: the environment, ``.env``, a file.

``gizmopy.config.flags`` reads the command line.

A reader yields a ``SourceValue`` for each value and a ``ConfigProblem`` for each entry that is not
valid, and continues: the report of a failed start lists every problem at once.

The sources of pydantic-settings are not used, for three reasons. They stop at the first problem,
they read ``os.environ`` whenever they run, and they do not return the name that a value came from.
"""

from __future__ import annotations

import json
import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from gizmopy.config.channel_names import channel_key
from gizmopy.config.origin import Origin
from gizmopy.config.plain_text import text_problem
from gizmopy.config.schema import Section, Setting
from gizmopy.config.secrets.masking import is_secret_name
from gizmopy.config.settings_file import read_settings_file
from gizmopy.errors import ConfigProblem
from gizmopy.untrusted.hidden import describe_size

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


@dataclass(frozen=True, slots=True)
class SourceValue:
    """One value that a source has for a setting, or for one entry of a table."""

    setting: Setting
    value: Any = field(repr=False)  # it may be a secret
    origin: Origin
    entry: str = ""
    interpolated: bool = False
    """Whether ``${NAME}`` was in it: then it contains other variables, which may be secrets."""

    @property
    def name(self) -> str:
        """The path as origins and reports write it: ``topics.CATS``."""
        return f"{self.setting.name}.{self.entry}" if self.entry else self.setting.name

    @property
    def quotable(self) -> bool:
        """Whether an error may quote its value."""
        may_be_secret = self.interpolated or is_secret_name(self.entry)
        return self.setting.quotable and not may_be_secret


Finding = SourceValue | ConfigProblem


def unusable_text(found: SourceValue) -> ConfigProblem | None:
    """Return the problem of a value that cannot be encoded, without the value; None if it can."""
    if (problem := text_problem(found.value)) is None:
        return None
    name, source = found.origin.name, found.origin.source
    return ConfigProblem(name, *problem, source=source, size=describe_size(found.value))


def read_environment(
    settings: Iterable[Setting], environ: Mapping[str, str], source: str
) -> Iterator[Finding]:
    """Yield every setting that ``environ`` names; an empty value counts as unset."""
    for setting in settings:
        if setting.table is not None:
            yield from _entries(setting, _with_prefix(environ, setting.table.prefix), source)
            continue
        name = next((name for name in setting.environment if environ.get(name)), None)
        if name is not None:
            yield SourceValue(setting, decode_json(setting, environ[name]), Origin(source, name))


def read_dotenv(
    settings: Iterable[Setting], path: Path, environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield the settings in a ``.env`` file. A missing file has none.

    ``${NAME}`` in a value is replaced by the value of an earlier line, or else of ``environ``.
    """
    try:
        text = read_settings_file(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return  # a directory with this name is a virtual environment
    except (OSError, UnicodeDecodeError) as error:
        reason = f"cannot be read: {_cause(error)}"
        yield ConfigProblem(str(path), reason, "correct or remove the file")
        return
    variables: dict[str, str] = {}
    references: dict[str, frozenset[str]] = {}
    yield from _parse_dotenv(text, str(path), variables, environ, references)
    for found in read_environment(settings, variables, str(path)):
        names = references.get(found.origin.name) if isinstance(found, SourceValue) else None
        if not names or not isinstance(found, SourceValue):
            yield found
            continue
        origin = replace(found.origin, secret=any(map(is_secret_name, names)))
        yield replace(found, origin=origin, interpolated=True)


def _parse_dotenv(
    text: str,
    source: str,
    variables: dict[str, str],
    environ: Mapping[str, str],
    references: dict[str, frozenset[str]],
) -> Iterator[ConfigProblem]:
    """Add the variables of a file to ``variables``, and the names in each to ``references``."""
    from dotenv.parser import parse_stream  # imported here to keep cold starts short
    from dotenv.variables import Variable, parse_variables

    known = ChainMap(variables, dict(environ))
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            blank = len(binding.original.string) - len(binding.original.string.lstrip())
            line = binding.original.line + binding.original.string[:blank].count("\n")
            remedy = "correct or remove it"
            yield ConfigProblem(f"line {line}", "is not NAME=value", remedy, source)
        elif binding.key is not None and binding.value is not None:
            atoms = [*parse_variables(binding.value)]
            variables[binding.key] = "".join(atom.resolve(known) for atom in atoms)
            names = {atom.name for atom in atoms if isinstance(atom, Variable)}
            inherited = (references.get(name, ()) for name in names)
            references[binding.key] = frozenset(names).union(*inherited)


def read_file(schema: Section, config: SourceValue) -> Iterator[Finding]:
    """Yield the settings in the file that ``config`` names, and every key that is not a setting."""
    path = Path(config.value)
    problem = partial(
        ConfigProblem, config.origin.name, source=config.origin.source, value=config.value
    )
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        remedy = f"name a file that ends in {', '.join(_PARSERS)}"
        yield problem(f"has the unknown suffix {path.suffix!r}", remedy)
        return
    try:
        data = parse(read_settings_file(path))
    except OSError as error:
        yield problem(f"cannot be read: {_cause(error)}", "correct the path, or make it readable")
    except (ValueError, RecursionError) as error:
        yield problem(f"is not {_format(path)}: {_cause(error)}", "correct the file")
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
            yield ConfigProblem(spelled, reason, "keep one of them", source)
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
        entries = ((str(key), f"{origin.name}.{key}", item) for key, item in value.items())
        yield from _entries(node, entries, origin.source)
    else:
        yield from _from_mapping(node, value, origin.source, f"{origin.name}.")


def _with_prefix(environ: Mapping[str, str], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, value in environ.items():
        channel = name.removeprefix(prefix)
        if value and channel and channel != name:
            yield channel, name, value


def _entries(
    setting: Setting, entries: Iterable[tuple[str, str, Any]], source: str
) -> Iterator[Finding]:
    """Yield the entries of a table; each is given as (key, name in the source, value)."""
    names: dict[str, str] = {}
    for key, name, value in entries:
        entry = channel_key(key)
        if entry in names:
            reason = f"is the same channel as {names[entry]}"
            yield ConfigProblem(name, reason, "keep one of them", source)
        else:
            names[entry] = name
            yield SourceValue(setting, value, Origin(source, name), entry)


def decode_json(setting: Setting, text: str) -> Any:
    """Return the list or object that a JSON ``text`` is, if the setting accepts one.

    Any other text is returned unchanged, for pydantic to validate.
    """
    if not setting.structured:
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, (list, dict)) else text


def suggest(name: str, known: Iterable[str], prefix: str) -> str:
    """Return the remedy for an unknown name: the known name that is most similar."""
    from difflib import get_close_matches  # imported here to keep cold starts short

    close = get_close_matches(name, known, n=1)
    return f"did you mean {prefix}{close[0]}?" if close else REMOVE


def _cause(error: OSError | ValueError | RecursionError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "its text is not UTF-8"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _format(path: Path) -> str:
    return "YAML" if path.suffix.lower() == ".yml" else path.suffix[1:].upper()


def _parse_toml(text: str) -> object:
    import tomllib  # imported here to keep cold starts short

    try:
        return tomllib.loads(text)
    except ValueError as error:
        problem = str(error)
    # The text of tomllib's error quotes keys, and a malformed line may put a piece of a secret in
    # place of a key. So everything from the first to the last quote is removed, unless it is only a
    # character that was expected ("=").
    quotes = [place for place, character in enumerate(problem) if character in "'\""]
    if quotes and quotes[-1] - quotes[0] > len("'='"):
        problem = problem[: quotes[0]] + problem[quotes[-1] + 1 :]
    raise ValueError(problem)


def _parse_yaml(text: str) -> object:
    import yaml  # imported here to keep cold starts short

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        # The error's text quotes the file, and the name of an alias may be a piece of a secret.
        problem = _QUOTED.sub("", getattr(error, "problem", None) or "cannot be read")
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{problem}{place}") from None
    except ValueError:
        raise ValueError("it contains an impossible date or number") from None


# Without (?<!\s), the search would start anew at each blank of a run: quadratic time.
_QUOTED = re.compile(r"""(?<!\s)\s*(?:'[^']{2,}'|"[^"]{2,}")""")
_PARSERS: dict[str, Callable[[str], object]] = {
    ".json": json.loads,
    ".toml": _parse_toml,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}
