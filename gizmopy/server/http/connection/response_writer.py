"""Write responses whose heads say their length: no byte of one is read as part of the next.

aiohttp sends the length that a handler sets, and does not compare it to the body.
"""

from __future__ import annotations

import socket
import struct
from asyncio import Transport
from typing import Any

from aiohttp import web
from aiohttp.hdrs import CONTENT_LENGTH, TRANSFER_ENCODING
from aiohttp.http import StreamWriter

from gizmopy._aiohttp import ConnectionProtocol
from gizmopy.errors import UsageError
from gizmopy.web.statuses import BODILESS

_TLS_PIECE = 64 * 1024
"""How many bytes are handed to TLS before the client must take some of them.

asyncio's TLS passes all bytes to the transport below it, which hides how many of them wait. With
larger pieces GIZMO_WRITE_TIMEOUT did not notice a client that read nothing of a response of 20 MB.
"""


class ResponseWriter(StreamWriter):
    """Write one response."""

    is_bodiless = False
    """Whether no byte of a body may follow the head: the response to HEAD, 204 or 304."""
    is_file = False
    """Whether the kernel may send the body from a file, without this writer."""
    has_wrong_length = False
    """Whether the body was not as long as the head says."""

    @classmethod
    def of(cls, connection: ConnectionProtocol, method: str) -> ResponseWriter:
        """Return the writer of the response to a request with this method."""
        writer = cls(connection, connection.loop)
        if method == "HEAD":
            writer.is_bodiless = True
        return writer

    async def write(
        self,
        chunk: Any,
        *,
        drain: bool = True,
        LIMIT: int = 0x10000,  # noqa: N803 -- named by aiohttp
    ) -> None:
        """Write a part of the body; bytes beyond the announced length are left out."""
        if self.is_bodiless:
            self.send_headers()
            return
        if self.length is not None and memoryview(chunk).nbytes > self.length:
            self.has_wrong_length = True
        if drain and len(chunk) > _TLS_PIECE and self._is_tls:
            chunk = await self._write_pieces(chunk)
        await super().write(chunk, drain=drain, LIMIT=LIMIT)

    async def write_eof(self, chunk: bytes = b"") -> None:
        """Write the last part of the body; bytes beyond the announced length are left out."""
        if self.is_bodiless:
            self.send_headers()
            return
        if self.length is not None and len(chunk) != self.length and not self.is_file:
            self.has_wrong_length = True
            chunk = chunk[: self.length]
        if len(chunk) > _TLS_PIECE and self._is_tls:
            chunk = await self._write_pieces(chunk)
        await super().write_eof(chunk)

    @property
    def _is_tls(self) -> bool:
        transport = self.transport
        return transport is not None and transport.get_extra_info("sslcontext") is not None

    async def _write_pieces(self, chunk: Any) -> bytes:
        """Write ``chunk`` except its last piece, and return that piece."""
        view = memoryview(chunk).cast("B")
        last = (len(view) - 1) // _TLS_PIECE * _TLS_PIECE
        for start in range(0, last, _TLS_PIECE):
            await super().write(bytes(view[start : start + _TLS_PIECE]))
        return bytes(view[last:])

    def set_eof(self) -> None:
        """Write the end of the body."""
        if self.is_bodiless:
            self.send_headers()
        else:
            super().set_eof()


def check_head(response: web.StreamResponse, writer: ResponseWriter) -> None:
    """Note which body may follow the head of ``response``, which is about to be sent.

    Raises UsageError if the end of the response is not clear from its head: a status of 1xx, which
    is not a final response (RFC 9110 section 15.2), except a WebSocket's 101; more than one
    Content-Length; or a Transfer-Encoding that the server did not set (RFC 9112 section 6).
    """
    status, headers = response.status, response.headers
    if not 200 <= status <= 599 and not isinstance(response, web.WebSocketResponse):
        raise UsageError(f"a response has the status {status}; use 200 to 599")
    if len(headers.getall(CONTENT_LENGTH, ())) > 1:
        raise UsageError("a response has more than one Content-Length; set none")
    if TRANSFER_ENCODING in headers:
        codings = headers.getall(TRANSFER_ENCODING)
        if not writer.chunked or codings != ["chunked"] or CONTENT_LENGTH in headers:
            raise UsageError("a response has a Transfer-Encoding; the server sets it if needed")
    writer.is_bodiless |= status in BODILESS
    writer.is_file = isinstance(response, web.FileResponse)


def reset(transport: Transport) -> None:
    """Close ``transport`` with a TCP reset, which shows that the response is not whole."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
