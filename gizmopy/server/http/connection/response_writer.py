"""Write answers whose heads say their length: no byte of one is read as part of the next.

aiohttp sends the length that a handler sets, and does not compare it to the body.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from aiohttp import web
from aiohttp.hdrs import CONTENT_LENGTH, TRANSFER_ENCODING
from aiohttp.http import StreamWriter

from gizmopy.errors import UsageError

_WITHOUT_BODY = (204, 304)
_AT_ONCE = 64 * 1024
"""How many bytes are handed to TLS before the client has to take some.

The transport below TLS takes them all, and hides how many wait: a client that reads nothing of an
answer of 20 MB was not seen by GIZMO_WRITE_TIMEOUT.
"""


class AnswerWriter(StreamWriter):
    """Write one answer."""

    is_bodiless = False
    """Whether no byte of a body may follow the head: the answer to HEAD, 204 or 304."""
    is_file = False
    """Whether the kernel may send the body from a file, without this writer."""
    is_wrong = False
    """Whether the body was not as long as the head says."""

    async def write(
        self,
        chunk: Any,
        *,
        drain: bool = True,
        LIMIT: int = 0x10000,  # noqa: N803 -- named by aiohttp
    ) -> None:
        """Write a part of the body; more than the head announces is left out."""
        if self.is_bodiless:
            self.send_headers()
            return
        if self.length is not None and memoryview(chunk).nbytes > self.length:
            self.is_wrong = True
        if drain and len(chunk) > _AT_ONCE and self._is_tls:
            chunk = await self._write_pieces(chunk)
        await super().write(chunk, drain=drain, LIMIT=LIMIT)

    async def write_eof(self, chunk: bytes = b"") -> None:
        """Write the last part of the body; more than the head announces is left out."""
        if self.is_bodiless:
            self.send_headers()
            return
        if self.length is not None and len(chunk) != self.length and not self.is_file:
            self.is_wrong = True
            chunk = chunk[: self.length]
        if len(chunk) > _AT_ONCE and self._is_tls:
            chunk = await self._write_pieces(chunk)
        await super().write_eof(chunk)

    @property
    def _is_tls(self) -> bool:
        transport = self.transport
        return transport is not None and transport.get_extra_info("sslcontext") is not None

    async def _write_pieces(self, chunk: Any) -> bytes:
        """Write all of ``chunk`` but its last piece, and return that."""
        view = memoryview(chunk).cast("B")
        last = (len(view) - 1) // _AT_ONCE * _AT_ONCE
        for start in range(0, last, _AT_ONCE):
            await super().write(bytes(view[start : start + _AT_ONCE]))
        return bytes(view[last:])

    def set_eof(self) -> None:
        """Write the end of the body."""
        if self.is_bodiless:
            self.send_headers()
        else:
            super().set_eof()


def check_head(response: web.StreamResponse, writer: AnswerWriter) -> None:
    """Note which body may follow the head of ``response``, which is about to be sent.

    Raises UsageError if the head does not say the end of the answer: a status of 1xx, which is not
    an answer yet (RFC 9110 section 15.2), except a WebSocket's 101; more than one Content-Length;
    or a Transfer-Encoding that is not the server's own (RFC 9112 section 6).
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
    writer.is_bodiless |= status in _WITHOUT_BODY
    writer.is_file = isinstance(response, web.FileResponse)


def reset(transport: asyncio.Transport) -> None:
    """Close ``transport`` with a reset, not with the end that a whole answer has."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
