"""The only file that uses private parts of aiohttp, each under a public name with a type.

For this reason setup.cfg allows one minor version of aiohttp, and CI runs the tests on the oldest
and on the newest release that it allows. ``tests/test_aiohttp.py`` fails if this list is not
complete, if aiohttp no longer has one of the names, or if another module uses a private name.

The protocol of one connection, ``RequestHandler``:

- ``_messages``: the requests that are parsed and not served yet.
- ``_upgraded``: whether the last request asked for another protocol.
- ``_payload_parser``: the reader of a WebSocket's frames; None without a WebSocket.
- ``_current_request`` and ``_task_handler``: the request that is served, and its task.
- ``_close`` and ``_force_close``: whether the connection ends.
- not underscored but undocumented: ``start``, the loop over the requests of a connection;
  ``set_parser``, which begins a WebSocket; ``handle_error`` and ``finish_response``, the response
  to a request that could not be parsed, and the function that sends it.

The base class of it, ``BaseProtocol``:

- ``_loop`` and ``_parser``: the event loop and the HTTP parser.
- ``_paused``: whether the transport's write buffer is full.
- ``_reading_paused``: whether the reader of a body has more than it can hold.
- ``_buffer_paused``, ``_pause_reading_for_buffer`` and ``_resume_reading_for_buffer``: a second
  reason to pause the transport. It does not disturb the flow control of a body.
- ``_resume_transport_reading``: resumes the transport for both reasons.

The module of that protocol, ``web_protocol``:

- ``_ErrInfo`` and ``ERROR``: the error, and the placeholder message, of an unparsed request.

A request, ``BaseRequest``:

- ``_payload_writer``: the writer of its response.
- ``_prepare_hook``: aiohttp awaits it before it writes the head of a response. It is the only place
  that sees the responses that a handler sends itself.
- ``_read_bytes`` and ``_client_max_size``: the body that was read, and its largest size.
- ``_finish``: removes the temporary files of a form.

A response from a file, ``FileResponse``:

- ``_sendfile``: sends the head, then a part of the file.

A body:

- ``StreamReader._protocol``: the connection that the body arrives on.
- ``StreamReader._wait``: waits for more of the body.
- ``MultipartReader._get_part_reader`` and ``_readline``: make the reader of a part; read a line.
- ``BodyPartReader._decode_content`` and ``_decode_content_async``: decompress a part.
- ``BodyPartReader._client_max_size``: the largest size of a part.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import IO, Any, Protocol, TypeVar

import aiohttp
from aiohttp import BodyPartReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from aiohttp.hdrs import CONTENT_ENCODING
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.http_parser import HttpParser
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import ERROR, _ErrInfo
from multidict import CIMultiDictProxy

T = TypeVar("T")

ParseError = _ErrInfo
"""The place of a request that could not be parsed, among those that were."""

UNPARSED = ERROR
"""The message of a request that could not be parsed: its version is HTTP/1.0."""

UNPARSED_HTTP11 = ERROR._replace(version=HttpVersion11)
"""The same for a client that probably speaks HTTP/1.1."""


class Slot(Protocol[T]):
    """The descriptor of a slot, as type checkers see it."""

    def __get__(self, instance: object, owner: type) -> T: ...
    def __set__(self, instance: object, value: T) -> None: ...


def _slot(owner: type, name: str) -> Slot[Any]:
    """Return the descriptor of a slot of ``owner``.

    As an alias in a subclass it costs as much as the private name. A property would add a function
    call to each access, several of them for each request.
    """
    slot: Slot[Any] = getattr(owner, name)
    return slot


class ConnectionProtocol(web.RequestHandler):
    """The protocol of one connection, whose state has public names."""

    __slots__ = ()

    loop: Slot[asyncio.AbstractEventLoop] = _slot(BaseProtocol, "_loop")
    parser: Slot[HttpParser[RawRequestMessage] | None] = _slot(BaseProtocol, "_parser")
    is_write_paused: Slot[bool] = _slot(BaseProtocol, "_paused")
    is_body_paused: Slot[bool] = _slot(BaseProtocol, "_reading_paused")
    is_input_paused: Slot[bool] = _slot(BaseProtocol, "_buffer_paused")
    is_upgraded: Slot[bool] = _slot(BaseProtocol, "_upgraded")

    pause_input = BaseProtocol._pause_reading_for_buffer
    resume_input = BaseProtocol._resume_reading_for_buffer
    resume_transport = BaseProtocol._resume_transport_reading

    parsed_requests: Slot[deque[tuple[Any, StreamReader]]] = _slot(web.RequestHandler, "_messages")
    websocket_reader: Slot[Any] = _slot(web.RequestHandler, "_payload_parser")
    current_request: Slot[web.BaseRequest | None] = _slot(web.RequestHandler, "_current_request")
    handler_task: Slot[asyncio.Task[Any] | None] = _slot(web.RequestHandler, "_task_handler")
    is_closing: Slot[bool] = _slot(web.RequestHandler, "_close")
    is_force_closing: Slot[bool] = _slot(web.RequestHandler, "_force_close")

    async def start(self) -> None:
        """Do nothing: requests are served as they arrive, and not by aiohttp's task."""


class BaseRequest(web.Request):
    """A request, whose private parts have public names."""

    finish = web.BaseRequest._finish

    @property
    def response_writer(self) -> AbstractStreamWriter:
        """The writer of the response."""
        return self._payload_writer

    @response_writer.setter
    def response_writer(self, writer: AbstractStreamWriter) -> None:
        self._payload_writer = writer

    async def read(self) -> bytes:
        """Return the body. Raises HTTPRequestEntityTooLarge if it is too large.

        If the whole body has arrived, it is taken at once, which costs half of aiohttp's loop over
        its pieces.
        """
        content = self.content
        if self._read_bytes is None and content.is_eof():
            body = content.read_nowait()
            limit = self._client_max_size
            if limit and len(body) > limit:
                raise web.HTTPRequestEntityTooLarge(limit)
            self._read_bytes = body
        return await super().read()

    def set_max_body(self, limit: int) -> None:
        """Set the most bytes that ``read`` returns; 0: any."""
        self._client_max_size = limit

    def before_response(self, response: web.StreamResponse) -> None:
        """Complete the head of ``response``, which aiohttp is about to write. Does nothing here."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        self.before_response(response)


class BaseFileResponse(web.FileResponse):
    """A response from a file that is open already."""

    async def send_head(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head alone."""
        return await web.StreamResponse.prepare(self, request)

    async def send_part(
        self, request: web.BaseRequest, file: IO[Any], offset: int, count: int
    ) -> AbstractStreamWriter:
        """Send the head, then ``count`` bytes of ``file`` from ``offset``."""
        return await super()._sendfile(request, file, offset, count)


class BaseBodyReader(StreamReader):
    """The reader of a body, which knows the connection that the body arrives on."""

    __slots__ = ()

    connection: Slot[BaseProtocol] = _slot(StreamReader, "_protocol")

    async def _wait(self, func_name: str) -> None:
        # An error may be set after the bytes that end a wait, and before its task runs. Without
        # this check readline() would wait for bytes that never come.
        if (error := self.exception()) is not None:
            raise error
        await super()._wait(func_name)


class BaseBodyPartReader(BodyPartReader):
    """A reader of a part, whose decompression a subclass can check."""

    def decompress(self, data: bytes, coding: str) -> Iterator[bytes]:
        """Yield the pieces of ``data``, whose Content-Encoding is ``coding``."""
        raise NotImplementedError

    def _decode_content(self, data: Any) -> bytes:
        decoded = bytearray()
        coding = self.headers.get(CONTENT_ENCODING, "").lower()
        for piece in self.decompress(bytes(data), coding):
            decoded += piece
            if len(decoded) > self._client_max_size:
                raise web.HTTPRequestEntityTooLarge(self._client_max_size)
        return bytes(decoded)

    async def _decode_content_async(self, data: Any) -> AsyncIterator[bytes]:
        coding = self.headers.get(CONTENT_ENCODING, "").lower()
        for piece in self.decompress(bytes(data), coding):
            yield piece
            await asyncio.sleep(0)


class BaseMultipartReader(aiohttp.MultipartReader):
    """A reader of multipart bodies, whose steps a subclass can bound."""

    def make_part_reader(
        self, headers: CIMultiDictProxy[str]
    ) -> aiohttp.MultipartReader | BodyPartReader:
        """Return the reader of the part with these headers."""
        return super()._get_part_reader(headers)

    async def read_line(self) -> bytes:
        """Read a line of the body."""
        return await super()._readline()

    def _get_part_reader(
        self, headers: CIMultiDictProxy[str]
    ) -> aiohttp.MultipartReader | BodyPartReader:
        return self.make_part_reader(headers)

    async def _readline(self) -> bytes:
        return await self.read_line()
