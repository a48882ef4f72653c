"""Read the body of a request, and bind it as JSON."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from multidict import istr
from pydantic_core import ValidationError

from gizmopy.declaration import Parameter
from gizmopy.untrusted.early_stop import json_validator
from gizmopy.web.parameters import Function, type_adapter
from gizmopy.web.problems import FieldError, Problem, wrong_fields

_CONTENT_TYPE = istr("Content-Type")
UNREADABLE_BODY = "The request body cannot be decoded: its compression or chunks are broken."


class JSONBody:
    """Give an endpoint the JSON body of a request, as the parameter's type."""

    __slots__ = ("_read_timeout", "_validate", "declared", "name", "required")

    def __init__(self, function: Function, parameter: Parameter, read_timeout: float) -> None:
        self.declared = parameter
        self.name = parameter.name
        self.required = parameter.required
        adapter = type_adapter(function, parameter)
        self._validate = json_validator(adapter, adapter.validator.validate_json)
        self._read_timeout = read_timeout

    async def bind(
        self, request: web.Request, arguments: dict[str, Any], errors: list[FieldError]
    ) -> None:
        """Put the body into ``arguments``, or what is wrong with its fields into ``errors``.

        Raises Problem if it is no JSON (400) or has no content type of JSON (415), is too large
        (413) or does not arrive in time (408). If there is none and need not be, the function's
        own default applies.
        """
        data = await read_body(request, self._read_timeout)
        if not data:
            if self.required:
                raise Problem(400, "The request has no body; send JSON.")
            return
        _check_content_type(request)
        try:
            arguments[self.name] = self._validate(data)
        except ValidationError as error:
            _refuse_malformed(error)
            errors += wrong_fields("body", "", error)


async def read_body(request: web.Request, timeout: float) -> bytes:
    """Return the body of ``request``, decompressed.

    Raises Problem where it is not complete within ``timeout`` seconds (408), is larger than the
    server's limit (413), or cannot be decoded (400), and ConnectionError where the client is gone.
    """
    try:
        if request.content.is_eof():  # it came with the head, as most do: a timer would cost more
            return await request.read()
        if request.transport is None:
            raise ConnectionResetError("the client is gone")
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


def _check_content_type(request: web.Request) -> None:
    """Raise Problem 415 unless the body says that it is JSON.

    A browser sends a body of any other type, or without a type, for a page of any site without
    asking beforehand (Fetch standard, CORS-safelisted request-header): none of them is JSON.
    """
    given = request.headers.get(_CONTENT_TYPE, "")
    if given == "application/json":
        return
    kind = given.partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        detail = "The request body has to be JSON; send it with Content-Type: application/json."
        raise Problem(415, detail, headers={"Accept-Post": "application/json"})


def _refuse_malformed(error: ValidationError) -> None:
    """Raise Problem where the body is no JSON at all, which is then all that is wrong."""
    if error.error_count() > 1:
        return
    (first,) = error.errors(include_url=False, include_input=False)
    if first["type"] == "json_invalid" and not first["loc"]:
        raise Problem(400, f"The request body is malformed. {first['msg']}.") from error
