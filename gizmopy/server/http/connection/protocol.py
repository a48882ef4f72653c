"""Serve the requests of one connection, one at a time.

aiohttp's protocol has a task for each connection, which makes a task for each request and waits for
it. Here the task of a request is made as soon as the request has arrived, and nothing waits in
between: these hand-overs were half of the cost of a small request.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from gizmopy._aiohttp import UNPARSED, UNPARSED_HTTP11, ParseError
from gizmopy.server.http.client_timeouts import ClientProgress, ClientTimeout, ClientTimeouts
from gizmopy.server.http.connection.body_limit import too_large
from gizmopy.server.http.connection.request_reader import RequestReader
from gizmopy.server.http.connection.send_rate import unacknowledged
from gizmopy.server.http.connection.served_request import (
    CancelReason,
    ServedRequest,
    make_request,
)
from gizmopy.untrusted.text import cut, escape
from gizmopy.web import Problem
from gizmopy.web.body import disconnected

if TYPE_CHECKING:
    from gizmopy.server.http.connection.protocol_factory import Server

logger = logging.getLogger("gizmopy.server.http")

_HALF_CLOSED_SECONDS = 1.0
"""How long a client may take to close its end, after the server has closed its own."""
_DISCARD_SECONDS = 10.0
"""How long the rest of a body is read and discarded, before the connection is closed."""
_SLOW_HEAD = ParseError(status=408, exc=TimeoutError(), message="")
_REQUEST_OVER = web.PayloadAccessError()
"""The error of reading a body after its request has ended."""


class ConnectionDelegate(Protocol):
    """The handler of requests, as a connection calls it."""

    async def handle(self, request: ServedRequest) -> bool:
        """Answer ``request``; return whether the connection may serve another one."""

    def refuse(
        self, request: ServedRequest, status: int, error: BaseException
    ) -> web.StreamResponse:
        """Return the response to a request that is not valid HTTP."""

    def prepare(self, request: ServedRequest, response: web.StreamResponse) -> None:
        """Complete the head of a response that aiohttp is about to write."""


class Connection(RequestReader):
    """The protocol of one connection. It passes each request to ``delegate``."""

    __slots__ = (
        "delegate",
        "is_counted",
        "lifetime",
        "min_send_rate",
        "peer",
        "progress",
        "request",
        "server",
        "shed_group",
    )

    def __init__(self, server: Server, delegate: ConnectionDelegate, **options: Any) -> None:
        super().__init__(server, server.max_head, **options)
        self.server = server
        self.delegate = delegate
        self.peer = ""
        """The address of the other end; empty for a unix socket."""
        self.shed_group = server.silent
        """The connections without a request, to which this one belongs while it has none."""
        self.is_counted = True
        """Whether it counts as one of the server's connections."""
        self.lifetime = server.turnover.begin() if server.turnover else None
        self.request: ServedRequest | None = None
        """The request that is served."""
        self.min_send_rate: float | None = None
        """That of the last request's endpoint: bytes of its response may still wait."""
        self.progress = ClientProgress()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the address of the other end."""
        # uvloop's transports have no class in common with asyncio's.
        self.open_transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel the request that is served, if only this client needs it."""
        self.open_transport = None
        self.stop_counting()
        if self.closing_timer is not None:
            self.closing_timer.cancel()
        if exc is not None and not isinstance(exc, ConnectionError):
            # A malformed TLS record, or a time-out of TCP. Handlers expect a ConnectionError: any
            # other error would be logged as a fault of the service.
            exc = disconnected()
        super().connection_lost(exc)
        request = self.request
        if request is not None and (request.endpoint.cancellable or request.stream is not None):
            request.cancel(CancelReason.CLIENT_GONE)

    def _serve_next(self) -> None:
        """Serve the next request, unless one is being served or none has been parsed."""
        if self.task is not None or not self.parsed_requests or self.transport is None:
            return
        self.head_started = False
        self.shed_group.pop(self, None)
        self.request_count += 1
        message, payload = self.parsed_requests.popleft()
        serving = self._serve(message, payload)
        # An ordinary task, although Python 3.12 could start it eagerly: requests that arrive
        # together are answered together, which costs a fifth less than one after the other.
        # The context is the server's: the current one may belong to the request before.
        task = self.loop.create_task(serving, context=self.server.context.copy())
        if not task.done():  # it may be done with asyncio's eager task factory
            self.task = self.handler_task = task

    async def _serve(self, message: Any, payload: StreamReader) -> None:
        """Serve one request, then continue with the connection."""
        task = self.task or asyncio.current_task()
        assert task is not None
        self.task = task
        keep_alive = False
        try:
            if isinstance(message, ParseError):
                await self._answer_unparsed(message, payload, task)
                return
            self.request = self.current_request = request = make_request(
                self, message, payload, task
            )
            if self.transport is None and not payload.is_eof():
                payload.set_exception(disconnected())  # else its reader raises RuntimeError
            if self.lifetime is not None and self.lifetime.is_over(self.request_count):
                request.is_last, request.accepts_raw_response = True, False
            keep_alive = await self.delegate.handle(request)
            request.finish()
            if payload is not EMPTY_PAYLOAD:
                if not payload.is_eof():
                    keep_alive = await self._discard_rest(payload) and keep_alive
                payload.set_exception(_REQUEST_OVER)
        except ConnectionError:
            pass  # the client is gone
        except Exception as error:  # noqa: BLE001 -- no caller could handle it
            self.log_exception("a connection failed", exc_info=error)
        finally:
            self._continue(keep_alive)

    async def _answer_unparsed(
        self, failure: ParseError, payload: StreamReader, task: asyncio.Task[Any]
    ) -> None:
        """Answer a request that could not be parsed."""
        message = UNPARSED_HTTP11 if failure is _SLOW_HEAD else UNPARSED
        self.request = self.current_request = request = make_request(self, message, payload, task)
        response = self.delegate.refuse(request, failure.status, failure.exc)
        await response.prepare(request)
        await response.write_eof()

    async def _discard_rest(self, payload: StreamReader) -> bool:
        """Read the rest of a body that its handler did not read; return whether all arrived.

        If the connection were closed at once, the kernel would reset it because of the unread
        bytes, and could destroy the response before its client has read it.
        """
        try:
            async with asyncio.timeout(_DISCARD_SECONDS):
                while not payload.is_eof():
                    limit = max(self.max_body, self.server.client_max_size)
                    if self.transport is None or payload.total_bytes > limit:
                        return False
                    await payload.readany()
        except (TimeoutError, Problem):
            return False
        except web.RequestPayloadError as error:
            request = self.request
            assert request is not None
            # At the level of the access log: any client can cause it.
            method, path = cut(request.method), cut(request.rel_url.raw_path)
            logger.info("%s %s: %s", method, path, cut(escape(str(error))))
            return False
        return True

    def _continue(self, keep_alive: bool) -> None:
        """End the request, then serve the next one, wait for it, or close."""
        if self.request is not None:
            self.min_send_rate = self.request.endpoint.min_send_rate
        self.task = self.request = self.current_request = self.handler_task = None
        self.idle_since = 0.0
        if self.is_counted:
            self.shed_group = self.server.idle
            self.shed_group[self] = None
        if self.is_force_closing or self.transport is None:
            return
        framing = self.framing
        if self.is_closing or not keep_alive or framing.is_broken or framing.in_body:
            self.half_close()
            return
        if self.is_upgraded:  # a WebSocket was asked for, and declined
            self.is_upgraded = False
            if self.parser is not None:
                self.parser.set_upgraded(False)
        if framing.held:
            self.loop.call_soon(self._read_on)
        else:
            self.expects_request = True

    def limit_body(self, request: ServedRequest, limit: int | None) -> None:
        """Refuse the body of ``request`` if it has more than ``limit`` bytes.

        0: any size, None: the server's limit.
        """
        if limit is None:
            limit = self.server.client_max_size  # it is the request's own limit already
        else:
            request.set_max_body(limit)
        self.max_body = limit
        framing = self.framing
        if limit and (limit < framing.length or limit < framing.reader.total_bytes):
            self.fail_body(too_large(limit))
        elif framing.is_broken:
            request.accepts_raw_response = False  # its response says that the connection ends

    def fail_body(self, error: Exception) -> None:
        """Raise ``error`` in the body's reader; the response says that the connection ends."""
        super().fail_body(error)
        if self.request is not None:
            self.request.accepts_raw_response = False

    def refuse_slow_head(self) -> None:
        """Answer a request whose head does not arrive with 408, and close."""
        self.expects_request = False
        self.parsed_requests.append((_SLOW_HEAD, EMPTY_PAYLOAD))
        self._serve_next()

    def exceeded_timeout(self, now: float, timeouts: ClientTimeouts) -> ClientTimeout | None:
        """Return the timeout that the client has exceeded."""
        return self.progress.exceeded(self, now, timeouts)

    def half_close(self) -> None:
        """Close after the response, and after the bytes that the client may still be sending.

        If unread bytes are left, closing resets the connection, which destroys a response that the
        client has not read (RFC 9112 section 9.6). So the server closes its own end, and the client
        has a second to close the other one.
        """
        self.is_closing = True  # bytes that arrive now are discarded
        self.resume_transport()
        if self.closing_timer is None and self.transport is not None:
            try:
                # TLS has no half-closed connections.
                if self.transport.can_write_eof():
                    self.transport.write_eof()
                    self.closing_timer = self.loop.call_later(
                        _HALF_CLOSED_SECONDS, self.force_close
                    )
                    return
            except OSError:
                pass  # the client has reset the connection
        self.force_close()

    def close_idle(self) -> None:
        """Close a connection on which no request arrives; if it is called again, at once.

        Over TLS, closing waits half a minute for the client's close_notify.
        """
        if self.transport is None:
            self.abort()
        else:
            self.force_close()

    def abort(self) -> None:
        """Close at once, also in the middle of a response."""
        self.stop_counting()
        if self.open_transport is not None:
            self.open_transport.abort()

    def stop_counting(self) -> None:
        """Do not count this connection for the server's limit any longer."""
        self.shed_group.pop(self, None)
        if self.is_counted:
            self.is_counted = False
            self.server.count -= 1

    def force_close(self) -> None:
        """Close after the written bytes; over TLS also if the client does not close its end.

        asyncio waits 30 s for the client's close_notify. Clients that do not read never send one.
        """
        super().force_close()
        if self.is_closing_tls and self.closing_timer is None:
            self.closing_timer = self.loop.call_later(_HALF_CLOSED_SECONDS, self._abort_once_sent)

    def _abort_once_sent(self) -> None:
        if self.open_transport is None:
            return
        if self.has_unsent:
            self.closing_timer = self.loop.call_later(_HALF_CLOSED_SECONDS, self._abort_once_sent)
        else:
            self.open_transport.abort()

    @property
    def is_closing_tls(self) -> bool:
        """Whether the connection is closing, and waits for TLS to close."""
        transport = self.open_transport
        return self.is_force_closing and transport is not None and not transport.can_write_eof()

    def close(self) -> None:
        """Close after the request that is served, or at once if there is none."""
        self.expects_request = False
        super().close()
        if self.task is None:
            self.force_close()

    @property
    def has_unsent(self) -> bool:
        """Whether the kernel has not taken a part of a response yet.

        Over TLS there is a second transport, whose buffer is hidden. It is empty if the client has
        acknowledged every byte in the kernel. If the kernel does not count those, it counts as
        empty when the connection is closed.
        """
        if self.open_transport is None:
            return False
        if self.open_transport.get_write_buffer_size() > 0:
            return True
        return self.is_closing_tls and unacknowledged(self.open_transport) != 0
