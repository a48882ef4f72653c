"""Tell from a type where a parameter of an endpoint comes from."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, is_dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

UNIONS = (Union, types.UnionType)
_COLLECTIONS = (list, tuple, set, frozenset, Sequence, Set)
_WORDLESS = (bytes, bytearray, memoryview, Any, object)


@dataclass(frozen=True, slots=True)
class Header:
    """Take a parameter from a request header: ``Annotated[str, Header("X-Name")]``."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """Take a parameter from the query by that name: ``Annotated[int, Query("page-size")]``."""

    name: str = ""


def parts(annotation: Any) -> list[Any]:
    """Return ``annotation`` and all that it is made of: arguments, metadata, aliased types."""
    found: list[Any] = []
    rest = [annotation]
    while rest:
        part = rest.pop()
        if part is None or any(part is known for known in found):  # aliases may be recursive
            continue
        found.append(part)
        rest += [get_origin(part), *get_args(part), aliased(part)]
    return found


def marks_of(annotation: Any) -> list[Header | Query]:
    """Return the marks of ``annotation``; a class that is not called is one without a name."""
    found = parts(annotation)
    marks: list[Header | Query] = [part for part in found if isinstance(part, (Header, Query))]
    return marks + [part() for part in found if part is Header or part is Query]


def is_structure(annotation: Any) -> bool:
    """Whether it is, or holds, what only a body can give: a model, a dataclass, a mapping."""
    return any(
        isinstance(part, type) and (issubclass(part, (BaseModel, Mapping)) or is_dataclass(part))
        for part in parts(annotation)
    )


def is_repeated(annotation: Any) -> bool:
    """Whether it is a list, tuple or set, hence takes a name that is given several times."""
    return any(_is_collection(each) for each in _alternatives(annotation))


def wordless_part(annotation: Any) -> Any | None:
    """Return the part of ``annotation`` that no text can give, or None where there is none."""
    for part in parts(annotation):
        if part in _WORDLESS or _lacks_text(part):
            return part
    alternatives = [each for each in _alternatives(annotation) if each is not types.NoneType]
    if len(alternatives) > 1 and is_repeated(annotation):
        return annotation  # one text, or several?
    for each in alternatives:
        for inner in get_args(each):
            if _is_collection(each) and any(map(_is_collection, parts(inner))):
                return each
    return None


def _lacks_text(part: Any) -> bool:
    """Whether no text is ever valid for it."""
    if get_origin(part) is Literal:
        return not all(isinstance(value, str) for value in get_args(part) if value is not None)
    kind = get_origin(part) or part
    if not isinstance(kind, type) or kind in (*_COLLECTIONS, *UNIONS, Annotated):
        return False
    if issubclass(kind, Enum) and not issubclass(kind, (int, float)):  # pydantic reads those
        return not all(isinstance(member.value, str) for member in kind)
    return kind is not part or issubclass(kind, (list, tuple, set, frozenset))


def _is_collection(part: Any) -> bool:
    kind = get_origin(part) or part
    return kind in _COLLECTIONS


def _alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, or the one type there is, without aliases and metadata."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if (meant := aliased(annotation)) is not None:
        return _alternatives(meant)
    if get_origin(annotation) in UNIONS:
        return [each for member in get_args(annotation) for each in _alternatives(member)]
    return [annotation]


def aliased(annotation: Any) -> Any | None:
    """Return what a ``type`` statement or NewType stands for, or None where it is neither."""
    return getattr(annotation, "__value__", None) or getattr(annotation, "__supertype__", None)
