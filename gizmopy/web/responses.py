"""Encode the result of an endpoint as a response."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

from aiohttp import web
from pydantic_core import PydanticSerializationError, to_json

from gizmopy.errors import UsageError
from gizmopy.web.decorators import Route

JSON = "application/json"

_STATUSES_WITHOUT_BODY = frozenset((204, 205, 304))


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


# StreamResponse is an abstract class: issubclass takes 0.4 µs, so the result is cached by type.
@lru_cache(1024)
def _is_aiohttp_response(kind: type[Any]) -> bool:
    return issubclass(kind, web.StreamResponse)


def response_encoder(route: Route, content_type: str = JSON) -> Callable[[object], Response]:
    """Return the function that encodes the result of the endpoint of ``route``.

    A response of aiohttp is returned unchanged. None becomes 204, bytes become
    ``application/octet-stream``, and any other value JSON of ``content_type``. A plain tuple of an
    int and a value gives the status, too; the body is left out if the value is None or the status
    forbids one. The function raises UsageError if the status is not 200 to 599, or the value has
    no JSON form.
    """
    endpoint = f"{route.method} {route.path}: {route.name}"

    def encode(result: object) -> Response:
        if _is_aiohttp_response(type(result)):  # type: ignore[arg-type]  # mypy asks its instances' hash
            return cast(web.StreamResponse, result)
        status, value = _split(result) if result is None or type(result) is tuple else (200, result)
        if not 200 <= status <= 599:
            raise UsageError(f"{endpoint} returned the status {status}; return 200 to 599")
        if value is None or status in _STATUSES_WITHOUT_BODY:
            return web.Response(status=status)
        if isinstance(value, (bytes, bytearray)):
            return RawResponse(bytes(value), status, "application/octet-stream")
        try:
            return RawResponse(_encode_json(value), status, content_type)
        except PydanticSerializationError as error:
            name = type(value).__qualname__
            reason = f"{endpoint} returned a {name}, which has no JSON form: {error}"
            raise UsageError(reason) from error

    return encode


def _split(result: object) -> tuple[int, object]:
    """Return the status and the value of a result that is None or a plain tuple.

    A tuple counts as ``(status, value)`` only if it has two items and the first is an int, but not
    a bool. Any other is a value, and so is a named tuple.
    """
    if result is None:
        return 204, None
    if not isinstance(result, tuple) or len(result) != 2:
        return 200, result
    status, value = result
    if not isinstance(status, int) or isinstance(status, bool):
        return 200, result
    return int(status), value
