"""Read the body of a request, and bind it as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from aiohttp import web
from multidict import istr
from pydantic_core import ValidationError

from gizmopy.declaration import Parameter
from gizmopy.untrusted.early_stop import json_validator
from gizmopy.untrusted.text import is_utf8
from gizmopy.web.parameters import Function, type_adapter
from gizmopy.web.problems import FieldError, Problem, field_errors

_JSON = "application/json"
_CONTENT_TYPE = istr("Content-Type")
UNREADABLE_BODY = (
    "The request body cannot be decoded: its compression or chunked encoding is invalid."
)


class RequestBody(Protocol):
    """Binds the body of a request to parameters of an endpoint."""

    @property
    def required(self) -> bool:
        """Whether a request needs a body."""

    async def bind(
        self, request: web.Request, arguments: dict[str, Any], errors: list[FieldError]
    ) -> None:
        """Put the values into ``arguments``, or each fault into ``errors``; or raise Problem."""


class JSONBody:
    """Bind a parameter to the JSON body of a request, validated as the parameter's type."""

    __slots__ = ("_media_types", "_read_timeout", "_validate", "declared", "name", "required")

    def __init__(
        self,
        function: Function,
        parameter: Parameter,
        read_timeout: float | None,
        media_types: Sequence[str] = (),
    ) -> None:
        self.declared = parameter
        self.name = parameter.name
        self.required = parameter.required
        adapter = type_adapter(function, parameter)
        self._validate = json_validator(adapter, adapter.validator.validate_json)
        self._read_timeout = read_timeout
        self._media_types = tuple(media_types)

    @property
    def media_types(self) -> tuple[str, ...]:
        """The media types of the document."""
        return self._media_types or (_JSON,)

    async def bind(
        self, request: web.Request, arguments: dict[str, Any], errors: list[FieldError]
    ) -> None:
        """Put the body into ``arguments``, or the fault of each field into ``errors``.

        If the body is empty and the parameter has a default, both stay unchanged, so that the
        function's own default applies. Raises Problem if the body is not JSON (400), its content
        type is not JSON (415), it is too large (413), or it does not arrive in time (408).
        """
        data = await read_body(request, self._read_timeout)
        if not data:
            if self.required:
                raise Problem(400, "The request has no body; send JSON.")
            return
        if self._media_types:
            check_media_type(request, self._media_types)
        else:
            _check_content_type(request)
        try:
            arguments[self.name] = self._validate(data)
        except ValidationError as error:
            _raise_if_malformed(error, data)
            errors += field_errors("body", "", error)


def disconnected() -> ConnectionResetError:
    """Return the error of a request or a response whose client has disconnected."""
    return ConnectionResetError("the client has disconnected")


async def read_body(request: web.Request, timeout: float | None) -> bytes:
    """Return the body of ``request``, decompressed.

    Raises Problem if it is not complete within ``timeout`` seconds (408; None: any time), exceeds
    the limit (413), or cannot be decoded (400); and ConnectionError if the client is gone.
    """
    try:
        # Most bodies arrive with the head of the request: save them the cost of a timer.
        if request.content.is_eof():
            return await request.read()
        if request.transport is None:
            raise disconnected()
        async with asyncio.timeout(timeout):
            return await request.read()
    except TimeoutError as error:
        detail = f"The request body did not arrive within {timeout:g} seconds."
        raise Problem(408, detail, headers={"Connection": "close"}) from error
    except web.HTTPRequestEntityTooLarge as error:
        limit = request.client_max_size
        raise Problem(413, f"The request body is larger than {limit} bytes.") from error
    except web.RequestPayloadError as error:
        raise Problem(400, UNREADABLE_BODY) from error


def media_type_of(request: web.Request) -> str:
    """Return the media type in Content-Type without its parameters; empty if there is none."""
    return request.headers.get(_CONTENT_TYPE, "").partition(";")[0].strip().lower()


def check_media_type(request: web.Request, accepted: Sequence[str]) -> None:
    """Raise Problem (415) unless Content-Type is one of ``accepted``, such as ``image/*``."""
    media_type = media_type_of(request)
    for each in accepted:
        if each in (media_type, "*/*") or (each[-2:] == "/*" and media_type.startswith(each[:-1])):
            return
    detail = f"The request body must be {' or '.join(accepted)}; send it with that Content-Type."
    raise Problem(415, detail, headers={"Accept-Post": ", ".join(accepted)})


def _check_content_type(request: web.Request) -> None:
    """Raise Problem (415) unless Content-Type is JSON.

    Without this check a page of any site could send JSON as ``text/plain``: browsers send bodies
    of such a type, or without a type, to another origin without a preflight (Fetch standard,
    CORS-safelisted request-header). JSON's own types always need one.
    """
    content_type = request.headers.get(_CONTENT_TYPE, "")
    if content_type == _JSON:
        return
    media_type = media_type_of(request)
    if media_type != _JSON and not media_type.endswith("+json"):
        detail = "The request body must be JSON; send it with Content-Type: application/json."
        raise Problem(415, detail, headers={"Accept-Post": _JSON})


def _raise_if_malformed(error: ValidationError, data: bytes) -> None:
    """Raise Problem (400) if the body is not JSON: then there are no fields to report."""
    if error.error_count() > 1:
        return
    (first,) = error.errors(include_url=False, include_input=False)
    if first["type"] == "json_invalid" and not first["loc"]:
        reason = first["msg"] if is_utf8(data) else f"{first['msg']}; it is not UTF-8"
        raise Problem(400, f"The request body is malformed. {reason}.") from error
