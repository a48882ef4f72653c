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
        await super().write(chunk, drain=drain, LIMIT=LIMIT)

    async def write_eof(self, chunk: bytes = b"") -> None:
        """Write the last part of the body; more than the head announces is left out."""
        if self.is_bodiless:
            self.send_headers()
            return
        if self.length is not None and len(chunk) != self.length and not self.is_file:
            self.is_wrong = True
            chunk = chunk[: self.length]
        await super().write_eof(chunk)

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
