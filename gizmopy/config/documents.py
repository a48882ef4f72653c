"""Parse the text of a settings file: JSON, TOML or YAML. A key that appears twice is an error.

The parsers of Python and PyYAML keep the last of several values for a key, in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

REPEATED = "has a key twice in one table"


class RepeatedKeyError(ValueError):
    """A key that appears twice in a table. The text does not quote the key, which may be secret."""


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError, and RecursionError."""
    return json.loads(text, object_pairs_hook=_table)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise RepeatedKeyError(REPEATED)
    return table


def _parse_json_file(text: str) -> object:
    try:
        return parse_json(text)
    except RepeatedKeyError:
        raise RepeatedKeyError(f"{REPEATED}{_repeated_line(text)}") from None


def _repeated_line(text: str) -> str:
    """Return the number of the line with the first repeated key, as `` (line 3)``.

    The hook of ``json`` gets no positions, so the text is read again, key by key.
    """
    tables: list[set[str] | None] = []  # None: a list
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in "{[":
            tables.append(set() if mark == "{" else None)
        elif mark in "}]":
            tables.pop()
        elif (keys := tables[-1] if tables else None) is not None and token[1] is not None:
            key = json.loads(token[1])
            if key in keys:
                return f" (line {text.count(chr(10), 0, token.start()) + 1})"
            keys.add(key)
    return ""


_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*+")[ \t\r\n]*+:|"(?:[^"\\]|\\.)*+"|[{}\[\]]')


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


_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"(?:[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
_MERGE = re.compile(r"<<\Z")
_DIGITS = "-+0123456789"
_PLAIN_SCALARS = (
    ("null", _NULL, ["~", "n", "N", ""]),
    ("bool", _BOOL, list("tTfF")),
    ("int", _INT, list(_DIGITS)),
    ("float", _FLOAT, list(f"{_DIGITS}.")),
    ("merge", _MERGE, ["<"]),
)
"""The core schema of YAML 1.2 (section 10.3.2), by the first characters of a scalar; all others are
texts. So is a number with leading zeros, whose zeros may matter."""


def _parse_yaml(text: str) -> object:
    import yaml  # imported here to keep cold starts short

    class Loader(yaml.SafeLoader):
        """A loader of YAML 1.2 that refuses a key that appears twice in a mapping.

        PyYAML reads YAML 1.1, where 1:30 is 90, 010 is 8, and no is false.
        """

        yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML changes it below

    for tag, pattern, starts in _PLAIN_SCALARS:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", pattern, starts)

    def construct_mapping(loader: Any, node: Any) -> Any:
        keys: set[Any] = set()
        for key_node, _ in node.value:  # before the entries of a merge (<<) are added to it
            key = (key_node.tag, key_node.value) if isinstance(key_node.value, str) else None
            if key is not None and key in keys:
                line = key_node.start_mark.line + 1
                raise RepeatedKeyError(f"{REPEATED} (line {line})")
            keys.add(key)
        yield from yaml.SafeLoader.construct_yaml_map(loader, node)

    Loader.add_constructor("tag:yaml.org,2002:map", construct_mapping)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        # The error's text quotes the file, and the name of an alias may be a piece of a secret.
        problem = _QUOTED.sub("", getattr(error, "problem", None) or "cannot be read")
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{problem}{place}") from None
    except RepeatedKeyError:
        raise
    except ValueError:
        raise ValueError("it contains an impossible date or number") from None


# Without (?<!\s), the search would start anew at each blank of a run: quadratic time.
_QUOTED = re.compile(r"""(?<!\s)\s*(?:'[^']{2,}'|"[^"]{2,}")""")
PARSERS: dict[str, Callable[[str], object]] = {
    ".json": _parse_json_file,
    ".toml": _parse_toml,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}
"""The parser of each kind of file, by its suffix. Raises ValueError, and RecursionError."""
