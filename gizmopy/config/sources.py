"""Read the sources of settings: the environment, ``.env``, a file.

The command line is read by ``gizmopy.config.flags``.

A reader yields what it finds, a ``Given`` for every value and a ``ConfigProblem`` for everything
that it cannot use, and goes on: whoever mends settings wants to hear all of it at once.

pydantic-settings' own sources stop at the first problem, read ``os.environ`` wherever they run, and
do not tell which name a value came by; so they are not used here.
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
from gizmopy.config.settings_file import read_settings
from gizmopy.errors import ConfigProblem
from gizmopy.untrusted.hidden import size

REMOVE = "remove it"
"""The remedy for a name that is like no known one."""

CONFIG = Setting(
    path=("config",),
    keys=("config",),
    environment=("GIZMO_CONFIG",),
    annotation=str,
    default="",
    marked=True,
    description="The settings file: JSON, TOML or YAML, by its suffix.",
)
"""Names the file; it is read from the environment and the command line like any setting."""


@dataclass(frozen=True, slots=True)
class Given:
    """One value that a source gives for a setting, or for one entry of a table."""

    setting: Setting
    value: Any = field(repr=False)  # it may be a secret
    origin: Origin
    entry: str = ""
    made_of_others: bool = False
    """Whether ``${NAME}`` was in it: other variables' values, which may be secrets, are in it."""

    @property
    def name(self) -> str:
        """The path as origins and reports write it: ``topics.CATS``."""
        return f"{self.setting.name}.{self.entry}" if self.entry else self.setting.name

    @property
    def quotable(self) -> bool:
        """Whether an error may quote its value."""
        hidden = self.made_of_others or is_secret_name(self.entry)
        return self.setting.quotable and not hidden


Finding = Given | ConfigProblem


def unreadable(found: Given) -> ConfigProblem | None:
    """Return the problem of a value that is no plain text, without the value; None if it is."""
    if (why := text_problem(found.value)) is None:
        return None
    name, source = found.origin.name, found.origin.source
    return ConfigProblem(name, *why, source=source, size=size(found.value))


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
            yield Given(setting, decoded(setting, environ[name]), Origin(source, name))


def read_dotenv(
    settings: Iterable[Setting], path: Path, environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield what the ``.env`` file gives; one that is not there, or is a directory, gives nothing.

    ``${NAME}`` in a value stands for an earlier line's value, else for that of ``environ``.
    """
    try:
        text = read_settings(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return  # a directory of this name is a virtual environment
    except (OSError, UnicodeDecodeError) as error:
        yield ConfigProblem(str(path), f"cannot be read: {_cause(error)}", "mend or remove it")
        return
    variables: dict[str, str] = {}
    parts: dict[str, frozenset[str]] = {}
    yield from _parse_dotenv(text, str(path), variables, environ, parts)
    for found in read_environment(settings, variables, str(path)):
        names = parts.get(found.origin.name) if isinstance(found, Given) else None
        if not names or not isinstance(found, Given):
            yield found
            continue
        origin = replace(found.origin, secret=any(map(is_secret_name, names)))
        yield replace(found, origin=origin, made_of_others=True)


def _parse_dotenv(
    text: str,
    source: str,
    variables: dict[str, str],
    environ: Mapping[str, str],
    parts: dict[str, frozenset[str]],
) -> Iterator[ConfigProblem]:
    """Put a file's variables into ``variables``, and the names in each into ``parts``."""
    from dotenv.parser import parse_stream  # imported where it is used: cold starts matter
    from dotenv.variables import Variable, parse_variables

    known = ChainMap(variables, dict(environ))
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            blank = len(binding.original.string) - len(binding.original.string.lstrip())
            line = binding.original.line + binding.original.string[:blank].count("\n")
            yield ConfigProblem(f"line {line}", "is not NAME=value", "mend or remove it", source)
        elif binding.key is not None and binding.value is not None:
            atoms = [*parse_variables(binding.value)]
            variables[binding.key] = "".join(atom.resolve(known) for atom in atoms)
            names = {atom.name for atom in atoms if isinstance(atom, Variable)}
            parts[binding.key] = frozenset(names).union(*(parts.get(name, ()) for name in names))


def read_file(schema: Section, config: Given) -> Iterator[Finding]:
    """Yield what the file gives that ``config`` names, and every key that is no setting."""
    path = Path(config.value)
    named = partial(
        ConfigProblem, config.origin.name, source=config.origin.source, value=config.value
    )
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        reason = f"has a suffix {path.suffix!r} that is not known here"
        yield named(reason, f"name a file that ends in {', '.join(_PARSERS)}")
        return
    try:
        data = parse(read_settings(path))
    except OSError as error:
        yield named(f"cannot be read: {_cause(error)}", "correct the path, or make it readable")
    except (ValueError, RecursionError) as error:
        yield named(f"is not {_format(path)}: {_cause(error)}", "mend the file")
    else:
        yield from _from_document(schema, data, str(path), named)


def _from_document(
    schema: Section, data: object, source: str, named: Callable[[str, str], ConfigProblem]
) -> Iterator[Finding]:
    if isinstance(data, Mapping):
        yield from _from_table(schema, data, source, "")
    elif data is not None:  # an empty YAML file is None
        yield named("does not hold a table of settings", "write names and values at its top")


def _from_table(
    section: Section, data: Mapping[Any, Any], source: str, above: str
) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for key, value in data.items():
        spelled = f"{above}{key}"
        name = section.spellings.get(key)
        if name is None:
            remedy = suggest(str(key).lower().replace("-", "_"), section.children, above)
            yield ConfigProblem(spelled, "is not a known setting", remedy, source)
        elif name in seen:
            reason = f"is the same setting as {seen[name]}"
            yield ConfigProblem(spelled, reason, "keep one of them", source)
        else:
            seen[name] = spelled
            yield from from_value(section.children[name], value, Origin(source, spelled))


def from_value(node: Setting | Section, value: Any, origin: Origin) -> Iterator[Finding]:
    """Yield the findings of one value for a setting, a table or a section."""
    if isinstance(node, Setting) and node.table is None:
        yield Given(node, value, origin)
    elif value is None:
        return  # in YAML, a section with nothing in it
    elif not isinstance(value, Mapping):
        remedy = 'write names and values, as in {"name": "value"}'
        reason, source = "is not a table", origin.source
        yield ConfigProblem(origin.name, reason, remedy, source, size=size(value))
    elif isinstance(node, Setting):
        entries = ((str(key), f"{origin.name}.{key}", item) for key, item in value.items())
        yield from _entries(node, entries, origin.source)
    else:
        yield from _from_table(node, value, origin.source, f"{origin.name}.")


def _with_prefix(environ: Mapping[str, str], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, value in environ.items():
        channel = name.removeprefix(prefix)
        if value and channel and channel != name:
            yield channel, name, value


def _entries(
    setting: Setting, entries: Iterable[tuple[str, str, Any]], source: str
) -> Iterator[Finding]:
    """Yield a table's entries, each (key, name in the source, value)."""
    names: dict[str, str] = {}
    for key, name, value in entries:
        entry = channel_key(key)
        if entry in names:
            reason = f"is the same channel as {names[entry]}"
            yield ConfigProblem(name, reason, "keep one of them", source)
        else:
            names[entry] = name
            yield Given(setting, value, Origin(source, name), entry)


def decoded(setting: Setting, text: str) -> Any:
    """Return JSON's lists and objects where a setting takes such; pydantic judges all the rest."""
    if not setting.structured:
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, (list, dict)) else text


def suggest(name: str, known: Iterable[str], before: str) -> str:
    """Return the remedy for an unknown name: the known one that is most like it."""
    from difflib import get_close_matches  # imported where it is used: cold starts matter

    close = get_close_matches(name, known, n=1)
    return f"did you mean {before}{close[0]}?" if close else REMOVE


def _cause(error: OSError | ValueError | RecursionError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "its text is not UTF-8"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _format(path: Path) -> str:
    return "YAML" if path.suffix.lower() == ".yml" else path.suffix[1:].upper()


def _parse_toml(text: str) -> object:
    import tomllib  # imported where it is used: cold starts matter

    try:
        return tomllib.loads(text)
    except ValueError as error:  # its text quotes keys, and a piece of a secret may stand for one
        problem = str(error)
    places = [place for place, character in enumerate(problem) if character in "'\""]
    if places and places[-1] - places[0] > len("'='"):  # not only a sign that was expected
        problem = problem[: places[0]] + problem[places[-1] + 1 :]
    raise ValueError(problem)


def _parse_yaml(text: str) -> object:
    import yaml  # imported where it is used: cold starts matter

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Its own text quotes the file, and words such as an alias' name may be a piece of a secret.
        problem = _QUOTED.sub("", getattr(error, "problem", None) or "cannot be read")
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{problem}{place}") from None
    except ValueError:
        raise ValueError("a date or a number in it is impossible") from None


# Without the first condition, each blank of a run would be tried as its beginning: quadratic.
_QUOTED = re.compile(r"""(?<!\s)\s*(?:'[^']{2,}'|"[^"]{2,}")""")
_PARSERS: dict[str, Callable[[str], object]] = {
    ".json": json.loads,
    ".toml": _parse_toml,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}
