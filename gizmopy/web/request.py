"""A request as handlers see it: aiohttp's own, without aiohttp's application around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from aiohttp import web

from gizmopy.errors import UsageError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""What answers a request."""

Middleware = Callable[[Handler], Handler]
"""What wraps a handler in another one; composed once, at start."""


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
