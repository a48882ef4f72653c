"""Talk to a daemon by hand: what a well-behaved client would never send, or never leave unread."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from multidict import CIMultiDict

from tests.support import until as until

PATIENCE = 10
"""How many seconds a test waits for what is to come, before it fails."""


class Answer(NamedTuple):
    """An answer as it came."""

    version: str
    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem that it is."""
        assert self.headers["Content-Type"] == "application/problem+json"
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        assert problem["request_id"] == self.headers["X-Request-ID"]
        return problem


class Talk:
    """A client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Send ``data`` as it is."""
        self.writer.write(data)

    def ask(self, method: str, path: str, body: bytes = b"", *lines: str) -> None:
        """Send a request, with these lines in its head."""
        self.send(request(method, path, body, *lines))

    async def answer(self, *, to_head: bool = False) -> Answer:
        """Return the next answer."""
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
        """Return what still comes until the daemon closes its end."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def close(self) -> None:
        """Leave."""
        self.writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


def request(method: str, path: str, body: bytes = b"", *lines: str) -> bytes:
    """Return a request as it is sent, with these lines in its head."""
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
    """Connect to where a daemon listens; little is read before a test asks for it."""
    port = int(url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096, **options)
    client = Talk(reader, writer)
    try:
        yield client
    finally:
        await client.close()
