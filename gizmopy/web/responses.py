"""Encode what an endpoint returned as the answer to its request."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

from aiohttp import web
from pydantic_core import PydanticSerializationError, to_json

from gizmopy.errors import UsageError
from gizmopy.web.decorators import Route

JSON = "application/json"

_WITHOUT_BODY = frozenset((204, 205, 304))


def json_response(value: object, status: int = 200, content_type: str = JSON) -> web.Response:
    """Return ``value`` as JSON. Raises PydanticSerializationError where it has no JSON form.

    Models use their serialization aliases; NaN and the infinities, which JSON lacks, are null.
    """
    return RawResponse(_encoded(value), status, content_type).response()


def _encoded(value: object) -> bytes:
    return to_json(value, by_alias=True, inf_nan_mode="null")


class RawResponse:
    """Hold an answer that is bytes of one type and nothing else, as most answers are.

    The door can write it in one piece, without aiohttp's response, which ``response`` makes of it.
    """

    __slots__ = ("body", "content_type", "status")

    def __init__(self, body: bytes, status: int, content_type: str) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type

    def response(self) -> web.Response:
        """Return aiohttp's response that says the same."""
        headers = {"Content-Type": self.content_type}
        return web.Response(body=self.body, status=self.status, headers=headers)


Response = web.StreamResponse | RawResponse
"""What an endpoint's answer is encoded as."""


@lru_cache(1024)
def _is_response(kind: type[Any]) -> bool:
    """Whether a type is aiohttp's: to ask its abstract classes each time takes 0.4 µs."""
    return issubclass(kind, web.StreamResponse)


def answer_encoder(route: Route, content_type: str = JSON) -> Callable[[object], Response]:
    """Return the function that makes an answer of what the endpoint of ``route`` returns.

    A response of aiohttp stands as it is; None is 204; bytes are ``application/octet-stream``; all
    else is JSON. A plain tuple of an int and a value is a status and one of these; there is no body
    where the value is None or the status forbids one. The function raises UsageError where the
    status is not 200 to 599, or the value has no JSON form.
    """
    endpoint = f"{route.method} {route.path}: {route.name}"

    def encode(answer: object) -> Response:
        if _is_response(type(answer)):  # type: ignore[arg-type]  # mypy asks its instances' hash
            return cast(web.StreamResponse, answer)
        status, value = _split(answer) if answer is None or type(answer) is tuple else (200, answer)
        if not 200 <= status <= 599:
            raise UsageError(f"{endpoint} returned the status {status}; return 200 to 599")
        if value is None or status in _WITHOUT_BODY:
            return web.Response(status=status)
        if isinstance(value, (bytes, bytearray)):
            return RawResponse(bytes(value), status, "application/octet-stream")
        try:
            return RawResponse(_encoded(value), status, content_type)
        except PydanticSerializationError as error:
            name = type(value).__qualname__
            reason = f"{endpoint} returned a {name}, which has no JSON form: {error}"
            raise UsageError(reason) from error

    return encode


def _split(answer: object) -> tuple[int, object]:
    """Return the status and value that None or a plain tuple is; a named tuple is a value."""
    if answer is None:
        return 204, None
    if not isinstance(answer, tuple) or len(answer) != 2:
        return 200, answer
    status, value = answer
    if not isinstance(status, int) or isinstance(status, bool):
        return 200, answer
    return int(status), value
