"""Bind the whole body of a request as bytes or as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from pydantic_core import ValidationError

from gizmopy.declaration import Parameter
from gizmopy.web.body import check_media_type, read_body
from gizmopy.web.multipart import check_charset
from gizmopy.web.parameters import Function, type_adapter
from gizmopy.web.problems import FieldError, Problem, field_errors

_UTF8 = "utf-8"


class RawBody:
    """Bind a parameter to the body: to its bytes, or to its text if the type is ``str``.

    An empty body is a value, unless the parameter has a default.
    """

    __slots__ = (
        "_read_timeout",
        "_validate",
        "declared",
        "is_text",
        "media_types",
        "name",
        "required",
    )

    def __init__(
        self,
        function: Function,
        parameter: Parameter,
        read_timeout: float | None,
        media_types: Sequence[str],
        *,
        is_text: bool,
    ) -> None:
        self.declared = parameter
        self.name = parameter.name
        self.required = parameter.required
        self.is_text = is_text
        self.media_types = tuple(media_types) or ("text/*" if is_text else "*/*",)
        self._validate = type_adapter(function, parameter).validator.validate_python
        self._read_timeout = read_timeout

    async def bind(
        self, request: web.Request, arguments: dict[str, Any], errors: list[FieldError]
    ) -> None:
        """Put the body into ``arguments``, or its fault into ``errors``.

        Raises Problem if its content type or charset is not accepted (415), its bytes do not fit
        the charset (400), it is too large (413), or it does not arrive in time (408).
        """
        data = await read_body(request, self._read_timeout)
        if data:
            check_media_type(request, self.media_types)
        elif not self.required:
            return
        try:
            arguments[self.name] = self._validate(_text(request, data) if self.is_text else data)
        except ValidationError as error:
            errors += field_errors("body", "", error)


def _text(request: web.Request, data: bytes) -> str:
    """Return ``data`` as text in the charset of the request; a byte order mark is left out."""
    charset = request.charset
    check_charset(charset)
    is_utf8 = (charset or _UTF8).lower().replace("-", "").replace("_", "") == "utf8"
    try:
        return data.decode("utf-8-sig" if is_utf8 or charset is None else charset)
    except ValueError as error:
        detail = f"The request body is not text in {charset or _UTF8}."
        raise Problem(400, detail) from error
