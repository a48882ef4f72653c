"""The door that requests come in by: one coroutine routes, runs, measures, answers and logs.

Instrumentation is no stack of middlewares but part of that coroutine, and what a kind of request
shares (its metric cells, the fixed part of its access line) is looked up once, not each time.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import istr

from gizmopy.observe.access import AccessLog
from gizmopy.observe.context import new_id, request_id
from gizmopy.observe.metrics import HistogramCell, Metrics
from gizmopy.web import (
    Handler,
    Middleware,
    NoRoute,
    Problem,
    Request,
    Router,
    WrongMethod,
    problem_from,
    problem_response,
)

logger = logging.getLogger(__name__)

UNMATCHED = "__404__"
"""The route that a request without one is counted under, as in Gizmo."""

CLIENT_GONE = 499
"""The status that a request is counted under when nobody waited for its answer (nginx's)."""

_REQUEST_ID = istr("X-Request-ID")
_EXPECT = istr("Expect")
_SERVER = istr("Server")
_USER_AGENT = istr("User-Agent")
_SANE_ID = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}").fullmatch
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"))
_OTHER = "_OTHER"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route as the door sees it: compiled, and with its label for metrics and logs."""

    template: str
    handler: Handler
    quiet: bool = False
    """Whether its requests are left out of the access log: probes and scrapes are."""


class _Exchange:
    """What every request of one route, method and status shares."""

    __slots__ = ("access", "duration")

    def __init__(self, duration: HistogramCell, access: str) -> None:
        self.duration = duration
        self.access = access


class HTTPDoor:
    """Answer requests by ``router``; count those under way; close connections once ``draining``."""

    def __init__(self, router: Router[Endpoint], metrics: Metrics, access: AccessLog) -> None:
        self.draining = False
        self._router = router
        self._access = access
        self._exchanges: dict[tuple[str, str, int], _Exchange] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._durations = metrics.histogram(
            "http_server_request_duration_seconds",
            "Time to answer a request.",
            ("http_request_method", "http_route", "http_response_status_code"),
        )
        active = metrics.gauge(
            "http_server_active_requests",
            "Requests being answered.",
            ("http_request_method", "url_scheme"),
        )
        self._active = {method: active.cell(method, "http") for method in (*_METHODS, _OTHER)}
        self._panics = metrics.counter("gizmo_panics", "Errors that no endpoint handled.").cell()

    @property
    def under_way(self) -> int:
        """How many requests are being answered, their answers' last byte included."""
        return len(self._tasks)

    async def wait_idle(self) -> None:
        """Wait until no request is under way."""
        await self._idle.wait()

    def cancel(self) -> None:
        """Cancel every request under way; ``wait_idle`` then waits for their own clean-up."""
        for task in self._tasks:
            task.cancel()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. Runs in a task of its own, so its context is its own."""
        started = perf_counter()
        assert isinstance(request, Request)
        given = request.headers.get(_REQUEST_ID)
        identity = given if given is not None and _SANE_ID(given) else new_id()
        request_id.set(identity)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._idle.clear()
        active = self._active.get(request.method) or self._active[_OTHER]
        active.value += 1
        endpoint: Endpoint | None = None
        status, size = CLIENT_GONE, 0
        try:
            try:
                endpoint, request.path_parameters = self._router.match(
                    request.method, request.rel_url.raw_path
                )
                if _EXPECT in request.headers:
                    await _answer_expectation(request)
                response = await endpoint.handler(request)
                await self._send(request, response, identity)
            except (Exception, asyncio.CancelledError, SystemExit) as error:
                if isinstance(error, asyncio.CancelledError) and task.cancelling():
                    raise
                response = self._answer_error(request, error, identity)
                await self._send(request, response, identity)
            status, size = response.status, _size(request, response)
            return response
        except ConnectionError:
            return response  # the client is gone: aiohttp meets the same error, and says nothing
        finally:
            self._tasks.discard(task)
            active.value -= 1
            if not self._tasks:
                self._idle.set()
            self._record(request, endpoint, status, size, identity, perf_counter() - started)

    async def _send(self, request: Request, response: web.StreamResponse, identity: str) -> None:
        """Write an answer to its end, where its handler has not done so.

        It is written here rather than by aiohttp, which then finds nothing left to do: a request
        counts as under way until its answer is out.
        """
        if not response.prepared:
            response.headers[_REQUEST_ID] = identity
            response.headers[_SERVER] = "gizmopy"  # aiohttp tells its version, and Python's
            if self.draining:
                _close_after(response)
        await response.prepare(request)
        await response.write_eof()

    def _answer_error(
        self, request: Request, error: BaseException, identity: str
    ) -> web.StreamResponse:
        """Return what answers ``error``. One that nobody foresaw is logged here, once."""
        match error:
            case Problem():
                problem = error
            case NoRoute():
                problem = Problem(404, f"Nothing is served at {request.path}.")
            case WrongMethod():
                allow = ", ".join(error.allow)
                problem = Problem(
                    405,
                    f"{request.method} is not served at {request.path}; use one of: {allow}.",
                    headers={"Allow": allow},
                )
            case web.HTTPException():
                translated = problem_from(error)
                if translated is None:
                    return _plain(error)
                problem = translated
            case ConnectionError() if _is_gone(request):
                return web.Response(status=CLIENT_GONE)
            case _:
                self._panics.value += 1
                path = request.rel_url.raw_path  # encoded: a client must not write our log
                logger.error("%s %s failed", request.method, path, exc_info=error)
                problem = Problem(500, "The server failed to answer; its log says why.")
        if request.writer.output_size > 0:
            request.protocol.force_close()  # an answer was begun: cut it, or it would be believed
        return problem_response(problem, request_id=identity)

    def _record(
        self,
        request: Request,
        endpoint: Endpoint | None,
        status: int,
        size: int,
        identity: str,
        seconds: float,
    ) -> None:
        """Measure a finished request, and log it unless it was quiet."""
        route = UNMATCHED if endpoint is None else endpoint.template
        key = (route, request.method, status)
        exchange = self._exchanges.get(key) or self._meet(*key)
        exchange.duration.observe(seconds)
        if self._access.enabled and not (endpoint is not None and endpoint.quiet):
            self._access.write(
                exchange.access,
                request_id=identity,
                path=request.rel_url.raw_path,
                seconds=seconds,
                size=size,
                remote=request.remote or "",
                user_agent=request.headers.get(_USER_AGENT, ""),
            )

    def _meet(self, route: str, method: str, status: int) -> _Exchange:
        """Make what a kind of request shares, when the first of its kind comes."""
        known = method if method in _METHODS else _OTHER
        exchange = _Exchange(
            self._durations.cell(known, route, str(status)),
            self._access.fixed_part(known, route, status),
        )
        if known == method:  # an endless supply of made-up methods must not fill the memory
            self._exchanges[route, method, status] = exchange
        return exchange


async def _answer_expectation(request: Request) -> None:
    """Tell a client that waits for it to send its body (RFC 9110 section 10.1.1)."""
    if request.headers[_EXPECT].lower() != "100-continue":
        raise Problem(417, "Only 'Expect: 100-continue' is understood.")
    if request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer proper has not begun


def _is_gone(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


def _size(request: web.BaseRequest, response: web.StreamResponse) -> int:
    """Return how many bytes the body of an answer had; of a stream its head is counted too."""
    if request.method == "HEAD" or response.status in (204, 304):
        return 0
    body = response.body if isinstance(response, web.Response) else None
    return len(body) if isinstance(body, bytes) else response.body_length


class ProtocolLogger(logging.Logger):
    """What aiohttp's protocol logs to: a client that speaks no HTTP is no error of this daemon.

    aiohttp logs a traceback for each, so that any stranger could fill the log.
    """

    def __init__(self) -> None:
        super().__init__("gizmopy.server.protocol")
        self.parent = logging.getLogger("gizmopy.server")

    def exception(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Log an error with its traceback, but what a client sent wrong as one line of detail."""
        error = kwargs.get("exc_info")
        error = error if isinstance(error, BaseException) else sys.exc_info()[1]
        if isinstance(error, (HttpProcessingError, web.RequestPayloadError)):
            self.debug("a request that is no HTTP was refused: %s", type(error).__name__)
        else:
            super().exception(msg, *args, **kwargs)


def _plain(error: web.HTTPException) -> web.Response:
    """Return the answer that ``error`` is, as a value: aiohttp warns of exceptions returned."""
    return web.Response(
        status=error.status, reason=error.reason, headers=error.headers, body=error.body
    )


def _close_after(response: web.StreamResponse) -> None:
    """Close the connection after ``response``, and say so in a header.

    aiohttp closes without a word where only ``force_close`` is called.
    """
    response.headers["Connection"] = "close"
    response.force_close()


def compose(handler: Handler, middleware: Sequence[Middleware]) -> Handler:
    """Wrap ``handler`` in each middleware, the first outermost."""
    for wrap in reversed(middleware):
        handler = wrap(handler)
    return handler
