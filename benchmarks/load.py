"""Put servers under load at the same time, and measure the CPU time of a request on each.

The servers share one core; all load comes from another. CPU time is divided by requests, so a
disturbance of the machine affects every server alike: ratios hold even if microseconds do not.
"""

from __future__ import annotations

import asyncio
import re
import resource
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from itertools import cycle
from types import TracebackType
from typing import NamedTuple, cast

import uvloop

from benchmarks.cpu import cpu_seconds, pinned

SERVERS_CORE, LOAD_CORE = 0, 1
_LENGTH = re.compile(rb"[Cc]ontent-[Ll]ength: (\d+)")
_WARM_UP = 2_000
"""Requests that every server answers before the measurement begins, at least."""


class Server(NamedTuple):
    """The process of a server under measurement."""

    pid: int
    port: int


@contextmanager
def served(commands: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Server]]:
    """Run ``python -m`` with each command, all on one core, and yield the servers by name.

    A server writes its port as the first line of its standard output. A separate process drains
    the rest of the output, so that the measured server does not pay for it.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # a thousand connections each
    with ExitStack() as running:
        yield {name: running.enter_context(_served(command)) for name, command in commands.items()}


@contextmanager
def _served(command: Sequence[str]) -> Iterator[Server]:
    with pinned(SERVERS_CORE):
        server = subprocess.Popen(
            (sys.executable, "-m", *command), stdout=subprocess.PIPE, bufsize=0
        )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with pinned(LOAD_CORE):
            drain = subprocess.Popen("cat", stdin=server.stdout, stdout=subprocess.DEVNULL)
        server.stdout.close()
        yield Server(server.pid, port)
    finally:
        server.terminate()
        try:
            server.wait(10)
        finally:
            server.kill()  # if it has not ended
    drain.wait(10)


class Load:
    """Keep ``in_flight`` requests in flight at a server, over all its connections in turn.

    It waits for an answer, then sends the next of ``requests`` over the connection that has been
    idle longest. As an async context manager it opens the connections, and closes them.
    """

    def __init__(
        self,
        server: Server,
        requests: Sequence[bytes],
        *,
        connections: int = 8,
        in_flight: int = 8,
    ) -> None:
        self.count = 0
        """Answers received."""
        self._server = server
        self._warm_up = max(_WARM_UP, len(requests), connections)
        self._requests = cycle(requests)
        self._connections = connections
        self._in_flight = in_flight
        self._free: deque[_Connection] = deque()
        self._warm = asyncio.Event()
        self._failure = ""

    async def __aenter__(self) -> Load:
        loop = asyncio.get_running_loop()
        for _ in range(self._connections):
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._server.port)
        self._all = tuple(self._free)
        for _ in range(self._in_flight):
            self._send_next()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self._all:
            connection.close()

    def opened(self, connection: _Connection) -> None:
        """Add a new connection to the rotation."""
        self._free.append(connection)

    def answered(self, connection: _Connection) -> None:
        """Count an answer, and send the next request."""
        self.count += 1
        if self.count == self._warm_up:
            self._warm.set()
        self._free.append(connection)
        self._send_next()

    def _send_next(self) -> None:
        self._free.popleft().send(next(self._requests))

    def fail(self, reason: str) -> None:
        """Record why the measurement is void."""
        self._failure = self._failure or reason
        self._warm.set()

    async def warm(self) -> None:
        """Wait until every request was sent and every connection used, or the load failed."""
        await self._warm.wait()

    def reading(self) -> tuple[float, int]:
        """Return the CPU seconds that the server has used, and the answers that it has given.

        Raises RuntimeError if it answered anything but 200, or closed a connection.
        """
        if self._failure:
            raise RuntimeError(self._failure)
        return cpu_seconds(self._server.pid), self.count


class _Connection(asyncio.Protocol):
    """One connection of a load, with at most one request in flight."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport is not a subclass
        self._load.opened(self)

    def send(self, request: bytes) -> None:
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = _LENGTH.search(head)
        if length is None or b" 200 " not in head[:13]:
            self._load.fail(f"the server answered {self._received[:200]!r}")
        elif len(body) >= int(length[1]):
            self._received = b""
            self._load.answered(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.fail(f"the server closed a connection: {error}")

    def close(self) -> None:
        self._transport.close()


def measure(loads: Mapping[str, Load], *, rounds: int, seconds: float) -> list[dict[str, float]]:
    """Return the CPU microseconds of a request by server, for each round; all loads run at once.

    Raises RuntimeError if a server answers anything but 200, or closes a connection.
    """
    with pinned(LOAD_CORE), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(loads, rounds, seconds))


async def _measure(
    loads: Mapping[str, Load], rounds: int, seconds: float
) -> list[dict[str, float]]:
    async with AsyncExitStack() as opened:
        for load in loads.values():
            await opened.enter_async_context(load)
        for load in loads.values():
            await load.warm()
        return [await _round(loads, seconds) for _ in range(rounds)]


async def _round(loads: Mapping[str, Load], seconds: float) -> dict[str, float]:
    before = {name: load.reading() for name, load in loads.items()}
    await asyncio.sleep(seconds)
    costs = {}
    for name, load in loads.items():
        used, answered = (
            now - then for now, then in zip(load.reading(), before[name], strict=True)
        )
        costs[name] = used / answered * 1e6
    return costs
