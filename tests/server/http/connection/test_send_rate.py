"""A client must read a response at a minimum rate, or it is disconnected."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import pubsubtest
from gizmopy import Service, Settings, get
from gizmopy.server.http.client_timeouts import ClientTimeout, ClientTimeouts
from gizmopy.server.http.connection.send_rate import SendRate
from tests.server.support import PATIENCE, Talk, request, talk, until

BOTH_LOOPS = True

SIZE = 20_000_000
RATE, GRACE = 1000, 10.0


def test_a_client_that_reads_nothing_is_slow_after_the_grace() -> None:
    """It is not slow before."""
    rate, source = SendRate(), object()
    slow = [rate.is_slow(now, RATE, GRACE, source, 5000) for now in range(12)]
    assert slow == [False] * 11 + [True]


def test_a_client_at_half_of_the_rate_is_slow_after_twice_the_grace() -> None:
    """It may read in one piece or in small ones."""
    for piece in (1, 4):
        rate, source = SendRate(), object()
        taken = [500 * piece * (now // piece) for now in range(40)]
        slow = [rate.is_slow(now, RATE, GRACE, source, taken[now]) for now in range(40)]
        assert 17 < slow.index(True) < 25


def test_a_client_at_the_rate_is_never_slow() -> None:
    """It reads for a day, with pauses that it makes up for."""
    rate, source = SendRate(), object()
    assert not any(rate.is_slow(now, RATE, GRACE, source, RATE * now) for now in range(86_400))
    rate = SendRate()
    bursts = (RATE * (now - now % 9) for now in range(1000))
    assert not any(
        rate.is_slow(now, RATE, GRACE, source, taken) for now, taken in enumerate(bursts)
    )


def test_a_fast_client_may_pause_for_the_grace_only() -> None:
    """Its credit has a limit."""
    rate, source = SendRate(), object()
    assert not rate.is_slow(0, RATE, GRACE, source, 0)
    assert not rate.is_slow(1, RATE, GRACE, source, 1_000_000_000)
    slow = [rate.is_slow(now, RATE, GRACE, source, 1_000_000_000) for now in range(2, 20)]
    assert slow.index(True) == 10


def test_time_without_anything_to_send_does_not_count() -> None:
    """The next response does not continue the count of the one before it."""
    rate, source = SendRate(), object()
    assert not rate.is_slow(0, RATE, GRACE, source, 0)
    rate.pause()
    assert not rate.is_slow(1000, RATE, GRACE, source, 0)
    assert not rate.is_slow(1009, RATE, GRACE, source, 0)
    assert not rate.is_slow(1019, RATE, GRACE, object(), 0)


class Example(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.ended: list[str] = []
        self.path = Path()

    @get("/whole")
    async def whole(self) -> bytes:
        return bytes(SIZE)

    @get("/patient", min_send_rate=0)
    async def patient(self) -> bytes:
        return bytes(SIZE)

    @get("/stream")
    async def stream(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        for _ in range(SIZE // 10_000):
            await stream.write(bytes(10_000))
        return stream

    @get("/file")
    async def file(self) -> web.StreamResponse:
        return web.FileResponse(self.path)

    @get("/socket")
    async def socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        while not socket.closed:
            await socket.send_bytes(bytes(10_000))
        return socket

    @get("/events")
    async def events(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"data: 1\n\n")
        await asyncio.Event().wait()
        return stream


@asynccontextmanager
async def serving(path: Path, **settings: Any) -> AsyncIterator[pubsubtest.Served[Example]]:
    """Serve the service of this file, and a large file at ``path``."""
    await asyncio.to_thread(path.write_bytes, bytes(SIZE))
    async with pubsubtest.serve(Example, settings=Settings(**settings)) as served:
        served.service.path = path
        yield served
        await asyncio.get_running_loop().shutdown_default_executor()


@asynccontextmanager
async def _narrow(url: str) -> AsyncIterator[Talk]:
    """Connect with a small receive buffer."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.setblocking(False)
    port = int(url.rpartition(":")[2])
    await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=narrow, limit=2048)
    client = Talk(reader, writer)
    try:
        yield client
    finally:
        await client.close()


async def _connection(served: pubsubtest.Served[Any]) -> Any:
    server = served.server._ports[0]._server
    await until(server.open_connections)
    (connection,) = server.open_connections()
    return connection


_HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
_ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not say")


@pytest.mark.parametrize(
    "path",
    [
        "/whole",
        "/stream",
        pytest.param("/file", marks=_ON_LINUX),
        pytest.param("/socket", marks=_ON_LINUX),
    ],
)
async def test_a_client_that_reads_a_little_now_and_then_is_disconnected(
    path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It reads within each write timeout, but below the rate. No error is logged."""
    limits = {"min_send_rate": 10**9, "write_timeout": "200ms"}
    async with serving(tmp_path / "file", **limits) as served, _narrow(served.url) as client:
        client.send(request("GET", path, b"", *(_HANDSHAKE if path == "/socket" else ())))
        connection = await _connection(served)
        async with asyncio.timeout(PATIENCE):
            while connection.open_transport is not None:
                await client.reader.read(2048)
                await asyncio.sleep(0.01)  # the client has to be slow
        await until(lambda: not served.server.application.handler.active)
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


@pytest.mark.parametrize("path", ["/whole", "/stream", "/file"])
async def test_a_client_at_the_rate_is_not_disconnected(path: str, tmp_path: Path) -> None:
    """It gets the whole response, and can send another request."""
    limits = {"min_send_rate": 1, "write_timeout": "5s"}
    async with serving(tmp_path / "file", **limits) as served, talk(served.url) as client:
        for _ in range(2):
            client.ask("GET", path)
            assert len((await client.answer()).body) == SIZE


async def test_an_endpoint_may_have_no_minimum_rate(tmp_path: Path) -> None:
    """With min_send_rate=0 only the write timeout applies."""
    limits = {"min_send_rate": 10**9, "write_timeout": "10s"}
    async with serving(tmp_path / "file", **limits) as served, _narrow(served.url) as client:
        client.ask("GET", "/patient")
        connection = await _connection(served)
        await until(lambda: connection.is_write_paused)
        timeouts = ClientTimeouts(10.0, 10.0, 10.0, 10**9)
        looks = [connection.exceeded_timeout(0.5 * now, timeouts) for now in range(19)]
        assert looks == [None] * 19
        connection.request.endpoint.min_send_rate = None
        assert connection.exceeded_timeout(100.0, timeouts) is ClientTimeout.RESPONSE


async def test_a_stream_without_events_is_not_slow(tmp_path: Path) -> None:
    """Neither is a connection without a request."""
    limits = {"min_send_rate": 10**9, "write_timeout": "10s"}
    async with serving(tmp_path / "file", **limits) as served, talk(served.url) as client:
        client.ask("GET", "/events")
        await client.reader.readuntil(b"data: 1\n\n")
        connection = await _connection(served)
        timeouts = ClientTimeouts(10.0, 10.0, 10**6, 10**9)
        looks = [connection.exceeded_timeout(float(now), timeouts) for now in range(100)]
        assert looks == [None] * 100
