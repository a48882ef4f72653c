"""Encode the result of an endpoint as a response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Sequence
from functools import lru_cache
from typing import Any, cast

from aiohttp import web
from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, to_json

from gizmopy.errors import DeclarationError, UsageError
from gizmopy.web.decorators import Route
from gizmopy.web.parameters import UNKNOWN_TYPE
from gizmopy.web.problems import Problem
from gizmopy.web.response_headers import HeaderShape
from gizmopy.web.result_json import ResultJSON, ResultMismatch, validated
from gizmopy.web.results import (
    BYTES,
    STATUSES_WITHOUT_BODY,
    Result,
    ResultValue,
    is_class,
    result_of,
    union_of,
)
from gizmopy.web.stream_results import essence, stream_encoder, text_type
from gizmopy.web.streams import Sleep

JSON = "application/json"
OCTETS = "application/octet-stream"


def json_response(value: object, status: int = 200, content_type: str = JSON) -> web.Response:
    """Return ``value`` as JSON. Raises PydanticSerializationError if it has no JSON form.

    Models use their serialization aliases. NaN and the infinities, which JSON lacks, become null.
    """
    return RawResponse(_encode_json(value), status, content_type).to_aiohttp()


def _encode_json(value: object) -> bytes:
    return to_json(value, by_alias=True, inf_nan_mode="null")


class RawResponse:
    """Hold a response that is only a status, a content type and bytes, as most responses are.

    The server writes it in one piece, without the cost of aiohttp's response.
    """

    __slots__ = ("body", "content_type", "status")

    def __init__(self, body: bytes, status: int, content_type: str) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type

    def to_aiohttp(self) -> web.Response:
        """Return the same response as aiohttp's."""
        headers = {"Content-Type": self.content_type}
        return web.Response(body=self.body, status=self.status, headers=headers)


Response = web.StreamResponse | RawResponse
"""The encoded result of an endpoint."""

_EncodeValue = Callable[[object, int], Response]


# StreamResponse is an abstract class: issubclass takes 0.4 µs, so the result is cached by type.
@lru_cache(1024)
def _is_aiohttp_response(kind: type[Any]) -> bool:
    return issubclass(kind, web.StreamResponse)


def response_encoder(
    route: Route, content_type: str = JSON, sleep: Sleep = asyncio.sleep
) -> Callable[[object], Response]:
    """Return the function that encodes the result of the endpoint of ``route``.

    A response of aiohttp is returned unchanged. None becomes 204, bytes become
    ``application/octet-stream``, and any other value JSON of ``content_type``. A plain tuple of an
    int and a value gives the status, too; the body is left out if the value is None or the status
    forbids one. A declared stream becomes an ItemStream, whose pauses ``sleep`` measures. The
    annotation of the result decides which of these are right, which fields are
    sent, and how.

    Raises DeclarationError if the annotation has a type without a JSON form. The function raises
    UsageError if the result does not have the declared type or no JSON form, or if the status is
    not 200 to 599.
    """
    declared = result_of(route)
    _check_options(route, declared)
    encode = _result_encoder(route, declared, content_type, sleep)
    if not declared.with_headers:
        return encode
    shapes = [
        (shape, _result_encoder(route, result, content_type, sleep))
        for shape, result in declared.with_headers
    ]
    return _with_headers(f"{route.method} {route.path}: {route.name}", shapes, encode)


_Encode = Callable[[object], Response]


def _with_headers(
    endpoint: str, shapes: Sequence[tuple[HeaderShape, _Encode]], encode_other: _Encode
) -> _Encode:
    """Return the function that encodes a tuple of one of ``shapes``, or any other value."""

    def encode(result: object) -> Response:
        for shape, encode_value in shapes:
            found = shape.split(result) if type(result) is tuple else None
            if found is None:
                continue
            value, headers = found
            response = encode_value(value)
            if isinstance(response, RawResponse):
                response = response.to_aiohttp()
            try:
                for header, each in zip(shape.headers, headers, strict=True):
                    header.add_to(response.headers, each)
            except UsageError as error:
                raise UsageError(f"{endpoint} returned a wrong header: {error}") from error
            return response
        return encode_other(result)

    return encode


def _result_encoder(route: Route, declared: Result, content_type: str, sleep: Sleep) -> _Encode:
    bytes_type, json_type = media_types_of(route, content_type)
    endpoint = f"{route.method} {route.path}: {route.name}"

    def compiled(value: ResultValue) -> _EncodeValue:
        encode_value = _value_encoder(route, endpoint, value, bytes_type, json_type)
        if not value.streams:
            return encode_value
        encode_stream = stream_encoder(route, value, sleep)

        def encode(result: object, status: int) -> Response:
            if isinstance(result, AsyncIterable):
                return encode_stream(result, status)
            return encode_value(result, status)

        return encode

    encode_alone = compiled(declared.alone)
    by_status = {status: compiled(value) for status, value in declared.by_status.items()}
    any_status = encode_alone if declared.alone.is_undeclared else None
    if declared.with_status is not None:
        any_status = compiled(declared.with_status)
    takes_status = bool(by_status) or any_status is not None

    def encode(result: object) -> Response:
        if _is_aiohttp_response(type(result)):  # type: ignore[arg-type]  # mypy asks its instances' hash
            return cast(web.StreamResponse, result)
        if takes_status and type(result) is tuple and _has_status(result):
            return encode_pair(*result)
        return encode_alone(result, 204 if result is None else 200)

    def encode_pair(status: int, value: object) -> Response:
        encode_value = by_status.get(status, any_status)
        if not 200 <= status <= 599:
            raise UsageError(f"{endpoint} returned the status {status}; return 200 to 599")
        if encode_value is None:
            known = ", ".join(str(each) for each in sorted(by_status))
            reason = f"returned the status {status}, but declares only: {known}"
            raise UsageError(f"{endpoint} {reason}")
        if status in STATUSES_WITHOUT_BODY:
            return web.Response(status=status)
        return encode_value(value, int(status))

    return encode


def sends_text(route: Route) -> bool:
    """Return whether a text is sent as it is, because its media type is not JSON."""
    given = route.options.media_type
    return given is not None and not essence(given).endswith(("/json", "+json"))


def media_types_of(route: Route, content_type: str) -> tuple[str, str]:
    """Return the media types of bytes, and of all else, that the endpoint of ``route`` returns."""
    given = route.options.media_type
    if given is None:
        return OCTETS, content_type
    return given, text_type(given)


def _check_options(route: Route, declared: Result) -> None:
    """Raise DeclarationError if an option of the endpoint has no meaning for its result."""
    values: list[ResultValue] = []
    for each in (declared, *(inner for _, inner in declared.with_headers)):
        values += [each.alone, *each.by_status.values()]
        values += [each.with_status] if each.with_status is not None else []
    if route.options.endless and not any(value.streams for value in values):
        reason = "has endless=True and returns no stream; annotate it as AsyncIterator[...]"
        raise DeclarationError(route.function, reason)
    if not sends_text(route):
        return
    for value in values:
        for each in value.types:
            if each is not str:
                name = getattr(each, "__name__", str(each))
                reason = f"returns {name} as JSON, which is not {route.options.media_type!r}"
                raise DeclarationError(route.function, f"{reason}; return str or bytes")


def _encode_text(value: object) -> bytes:
    if not isinstance(value, str):
        raise ResultMismatch("return str")
    return value.encode()


def _has_status(result: tuple[Any, ...]) -> bool:
    """Return whether a plain tuple is a status and a value.

    It has two items, and the first is an int, but not a bool.
    """
    return len(result) == 2 and isinstance(result[0], int) and not isinstance(result[0], bool)


def _value_encoder(
    route: Route, endpoint: str, declared: ResultValue, bytes_type: str, json_type: str
) -> _EncodeValue:
    """Return the function that encodes a value, with a status, as the declared types say."""
    takes_none = declared.has_none or declared.is_undeclared
    takes_bytes = bool(declared.bytes_types) or declared.is_undeclared
    read_bytes = _bytes_reader(declared.bytes_types)
    to_bytes = _json_encoder(route, declared)

    def encode(value: object, status: int) -> Response:
        if value is None and takes_none:
            return web.Response(status=status)
        try:
            if takes_bytes and (to_bytes is None or isinstance(value, BYTES)):
                return RawResponse(read_bytes(value), status, bytes_type)
            if to_bytes is None or value is None:
                raise ResultMismatch(_expected(declared))
            return RawResponse(to_bytes(value), status, json_type)
        except ResultMismatch as mismatch:
            reason = f"which is not of the declared type: {mismatch}"
        except PydanticSerializationError as error:
            reason = f"which has no JSON form: {error}"
        name = "None" if value is None else f"a {type(value).__qualname__}"
        raise UsageError(f"{endpoint} returned {name}, {reason}")

    return encode


def _expected(declared: ResultValue) -> str:
    names = [getattr(each, "__name__", str(each)) for each in declared.types]
    names += ["a stream"] * bool(declared.streams)
    names += ["bytes"] * bool(declared.bytes_types) + ["a response"] * (
        declared.has_response or declared.has_file
    )
    return f"annotate the endpoint with all that it returns, not only {' | '.join(names) or None}"


def _bytes_reader(types: Sequence[Any]) -> Callable[[object], bytes]:
    """Return the function that validates bytes."""
    others = [each for each in types if not isinstance(each, type)]
    adapter: TypeAdapter[Any] = TypeAdapter(union_of(others) if others else bytes)

    def read(value: object) -> bytes:
        data = bytes(value) if isinstance(value, BYTES) else value
        found: bytes = validated(adapter.validator.validate_python, data)
        return found

    return read


def _json_encoder(route: Route, declared: ResultValue) -> Callable[[object], bytes] | None:
    if declared.is_undeclared:
        return _encode_json
    if not declared.types:
        return None
    if sends_text(route):
        return _encode_text
    try:
        return ResultJSON(union_of(declared.types)).encode
    except UNKNOWN_TYPE as error:
        why = str(error).partition("\n\n")[0]  # without pydantic's hints and its link to a page
        reason = f"its result has a type without a JSON form: {why}; return a type that pydantic"
        remedy = "knows or a response of aiohttp.web, or annotate the result as Any"
        if any(is_class(each, Problem) for each in declared.types):
            reason, remedy = "returns a Problem;", "raise it, and leave it out of the annotation"
        raise DeclarationError(route.function, f"{reason} {remedy}") from error
