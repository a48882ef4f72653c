"""Hold one route of a server, and the state that its requests share."""

from __future__ import annotations

from collections.abc import Sequence

from gizmopy.observe.metrics import HistogramChild
from gizmopy.web import Handler, HTTPMiddleware
from gizmopy.web.binding import EndpointCall, as_handler


class Endpoint:
    """Hold one route: its compiled handler, its rules, and its label for metrics and logs."""

    __slots__ = (
        "answer",
        "any_host",
        "builtin",
        "cancellable",
        "cross_origin",
        "exchanges",
        "is_guarded",
        "last",
        "max_body",
        "min_send_rate",
        "quiet",
        "template",
        "timeout",
    )

    def __init__(
        self,
        template: str,
        answer: EndpointCall,
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
    ) -> None:
        self.template = template
        self.answer = answer
        self.timeout = timeout
        """How many seconds it may take; 0: any."""
        self.cancellable = cancellable
        """Whether it is cancelled when its client goes away."""
        self.builtin = builtin
        """Whether it is served when there are too many requests, too: probes are."""
        self.quiet = quiet
        """Whether its requests are left out of the access log."""
        self.any_host = any_host
        """Whether it is served under every name of the host: probes are."""
        self.cross_origin = cross_origin
        """Whether pages of every origin may call it."""
        self.is_guarded = is_guarded
        """Whether it serves a method that changes something: its requests' origin is checked."""
        self.max_body = max_body
        """How many bytes a request's body may have; 0: any, None: as the server says."""
        self.min_send_rate = min_send_rate
        """How many bytes a second a client has to take of its answer; None: as the server says."""
        self.exchanges: dict[tuple[str, int], Exchange] = {}
        self.last: Exchange | None = None
        """The one of the last request, which is most often the next one's, too."""


class Exchange:
    """Hold the state that the requests of one route, method and status share."""

    __slots__ = ("access", "duration", "method", "status")

    def __init__(self, method: str, status: int, duration: HistogramChild, access: str) -> None:
        self.method = method
        self.status = status
        self.duration = duration
        self.access = access


def compose(answer: EndpointCall, middleware: Sequence[HTTPMiddleware]) -> EndpointCall:
    """Wrap ``answer`` in each middleware, the first outermost; without any it stays as it is."""
    if not middleware:
        return answer
    handler: Handler = as_handler(answer)
    for wrap in reversed(middleware):
        handler = wrap(handler)
    return handler
