"""Headers of a response that an endpoint returns beside the value.

They are the last items of a tuple, and each is marked with its name::

    async def create(self, cat: Cat) -> tuple[Literal[201], Cat, Annotated[str, Header("Location")]]

The mark is the one that takes a parameter from a header of the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Never, Union, get_args, get_origin

from multidict import CIMultiDict
from pydantic import TypeAdapter
from pydantic_core import ValidationError

from gizmopy.errors import UsageError
from gizmopy.untrusted.text import is_unicode
from gizmopy.web.annotations import UNIONS, Header, Mark, alias_target, marks_of, parts

_is_name = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+").fullmatch
_is_forbidden = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
_OF_THE_SERVER = (
    *("connection", "content-length", "content-type", "date", "keep-alive", "server", "te"),
    *("trailer", "transfer-encoding", "upgrade", "x-content-type-options", "x-request-id"),
)
"""Headers that the server sets, or that belong to the connection."""
_TEXT_TYPES = (str, int, float, bool, NoneType, list, tuple, Union, Literal, Annotated)


class HeaderFault(ValueError):
    """The annotation of a result declares headers in a wrong way; the text has the remedy."""


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """A header that an endpoint returns: its name and the type of its value."""

    name: str
    annotation: Any
    adapter: TypeAdapter[Any]

    @property
    def is_optional(self) -> bool:
        """Whether it may be left out: its type takes None."""
        return NoneType in get_args(self.annotation)

    def add_to(self, headers: CIMultiDict[str], value: object) -> None:
        """Add ``value``: nothing for None, and a line for each item of a list.

        Raises UsageError, without the value, if it has another type or cannot be sent.
        """
        try:
            valid = self.adapter.validate_python(value)
        except ValidationError as error:
            name = type(value).__qualname__
            reason = f"is a {name}, which is not of the declared type"
            raise UsageError(f"the header {self.name} {reason}") from error
        for each in valid if isinstance(valid, list | tuple) else [valid]:
            if each is not None:
                headers.add(self.name, self._text(each))

    def _text(self, value: Any) -> str:
        value = value.value if isinstance(value, Enum) else value
        text = str(value).lower() if isinstance(value, bool) else str(value)
        # A line break would begin another header, and the rest could be a response of its own.
        if _is_forbidden(text) or not is_unicode(text):
            raise UsageError(
                f"the header {self.name} has a line break or another control character"
            )
        return text


@dataclass(frozen=True, slots=True)
class HeaderShape:
    """A tuple with headers: the value, with a status or without, and then each header."""

    annotation: Any
    """The type without the headers."""
    statuses: tuple[int, ...] | None
    """The statuses that it may have; empty: any, None: it has none."""
    headers: tuple[ResponseHeader, ...]

    def split(self, result: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]] | None:
        """Return what ``result`` is without its headers, and their values; None if not of this."""
        size = 1 if self.statuses is None else 2
        if len(result) != size + len(self.headers):
            return None
        if self.statuses is None:
            return result[0], result[1:]
        status = result[0]
        if not isinstance(status, int) or isinstance(status, bool):
            return None
        if self.statuses and status not in self.statuses:
            return None
        return result[:2], result[2:]


def split_headers(returns: Any) -> tuple[Any, list[HeaderShape]]:
    """Return the type of a result without the tuples that have headers, and these tuples.

    Raises HeaderFault if a header is not the last item of a tuple, or cannot be sent.
    """
    shapes: list[HeaderShape] = []
    others: list[Any] = []
    for member in _members(returns):
        shape = _shape_of(member)
        (others if shape is None else shapes).append(member if shape is None else shape)
    if not shapes:
        return returns, []
    _check_distinct(shapes, others)
    return (Union[tuple(others)] if others else Never), shapes  # noqa: UP007 - made from a list


def _members(annotation: Any) -> Iterator[Any]:
    target = alias_target(annotation)
    if target is not None and get_origin(target) in (*UNIONS, tuple):
        yield from _members(target)
    elif get_origin(annotation) in UNIONS:
        for each in get_args(annotation):
            yield from _members(each)
    else:
        yield annotation


def _shape_of(member: Any) -> HeaderShape | None:
    if get_origin(member) is not tuple or Ellipsis in get_args(member):
        if _marks(member):
            reason = f"returns {_marks(member)[0]!r}, which stands in no tuple with a value"
            raise HeaderFault(f"{reason}; write tuple[Cat, Annotated[str, ...]]")
        return None
    items = list(get_args(member))
    headers: list[ResponseHeader] = []
    while items and _marks(items[-1]):
        headers.insert(0, _header(items.pop()))
    if not headers:
        if found := [mark for item in items for mark in _marks(item)]:
            raise HeaderFault(f"returns {found[0]!r} ahead of the value; write it last")
        return None
    if any(_marks(item) for item in items):
        raise HeaderFault("returns a header ahead of the value; write headers last")
    names = [each.name.lower() for each in headers]
    if repeated := [each.name for each in headers if names.count(each.name.lower()) > 1]:
        reason = f"returns the header {repeated[0]!r} twice; return a list for several lines"
        raise HeaderFault(reason)
    if len(items) == 1:
        return HeaderShape(items[0], None, tuple(headers))
    statuses = _statuses(items[0]) if len(items) == 2 else None
    if statuses is None:
        reason = "returns headers after something other than a value, or a status and a value"
        raise HeaderFault(f"{reason}; write tuple[Literal[201], Cat, Location]")
    pair: Any = tuple
    return HeaderShape(pair[items[0], items[1]], statuses, tuple(headers))


def _marks(annotation: Any) -> list[Mark]:
    """Return the marks of an item itself; a value may contain types that have some."""
    return marks_of(annotation) if get_origin(annotation) is Annotated else []


def _statuses(annotation: Any) -> tuple[int, ...] | None:
    """Return the statuses of the first item; empty for an int, None if it is no status."""
    literals = get_args(annotation) if get_origin(annotation) is Literal else ()
    if literals and all(isinstance(each, int) and not isinstance(each, bool) for each in literals):
        return tuple(int(each) for each in literals)
    is_number = isinstance(annotation, type) and issubclass(annotation, int)
    return () if is_number and annotation is not bool else None


def _header(item: Any) -> ResponseHeader:
    marks = _marks(item)
    mark = marks[0]
    if len(marks) > 1 or not isinstance(mark, Header) or not mark.name:
        shown = " and ".join(map(repr, marks))
        reason = f'returns {shown}; a header of a response is marked with one Header("X-Name")'
        raise HeaderFault(reason)
    if not _is_name(mark.name):
        raise HeaderFault(f"returns the header {mark.name!r}, which is no valid name")
    if mark.name.lower() in _OF_THE_SERVER:
        reason = f"returns the header {mark.name!r}, which the server sets"
        raise HeaderFault(f"{reason}; return a response of aiohttp.web")
    if wrong := [each for each in parts(item) if not _is_text_type(each, mark)]:
        shown = getattr(wrong[0], "__name__", str(wrong[0]))
        reason = f"returns the header {mark.name!r} as {shown}, which has no one form in a header"
        raise HeaderFault(f"{reason}; return str, int, bool, or a list of them")
    inner, *metadata = get_args(item)
    others = [each for each in metadata if each is not mark]
    marked: Any = Annotated
    annotation: Any = marked[(inner, *others)] if others else inner
    return ResponseHeader(mark.name, annotation, TypeAdapter(annotation))


def _is_text_type(part: Any, mark: Header) -> bool:
    if part is mark or not isinstance(part, type):
        return True
    return part in _TEXT_TYPES or issubclass(part, (UnionType, str, int, float, Enum))


def _check_distinct(shapes: Sequence[HeaderShape], others: Sequence[Any]) -> None:
    """Raise HeaderFault if a tuple could be one of two."""
    known = [(_length(each), each.statuses) for each in shapes]
    plain = [get_args(each) for each in others if get_origin(each) is tuple]
    known += [(len(each), _statuses(each[0]) if len(each) == 2 else None) for each in plain if each]
    for at, (length, statuses) in enumerate(known[: len(shapes)]):
        for other_length, other in (*known[:at], *known[len(shapes) :]):
            apart = statuses and other and not {*statuses} & {*other}
            if length == other_length and not apart:
                reason = (
                    f"returns two kinds of tuples with {length} items, one of them with headers"
                )
                raise HeaderFault(f"{reason}; give them different statuses")


def _length(shape: HeaderShape) -> int:
    return len(shape.headers) + (1 if shape.statuses is None else 2)
