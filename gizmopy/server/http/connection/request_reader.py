"""Parse the requests of a connection, each after the one before it has been answered.

Bytes of later requests are held unparsed. A client that pipelines requests cannot fill the memory
with them, and a request that ends the connection, such as a malformed one, is the last one served.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import istr

from gizmopy._aiohttp import ConnectionProtocol, ParseError
from gizmopy.server.http.connection.body_limit import BodyReader, PlainBodyReader
from gizmopy.server.http.connection.content_coding import Decompressor, decompressor_for
from gizmopy.server.http.connection.framing import END_OF_HEAD, Framing
from gizmopy.server.http.connection.head_checks import check_host, check_message
from gizmopy.server.http.connection.head_limits import HeadLimits
from gizmopy.server.http.connection.websocket_frames import MaskedFrames
from gizmopy.web import Problem

_HOST = istr("Host")
_CONTENT_LENGTH = istr("Content-Length")
_CONTENT_ENCODING = istr("Content-Encoding")
_TRANSFER_ENCODING = istr("Transfer-Encoding")
_END_SIZE = len(END_OF_HEAD)
_LINE_END = b"\r\n"
_MAX_HELD = 64 * 1024
"""How many bytes of later requests are held before reading pauses."""
_MAX_DISCARDED = 4 * 1024 * 1024
"""How many bytes are read and discarded after the last response, before reading pauses."""


class RequestReader(ConnectionProtocol):
    """Parse the requests of one connection. A subclass serves them."""

    __slots__ = (
        "closing_timer",
        "decompressor",
        "discarded_bytes",
        "expects_request",
        "framing",
        "head_started",
        "host",
        "idle_since",
        "limits",
        "max_body",
        "open_transport",
        "request_count",
        "task",
    )

    def __init__(self, server: web.Server, max_head: int, **options: Any) -> None:
        super().__init__(server, **options)
        self.limits = HeadLimits(max_head)
        self.open_transport: asyncio.Transport | None = None
        """The transport until ``connection_lost``; aiohttp sets its own to None earlier."""
        self.framing = Framing()
        self.max_body = 0
        """The most bytes of the current body; 0: no limit, or the endpoint is not known yet."""
        self.decompressor: Decompressor | None = None
        """The decompressor of the current body; None if it is not compressed."""
        self.host: str | None = None
        """The last Host that was well-formed; it is not checked again."""
        self.expects_request = True
        """Whether the next byte begins a request that can be parsed at once."""
        self.head_started = False
        """Whether a part of the next request has arrived."""
        self.idle_since = 0.0
        """When a check for timeouts first saw it waiting for this request; 0: not yet."""
        self.request_count = 0
        """How many requests have been served, including the current one."""
        self.task: asyncio.Task[Any] | None = None
        """The task that serves the current request."""
        self.closing_timer: asyncio.TimerHandle | None = None
        """The timer that closes the connection, after the server has closed its own end."""
        self.discarded_bytes = 0
        """How many bytes have arrived since that timer was set."""

    @abstractmethod
    def _serve_next(self) -> None:
        """Serve the next parsed request, if the connection is free."""

    def data_received(self, data: bytes) -> None:
        """Parse bytes, and serve a request if one is complete."""
        if self.expects_request and data:
            self._begin(data)
            return
        framing = self.framing
        if self.closing_timer is not None:
            self.discarded_bytes += len(data)
            if self.discarded_bytes > _MAX_DISCARDED and self.open_transport is not None:
                # Closing now would reset the connection, and destroy a response on its way.
                self.open_transport.pause_reading()
        elif self.websocket_reader is not None:
            super().data_received(data)
        elif self.is_closing or self.is_force_closing or framing.is_broken:
            pass
        elif not data:
            # aiohttp passes no bytes to have its parser continue a body, as its reader has room.
            if not framing.reader.is_eof():
                self._feed_body(data)
        elif framing.held:
            self._hold(data, 0)
        else:
            self._parse(data, 0)

    def _parse(self, data: bytes, at: int) -> None:
        """Parse one request, or a part of it, from ``data[at:]``, and hold the other bytes."""
        framing, end = self.framing, len(data)
        while at < end and not framing.is_broken:
            if framing.in_body:
                at = self._parse_body(data, at)
            elif self.task is None and not self.parsed_requests:
                at = self._parse_head(data, at)
            else:
                self._hold(data, at)
                break
        if self.task is None:
            if self.parsed_requests:
                self._serve_next()
            elif not self.head_started:
                self.head_started = True
                # The time to read the first head began when the connection was accepted.
                if self.request_count:
                    self.idle_since = 0.0

    def _hold(self, data: bytes, at: int) -> None:
        """Keep the bytes of later requests."""
        self.framing.hold(data, at)
        self.head_started = True
        if self.framing.held > _MAX_HELD and not self.is_input_paused:
            self.pause_input()

    def _begin(self, data: bytes) -> None:
        """Parse the first bytes of a request, which nearly always are one whole request.

        ``_parse`` would do the same for these bytes, in twice the time.
        """
        self.expects_request = False
        end = data.find(END_OF_HEAD) + _END_SIZE
        if not _END_SIZE <= end <= self.limits.max_line or data[0] in _LINE_END:
            self._parse(data, 0)
            return
        framing, rest = self.framing, len(data) - end
        try:
            if not self._feed_head(data[:end] if rest else data, is_whole=True):
                raise BadHttpMessage("the end of the head is not clear")
        except HttpProcessingError as error:
            self._refuse(error)
        if not rest:
            self._serve_next()
        elif framing.in_body and framing.left == rest:
            framing.end_body()
            self._feed_body(data[end:])
            self._serve_next()
        else:
            self._parse(data, end)

    def _parse_head(self, data: bytes, at: int) -> int:
        """Parse the part of a head in ``data[at:]``; return where it ends."""
        framing, size, limits = self.framing, len(data), self.limits
        end = framing.head(data, at)
        piece = data if at == 0 and end in (0, size) else data[at : end or size]
        try:
            limits.add(piece, is_last=end > 0)
            if self._feed_head(piece, is_whole=end > 0):
                limits.end(self.parsed_requests[0][0])
        except HttpProcessingError as error:
            self._refuse(error)
        return end or size

    def _feed_head(self, piece: bytes, *, is_whole: bool) -> bool:
        """Pass a piece of a head to the parser; return whether the head is complete.

        Raises HttpProcessingError if it is malformed.
        """
        parser = self.parser
        assert parser is not None
        parser.message_consumed()
        try:
            messages, self.is_upgraded, _ = parser.feed_data(piece)
        except (ValueError, LookupError) as error:
            # yarl raises ValueError for the target http://[]@/, and so does aiohttp's parser in
            # Python for a number of 5,000 digits.
            raise BadHttpMessage("the head is malformed") from error
        if not messages:
            return False  # a part of a head, or only empty lines before one
        if not is_whole or len(messages) > 1:
            raise BadHttpMessage("the end of the head is not clear")
        message, payload = messages[0]
        headers = message.headers
        host = headers.get(_HOST)
        if host != self.host:  # it is nearly always that of the last request
            check_host(host)
            self.host = host
        check_message(message)
        if (
            payload is not EMPTY_PAYLOAD
            or _CONTENT_LENGTH in headers
            or _TRANSFER_ENCODING in headers
        ):
            self._begin_body(message, payload)
        self.parsed_requests.append(messages[0])
        return True

    def _begin_body(self, message: RawRequestMessage, payload: StreamReader) -> None:
        self.framing.begin_body(message, payload)
        self.max_body = 0  # until the endpoint is known
        if payload is EMPTY_PAYLOAD:
            return
        self.decompressor = None
        if _CONTENT_ENCODING in message.headers:
            payload.__class__ = BodyReader
            try:
                fields = message.headers.getall(_CONTENT_ENCODING)
                self.decompressor = decompressor_for(fields)
            except Problem as problem:
                self.fail_body(problem)
        else:
            # The size of a body that is not sent in chunks is its Content-Length.
            payload.__class__ = BodyReader if message.chunked else PlainBodyReader

    def _parse_body(self, data: bytes, at: int) -> int:
        """Parse the part of a body in ``data[at:]``; return where it ends."""
        try:
            piece, end = self.framing.body(data, at)
        except BadHttpMessage as error:
            self._break_body(error)
            return len(data)
        if piece:
            self._feed_body(piece)
        return end

    def _feed_body(self, piece: bytes) -> None:
        """Pass a piece of the body to the parser; if it is empty, the parser continues."""
        if self.parser is None:
            return
        try:
            messages, self.is_upgraded, _ = self.parser.feed_data(piece)
        except HttpProcessingError as error:
            self._break_body(error)
        except Exception as error:  # noqa: BLE001 -- asyncio would end the connection unanswered
            self.log_exception("the body of a request could not be parsed", exc_info=error)
            self._break_body(error)
        else:
            if messages:
                self._break_body(BadHttpMessage("the end of the body is not clear"))

    def _refuse(self, error: HttpProcessingError) -> None:
        """Replace the parsed request by its error, and read no other request."""
        self.framing.is_broken = True
        self.parsed_requests.clear()
        self.parsed_requests.append((ParseError(error.code, error, error.message), EMPTY_PAYLOAD))

    def _break_body(self, error: Exception) -> None:
        """Fail the body, whose end is not known. A request that is not served yet is refused."""
        if self.parsed_requests:
            self._refuse(BadHttpMessage(str(error)))
        else:
            # The first line: in the next ones llhttp quotes the bytes that it was given.
            reason = str(getattr(error, "message", error)).partition("\n")[0]
            self.fail_body(web.RequestPayloadError(f"the body is malformed: {reason}"))

    def fail_body(self, error: Exception) -> None:
        """Raise ``error`` in the body's reader, and read no request after it.

        The parser raises nothing there, so that the reader would wait for the read timeout. Nor
        can the parser be used any longer: the next request on the connection would wait, too.
        """
        self.framing.is_broken = True
        body = self.framing.reader
        if body.exception() is None:
            body.set_exception(error)
        if not self.is_input_paused:
            self.pause_input()

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        """Read a WebSocket from now on, beginning with its bytes that are held."""
        super().set_parser(cast(Any, MaskedFrames(parser, self)), data_received_cb)
        data, at = self.framing.release()
        if data:
            super().data_received(data[at:])

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Resume reading, as the handler has read; a WebSocket resumes with the held frames."""
        super().resume_reading(resume_parser)
        if self.websocket_reader is not None:
            self.websocket_reader.resume()

    def _read_on(self) -> None:
        """Parse the next request from the held bytes, and serve it."""
        if self.task is not None or self.transport is None or self.is_closing:
            return
        framing = self.framing
        data, at = framing.release()
        if data:
            self._parse(data, at)
        if self.is_input_paused and not framing.is_broken and framing.held <= _MAX_HELD:
            self.resume_input()
