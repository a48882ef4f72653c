"""A request on a connection of the server, with the state of its exchange.

The handler sees a connection only through its requests: it reads and sets their attributes, and
calls their methods. The connection reads these attributes, and knows no more about the handler than
``ConnectionDelegate`` says.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import StreamReader

from gizmopy.server.http.connection.response_writer import ResponseWriter, reset
from gizmopy.web import Request
from gizmopy.web.body import disconnected

if TYPE_CHECKING:
    from gizmopy.server.http.connection.protocol import Connection
    from gizmopy.server.http.endpoint import Endpoint

_RAW_RESPONSE = b"%b%b\r\nContent-Length: %d\r\n\r\n%b"

STATUS_CLIENT_GONE = 499
"""The status of a request whose client left before it had the response; nginx's."""


class CancelReason(Enum):
    """Why the server cancels the handler of a request."""

    CLIENT_GONE = auto()
    """Its client has left: nothing is sent."""
    TIMED_OUT = auto()
    """The deadline of the request has passed: the response is 504."""
    STREAM_ENDED = auto()
    """The server stops: a stream of events is finished as it is."""
    SHUT_DOWN = auto()
    """The time to finish requests has passed: the response is 503."""


class ServedRequest(Request):
    """A request on a connection of the server.

    The attributes that each request uses are slots. They are faster than a default on the class,
    and CPython keeps at most 30 other attributes of a class at full speed, of which aiohttp has 20.
    Attributes that few requests use have their defaults on the class.
    """

    __slots__ = (
        "accepts_raw_response",
        "cancel_reason",
        "connection",
        "duration",
        "endpoint",
        "forwarded_client",
        "forwarded_scheme",
        "keeps_alive",
        "prepared",
        "request_id",
        "sent_bytes",
        "started_at",
        "status",
        "target_path",
        "trace_id",
        "writer",
    )

    ATTRS = Request.ATTRS | {
        "accepts_raw_response",
        "cancel_reason",
        "connection",
        "duration",
        "endpoint",
        "forwarded_client",
        "forwarded_scheme",
        "has_sent_continue",
        "is_builtin",
        "is_last",
        "keeps_alive",
        "original",
        "prepared",
        "request_id",
        "sent_bytes",
        "started_at",
        "status",
        "stream",
        "target_path",
        "trace_id",
    }

    # aiohttp's request is a mapping, whose equality is by identity but which has no hash.
    __hash__ = object.__hash__

    connection: Connection
    """The connection that it arrived on."""
    writer: ResponseWriter
    """The writer of its response."""
    endpoint: Endpoint
    """The endpoint that it is routed to; the one for unmatched requests before that."""
    request_id: str
    """Its id: the client's X-Request-ID, or a random one."""
    trace_id: str
    """The id of its trace, if the client sent one."""
    target_path: str
    """The path of its target as it was sent, percent-encoded and without the query."""
    started_at: float
    """When it began (``time.monotonic()``)."""

    status: int
    """The status of its response."""
    sent_bytes: int
    """The size of its response's body in bytes; a stream's includes the head."""
    duration: float
    """How many seconds it took, set when it has ended."""

    accepts_raw_response: bool
    """Whether its response may be written raw.

    It is HTTP/1.1, not HEAD, without ``Connection: close`` or ``Upgrade``.
    """
    is_last = False
    """Whether its connection ends after it."""
    keeps_alive: bool
    """Whether its connection can serve another request, set with its response."""
    is_builtin = False
    """Whether only built-in endpoints serve its path: no page of another origin may read them."""
    has_sent_continue = False
    """Whether the client was asked to send the body that it announced (``Expect``)."""

    forwarded_client: str | None
    """The client's address, if a trusted proxy named it."""
    forwarded_scheme: str
    """The scheme that the client used, if a trusted proxy named it."""

    prepared: web.StreamResponse | None
    """The response whose head is written, or is about to be."""
    stream: web.StreamResponse | None = None
    """The response that its handler writes itself."""
    cancel_reason: CancelReason | None
    """Why its handler was cancelled by the server."""
    original: ServedRequest | None = None
    """The request that this one is a clone of, which holds the state of the exchange."""

    @property
    def remote(self) -> str | None:
        """The client's address; None if the client is gone already."""
        return super().remote if self.forwarded_client is None else self.forwarded_client

    @property
    def client_address(self) -> str:
        """The client's address, also after the client is gone; empty for a unix socket."""
        return self.connection.peer if self.forwarded_client is None else self.forwarded_client

    @property
    def scheme(self) -> str:
        """The scheme that the client used, ``https`` or ``http``."""
        return self.forwarded_scheme or super().scheme

    @property
    def received_bytes(self) -> int:
        """The size of its body in bytes, as far as the body was received and decompressed."""
        return self.content.total_bytes

    @property
    def is_client_gone(self) -> bool:
        """Whether its connection is closed, or is about to be."""
        transport = self.transport
        return transport is None or transport.is_closing()

    @property
    def must_close(self) -> bool:
        """Whether the beginning of the next request on its connection is unknown."""
        # A client that gets a final response instead of 100 may send its body, or may not (RFC 9110
        # section 10.1.1).
        awaits_continue = "Expect" in self.headers and not self.has_sent_continue
        is_unclear = awaits_continue and not self.content.is_eof()
        return self.connection.framing.is_broken or is_unclear

    def cancel(self, reason: CancelReason) -> None:
        """Cancel its handler, once; ``reason`` decides how the request is answered."""
        if self.cancel_reason is None and self.connection.request is self:
            self.cancel_reason = reason
            self.task.cancel()

    def take_back_cancellation(self) -> bool:
        """Return whether a CancelledError in its task is the server's to answer.

        The server's own cancellation is undone. If the task was not cancelled at all, the error
        escaped from a handler, and is answered like any other error.
        """
        if self.cancel_reason is not None:
            self.task.uncancel()
            return True
        return not self.task.cancelling()

    def limit_body(self, limit: int | None) -> None:
        """Refuse its body (413) beyond ``limit`` bytes; 0: any size, None: the server's limit."""
        self.connection.limit_body(self, limit)

    def write_raw(self, head: bytes, body: bytes) -> bool:
        """Write a whole response; return whether the client reads too slowly to take it.

        ``head`` ends before the value of X-Request-ID. Raises ConnectionResetError if the client is
        gone.
        """
        connection = self.connection
        transport = connection.transport
        if transport is None or transport.is_closing():
            raise disconnected()
        response = _RAW_RESPONSE % (head, self.request_id.encode(), len(body), body)
        transport.write(response)
        self.writer.output_size = len(response)
        return connection.is_write_paused

    def abandon_response(self) -> None:
        """Make room for another response, or close the connection if one has begun to be sent."""
        if not self.writer.output_size:
            self.writer = self.response_writer = ResponseWriter.of(self.connection, self.method)
            self.prepared = None
            return
        # The client would take the part that was sent for the whole response. HTTP/1.0 ends a
        # response with the connection, so that only a reset shows that it is not whole.
        if self.version < HttpVersion11 and self.transport is not None:
            reset(self.transport)
        self.connection.force_close()

    def clone(self, **changes: Any) -> ServedRequest:
        """Return a copy with ``changes``. It stands for the same request."""
        copy = super().clone(**changes)
        assert isinstance(copy, ServedRequest)
        copy.original = self if self.original is None else self.original
        for name in ServedRequest.__slots__:
            if hasattr(self, name):
                setattr(copy, name, getattr(self, name))
        copy.is_builtin, copy.is_last = self.is_builtin, self.is_last
        copy.has_sent_continue = self.has_sent_continue
        copy.forwarded_prefix = self.forwarded_prefix
        return copy

    def announce_stream(self, stream: web.StreamResponse) -> None:
        """Have the stream ended when the server stops, also before its head is sent."""
        original = self if self.original is None else self.original
        original.stream = stream

    def before_response(self, response: web.StreamResponse) -> None:
        """Have the delegate complete the head of ``response``."""
        self.connection.delegate.prepare(self, response)


def make_request(
    connection: Connection,
    message: RawRequestMessage,
    payload: StreamReader,
    task: asyncio.Task[Any],
) -> ServedRequest:
    """Return the request with the head ``message`` and the body ``payload``."""
    writer = ResponseWriter.of(connection, message.method)
    request = ServedRequest(
        message,
        payload,
        connection,
        writer,
        task,
        connection.loop,
        client_max_size=connection.server.client_max_size,
    )
    request.connection, request.writer = connection, writer
    request.started_at = monotonic()
    request.trace_id = request.forwarded_scheme = ""
    request.forwarded_client = request.prepared = request.cancel_reason = None
    request.status, request.sent_bytes, request.keeps_alive = STATUS_CLIENT_GONE, 0, False
    request.accepts_raw_response = (
        message.version is HttpVersion11
        and not (message.should_close or message.upgrade)
        and message.method != "HEAD"
    )
    return request
