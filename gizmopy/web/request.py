"""A request as handlers see it: aiohttp's own, without aiohttp's application around it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from email.errors import MessageError
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from aiohttp import MultipartReader, web
from multidict import MultiDictProxy

from gizmopy._aiohttp import BaseRequest
from gizmopy.errors import UsageError
from gizmopy.web.multipart import (
    MAX_CONTENT_TYPE,
    Reader,
    check_charset,
    reading,
    reading_parts,
)
from gizmopy.web.problems import Problem

T = TypeVar("T")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""What answers a request."""

HTTPMiddleware = Callable[[Handler], Handler]
"""What wraps a handler in another one; composed once, at start."""


_UNREADABLE = (LookupError, ValueError, TypeError, AttributeError, MessageError)
"""The errors of Python's parser of Content-Type: ``a/b;*"`` ends in an IndexError."""


class BadRange(Problem, ValueError):
    """Refuse a malformed Range; aiohttp's FileResponse expects ValueError."""


class Request(BaseRequest):
    """Stand for one HTTP request: ``aiohttp.web.Request`` with path parameters of our router."""

    ATTRS = web.Request.ATTRS | {"path_parameters"}  # aiohttp's debug mode warns of others

    path_parameters: Mapping[str, str] = MappingProxyType({})
    """The decoded values of the variables in the route's template; the server sets them."""

    @property
    def match_info(self) -> Mapping[str, str]:  # type: ignore[override]  # no aiohttp route to tell
        """Return the path parameters by name."""
        return self.path_parameters

    @property
    def content_type(self) -> str:
        """Return the media type in Content-Type, which has at most 256 characters.

        Raises Problem (400) if it is longer or has a comment. ``text()``, ``json()`` and ``post()``
        read it, too. Python's parser, which aiohttp calls, takes 20 µs for each character. Comments
        are not allowed (RFC 9110, 8.3.1); nested ones end in a RecursionError there.
        """
        return self._bounded(lambda: super(Request, self).content_type)

    @property
    def charset(self) -> str | None:
        """Return the charset in Content-Type. Raises Problem as ``content_type`` does."""
        return self._bounded(lambda: super(Request, self).charset)

    def _bounded(self, read: Callable[[], T]) -> T:
        given = self.headers.get("Content-Type", "")
        if len(given) > MAX_CONTENT_TYPE or "(" in given:
            detail = f"Content-Type is longer than {MAX_CONTENT_TYPE} characters, or has a comment."
            raise Problem(400, detail)
        try:
            return read()
        except _UNREADABLE as error:
            raise Problem(400, "Content-Type is malformed.") from error

    @property
    def app(self) -> NoReturn:
        """Raise UsageError: there is no ``aiohttp.web.Application``."""
        raise UsageError(
            "request.app: this request has no aiohttp Application; "
            "keep what handlers share on the service (self)"
        )

    @property
    def if_modified_since(self) -> datetime | None:
        """Return the date of If-Modified-Since; None if it is absent or malformed."""
        with suppress(OverflowError):  # a year of twenty digits
            return super().if_modified_since
        return None

    @property
    def if_unmodified_since(self) -> datetime | None:
        """Return the date of If-Unmodified-Since; None if it is absent or malformed."""
        with suppress(OverflowError):  # a year of twenty digits
            return super().if_unmodified_since
        return None

    @property
    def if_range(self) -> datetime | None:
        """Return the date of If-Range; None if it is absent, an entity tag, or malformed."""
        with suppress(OverflowError):  # a year of twenty digits
            return super().if_range
        return None

    @property
    def http_range(self) -> slice:
        """Return the bytes that Range asks for; raise Problem (416) if it is malformed."""
        try:
            return super().http_range
        except ValueError as error:
            raise BadRange(416, "The Range is malformed; write bytes=0-499.") from error

    async def read(self) -> bytes:
        """Return the body. Raises aiohttp's HTTPRequestEntityTooLarge if it is too large.

        A body that has come whole is taken at once, which costs half of aiohttp's loop over pieces.
        """
        content = self.content
        if not self.has_read_body and content.is_eof():
            body = content.read_nowait()
            limit = self.client_max_size
            if limit and len(body) > limit:
                raise web.HTTPRequestEntityTooLarge(limit)
            self.set_body(body)
        return await super().read()

    async def text(self) -> str:
        """Return the body as text.

        Raises Problem if its charset is not supported (415) or it does not fit the charset (400).
        """
        check_charset(self.charset)
        with reading("text"):
            return await super().text()

    async def json(self, *, loads: Callable[[str], Any] = json.loads) -> Any:
        """Return the body as JSON.

        Raises Problem if it is not JSON (400), and as ``text`` does.
        """
        body = await self.text()
        with reading("JSON"):
            return loads(body)

    async def post(self) -> MultiDictProxy[str | bytes | bytearray | web.FileField]:
        """Return the fields of the form in the body.

        Raises Problem if the form is malformed (400) or its charset is not supported (415).
        """
        check_charset(self.charset)
        with reading_parts("a form"):
            return await super().post()

    async def multipart(self) -> MultipartReader:
        """Return a reader of the parts of the body.

        Raises Problem (400) if there can be none; the reader and its parts do so if they are
        malformed, and 413 after 1,000 parts.
        """
        with reading_parts():
            return Reader(
                self.headers,
                self.content,
                client_max_size=self.client_max_size,
                max_field_size=self.protocol.max_field_size,
                max_headers=self.protocol.max_headers,
                max_size_error_cls=web.HTTPRequestEntityTooLarge,
            )

    def clone(self, **changes: Any) -> Request:
        """Return a copy with ``changes``, as aiohttp's does; path parameters stay."""
        copy = super().clone(**changes)
        assert isinstance(copy, Request)
        copy.path_parameters = self.path_parameters
        return copy
