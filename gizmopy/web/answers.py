"""Encode what an endpoint returned as the answer to its request."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from pydantic_core import PydanticSerializationError, to_json

from gizmopy.errors import UsageError
from gizmopy.web.routing import Route

JSON = "application/json"

_WITHOUT_BODY = frozenset((204, 205, 304))


def json_response(value: object, status: int = 200, content_type: str = JSON) -> web.Response:
    """Return ``value`` as JSON. Raises PydanticSerializationError where it has no JSON form.

    Models use their serialization aliases; NaN and the infinities, which JSON lacks, are null.
    """
    body = to_json(value, by_alias=True, inf_nan_mode="null")
    return web.Response(body=body, status=status, headers={"Content-Type": content_type})


def answer_encoder(
    route: Route, content_type: str = JSON
) -> Callable[[object], web.StreamResponse]:
    """Return the function that makes an answer of what the endpoint of ``route`` returns.

    A response of aiohttp stands as it is; None is 204; bytes are ``application/octet-stream``; all
    else is JSON. A plain tuple of an int and a value is a status and one of these; there is no body
    where the value is None or the status forbids one. The function raises UsageError where the
    status is not 200 to 599, or the value has no JSON form.
    """
    endpoint = f"{route.method} {route.path}: {route.name}"

    def encode(answer: object) -> web.StreamResponse:
        if isinstance(answer, web.StreamResponse):
            return answer
        status, value = _split(answer)
        if not 200 <= status <= 599:
            raise UsageError(f"{endpoint} returned the status {status}; return 200 to 599")
        if value is None or status in _WITHOUT_BODY:
            return web.Response(status=status)
        if isinstance(value, (bytes, bytearray)):
            headers = {"Content-Type": "application/octet-stream"}
            return web.Response(body=value, status=status, headers=headers)
        try:
            return json_response(value, status, content_type)
        except PydanticSerializationError as error:
            kind = type(value).__qualname__
            reason = f"{endpoint} returned a {kind}, which has no JSON form: {error}"
            raise UsageError(reason) from error

    return encode


def _split(answer: object) -> tuple[int, object]:
    """Return the status and value that ``answer`` is; a named tuple is a value."""
    if answer is None:
        return 204, None
    if type(answer) is not tuple or len(answer) != 2:
        return 200, answer
    status, value = answer
    if not isinstance(status, int) or isinstance(status, bool):
        return 200, answer
    return int(status), value
