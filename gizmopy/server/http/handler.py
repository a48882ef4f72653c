"""The door that requests come in by: one coroutine routes, runs, measures, answers and logs.

Instrumentation is no stack of middlewares but part of that coroutine, and what a kind of request
shares (its metric children, the fixed part of its access line) is looked up once, not each time. A
plain answer leaves in one write; aiohttp's own way to send is for all others.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from time import monotonic
from typing import Any

from aiohttp import HttpVersion11, WSCloseCode, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import istr
from yarl import URL

from gizmopy.errors import UsageError
from gizmopy.observe import logs
from gizmopy.observe.access import AccessLog
from gizmopy.observe.context import deadline, new_id, propagated_attributes, request_id
from gizmopy.observe.metrics import Metrics
from gizmopy.observe.trace import trace_context
from gizmopy.server.http.browser_rules import Browsers
from gizmopy.server.http.client_timeouts import (
    GRPC_TIMEOUT,
    REQUEST_TIMEOUT,
    Deadlines,
    callers_timeout,
)
from gizmopy.server.http.connection.protocol import Connection, Patience, Written
from gizmopy.server.http.connection.protocol_factory import Server
from gizmopy.server.http.connection.response_writer import check_head, reset
from gizmopy.server.http.connection.served_request import ServedRequest
from gizmopy.server.http.endpoint import Endpoint, Exchange
from gizmopy.server.http.proxies import Proxies
from gizmopy.untrusted.error_text import shortened
from gizmopy.untrusted.text import cut
from gizmopy.web import Problem
from gizmopy.web.body import UNREADABLE_BODY
from gizmopy.web.problems import problem_from, problem_response
from gizmopy.web.responses import RawResponse
from gizmopy.web.router import MethodNotAllowed, RouteNotFound, Router
from gizmopy.web.same_origin import ORIGIN, SITE

logger = logging.getLogger("gizmopy.server.http")

UNMATCHED = "__404__"
"""The route that a request without one is counted under, as in Gizmo."""

PREFLIGHT = "__preflight__"
"""The route that a browser's question ahead of a request is counted under."""

CLIENT_GONE = 499
"""The status that a request is counted under when nobody waited for its answer (nginx's)."""

_REQUEST_ID = istr("X-Request-ID")
_TRACEPARENT = istr("traceparent")
_EXPECT = istr("Expect")
_CONTENT_TYPE_OPTIONS = istr("X-Content-Type-Options")
_SERVER = istr("Server")
_USER_AGENT = istr("User-Agent")
_SANE_ID = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}").fullmatch
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"))
_OTHER = "_OTHER"

_ONE_WRITE = 32 * 1024
"""How long a body may be that is sent in one write, without a look at what waits already."""
_CLOSE_SECONDS = 1.0
"""How long the other end of a WebSocket may take to say goodbye."""
_TICK = 1.0
"""How often connections are looked at for clients that take too long."""
_SLICE = 500
"""How many connections are looked at in one go, which takes less than a millisecond."""

_REFUSALS = {
    408: "The request's head came too slowly.",
    414: "The request line is too long.",
    431: "The request's head is too long.",
}
_ANSWER = b"%b%b\r\nContent-Length: %d\r\n\r\n%b"

_KEPT = Written(keep_alive=True)
_CLOSED = Written(keep_alive=False)


async def _nothing(request: web.Request) -> web.StreamResponse:
    raise RouteNotFound(request.path)


class HTTPDoor:
    """Answer requests by ``router``, and count those under way."""

    def __init__(
        self,
        router: Router[Endpoint],
        metrics: Metrics,
        access: AccessLog,
        *,
        max_concurrent: int = 0,
        proxies: Proxies | None = None,
        browsers: Browsers | None = None,
    ) -> None:
        self._router = router
        self._access = access
        self._max_concurrent = max_concurrent
        self._proxies = proxies or None
        self._browsers = browsers or Browsers()
        self._cors = self._browsers.cors
        self._is_open = self._is_draining = False
        self._is_plain = self._cors is None
        """Whether answers may leave without a look at their heads."""
        self._is_strict = True
        """Whether each request is looked at before it is served."""
        self._serving: set[Connection] = set()
        self._deadlines = Deadlines[Connection](lambda connection: connection.cancel("late"))
        self._changed: asyncio.Event | None = None
        """Set, where somebody waits, when the last request ends, or a stream begins."""
        self._heads: dict[tuple[int, str, str], bytes] = {}
        self._unmatched = Endpoint(UNMATCHED, _nothing)
        self._preflight = Endpoint(PREFLIGHT, _nothing)
        self._durations = metrics.histogram(
            "http_server_request_duration_seconds",
            "Time to answer a request.",
            ("http_request_method", "http_route", "http_response_status_code"),
        )
        self._panics = metrics.counter("gizmo_panics", "Errors that no endpoint handled.").child()

    def open(self) -> None:
        """Serve the service's own endpoints, too: those that are built in always are."""
        self._is_open = True
        self._is_strict = self._max_concurrent > 0 or self._browsers.is_strict

    def drain(self) -> None:
        """Close each connection with its next answer."""
        self._is_draining, self._is_plain = True, False

    def shut(self) -> None:
        """Serve the service's own endpoints no more: what they need is about to be closed."""
        self._is_open, self._is_strict = False, True

    @property
    def under_way(self) -> int:
        """How many requests are being answered, their answers' last byte included."""
        return len(self._serving)

    async def wait_idle(self) -> None:
        """Wait until no request is under way; end streams that begin meanwhile."""
        while self._serving:
            self._changed = asyncio.Event()
            await self.end_streams()
            await self._changed.wait()

    def cancel(self) -> None:
        """Cancel every request under way; ``wait_idle`` then waits for their own clean-up."""
        for connection in list(self._serving):
            connection.cancel("out of time")

    async def end_streams(self) -> None:
        """End what has no end of its own: tell WebSockets, and finish streams of events."""
        sockets = []
        for connection in list(self._serving):
            stream = connection.stream
            if isinstance(stream, web.WebSocketResponse):
                sockets.append(_say_goodbye(stream))
            elif stream is not None and stream.content_type == "text/event-stream":
                stream.force_close()  # its client would come back on the same connection
                connection.cancel("ended")
        await asyncio.gather(*sockets)

    def close(self) -> None:
        """Watch no deadline any more."""
        self._deadlines.close()

    async def handle(self, request: web.BaseRequest) -> Any:
        """Answer one request. Runs in a task of its own, so its context is its own."""
        started = monotonic()
        assert type(request) is ServedRequest
        connection = request.connection
        headers = request.headers
        path = _path(request.raw_path)
        self._begin(connection, request, started)
        endpoint = self._unmatched
        status, size = CLIENT_GONE, 0
        response: Any = _CLOSED
        try:
            try:
                if self._cors is not None and request.method == "OPTIONS":
                    response = self._browsers.preflight(request, self._router, path)
                    if response is not None:
                        endpoint = self._preflight
                        await _send(request, response)
                        status = response.status
                        return response
                endpoint, request.path_parameters = self._router.match(request.method, path)
                connection.cancellable = endpoint.cancellable
                connection.rate = endpoint.min_send_rate
                request.is_builtin = endpoint.builtin
                if endpoint.builtin and "%" in path and "%" not in endpoint.template:
                    raise RouteNotFound(path)  # a proxy that keeps /metrics to itself compares text
                if request.content is not EMPTY_PAYLOAD:
                    connection.limit_body(endpoint.max_body)
                if (endpoint.is_guarded or not request.is_plain) and (  # no upgrade is plain
                    ORIGIN in headers or SITE in headers
                ):
                    self._browsers.check_origin(request, endpoint)
                if (
                    endpoint.timeout
                    or self._is_strict
                    or _TRACEPARENT in headers
                    or REQUEST_TIMEOUT in headers
                    or GRPC_TIMEOUT in headers
                    or _EXPECT in headers
                ):
                    await self._heed(connection, request, endpoint)
                answer = await endpoint.answer(request)
                if connection.prepared is not None and connection.prepared is not answer:
                    raise UsageError("a value was returned after a response had begun; return that")
                if type(answer) is RawResponse:
                    if request.is_plain and self._is_plain and len(answer.body) < _ONE_WRITE:
                        self._write(connection, request, answer)
                        if connection.clogged:
                            self._deadlines.forget(connection)  # it has begun
                            await request.writer.drain()
                        status, size, response = answer.status, len(answer.body), _KEPT
                        return response
                    answer = answer.to_aiohttp()
                response = answer
                await _send(request, response)
            except (Exception, asyncio.CancelledError, SystemExit) as error:
                if isinstance(error, asyncio.CancelledError) and not self._is_ours(connection):
                    raise
                response = self._answer_error(connection, request, error)
                status = response.status  # of what is cut, too, for which nothing can be sent
                try:
                    await _send(request, response)
                except Exception as unsendable:  # noqa: BLE001 -- a line break in its headers, say
                    response = self._answer_error(connection, request, unsendable)
                    status = response.status
                    await _send(request, response)
            status, size = response.status, _size(request, response)
            return response
        except ConnectionError:
            return _CLOSED  # the client is gone
        finally:
            self._end(connection)
            self._record(request, endpoint, path, status, size, monotonic() - started)

    def _begin(self, connection: Connection, request: ServedRequest, now: float) -> None:
        given = request.headers.get(_REQUEST_ID)
        request.identity = given if given is not None and _SANE_ID(given) else new_id()
        request_id.set(request.identity)
        connection.began = now
        self._serving.add(connection)
        if self._proxies is not None:
            address, scheme = self._proxies.address(request), self._proxies.scheme(request)
            request.client, request.client_scheme = address, scheme

    def _end(self, connection: Connection) -> None:
        self._serving.discard(connection)
        self._deadlines.forget(connection)
        connection.stream = connection.prepared = None
        connection.cut = ""
        if self._changed is not None and not self._serving:
            self._changed.set()

    async def _heed(
        self, connection: Connection, request: ServedRequest, endpoint: Endpoint
    ) -> None:
        """Heed what the caller asks for besides, and what may be asked of the endpoint."""
        headers = request.headers
        self._browsers.check_host(request, endpoint)
        if not (self._is_open or endpoint.builtin):
            detail = f"The daemon is {'stopping' if self._is_draining else 'starting'}; try again."
            raise Problem(503, detail, headers={"Retry-After": "1"})
        if 0 < self._max_concurrent < len(self._serving) and not endpoint.builtin:
            detail = "Too many requests are being served; try again."
            raise Problem(503, detail, headers={"Retry-After": "1"})
        if _TRACEPARENT in headers:
            context = trace_context(headers)
            propagated_attributes.set(context)
            request.trace_id = logs.trace_id(context)
        if endpoint.timeout or REQUEST_TIMEOUT in headers or GRPC_TIMEOUT in headers:
            self._bound(connection, request, endpoint)
        if _EXPECT in headers:
            await _answer_expectation(request)

    def _bound(self, connection: Connection, request: ServedRequest, endpoint: Endpoint) -> None:
        """Set the deadline: the endpoint's, or the caller's where that is sooner.

        The caller's only bounds what may be cancelled when the caller is gone; the others can read
        it, and give up by themselves where that is safe.
        """
        own = endpoint.timeout or math.inf
        soonest = min(own, callers_timeout(request.headers))
        deadline.set(connection.began + soonest)
        enforced = soonest if connection.cancellable else own
        if enforced < math.inf:
            self._deadlines.watch(connection, connection.began + enforced)

    def _write(self, connection: Connection, request: ServedRequest, answer: RawResponse) -> None:
        """Write a plain answer, head and body in one."""
        transport = connection.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        kind = (answer.status, answer.content_type, request.client_scheme)
        head = self._heads.get(kind) or self._meet_head(*kind)
        body = answer.body
        whole = _ANSWER % (head, request.identity.encode(), len(body), body)
        transport.write(whole)
        request.writer.output_size = len(whole)

    def _meet_head(self, status: int, content_type: str, scheme: str) -> bytes:
        """Return what heads of one kind begin with for the rest of a second: the date is in it."""
        if not self._heads:
            asyncio.get_running_loop().call_later(1.0, self._heads.clear)
        head = self._heads[status, content_type, scheme] = (
            f"HTTP/1.1 {status} {_phrase(status)}\r\nContent-Type: {content_type}\r\n"
            f"{self._browsers.transport.line(scheme)}"
            f"X-Content-Type-Options: nosniff\r\nServer: gizmopy\r\n"
            f"Date: {formatdate(usegmt=True)}\r\nX-Request-ID: "
        ).encode()
        return head

    def prepare(self, request: ServedRequest, response: web.StreamResponse) -> None:
        """Complete the head of an answer that aiohttp is about to send."""
        headers = response.headers
        headers[_REQUEST_ID] = request.identity
        headers[_SERVER] = "gizmopy"  # aiohttp tells its version, and Python's
        headers[_CONTENT_TYPE_OPTIONS] = "nosniff"  # else a browser may run a text as a script
        connection = request.connection
        check_head(response, request.writer)
        connection.prepared = response
        is_asking = _EXPECT in request.headers and not request.is_invited
        if connection.framing.is_broken or (is_asking and not request.content.is_eof()):
            close_after(response)  # the beginning of the next request is unknown
        self._deadlines.forget(connection)  # it has begun, and may be long
        if not isinstance(response, web.Response):
            connection.stream = response
            if self._changed is not None:
                self._changed.set()
        self._browsers.transport.decorate(request, response)
        if self._cors is not None and not request.is_builtin:
            self._cors.decorate(request, response)
        ends = self._is_draining or connection.is_last
        if ends and not isinstance(response, web.WebSocketResponse):
            close_after(response)

    def refuse(
        self, request: ServedRequest, status: int, error: BaseException | None
    ) -> web.StreamResponse:
        """Return what answers a request that is no HTTP, and record it."""
        request.identity = new_id()
        if isinstance(error, LineTooLong) or "Too many headers" in str(error):
            status = 431  # the parser says 400
        detail = _REFUSALS.get(status, "The request is no valid HTTP.")
        problem = Problem(status, detail, headers={"Connection": "close"})
        response = problem_response(problem, request_id=request.identity)
        self._record(request, self._unmatched, "", status, _size(request, response), 0.0)
        return response

    def _is_ours(self, connection: Connection) -> bool:
        """Return whether a cancellation is to be answered; if the door made it, take it back.

        One that is neither the door's nor anybody's who waits for the task leaked out of a handler,
        and is an error like any other.
        """
        task = connection.task
        assert task is not None
        if connection.cut:
            task.uncancel()
            return True
        return not task.cancelling()

    def _answer_error(
        self, connection: Connection, request: ServedRequest, error: BaseException
    ) -> Any:
        """Return what answers ``error``. One that nobody foresaw is logged here, once."""
        match error:
            case asyncio.CancelledError() if connection.cut == "gone":
                raise ConnectionResetError("the client is gone")
            case asyncio.CancelledError() if connection.cut == "ended":
                assert connection.stream is not None
                return connection.stream
            case asyncio.CancelledError() if connection.cut == "late":
                problem = Problem(504, "The time to answer the request was over.")
            case asyncio.CancelledError() if connection.cut:
                detail = "The server stopped before the request was answered."
                problem = Problem(503, detail, headers={"Connection": "close"})
            case Problem():
                problem = error
            case RouteNotFound():
                problem = Problem(404, f"Nothing is served at {cut(request.path)}.")
            case MethodNotAllowed():
                request.is_builtin = self._browsers.is_builtin(
                    self._router, _path(request.raw_path), error.allow
                )
                method, allow = cut(request.method), ", ".join(error.allow)
                problem = Problem(
                    405,
                    f"{method} is not served at {cut(request.path)}; use one of: {allow}.",
                    headers={"Allow": allow},
                )
            case web.HTTPException():
                translated = problem_from(error)
                if translated is None:
                    return _plain(error)
                problem = translated
            case ConnectionError() if _is_gone(request):
                raise error
            case web.RequestPayloadError() | HttpProcessingError():
                problem = Problem(400, UNREADABLE_BODY)
            case _:
                self._panics.value += 1
                # Encoded and cut: a client must not write our log.
                method, path = cut(request.method), cut(request.rel_url.raw_path)
                logger.error("%s %s failed", method, path, exc_info=shortened(error))
                problem = Problem(500, "The server failed to answer; its log says why.")
        if request.writer.output_size > 0:
            # An answer was begun: it has to be cut, or it would be believed. If it ends with the
            # connection, only a reset says that it is cut.
            if request.version < HttpVersion11 and request.transport is not None:
                reset(request.transport)
            request.protocol.force_close()
        else:
            request.start_over()
        return problem_response(problem, request_id=request.identity)

    def _record(
        self,
        request: ServedRequest,
        endpoint: Endpoint,
        path: str,
        status: int,
        size: int,
        seconds: float,
    ) -> None:
        """Measure a finished request, and log it unless it was quiet."""
        exchange = endpoint.last
        if exchange is None or exchange.status != status or exchange.method != request.method:
            exchange = endpoint.exchanges.get((request.method, status)) or self._meet(
                endpoint, request.method, status
            )
            endpoint.last = exchange
        exchange.duration.observe(seconds)
        if self._access.enabled and not endpoint.quiet:
            protocol, referer = _details(request) if self._access.detailed else ("", "")
            self._access.write(
                exchange.access,
                request.identity,
                path,
                seconds,
                size,
                request.connection.peer if request.client is None else request.client,
                request.headers.get(_USER_AGENT, ""),
                request.trace_id,
                protocol,
                referer,
            )

    def _meet(self, endpoint: Endpoint, method: str, status: int) -> Exchange:
        """Make what a kind of request shares, when the first of its kind comes."""
        known = method if method in _METHODS else _OTHER
        exchange = Exchange(
            method,
            status,
            self._durations.child(known, endpoint.template, str(status)),
            self._access.fixed_part(known, endpoint.template, status),
        )
        if known == method:  # an endless supply of made-up methods must not fill the memory
            endpoint.exchanges[method, status] = exchange
        return exchange

    def active(self) -> Iterator[tuple[str, str]]:
        """Yield the method and scheme of each request under way, as metrics call them."""
        for connection in self._serving:
            if (request := connection.request) is not None:
                yield request.method if request.method in _METHODS else _OTHER, request.scheme

    async def watch(self, server: Server, patience: Patience) -> None:
        """Look at every connection from time to time, and lose patience with who is too slow."""
        while True:
            await asyncio.sleep(min(_TICK, patience.read / 4, patience.write / 4))
            for index, connection in enumerate(server.open(), 1):
                try:
                    self._lose_patience(connection, connection.overdue(monotonic(), patience))
                except Exception:  # one connection must not spare all others from being watched
                    logger.exception("a connection could not be watched, and is closed")
                    connection.force_close()
                if index % _SLICE == 0:
                    await asyncio.sleep(0)

    def _lose_patience(self, connection: Connection, overdue: str) -> None:
        match overdue:
            case "idle":
                connection.expire()
            case "head":
                connection.refuse_late()
            case "body":
                assert connection.request is not None
                detail = "The request's body came too slowly."
                problem = Problem(408, detail, headers={"Connection": "close"})
                connection.request.content.set_exception(problem)
            case "answer":
                if isinstance(connection.stream, web.FileResponse) and not connection.cut:
                    connection.cancel("gone")  # asyncio logs two errors if its sendfile is aborted
                    return
                assert connection.wire is not None
                connection.wire.abort()


async def _say_goodbye(socket: web.WebSocketResponse) -> None:
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server stops")


async def _send(request: ServedRequest, response: web.StreamResponse) -> None:
    """Write an answer to its end, where its handler has not done so.

    It is written here rather than by aiohttp, which then finds nothing left to do: a request
    counts as under way until its answer is out.

    Raises UsageError if it was sent to another request before, which would leave this one without
    an answer, or if its body is not as long as its head says.
    """
    if response.prepared and request.connection.prepared is not response:
        raise UsageError("a response was sent already; make one for each request")
    if not response.prepared:
        await response.prepare(request)
    await response.write_eof()
    if request.writer.is_wrong:
        raise UsageError("a response's body is not as long as its Content-Length; set none")


def _path(target: str) -> str:
    """Return the path of a request's target (RFC 9112 section 3.2), still encoded."""
    if not target.startswith("/"):  # as a proxy is asked, or the * of OPTIONS
        return URL(target, encoded=True).raw_path if "://" in target else target
    for mark in "?#":
        if mark in target:
            target = target[: target.index(mark)]
    return target


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


async def _answer_expectation(request: ServedRequest) -> None:
    """Tell a client that waits for it to send its body (RFC 9110 section 10.1.1)."""
    if request.headers[_EXPECT].lower() != "100-continue":
        raise Problem(417, "Only 'Expect: 100-continue' is understood.")
    if (refusal := request.content.exception()) is not None:  # it is too large
        raise refusal
    request.is_invited = True
    if request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer proper has not begun


def _details(request: ServedRequest) -> tuple[str, str]:
    """Return the protocol and the referer of a request."""
    version = request.version
    return f"HTTP/{version.major}.{version.minor}", request.headers.get("Referer", "")


def _is_gone(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


def _size(request: web.BaseRequest, response: web.StreamResponse) -> int:
    """Return how many bytes the body of an answer had; of a stream its head is counted too."""
    if request.method == "HEAD" or response.status in (204, 304):
        return 0
    body = response.body if isinstance(response, web.Response) else None
    return len(body) if isinstance(body, bytes) else response.body_length


def _plain(error: web.HTTPException) -> web.Response:
    """Return the answer that ``error`` is, as a value: aiohttp warns of exceptions returned."""
    return web.Response(
        status=error.status, reason=error.reason, headers=error.headers, body=error.body
    )


def close_after(response: web.StreamResponse) -> None:
    """Close the connection after ``response``, and say so in a header.

    aiohttp closes without a word where only ``force_close`` is called.
    """
    response.headers["Connection"] = "close"
    response.force_close()
