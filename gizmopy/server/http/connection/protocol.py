"""Serve the requests of one connection, one at a time.

aiohttp parses and writes; which request is served when is decided here. aiohttp has a task for each
connection, which makes a task for each request and waits for it. Here the request's task is made
when the request has come, and nothing waits in between: half of the cost of a small request was in
those hand-overs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from gizmopy._aiohttp import UNPARSED, UNPARSED_HTTP11, ParseError
from gizmopy.server.http.connection.request_reader import Receiver
from gizmopy.server.http.connection.send_rate import SendRate, acknowledged, unacknowledged
from gizmopy.server.http.connection.served_request import ServedRequest, new_writer
from gizmopy.web import Problem

if TYPE_CHECKING:
    from gizmopy.server.http.connection.protocol_factory import Server

_SLOWEST_BODY = 1024
"""How many bytes of a body have to come each second, once the time to read it is over."""
_LEAVE_SECONDS = 1.0
"""How long a client may take to close its end, after the server has ended its answers."""
_REST_SECONDS = 10.0
"""How long a body that its handler did not read is discarded, before the connection is closed."""
_LATE = ParseError(status=408, exc=TimeoutError(), message="")
_UNCOUNTED = (web.WebSocketResponse, web.FileResponse)
_OVER = web.PayloadAccessError()
"""What reading a body raises once its request is over."""


class Written:
    """Stand for an answer that is written already, and say whether its connection goes on."""

    __slots__ = ("keep_alive",)

    def __init__(self, *, keep_alive: bool) -> None:
        self.keep_alive = keep_alive


class Door(Protocol):
    """The part of the door that a connection calls."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""

    def refuse(
        self, request: ServedRequest, status: int, error: BaseException | None
    ) -> web.StreamResponse:
        """Return what answers a request that is no HTTP."""

    def prepare(self, request: ServedRequest, response: web.StreamResponse) -> None:
        """Complete the head of an answer that aiohttp is about to send."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client may take, in seconds."""

    read: float
    """To send a request's head; and its body, which has a second more for each KiB."""
    write: float
    """To take anything of an answer that waits for it."""
    idle: float
    """To send another request."""
    rate: float = 0.0
    """How many of the bytes that wait it has to take each second; 0: any."""


class Connection(Receiver):
    """Hold what the door knows of one connection, which serves one request at a time."""

    __slots__ = (
        "began",
        "cancellable",
        "clogged",
        "cut",
        "door",
        "is_counted",
        "is_last",
        "lifetime",
        "peer",
        "prepared",
        "quiet",
        "rate",
        "request",
        "sending",
        "server",
        "stream",
        "unsent",
    )

    def __init__(self, server: Server, door: Door, **options: Any) -> None:
        super().__init__(server, server.max_head, **options)
        self.server = server
        self.door = door
        self.peer = ""
        """The address of the other end; empty for a unix socket."""
        self.clogged = False
        """Whether the other end reads more slowly than answers are written."""
        self.quiet = server.silent
        """The connections without a request under way among which it is."""
        self.is_counted = True
        """Whether it counts as one of the port's connections."""
        self.lifetime = server.turnover.begin() if server.turnover else None
        self.is_last = False
        """Whether the connection ends with the request at hand."""
        self.began = 0.0
        """When the request at hand began (``time.monotonic()``)."""
        self.request: ServedRequest | None = None
        self.cancellable = False
        """Whether it is cancelled once its client is gone."""
        self.cut = ""
        """Why the door cancelled it."""
        self.prepared: web.StreamResponse | None = None
        """The answer whose head is written, or about to be."""
        self.stream: web.StreamResponse | None = None
        """The answer that its handler sends itself."""
        self.rate: float | None = None
        """How many bytes a second the client has to take; None: as Patience says, 0: any."""
        self.sending = SendRate()
        self.unsent: tuple[int, float] = (0, 0.0)
        """How many bytes of answers wait for the client, and since when none was taken."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember who is at the other end."""
        self.wire = cast(asyncio.Transport, transport)  # uvloop's are of no common class
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel the request at hand, if only this client needs it."""
        self.wire = None
        self.dismiss()
        if self.leaving is not None:
            self.leaving.cancel()
        if exc is not None and not isinstance(exc, ConnectionError):
            exc = _gone()  # a TLS record that is garbage, or a time-out of TCP, is no error of ours
        super().connection_lost(exc)
        if self.task is not None and (self.cancellable or self.stream is not None):
            self.cancel("gone")

    def _serve_next(self) -> None:
        """Begin to serve the next request, unless one is being served or there is none to serve."""
        if self.task is not None or not self.parsed_requests or self.transport is None:
            return
        self.heard = False
        self.quiet.pop(self, None)
        self.served += 1
        message, payload = self.parsed_requests.popleft()
        serving = self._serve(message, payload)
        # Not at once, though Python 3.12 could: requests that come together are answered together,
        # which costs a fifth less than turn by turn.
        # Nor in the context at hand, which may be that of the request before.
        task = self.loop.create_task(serving, context=self.server.context.copy())
        if not task.done():  # with asyncio's eager task factory it may have been at once
            self.task = self.handler_task = task

    def pause_writing(self) -> None:
        """Note that the other end reads slowly."""
        super().pause_writing()
        self.clogged = True

    def resume_writing(self) -> None:
        """Note that it has caught up."""
        super().resume_writing()
        self.clogged = False

    def cancel(self, why: str) -> None:
        """Cancel the request at hand, once; ``why`` decides what it is answered."""
        if self.task is not None and not self.cut:
            self.cut = why
            self.task.cancel()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp could not parse, as the door sees fit."""
        assert isinstance(request, ServedRequest)
        return self.door.refuse(request, status, exc)

    async def _serve(self, message: Any, payload: StreamReader) -> None:
        """Serve one request, then say what becomes of the connection."""
        refuse: Callable[[web.BaseRequest], Awaitable[Any]] | None = None
        if isinstance(message, ParseError):
            refuse = self.make_error_handler(message)
            message = UNPARSED_HTTP11 if message is _LATE else UNPARSED
        task = self.task or asyncio.current_task()
        assert task is not None
        self.task = task
        keep_alive = False
        try:
            writer = new_writer(self, message.method)
            request = self.server.make_request(message, payload, self, writer, task)
            self.current_request = self.request = request
            if self.transport is None and not payload.is_eof():
                payload.set_exception(_gone())  # else its reader raises RuntimeError
            if self.lifetime is not None and self.lifetime.is_over(self.served):
                self.is_last, request.is_plain = True, False
            if refuse is None:
                answer = await self.door.handle(request)
                request.finish()
                keep_alive = bool(answer.keep_alive)
            else:
                await self.finish_response(request, await refuse(request), None)
            if payload is not EMPTY_PAYLOAD:
                if not payload.is_eof():
                    keep_alive = await self._read_rest(payload) and keep_alive
                payload.set_exception(_OVER)
        except ConnectionError:
            pass  # the client is gone
        except Exception as error:  # noqa: BLE001 -- the connection's own door: nobody is above it
            self.log_exception("a connection failed", exc_info=error)
        finally:
            self.task = self.request = self.current_request = self.handler_task = None
            self.since = 0.0
            if self.is_counted:
                self.quiet = self.server.idle
                self.quiet[self] = None
            self._go_on(keep_alive)

    def limit_body(self, limit: int | None) -> None:
        """Refuse the body at hand if it is over ``limit`` bytes; 0: any size, None: the default."""
        assert self.request is not None
        if limit is None:
            limit = self.server.client_max_size
        self.max_body = limit
        self.request.set_max_body(limit)
        framing = self.framing
        if limit and (limit < framing.length or limit < framing.reader.total_bytes):
            self.refuse_body()

    async def _read_rest(self, payload: StreamReader) -> bool:
        """Read what is left of a body that its handler did not want; return whether all came.

        Closing at once could destroy the answer, before its client has read it.
        """
        try:
            async with asyncio.timeout(_REST_SECONDS):
                while not payload.is_eof():
                    most = max(self.max_body, self.server.client_max_size)
                    if self.transport is None or payload.total_bytes > most:
                        return False
                    await payload.readany()
        except (TimeoutError, Problem, web.RequestPayloadError):
            return False
        return True

    def _go_on(self, keep_alive: bool) -> None:
        """Serve what waits, wait for more, or close."""
        if self.is_force_closing or self.transport is None:
            return
        framing = self.framing
        if self.is_closing or not keep_alive or framing.is_broken or framing.in_body:
            self.leave()
            return
        if self.is_upgraded:  # a WebSocket was asked for, and declined
            self.is_upgraded = False
            if self.parser is not None:
                self.parser.set_upgraded(False)
        if framing.waiting:
            self.loop.call_soon(self._read_on)
        else:
            self.is_ready = True

    def refuse_late(self) -> None:
        """Answer a request whose head does not come as one that is no HTTP, and close."""
        self.is_ready = False
        self.parsed_requests.append((_LATE, EMPTY_PAYLOAD))
        self._serve_next()

    def leave(self) -> None:
        """Close, after what is written, and after what the client may still be sending.

        To close while there is something unread resets the connection, which destroys the answer on
        its way: the client is told that no more comes, and has a moment to go first.
        """
        self.is_closing = True  # what comes now is read, and not looked at
        self.resume_transport()
        if self.leaving is None and self.transport is not None and self.transport.can_write_eof():
            try:
                self.transport.write_eof()
            except OSError:  # it was reset meanwhile
                self.force_close()
                return
            self.leaving = self.loop.call_later(_LEAVE_SECONDS, self.force_close)
        else:
            self.force_close()

    def expire(self) -> None:
        """Close it, as no request comes; the second time at once.

        With TLS, closing waits for the client's own goodbye, for half a minute.
        """
        if self.transport is None:
            self.abort()
        else:
            self.force_close()

    def abort(self) -> None:
        """Close it at once, also amid an answer."""
        self.dismiss()
        if self.wire is not None:
            self.wire.abort()

    def dismiss(self) -> None:
        """Count it no more."""
        self.quiet.pop(self, None)
        if self.is_counted:
            self.is_counted = False
            self.server.count -= 1

    def force_close(self) -> None:
        """Close after the written bytes; over TLS also if the client does not close its end.

        asyncio waits 30 s for the client's close_notify, which clients that do not read never send.
        """
        super().force_close()
        if self._is_closing_tls and self.leaving is None:
            self.leaving = self.loop.call_later(_LEAVE_SECONDS, self._abandon)

    def _abandon(self) -> None:
        """Abort, once the client has all that was written."""
        if self.wire is None:
            return
        if self.has_unsent:
            self.leaving = self.loop.call_later(_LEAVE_SECONDS, self._abandon)
        else:
            self.wire.abort()

    @property
    def _is_closing_tls(self) -> bool:
        return self.is_force_closing and self.wire is not None and not self.wire.can_write_eof()

    def close(self) -> None:
        """Close after the request at hand, or at once where there is none."""
        self.is_ready = False
        super().close()
        if self.task is None:
            self.force_close()

    @property
    def has_unsent(self) -> bool:
        """Whether a part of an answer has not been taken by the kernel yet.

        Over TLS there is a transport below, whose buffer is hidden. It is empty if the client has
        acknowledged all that is in the kernel; if the kernel does not say, once the connection
        that is closing is closed.
        """
        if self.wire is None:
            return False
        if self.wire.get_write_buffer_size() > 0:
            return True
        return self._is_closing_tls and unacknowledged(self.wire) != 0

    def overdue(self, now: float, patience: Patience) -> str:
        """Return what this connection's client takes too long for, or an empty string.

        ``"idle"``: no request comes; ``"head"``: one has begun to; ``"body"``: the same of its
        body, but not while its handler does not read; ``"answer"``: it takes too few of the
        bytes that wait, or none.
        """
        if self.leaving is not None:
            pass  # it has a second anyway
        elif self.task is None:
            limit = patience.read if self.heard or not self.served else patience.idle
            if not self.since:
                self.since = now
            elif now - self.since > limit:
                return "head" if self.heard else "idle"
        elif self._is_late(now, patience.read):
            return "body"
        is_stuck = self._is_stuck(now, patience.write) or self._is_slow(now, patience)
        return "answer" if is_stuck else ""

    def _is_late(self, now: float, seconds: float) -> bool:
        body = self.request.content if self.request is not None else None
        if body is None or body.is_eof() or self.is_body_paused or self.stream is not None:
            return False
        # Bytes as they are sent: a kilobyte of gzip, a megabyte in all, gained 17 minutes.
        return (
            self.framing.in_body and now - self.began > seconds + self.framing.came / _SLOWEST_BODY
        )

    def _is_stuck(self, now: float, seconds: float) -> bool:
        waiting = self.wire.get_write_buffer_size() if self.wire is not None else 0
        if not waiting and self.wire is not None and self._is_closing_tls:
            waiting = unacknowledged(self.wire) or 0
        size, since = self.unsent
        if not waiting or waiting != size:
            self.unsent = (waiting, now)
            return False
        return now - since > seconds

    def _is_slow(self, now: float, patience: Patience) -> bool:
        waiting, _ = self.unsent
        stream, request, wire = self.stream, self.request, self.wire
        rate = patience.rate if self.rate is None else self.rate
        taken: int | None = None
        if wire is None or not rate:
            pass
        elif isinstance(stream, _UNCOUNTED):  # its bytes do not go through the request's writer
            taken = acknowledged(wire)
            if taken is not None and not waiting and not unacknowledged(wire):
                taken = None
        elif waiting:
            taken = (request.writer.output_size if request is not None else 0) - waiting
        if taken is None:
            self.sending.rest()
            return False
        return self.sending.is_slow(now, rate, patience.write, request or self, taken)


def _gone() -> ConnectionResetError:
    return ConnectionResetError("the client is gone")
