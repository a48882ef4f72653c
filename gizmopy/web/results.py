"""Read what an endpoint may return, from the annotation of its result.

- ``None``: no body (204)
- ``tuple[int, T]``, ``tuple[Literal[200, 404], T]``: a status and a value
- ``tuple[T, Annotated[str, Header("ETag")]]``: a value, or a status and a value, and then headers
- a response class: that response
- ``bytes``: the body as it is
- ``AsyncIterator[T]``: a stream, item by item; an async generator returns one
- any other type: JSON, which that type filters and writes

Nothing is declared by ``Any``, ``object``, the bare ``BaseModel`` and ``tuple``, a Protocol, or no
annotation at all: then the value itself decides.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Annotated, Any, Literal, Never, NoReturn, Union, get_args, get_origin

from aiohttp import web
from pydantic import BaseModel, TypeAdapter
from typing_extensions import is_protocol

from gizmopy.declaration import REQUIRED, is_generator, read_signature
from gizmopy.declaration.type_variables import substitute
from gizmopy.errors import DeclarationError
from gizmopy.web.annotations import UNIONS, alias_target, parts
from gizmopy.web.decorators import Route
from gizmopy.web.files import FileResponse
from gizmopy.web.response_headers import HeaderFault, HeaderShape, split_headers
from gizmopy.web.statuses import BODILESS

STATUSES_WITHOUT_BODY = frozenset((*BODILESS, 205))

_UNDECLARED = (REQUIRED, Any, object, BaseModel, tuple)
BYTES = (bytes, bytearray, memoryview)
_ARRAYS = (
    abc.Collection,
    abc.Generator,
    abc.Iterable,
    abc.Iterator,
    abc.KeysView,
    abc.Reversible,
    abc.ValuesView,
)
"""Types whose items are read one after the other, and sent as one array."""
_STREAMS = (abc.AsyncGenerator, abc.AsyncIterable, abc.AsyncIterator)
"""Types whose items are sent one after the other."""


@dataclass(slots=True)
class ResultValue:
    """The types of the value that comes with a status; the members of a union are apart."""

    types: list[Any] = field(default_factory=list)
    """Types that are sent as JSON."""
    bytes_types: list[Any] = field(default_factory=list)
    """Types that are sent as they are."""
    streams: list[Any] = field(default_factory=list)
    """The types of the items of streams."""
    has_none: bool = False
    has_response: bool = False
    has_file: bool = False
    """Whether a response is a FileResponse: the whole file, a part of it, or neither."""
    is_undeclared: bool = False
    """Whether any value is right, and encoded by its own class."""

    def add(self, annotation: Any) -> None:
        """Add one member of a union."""
        if annotation is NoneType:
            self.has_none = True
        elif is_class(annotation, FileResponse):
            self.has_file = True
        elif is_class(annotation, web.StreamResponse):
            self.has_response = True
        elif _is_stream(stream := _plain(annotation)):
            self.streams += members(*(get_args(stream)[:1] or (Any,)))
        elif is_undeclared(annotation):
            self.is_undeclared = True
        elif _is_bytes(annotation):
            self.bytes_types.append(annotation)
        else:
            self.types.append(_declared(annotation))
            self.has_none = self.has_none or _contains_none(annotation)


@dataclass(slots=True)
class Result:
    """The values that an endpoint may return: alone, with any status, or with a certain one."""

    alone: ResultValue = field(default_factory=ResultValue)
    with_status: ResultValue | None = None
    by_status: dict[int, ResultValue] = field(default_factory=dict)
    with_headers: list[tuple[HeaderShape, Result]] = field(default_factory=list)
    """The tuples that have headers, and what each of them is without."""

    @property
    def has_status(self) -> bool:
        """Whether the endpoint may return a pair of a status and a value."""
        return self.with_status is not None or bool(self.by_status)


class StatusFault(ValueError):
    """A declared status cannot be sent, or not with its value."""


def result_of(route: Route) -> Result:
    """Return the values that the endpoint of ``route`` declares to return.

    Raises DeclarationError as ``read_signature`` does, and if an async generator is annotated with
    anything but a stream, or if headers are declared in a wrong way.
    """
    function = route.function
    returns = read_signature(function, route.owner, takes_generator=True).returns
    makes_stream = is_generator(function)
    try:
        undeclared = makes_stream and returns is REQUIRED
        result = read_result(abc.AsyncIterator[Any] if undeclared else returns)
    except (HeaderFault, StatusFault) as fault:
        raise DeclarationError(function, str(fault)) from fault
    if not makes_stream:
        return result
    if not result.alone.streams:
        shown = getattr(returns, "__name__", None) or returns
        reason = f"has a 'yield', so it is an async generator, and not of the type {shown}"
        remedy = "annotate its result as AsyncIterator[...] or EventStream[...]"
        raise DeclarationError(function, f"{reason}; {remedy}")
    return result


def read_result(annotation: Any) -> Result:
    """Return the values that the annotation of a result declares. Raises HeaderFault."""
    result = Result()
    annotation, shapes = split_headers(annotation)
    result.with_headers = [(shape, read_result(shape.annotation)) for shape in shapes]
    for member in members(annotation):
        for value, inner in _split(result, member):
            for each in members(inner):
                value.add(each)
    return result


def _split(result: Result, member: Any) -> Iterator[tuple[ResultValue, Any]]:
    """Yield where the value of ``member`` belongs, and its type."""
    arguments = get_args(member)
    if get_origin(member) is not tuple or len(arguments) != 2 or arguments[1] is Ellipsis:
        if member not in (NoReturn, Never):
            yield result.alone, member
        return
    status, inner = arguments
    status = _without_metadata(status)
    literals = get_args(status) if get_origin(status) is Literal else ()
    if literals and all(_is_status(type(each)) for each in literals):
        _check_statuses([int(each) for each in literals], inner)
        for each in literals:
            yield result.by_status.setdefault(int(each), ResultValue()), inner
    elif _is_status(status):
        result.with_status = result.with_status or ResultValue()
        yield result.with_status, inner
    else:
        yield result.alone, member


def _check_statuses(statuses: Sequence[int], value: Any) -> None:
    for each in statuses:
        if not 200 <= each <= 599:
            raise StatusFault(f"returns the status {each}; write 200 to 599")
    has_value = not any(each in (Any, NoneType) for each in members(value))
    if has_value and set(statuses) <= set(BODILESS):
        reason = f"returns a value with the status {statuses[0]}, whose responses have no body"
        raise StatusFault(f"{reason}; write tuple[Literal[{statuses[0]}], None]")


def members(annotation: Any) -> list[Any]:
    """Return the members of a union, or the one type."""
    if annotation is None:
        return [NoneType]
    if (target := alias_target(annotation)) is not None and get_origin(target) in UNIONS:
        return members(target)
    if get_origin(annotation) in UNIONS:
        return [each for member in get_args(annotation) for each in members(member)]
    return [annotation]


def union_of(types: Sequence[Any]) -> Any:
    """Return the union of types, or the one type."""
    return Union[tuple(types)]  # noqa: UP007 - made from a list


def _without_metadata(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _contains_none(annotation: Any) -> bool:
    """Return whether a union with metadata includes None: ``Annotated[Cat | None, …]``."""
    inner = _without_metadata(annotation)
    return inner is not annotation and NoneType in members(inner)


def is_class(annotation: Any, kinds: type | tuple[type, ...]) -> bool:
    """Return whether ``annotation`` is one of these classes, or a subclass."""
    return isinstance(annotation, type) and issubclass(annotation, kinds)


def _is_status(annotation: Any) -> bool:
    return is_class(annotation, int) and annotation is not bool


def _plain(annotation: Any) -> Any:
    """Return a type without its metadata, and the target of an alias."""
    while (inner := alias_target(_without_metadata(annotation))) is not None:
        annotation = inner
    return _without_metadata(annotation)


def _is_stream(annotation: Any) -> bool:
    return any(annotation is each or get_origin(annotation) is each for each in _STREAMS)


def is_undeclared(annotation: Any) -> bool:
    """Return whether a type says nothing about the values."""
    annotation = _without_metadata(annotation)
    if any(annotation is each for each in _UNDECLARED):
        return True
    return is_protocol(get_origin(annotation) or annotation)


def _is_bytes(annotation: Any) -> bool:
    """Return whether a type is sent as it is: bytes that nothing in the annotation encodes."""
    if is_class(annotation, BYTES):
        return True
    if not any(each is bytes for each in parts(annotation)):
        return False
    try:
        schema: Mapping[str, Any] = dict(TypeAdapter(annotation).core_schema)
    except Exception:  # noqa: BLE001 - the compilation of the type reports it
        return False
    return schema["type"] == "bytes" and "serialization" not in schema


def _declared(annotation: Any) -> Any:
    """Return the type for pydantic: Any for a Protocol in it, and a list for an iterator."""
    protocols = {part: Any for part in parts(annotation) if is_protocol(part)}
    annotation = substitute(annotation, protocols)
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin in _ARRAYS:
        return list[arguments[0]] if arguments else list  # type: ignore[valid-type]  # made here
    return annotation
