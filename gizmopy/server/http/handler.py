"""Serve each request: route it, apply its headers, call its endpoint, respond, and record it.

All of this is one coroutine and not a stack of middlewares, because it runs for every request. For
the same reason a response of plain bytes is sent in one write, and aiohttp sends all others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Sequence
from enum import Enum, auto
from time import monotonic

from aiohttp import HttpVersion11, web
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import istr
from yarl import URL

from gizmopy.errors import UsageError
from gizmopy.observe.context import new_id
from gizmopy.server.http.active_requests import ActiveRequests
from gizmopy.server.http.browser_rules import BrowserRules
from gizmopy.server.http.connection.response_writer import check_head
from gizmopy.server.http.connection.served_request import CancelReason, ServedRequest
from gizmopy.server.http.deadlines import GRPC_TIMEOUT, REQUEST_TIMEOUT, Deadlines
from gizmopy.server.http.endpoint import Endpoint
from gizmopy.server.http.error_responses import ErrorResponses, unparsed_response
from gizmopy.server.http.observer import Observers, RequestObserver
from gizmopy.server.http.proxies import FORWARDED_PREFIX, Proxies
from gizmopy.server.http.request_context import (
    TRACEPARENT,
    set_request_id,
    set_trace_and_deadline,
)
from gizmopy.server.http.response_sender import ResponseHeads, body_size, close_after, send
from gizmopy.web import Problem
from gizmopy.web.responses import RawResponse, Response
from gizmopy.web.router import RouteNotFound, Router
from gizmopy.web.same_origin import ORIGIN, SITE

UNMATCHED = "__404__"
"""The route of requests without an endpoint, as Gizmo names it."""

PREFLIGHT = "__preflight__"
"""The route of CORS preflight requests."""

_EXPECT = istr("Expect")
_MAX_RAW_BODY = 32 * 1024
"""Bodies below this size, in bytes, are sent in one write: the transport's buffer takes them."""


class _State(Enum):
    """Which requests are served."""

    STARTING = auto()
    """Only those of built-in endpoints."""
    OPEN = auto()
    """All."""
    DRAINING = auto()
    """All; each connection is closed after its response."""
    STOPPED = auto()
    """Only those of built-in endpoints: the service's resources are about to be closed."""


async def _not_found(request: web.Request) -> web.StreamResponse:
    raise RouteNotFound(request.path)


class RequestHandler:
    """Answer the requests of a server's connections by the endpoints of ``router``."""

    def __init__(
        self,
        router: Router[Endpoint],
        observers: Sequence[RequestObserver],
        *,
        max_concurrent: int = 0,
        proxies: Proxies | None = None,
        browsers: BrowserRules | None = None,
    ) -> None:
        bound = Observers(observers)
        self.active = ActiveRequests()
        self.router = router
        self._max_concurrent = max_concurrent
        self._proxies = proxies or None
        self._browsers = browsers or BrowserRules()
        self._unmatched = Endpoint(UNMATCHED, _not_found)
        self._preflight = Endpoint(PREFLIGHT, _not_found)
        self._deadlines = Deadlines[ServedRequest](_time_out)
        self._heads = ResponseHeads(self._browsers.hsts)
        self._errors = ErrorResponses(router, self._browsers, bound)
        self._begun, self._ended = bound.begun, bound.ended
        self._set_state(_State.STARTING)

    def _set_state(self, state: _State) -> None:
        """Change the state, and decide once which steps a request may leave out."""
        self._state = state
        is_limited = self._max_concurrent > 0 or self._browsers.checks_host
        is_serving = state in (_State.OPEN, _State.DRAINING)
        self._needs_checks = is_limited or not is_serving
        """Whether ``_check_admission`` has to see each request."""
        closes_connections = state in (_State.DRAINING, _State.STOPPED)
        self._sends_raw = self._browsers.cors is None and not closes_connections
        """Whether a raw response needs no other headers."""

    def open(self) -> None:
        """Serve the service's own endpoints; the built-in ones are always served."""
        self._set_state(_State.OPEN)

    def drain(self) -> None:
        """Close each connection after its next response."""
        self._set_state(_State.DRAINING)

    def stop_serving(self) -> None:
        """Answer requests for the service's own endpoints with 503."""
        self._set_state(_State.STOPPED)

    def cancel_deadlines(self) -> None:
        """Enforce no deadline any longer."""
        self._deadlines.close()

    async def handle(self, request: ServedRequest) -> bool:
        """Answer ``request``; return whether its connection may serve another one.

        It runs in a task of its own, whose context variables are the request's own.
        """
        self._begin(request)
        try:
            try:
                response: Response | None = self._route(request)
                if response is None:
                    response = await self._call_endpoint(request)
                sending = self._respond(request, response)
                if sending is not None:
                    await sending
            except (Exception, asyncio.CancelledError, SystemExit) as error:  # noqa: BLE001
                await self._respond_to_error(request, error)
        except ConnectionError:
            request.keeps_alive = False  # the client is gone
        finally:
            self._end(request)
        return request.keeps_alive

    def _begin(self, request: ServedRequest) -> None:
        set_request_id(request)
        request.endpoint = self._unmatched
        request.target_path = _path(request.raw_path)
        self.active.add(request)
        if (proxies := self._proxies) is not None:
            if FORWARDED_PREFIX in request.headers:
                request.forwarded_prefix = proxies.prefix(request)
            client, scheme = proxies.address(request), proxies.scheme(request)
            request.forwarded_client, request.forwarded_scheme = client, scheme
        if self._begun is not None:
            self._begun(request)

    def _route(self, request: ServedRequest) -> web.StreamResponse | None:
        """Find the endpoint of a request; return the response if it is a CORS preflight.

        Raises RouteNotFound or MethodNotAllowed, and Problem (403) if the page that sent it may
        not. A body that is too large fails when it is read.
        """
        path, method = request.target_path, request.method
        if method == "OPTIONS":
            response = self._browsers.preflight(request, self.router, path)
            if response is not None:
                request.endpoint = self._preflight
                return response
        request.endpoint, request.path_parameters = self.router.match(method, path)
        endpoint, headers = request.endpoint, request.headers
        if endpoint.builtin:
            request.is_builtin = True
            # A proxy that refuses /metrics to the outside compares the text of the path.
            if "%" in path and "%" not in endpoint.template:
                raise RouteNotFound(path)
        if request.content is not EMPTY_PAYLOAD:
            request.limit_body(endpoint.max_body)
        # A request for a WebSocket does not accept a raw response, so its origin is checked.
        may_need_check = endpoint.is_guarded or not request.accepts_raw_response
        if may_need_check and (ORIGIN in headers or SITE in headers):
            self._browsers.check_origin(request, endpoint)
        return None

    def _call_endpoint(self, request: ServedRequest) -> Awaitable[Response]:
        """Return the call of the endpoint, after the request's headers have been applied.

        Here and in ``_respond`` the usual case is not a coroutine of its own: each one costs a
        hundredth of a small request.
        """
        endpoint, headers = request.endpoint, request.headers
        if (
            endpoint.timeout
            or self._needs_checks
            or endpoint.check is not None
            or TRACEPARENT in headers
            or REQUEST_TIMEOUT in headers
            or GRPC_TIMEOUT in headers
            or _EXPECT in headers
        ):
            return self._apply_headers(request)
        return endpoint.call(request)

    async def _apply_headers(self, request: ServedRequest) -> Response:
        """Admit a request, set its context and deadline, check its caller, and call.

        The check comes ahead of the middleware, which could answer from a cache, and of the body,
        which costs. The client is asked for the body that it announced after the check.
        """
        self._check_admission(request)
        cancel_at = set_trace_and_deadline(request)
        if cancel_at != math.inf:
            self._deadlines.add(request, cancel_at)
        if (check := request.endpoint.check) is not None:
            await check(request)
        if _EXPECT in request.headers:
            await _send_continue(request)
        return await request.endpoint.call(request)

    def _check_admission(self, request: ServedRequest) -> None:
        """Raise Problem if the request is not served now: 421 for its host, or 503."""
        endpoint = request.endpoint
        self._browsers.check_host(request, endpoint)
        if endpoint.builtin:
            return
        if self._state in (_State.STARTING, _State.STOPPED):
            phase = "starting" if self._state is _State.STARTING else "stopping"
            detail = f"The daemon is {phase}; try again."
            raise Problem(503, detail, headers={"Retry-After": "1"})
        if 0 < self._max_concurrent < len(self.active):
            detail = "Too many requests are being served; try again."
            raise Problem(503, detail, headers={"Retry-After": "1"})

    def _respond(self, request: ServedRequest, response: Response) -> Awaitable[None] | None:
        """Send a response, at once if possible; else return what remains to be awaited."""
        if request.prepared is not None and request.prepared is not response:
            reason = "a value was returned after a response had begun; return that response"
            raise UsageError(reason)
        if not isinstance(response, RawResponse):
            return self._send(request, response)
        status, body = response.status, response.body
        if not (request.accepts_raw_response and self._sends_raw and len(body) < _MAX_RAW_BODY):
            return self._send(request, response.to_aiohttp())
        head = self._heads[status, response.content_type, request.forwarded_scheme]
        if request.write_raw(head, body):
            return self._wait_until_read(request, response)
        request.status, request.sent_bytes, request.keeps_alive = status, len(body), True
        return None

    async def _wait_until_read(self, request: ServedRequest, response: RawResponse) -> None:
        """Wait until a slow client has read most of a raw response."""
        self._deadlines.remove(request)  # it is for the beginning of a response
        await request.writer.drain()
        request.status, request.sent_bytes = response.status, len(response.body)
        request.keeps_alive = True

    async def _send(self, request: ServedRequest, response: web.StreamResponse) -> None:
        await send(request, response)
        request.status, request.sent_bytes = response.status, body_size(request, response)

    async def _respond_to_error(self, request: ServedRequest, error: BaseException) -> None:
        """Send the response for an error; raise the error if it has to end the task."""
        # A task group that is cancelled while a child fails raises the child's error. On Python
        # 3.13 the cancellation would follow at the next await, and cancel the response.
        is_answered = request.take_back_cancellation()
        if isinstance(error, asyncio.CancelledError) and not is_answered:
            raise error
        response = self._errors.response_to(request, error)
        # Also if nothing can be sent any more: a stream that breaks off counts as a 500.
        request.status = response.status
        try:
            await send(request, response)
        except Exception as unsendable:  # noqa: BLE001 -- such as a line break in a header
            response = self._errors.response_to(request, unsendable)
            request.status = response.status
            await send(request, response)
        request.sent_bytes = body_size(request, response)

    def _end(self, request: ServedRequest) -> None:
        active = self.active
        active.discard(request)
        if active.changed is not None:
            active.notify_waiter()
        self._deadlines.remove(request)
        # The connection reads these while it discards the rest of the request's body.
        if request.prepared is not None:
            request.prepared = request.stream = None
        if request.cancel_reason is not None:
            request.cancel_reason = None
        request.duration = monotonic() - request.started_at
        if self._ended is not None:
            self._ended(request)

    def prepare(self, request: ServedRequest, response: web.StreamResponse) -> None:
        """Complete the head of a response that aiohttp is about to write."""
        check_head(response, request.writer)
        self._heads.complete(request, response)
        if self._browsers.cors is not None and not request.is_builtin:
            self._browsers.cors.decorate(request, response)
        is_last = self._state in (_State.DRAINING, _State.STOPPED) or request.is_last
        if request.must_close or (is_last and not isinstance(response, web.WebSocketResponse)):
            close_after(response)
        original = request if request.original is None else request.original
        original.prepared = response
        self._deadlines.remove(original)  # it is for the beginning of a response
        if not isinstance(response, web.Response):
            original.stream = response
            self.active.notify_waiter(has_new_stream=True)

    def refuse(
        self, request: ServedRequest, status: int, error: BaseException
    ) -> web.StreamResponse:
        """Return the response to a request that is not valid HTTP, and record it."""
        request.endpoint, request.request_id = self._unmatched, new_id()
        request.target_path, request.duration = "", 0.0
        response = unparsed_response(request, status, error)
        request.status, request.sent_bytes = response.status, body_size(request, response)
        for observe in (self._begun, self._ended):
            if observe is not None:
                observe(request)
        return response


def _time_out(request: ServedRequest) -> None:
    request.cancel(CancelReason.TIMED_OUT)


def _path(target: str) -> str:
    """Return the path of a request's target (RFC 9112 section 3.2), still percent-encoded."""
    if not target.startswith("/"):  # an absolute URL, or the * of OPTIONS
        return URL(target, encoded=True).raw_path if "://" in target else target
    for mark in "?#":
        if mark in target:
            target = target[: target.index(mark)]
    return target


async def _send_continue(request: ServedRequest) -> None:
    """Ask a client for the body that it announced (RFC 9110 section 10.1.1).

    Raises Problem (417) for another expectation, and the error of a body that is refused already.
    """
    if request.headers[_EXPECT].lower() != "100-continue":
        raise Problem(417, "Only 'Expect: 100-continue' is supported.")
    if (refusal := request.content.exception()) is not None:
        raise refusal
    request.has_sent_continue = True
    if request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the response itself has not begun
