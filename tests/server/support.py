"""A client that sends and reads raw bytes, also those that no correct client would send."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from aiohttp import web
from multidict import CIMultiDict

from tests.support import until as until

PATIENCE = 10
"""The seconds that a test waits for an event before it fails."""


class Answer(NamedTuple):
    """A parsed response."""

    version: str
    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The body as problem+json."""
        assert self.headers["Content-Type"] == "application/problem+json"
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        assert problem["request_id"] == self.headers["X-Request-ID"]
        return problem


class Talk:
    """The client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Send ``data``."""
        self.writer.write(data)

    def ask(self, method: str, path: str, body: bytes = b"", *lines: str) -> None:
        """Send a request, with these lines in its head."""
        self.send(request(method, path, body, *lines))

    async def answer(self, *, to_head: bool = False) -> Answer:
        """Return the next response."""
        async with asyncio.timeout(PATIENCE):
            version, status, headers = _parse(await self.reader.readuntil(b"\r\n\r\n"))
            body = b"" if to_head or status in (101, 204, 304) else await self._body(headers)
        return Answer(version, status, headers, body)

    async def _body(self, headers: CIMultiDict[str]) -> bytes:
        if headers.get("Transfer-Encoding") != "chunked":
            return await self.reader.readexactly(int(headers["Content-Length"]))
        body = bytearray()
        while size := int(await self.reader.readline(), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        assert await self.reader.readline() == b"\r\n"
        return bytes(body)

    async def rest(self) -> bytes:
        """Return the bytes until the daemon closes its end."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


def request(method: str, path: str, body: bytes = b"", *lines: str) -> bytes:
    """Return the bytes of a request, with these lines in its head."""
    length = (f"Content-Length: {len(body)}",) if body or method in ("PUT", "POST") else ()
    head = "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", *length, *lines, "", ""))
    return head.encode() + body


def _parse(head: bytes) -> tuple[str, int, CIMultiDict[str]]:
    first, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    version, status, _ = first.split(" ", 2)
    headers = CIMultiDict[str]()
    for line in lines:
        name, _, value = line.partition(": ")
        headers.add(name, value)
    return version, int(status), headers


@asynccontextmanager
async def talk(url: str, **options: Any) -> AsyncIterator[Talk]:
    """Connect to a daemon; with a small buffer, so that little is read before a test reads it."""
    port = int(url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096, **options)
    client = Talk(reader, writer)
    try:
        yield client
    finally:
        await client.close()


async def echo(request: web.Request, reply: Callable[[Any], str]) -> web.WebSocketResponse:
    """Accept a WebSocket, and answer the data of each message with ``reply`` of it."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(reply(message.data))
    return socket


async def stream(request: web.Request, *parts: bytes) -> web.StreamResponse:
    """Respond with a stream of ``parts``."""
    response = web.StreamResponse()
    await response.prepare(request)
    for part in parts:
        await response.write(part)
    return response
