"""Read a ``.env`` file: quotes, escapes, comments, and references to other variables.

A password may hold any character. So a value is never shortened in silence: a reference to a name
that is not set, or a quote that is not closed, makes the value unusable. Docker Compose only warns,
and inserts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_ASSIGNMENT = re.compile(r"[ \t]*+(?:export[ \t]++)?([A-Za-z_][A-Za-z0-9_.-]*+)[ \t]*+(=?)[ \t]*+")
_QUOTED = {
    "'": re.compile(r"'((?:[^'\\]|\\.)*+)'", re.DOTALL),
    '"': re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL),
}
_COMMENT = re.compile(r"[ \t]*+(?:#|$)")
_BLANK_AND_SIGN = re.compile(r"[ \t]#")
# "[^{}]*", not "[^}]*": without a "}", each of many "${" would search to the end of the text.
_EXPANDED = re.compile(r"\$\$|\$\{(?:([^{}]*+)\})?")
_EXPANDED_OR_ESCAPED = re.compile(rf"\\(.)|{_EXPANDED.pattern}", re.DOTALL)
_REFERENCE = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*+)(?:(:?)-(.*))?", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"} | {
    character: character for character in "\\'\"$"
}


class ReferenceProblem(ValueError):
    """A reference that cannot be replaced: the reason and the remedy, without a part of a value."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class UnusableLine:
    """A line of a known name whose value is not used, with the reason and the remedy."""

    number: int
    reason: str
    remedy: str


@dataclass(slots=True)
class DotenvFile:
    """The variables of a file, and the lines that are not used."""

    values: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    """The number of the line that sets each variable."""
    references: dict[str, frozenset[str]] = field(default_factory=dict)
    """The names of the variables that the value of each variable contains."""
    unusable: dict[str, UnusableLine] = field(default_factory=dict)
    """The lines that are not used, by the name that they set."""
    foreign: list[int] = field(default_factory=list)
    """The numbers of the lines that are not NAME=value."""
    repeated: list[tuple[str, int, int]] = field(default_factory=list)
    """Each name that is set again, with the numbers of the ignored line and of the later one."""


def parse_dotenv(text: str, environ: Mapping[str, str]) -> DotenvFile:
    """Return the variables of the file ``text``.

    ``${NAME}`` in a value without quotes or in double quotes is replaced by the value of an earlier
    line, or else of ``environ``; ``${NAME:-text}`` has a default, and ``$$`` is a dollar. Text in
    single quotes is not changed, except that a quote in it is written as ``\\'``.
    """
    file = DotenvFile()
    for number, name, raw, quote in _assignments(text, file):
        if name in file.lines:
            file.repeated.append((name, file.lines[name], number))
        file.lines[name] = number
        for known in (file.values, file.references, file.unusable):
            known.pop(name, None)
        try:
            value, names = _expanded(raw, quote, file.values, environ)
        except ReferenceProblem as problem:
            file.unusable[name] = UnusableLine(number, problem.reason, problem.remedy)
        else:
            file.values[name] = value
            inherited = (file.references.get(each, frozenset()) for each in names)
            file.references[name] = names.union(*inherited)
    return file


def _assignments(text: str, file: DotenvFile) -> Iterator[tuple[int, str, str, str]]:
    """Yield line number, name, value and quote of each line; add other lines to ``file``."""
    position, number = 0, 1
    while position < len(text):
        end = _end_of_line(text, position)
        start = _ASSIGNMENT.match(text, position, end)
        value_end = end
        if start is not None and start[2]:
            name = start[1]
            quote = text[start.end() : start.end() + 1]
            if quote in _QUOTED:
                quoted = _QUOTED[quote].match(text, start.end())
                if quoted is None:
                    remedy = f"close it with {quote}, or put the whole value in other quotes"
                    _refuse(file, name, number, "has a quote that is not closed", remedy)
                elif not _COMMENT.match(
                    text, quoted.end(), value_end := _end_of_line(text, quoted.end())
                ):
                    remedy = f"write {_escaped_quote(quote)} for a quote in the value"
                    _refuse(file, name, number, "has text after its closing quote", remedy)
                else:
                    yield number, name, quoted[1], quote
            else:
                yield number, name, _without_comment(text[start.end() : end]), ""
        elif not _COMMENT.match(text, start.end() if start else position, end):
            file.foreign.append(number)
        number += text.count("\n", position, value_end) + 1
        position = value_end + 1


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _escaped_quote(quote: str) -> str:
    return f"\\{quote}"


def _refuse(file: DotenvFile, name: str, number: int, reason: str, remedy: str) -> None:
    file.lines[name] = number
    file.values.pop(name, None)
    file.unusable[name] = UnusableLine(number, reason, remedy)


def _without_comment(text: str) -> str:
    comment = _BLANK_AND_SIGN.search(text)
    return (text[: comment.start()] if comment else text).rstrip()


def _expanded(
    raw: str, quote: str, values: Mapping[str, str], environ: Mapping[str, str]
) -> tuple[str, frozenset[str]]:
    """Return a value with its references replaced, and their names."""
    if quote == "'":
        return raw.replace("\\'", "'"), frozenset()
    names: set[str] = set()

    def replace(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        if found[0].startswith("\\"):
            return _ESCAPES.get(found[0][1], found[0])
        return _resolved(found[found.re.groups], names, values, environ)

    pattern = _EXPANDED_OR_ESCAPED if quote else _EXPANDED
    return pattern.sub(replace, raw), frozenset(names)


def _resolved(
    reference: str | None, names: set[str], values: Mapping[str, str], environ: Mapping[str, str]
) -> str:
    """Return the value of a reference, and add its name to ``names``.

    The errors do not quote the reference: in ``p@ss${w0rd}`` it is a part of a password.
    """
    found = None if reference is None else _REFERENCE.fullmatch(reference)
    if found is None:
        raise ReferenceProblem(
            "has a ${ that does not begin a reference",
            "write ${NAME} or ${NAME:-default}, or $${ for the two characters ${",
        )
    name, colon, default = found.groups()
    value = values.get(name, environ.get(name))
    if default is not None and (value is None or (colon and not value)):
        return str(default)
    if value is None:
        raise ReferenceProblem(
            "has a ${…} that names a variable that is not set",
            "set the variable on an earlier line or in the environment, write ${NAME:-} if it may "
            "be missing, or write $${…} or single quotes for the characters themselves",
        )
    names.add(name)
    return value
