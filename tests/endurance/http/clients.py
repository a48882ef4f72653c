"""Clients on raw sockets: HTTP clients would hide losses, because they retry."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import NamedTuple

LOST = (ConnectionError, asyncio.IncompleteReadError)
"""Errors of a connection that ended before its answer."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n")


def request(method: str, path: str, body: bytes = b"", headers: Sequence[str] = ()) -> bytes:
    """Return a request as it is sent; ``headers`` are lines such as ``X-Name: value``."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


QUICK = request("GET", "/quick")


_UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


class Answer(NamedTuple):
    """A complete answer."""

    status: int
    head: bytes
    """In lower case."""
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether the answer has Connection: close."""
        return b"\r\nconnection: close\r\n" in self.head


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read a whole answer. Raises one of ``LOST`` if the connection ends before."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    length = _LENGTH.search(head)
    if length is not None:
        return Answer(status, head, await reader.readexactly(int(length[1])))
    if b"\r\ntransfer-encoding: chunked\r\n" in head:
        return Answer(status, head, b"".join([chunk async for chunk in read_chunks(reader)]))
    return Answer(status, head, b"")


async def read_chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the chunks of a body; ends only with the body's proper end, ``0\\r\\n\\r\\n``."""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)


async def has_ended(reader: asyncio.StreamReader, within: float = 5.0) -> bool:
    """Wait until the server has closed the connection, and return whether it has."""
    try:
        async with asyncio.timeout(within):
            while await reader.read(65536):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


async def _connect(
    port: int, source: str, limit: int = 65536
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    local = None if source == "127.0.0.1" else (source, 0)
    return await asyncio.open_connection("127.0.0.1", port, local_addr=local, limit=limit)


@asynccontextmanager
async def connected(
    port: int, source: str = "127.0.0.1", limit: int = 65536
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection, and abort it at the end, in any state."""
    reader, writer = await _connect(port, source, limit)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def open_websocket(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
) -> None:
    """Upgrade to a WebSocket. Raises ConnectionRefusedError if the answer is not 101."""
    writer.write(request("GET", path, headers=_UPGRADE))
    answer = await reader.readuntil(b"\r\n\r\n")
    if b" 101 " not in answer:
        raise ConnectionRefusedError(answer)


async def ask(port: int, sent: bytes = QUICK, source: str = "127.0.0.1") -> Answer:
    """Send one request over a new connection, and return its answer."""
    async with asyncio.timeout(30), connected(port, source) as (reader, writer):
        writer.write(sent)
        return await read_answer(reader)


@dataclass
class Load:
    """Clients that send one request after another over kept-alive connections.

    A client connects again if an answer closes the connection. Between its requests it pauses for
    one of ``pauses``, in seconds. A request is lost if at least a part of it was sent and its
    connection ended without an answer. A refused connection loses nothing.
    """

    port: int
    requests: Sequence[bytes] = (QUICK,)
    clients: int = 32
    source: str = "127.0.0.1"
    pauses: Sequence[float] = (0.0, 0.001, 0.005)
    counts: Counter[str] = field(default_factory=Counter)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._client(n)) for n in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop every client after its current answer."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    @property
    def problems(self) -> list[str]:
        """Every outcome but 200, with its count."""
        return [f"{count} {outcome}" for outcome, count in self.counts.items() if outcome != "200"]

    async def _client(self, number: int) -> None:
        requests = islice(cycle(self.requests), number % len(self.requests), None)
        pause = self.pauses[number % len(self.pauses)]
        while not self._stopping.is_set():
            try:
                reader, writer = await _connect(self.port, self.source)
            except ConnectionError:  # reset, too: nothing was sent on it
                self.counts["refused"] += 1
                await asyncio.sleep(0.005)
                continue
            try:
                await self._converse(reader, writer, requests, pause)
            except LOST as error:
                self.counts[f"lost ({type(error).__name__})"] += 1
            finally:
                writer.transport.abort()

    async def _converse(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        requests: Iterator[bytes],
        pause: float,
    ) -> None:
        """Send requests over one connection until an answer closes it."""
        while not self._stopping.is_set():
            writer.write(next(requests))
            answer = await read_answer(reader)
            self.counts[str(answer.status)] += 1
            if answer.closes:
                if not await has_ended(reader):
                    self.counts["open after Connection: close"] += 1
                return
            await asyncio.sleep(pause)
