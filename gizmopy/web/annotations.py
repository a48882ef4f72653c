"""Classify the annotation of a parameter: which part of a request it can come from."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, is_dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Json, RootModel, TypeAdapter
from typing_extensions import is_typeddict

from gizmopy.web.uploads import UploadFile

UNIONS = (Union, types.UnionType)
_COLLECTIONS = (list, tuple, set, frozenset, Sequence, Set)
_COLLECTION_SCHEMAS = ("frozenset", "list", "set", "tuple")
_NON_TEXT_TYPES = (bytes, bytearray, memoryview, Any, object, UploadFile)


@dataclass(frozen=True, slots=True)
class Header:
    """Take a parameter from a request header: ``Annotated[str, Header("X-Name")]``.

    A model takes each of its fields from a header: ``Annotated[Common, Header()]``. The header of a
    field ``x_name`` without an alias is ``x-name``.
    """

    name: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """Take a parameter from the query by this name: ``Annotated[int, Query("page-size")]``.

    The default is the name of the parameter. A model takes each of its fields from the query:
    ``Annotated[Paging, Query()]``.
    """

    name: str = ""


@dataclass(frozen=True, slots=True)
class Cookie:
    """Take a parameter from the cookie of this name: ``Annotated[str, Cookie("session")]``.

    The default is the name of the parameter. A model takes each of its fields from a cookie.
    """

    name: str = ""


@dataclass(frozen=True, slots=True, init=False)
class Body:
    """Take a parameter from the whole body of the request: ``Annotated[str, Body("text/csv")]``.

    A ``bytes`` is the body as it was sent, a ``str`` is its text, and any other type is read from
    JSON. ``media_types`` are those that are accepted, such as ``image/png`` or ``image/*``; by
    default all for ``bytes``, ``text/*`` for ``str``, and JSON for all others.
    """

    media_types: tuple[str, ...]

    def __init__(self, *media_types: str) -> None:
        object.__setattr__(self, "media_types", media_types)


@dataclass(frozen=True, slots=True)
class Form:
    """Take a parameter from a field of a form: ``Annotated[int, Form("page-size")]``.

    The default is the name of the parameter. A model takes each of its fields from the form:
    ``Annotated[Order, Form()]``. A parameter of the type UploadFile needs no mark.
    """

    name: str = ""


Mark = Header | Query | Cookie | Body | Form
_MARKS = (Header, Query, Cookie, Body, Form)


def parts(annotation: Any, *, skip: Callable[[Any], bool] = lambda _: False) -> list[Any]:
    """Return ``annotation`` and every part of it: type arguments, metadata, targets of aliases.

    A part that ``skip`` returns True for is left out, with its own parts.
    """
    found: list[Any] = []
    rest = [annotation]
    while rest:
        part = rest.pop()
        # A type alias may refer to itself (``type Tree = list[Tree]``): visit each part once.
        if part is None or any(part is known for known in found) or skip(part):
            continue
        found.append(part)
        rest += [get_origin(part), *get_args(part), alias_target(part)]
    return found


def is_converted(annotation: Any) -> bool:
    """Return whether the metadata of a type reads one text, whatever the type is.

    ``BeforeValidator(split)`` on ``list[str]`` takes a text and returns a list. A validator may say
    that it takes a list: by ``json_schema_input_type=list[str]``.
    """
    return converts(_schema_of(annotation))


def converts(schema: Mapping[str, Any]) -> bool:
    """Return whether pydantic's ``schema`` reads one text, whatever the type is."""
    if schema.get("type") == "json":
        return True
    if schema.get("type") not in ("function-before", "function-plain", "function-wrap"):
        return False
    return schema.get("json_schema_input_schema", {}).get("type") not in _COLLECTION_SCHEMAS


def _is_json(annotation: Any) -> bool:
    """Return whether a type is pydantic's Json: the text of one parameter, and not the body."""
    return _schema_of(annotation).get("type") == "json"


def _schema_of(annotation: Any) -> Mapping[str, Any]:
    """Return pydantic's schema of a type with metadata; empty for any other."""
    if get_origin(annotation) is not Annotated and annotation is not Json:
        return {}
    try:
        # A part of a recursive alias may have no schema of its own, which its first use reports.
        schema: Mapping[str, Any] = dict(TypeAdapter(annotation).core_schema)
    except Exception:  # noqa: BLE001 - the compilation of the parameter reports a real fault
        return {}
    while schema["type"] == "function-after":
        schema = schema["schema"]
    return schema


def marks_of(annotation: Any) -> list[Mark]:
    """Return the marks of ``annotation``: Header, Query, Cookie, Body and Form.

    The class itself, ``Annotated[str, Header]``, counts as a mark without a name.
    """
    found = parts(annotation)
    marks: list[Mark] = [part for part in found if isinstance(part, _MARKS)]
    return marks + [part() for part in found if part in _MARKS]


def has_bare_mark(annotation: Any) -> bool:
    """Return whether a mark of ``annotation`` is a class: ``Annotated[str, Query]``."""
    return any(part in _MARKS for part in parts(annotation))


def structure_of(annotation: Any) -> Any | None:
    """Return the one model, dataclass or TypedDict that ``annotation`` is, or is with None.

    Returns None for any other type, also for a dict, for a list or a union of models, and for a
    model whose metadata reads it from one text.
    """
    kinds = _plain(_members(annotation))
    if len(kinds) != 1:
        return None
    kind = get_origin(kinds[0]) or kinds[0]
    if not isinstance(kind, type):
        return None
    is_model = issubclass(kind, BaseModel) and not issubclass(kind, RootModel)
    return kinds[0] if is_model or is_dataclass(kind) or is_typeddict(kind) else None


def is_bytes(annotation: Any) -> bool:
    """Return whether a type is ``bytes``, or is with None, and no metadata reads one text."""
    return _plain(_alternatives(annotation)) == [bytes]


def file_kind(annotation: Any) -> Literal["one", "many"] | None:
    """Return whether a type is a file or a list of files, or is with None; None if neither."""
    plain = plain_type(annotation)
    if plain is UploadFile:
        return "one"
    items = [each for each in get_args(plain) if each is not Ellipsis]
    is_list = _is_collection(plain) and len(items) == 1 and plain_type(items[0]) is UploadFile
    return "many" if is_list else None


def plain_type(annotation: Any) -> Any | None:
    """Return the one type that ``annotation`` is, or is with None, whatever its metadata does."""
    plain = annotation
    while get_origin(plain) is Annotated:
        plain = get_args(plain)[0]
    kinds = _plain(_members(plain))
    return kinds[0] if len(kinds) == 1 else None


def _plain(kinds: list[Any]) -> list[Any]:
    return [each for each in kinds if each is not types.NoneType]


def is_structure(annotation: Any) -> bool:
    """Return whether a type is, or contains, a model, a dataclass or a mapping: a JSON object."""
    return any(
        isinstance(part, type) and (issubclass(part, (BaseModel, Mapping)) or is_dataclass(part))
        for part in parts(annotation, skip=_is_json)
    )


def is_repeated(annotation: Any) -> bool:
    """Return whether a type is a list, tuple or set, and so takes each value of its name.

    It is not if its metadata reads one text.
    """
    return any(_is_collection(each) for each in _alternatives(annotation))


def non_text_part(annotation: Any) -> Any | None:
    """Return the part of ``annotation`` that cannot be read from text, or None.

    Text is a string, or a list of strings if the name is repeated. It gives neither bytes nor a
    list of lists; and in a union of a list and another type, one value could be either.
    """
    for part in parts(annotation, skip=is_converted):
        if part in _NON_TEXT_TYPES or _rejects_text(part):
            return part
    alternatives = _plain(_alternatives(annotation))
    if len(alternatives) > 1 and is_repeated(annotation):
        return annotation
    for each in alternatives:
        for inner in get_args(each):
            if _is_collection(each) and any(map(_is_collection, parts(inner, skip=is_converted))):
                return each
    return None


def _rejects_text(part: Any) -> bool:
    """Return whether pydantic accepts no text for ``part``."""
    if get_origin(part) is Literal:
        return not all(isinstance(value, str) for value in get_args(part) if value is not None)
    kind = get_origin(part) or part
    if not isinstance(kind, type) or kind in (*_COLLECTIONS, *UNIONS, Annotated):
        return False
    # pydantic reads the members of an IntEnum or a float enum from text, but of no other enum
    # whose values are numbers.
    if issubclass(kind, Enum) and not issubclass(kind, (int, float)):
        return not all(isinstance(member.value, str) for member in kind)
    return kind is not part or issubclass(kind, (list, tuple, set, frozenset))


def _is_collection(part: Any) -> bool:
    kind = get_origin(part) or part
    return kind in _COLLECTIONS


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union, or the one type, with aliases and metadata removed.

    A model whose metadata reads one text is text. Its own validators are no metadata.
    """
    if get_origin(annotation) is Annotated:
        plain = get_args(annotation)[0]
        own = is_converted(Annotated[plain, None])
        return [str] if is_converted(annotation) and not own else _members(plain)
    if (target := alias_target(annotation)) is not None:
        return _members(target)
    if get_origin(annotation) in UNIONS:
        return [each for member in get_args(annotation) for each in _members(member)]
    return [annotation]


def _alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, or the one type, with aliases and metadata removed.

    A type whose metadata reads one text is text.
    """
    if is_converted(annotation):
        return [str]
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if (target := alias_target(annotation)) is not None:
        return _alternatives(target)
    if get_origin(annotation) in UNIONS:
        return [each for member in get_args(annotation) for each in _alternatives(member)]
    return [annotation]


def alias_target(annotation: Any) -> Any | None:
    """Return the type that a ``type`` alias or a NewType refers to; None if it is neither."""
    return getattr(annotation, "__value__", None) or getattr(annotation, "__supertype__", None)
