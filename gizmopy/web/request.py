"""The request that handlers receive: aiohttp's, without an aiohttp application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from email.errors import MessageError
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from aiohttp import MultipartReader, web
from multidict import MultiDictProxy, MultiMapping

from gizmopy._aiohttp import BaseRequest
from gizmopy.errors import UsageError
from gizmopy.untrusted.json_text import read_json
from gizmopy.web.multipart import (
    MAX_CONTENT_TYPE,
    Reader,
    check_charset,
    check_form,
    parse_json,
    reading,
    reading_parts,
)
from gizmopy.web.problems import Problem
from gizmopy.web.query_text import check_query

T = TypeVar("T")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""Serves a request: an endpoint with its parameters bound, or a middleware around it."""

HTTPMiddleware = Callable[[Handler], Handler]
"""Wraps a handler in another one. It is called once for each endpoint, at start."""

_PARSER_ERRORS = (LookupError, ValueError, TypeError, AttributeError, MessageError)
"""The errors that Python's parser of Content-Type raises, such as IndexError for ``a/b;*"``."""


class BadRange(Problem, ValueError):
    """Refuse a malformed Range (416). FileResponse of aiohttp catches a ValueError."""


class Request(BaseRequest):
    """Extend ``aiohttp.web.Request`` by path parameters, and by a Problem for malformed input."""

    # In debug mode aiohttp warns about attributes that are not listed.
    ATTRS = web.Request.ATTRS | {
        "caller",
        "credentials",
        "forwarded_prefix",
        "path_parameters",
    }

    path_parameters: Mapping[str, str] = MappingProxyType({})
    """The decoded values of the variables in the route's template; the server sets them."""

    forwarded_prefix = ""
    """The part of the path that a trusted proxy removed, such as ``/api``, or an empty string.

    Write it before the paths of links and redirects. It is the last X-Forwarded-Prefix.
    """

    # It has no default: if no checker ran, an endpoint that takes the caller must fail.
    caller: object
    """The result of the checker that let the request pass. Without a security scheme there is no
    such attribute."""

    credentials: tuple[str, ...] = ()
    """The credentials that were sent, which no log may show."""

    def announce_stream(self, stream: web.StreamResponse) -> None:
        """Note that ``stream`` is being sent; its head may come later. Does nothing here."""

    @property
    def match_info(self) -> Mapping[str, str]:  # type: ignore[override]  # aiohttp's has its route, too
        """Return the path parameters by name."""
        return self.path_parameters

    @property
    def query(self) -> MultiMapping[str]:
        """Return the decoded query. Raises Problem (422) if a name or a value is not UTF-8."""
        url = self.rel_url
        raw = url.raw_query_string
        if "%" in raw:
            check_query(raw)
        return url.query

    @property
    def content_type(self) -> str:
        """Return the media type in Content-Type, which has at most 256 characters.

        Raises Problem (400) if it is longer, malformed or has a comment. ``text()``, ``json()`` and
        ``post()`` read it, too.
        """
        return self._limited_content_type(lambda: super(Request, self).content_type)

    @property
    def charset(self) -> str | None:
        """Return the charset in Content-Type. Raises Problem as ``content_type`` does."""
        return self._limited_content_type(lambda: super(Request, self).charset)

    def _limited_content_type(self, parse: Callable[[], T]) -> T:
        # aiohttp calls Python's parser of mail headers, which takes 20 µs for each character: a
        # header of 16 KB held the event loop for 0.3 s. Comments, which RFC 9110 section 8.3.1 does
        # not allow, raise RecursionError there if they are nested.
        content_type = self.headers.get("Content-Type", "")
        if len(content_type) > MAX_CONTENT_TYPE or "(" in content_type:
            detail = f"Content-Type is longer than {MAX_CONTENT_TYPE} characters, or has a comment."
            raise Problem(400, detail)
        try:
            return parse()
        except _PARSER_ERRORS as error:
            raise Problem(400, "Content-Type is malformed.") from error

    @property
    def app(self) -> NoReturn:
        """Raise UsageError: there is no ``aiohttp.web.Application``."""
        raise UsageError(
            "request.app: this request has no aiohttp Application; "
            "keep objects that handlers share on the service (self)"
        )

    @property
    def if_modified_since(self) -> datetime | None:
        """Return the date of If-Modified-Since; None if it is absent or malformed."""
        with suppress(OverflowError):  # a year with twenty digits
            return super().if_modified_since
        return None

    @property
    def if_unmodified_since(self) -> datetime | None:
        """Return the date of If-Unmodified-Since; None if it is absent or malformed."""
        with suppress(OverflowError):  # a year with twenty digits
            return super().if_unmodified_since
        return None

    @property
    def if_range(self) -> datetime | None:
        """Return the date of If-Range; None if it is absent, an entity tag, or malformed."""
        with suppress(OverflowError):  # a year with twenty digits
            return super().if_range
        return None

    @property
    def http_range(self) -> slice:
        """Return the range of bytes in Range. Raises Problem (416) if it is malformed."""
        try:
            return super().http_range
        except ValueError as error:
            raise BadRange(416, "The Range header is malformed; write bytes=0-499.") from error

    async def text(self) -> str:
        """Return the body as text.

        Raises Problem if its charset is not supported (415) or it does not fit the charset (400).
        """
        check_charset(self.charset)
        with reading("text"):
            return await super().text()

    async def json(self, *, loads: Callable[[str], Any] = read_json) -> Any:
        """Return the body as JSON; ``loads`` parses its text, and raises ValueError.

        Raises Problem if it is not JSON (400), and as ``text`` does. NaN, Infinity and numbers that
        are too large for a float are not JSON, but ``json.loads`` accepts them.
        """
        return parse_json(await self.text(), loads)

    async def post(self) -> MultiDictProxy[str | bytes | bytearray | web.FileField]:
        """Return the fields of the form in the body.

        Raises Problem if the form is malformed (400) or its charset is not supported (415).
        """
        check_charset(self.charset)
        with reading_parts("a form"):
            fields = await super().post()
            if self.content_type == "application/x-www-form-urlencoded":
                check_form(await self.read(), self.charset or "utf-8")
            return fields

    async def multipart(self) -> MultipartReader:
        """Return a reader of the parts of the body.

        Raises Problem (400) if the body is not multipart. The reader and its parts raise 400 if
        they are malformed, and 413 after 1,000 parts.
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
        """Return a copy with ``changes``, as aiohttp does, and with the same path parameters."""
        copy = super().clone(**changes)
        assert isinstance(copy, Request)
        copy.path_parameters, copy.credentials = self.path_parameters, self.credentials
        if hasattr(self, "caller"):
            copy.caller = self.caller
        return copy
