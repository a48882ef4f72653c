"""An endpoint of a server: how its requests are handled, limited and counted."""

from __future__ import annotations

from collections.abc import Sequence

from gizmopy.errors import DeclarationError
from gizmopy.observe.metrics import HistogramChild
from gizmopy.web import Handler, HTTPMiddleware
from gizmopy.web.binding import EndpointCall, as_handler
from gizmopy.web.declared_problems import Problems
from gizmopy.web.security.check import Check


class Endpoint:
    """One endpoint: its compiled handler, its rules, and its route for metrics and logs."""

    __slots__ = (
        "any_host",
        "builtin",
        "call",
        "cancellable",
        "check",
        "cross_origin",
        "is_guarded",
        "last_stats",
        "max_body",
        "min_send_rate",
        "problems",
        "quiet",
        "stats",
        "template",
        "timeout",
    )

    def __init__(
        self,
        template: str,
        call: EndpointCall,
        *,
        timeout: float = 0.0,
        cancellable: bool = True,
        builtin: bool = False,
        quiet: bool = False,
        any_host: bool = False,
        cross_origin: bool = False,
        is_guarded: bool = False,
        max_body: int | None = None,
        min_send_rate: int | None = None,
        check: Check | None = None,
        problems: Problems | None = None,
    ) -> None:
        self.template = template
        """The template of its path, which is the route in metrics and logs."""
        self.call = call
        """Its handler, with the middleware."""
        self.timeout = timeout
        """How many seconds a request may take; 0: no limit."""
        self.cancellable = cancellable
        """Whether a request is cancelled if its client is gone."""
        self.builtin = builtin
        """Whether it is the server's own: the limit of concurrent requests does not apply to it."""
        self.quiet = quiet
        """Whether its requests are left out of the access log."""
        self.any_host = any_host
        """Whether it is served under every Host: platforms send probes to an IP address."""
        self.cross_origin = cross_origin
        """Whether pages of every origin may call it."""
        self.is_guarded = is_guarded
        """Whether its method may change something, so that the origin of a request is checked."""
        self.max_body = max_body
        """The most bytes of a request's body; 0: no limit, None: the server's limit."""
        self.min_send_rate = min_send_rate
        """How many bytes a second a client must read of a response; None: the server's limit."""
        self.check = check
        """Asks for the caller, ahead of the middleware and the body; None: everybody may call."""
        self.problems = problems
        """The problems of exceptions; None: it declares none."""
        self.stats: dict[tuple[str, int], RouteStats] = {}
        """The shared values of its requests, by method and status."""
        self.last_stats: RouteStats | None = None
        """Those of the last request, which are nearly always those of the next one."""


class RouteStats:
    """The values that all requests of one route, method and status have in common."""

    __slots__ = ("access", "duration", "method", "status")

    def __init__(self, method: str, status: int, duration: HistogramChild, access: str) -> None:
        self.method = method
        self.status = status
        self.duration = duration
        self.access = access
        """The part of their lines in the access log that is the same."""


def compose(call: EndpointCall, middleware: Sequence[HTTPMiddleware]) -> EndpointCall:
    """Wrap ``call`` in each middleware, the first one outermost."""
    if not middleware:
        return call
    handler: Handler = as_handler(call)
    for wrap in reversed(middleware):
        handler = wrap(handler)
        if not callable(handler):
            reason = f"returned {handler!r}, and not a function that takes a request; return one"
            raise DeclarationError(wrap, reason)
    return handler
