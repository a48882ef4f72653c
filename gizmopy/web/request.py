"""A request as handlers see it: aiohttp's own, without aiohttp's application around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from aiohttp import web

from gizmopy.errors import UsageError
from gizmopy.web.problems import Problem

T = TypeVar("T")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""What answers a request."""

Middleware = Callable[[Handler], Handler]
"""What wraps a handler in another one; composed once, at start."""


_MAX_CONTENT_TYPE = 256
"""How many characters of Content-Type are read: a boundary (RFC 2046, 5.1.1) has 70 at most."""


class Request(web.Request):
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

        Raises Problem (400) if it is longer or nested. ``text()``, ``json()`` and ``post()`` read
        it, too. Python's parser, which aiohttp calls, takes 20 µs for each character, and fails
        with RecursionError on nested comments, which RFC 9110 (8.3.1) does not allow.
        """
        return self._bounded(lambda: super(Request, self).content_type)

    @property
    def charset(self) -> str | None:
        """Return the charset in Content-Type. Raises Problem as ``content_type`` does."""
        return self._bounded(lambda: super(Request, self).charset)

    def _bounded(self, read: Callable[[], T]) -> T:
        if len(self.headers.get("Content-Type", "")) <= _MAX_CONTENT_TYPE:
            try:
                return read()
            except RecursionError:
                pass
        raise Problem(
            400, f"Content-Type is longer than {_MAX_CONTENT_TYPE} characters, or nested."
        )

    @property
    def app(self) -> NoReturn:
        """Raise UsageError: there is no ``aiohttp.web.Application``."""
        raise UsageError(
            "request.app: this request has no aiohttp Application; "
            "keep what handlers share on the service (self)"
        )

    def clone(self, **changes: Any) -> Request:
        """Return a copy with ``changes``, as aiohttp's does; path parameters stay."""
        copy = super().clone(**changes)
        assert isinstance(copy, Request)
        copy.path_parameters = self.path_parameters
        return copy
