"""Closing TLS connections whose clients read nothing, and so never answer close_notify."""

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import pubsubtest
from gizmopy import Service, Settings, SimpleServer, get, put
from gizmopy.server import Phase, Stop
from tests.server.certificates import AUTHORITY, Files
from tests.server.support import PATIENCE, request, talk, until

BOTH_LOOPS = True
_ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not say")

SIZE = 20_000_000


class Example(Service):
    @get("/whole")
    async def whole(self) -> bytes:
        return bytes(SIZE)

    @put("/length")
    async def length(self, request: web.Request) -> int:
        return len(await request.read())

    @get("/small")
    async def small(self) -> str:
        return "small"


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Return the settings of an HTTPS server."""
    files = Files(tmp_path).issue()
    return {"tls_cert": str(files.cert), "tls_key": str(files.key), "http_port": 0}


@asynccontextmanager
async def _deaf(url: str, sent: bytes = b"") -> AsyncIterator[ssl.SSLSocket]:
    """Do a handshake, send, and read nothing after it."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)

    def connect() -> ssl.SSLSocket:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        client = context.wrap_socket(plain, server_hostname="localhost")
        client.sendall(sent)
        return client

    client = await asyncio.to_thread(connect)
    try:
        yield client
    finally:
        client.close()
        await asyncio.get_running_loop().shutdown_default_executor()


async def _connection(server: Any) -> Any:
    server = server._ports[0]._server
    await until(server.open_connections)
    (connection,) = server.open_connections()
    return connection


@_ON_LINUX
@pytest.mark.parametrize("sent", [b"", b"GET /sm", request("GET", "/small")])
async def test_a_client_that_reads_nothing_does_not_delay_the_shutdown(
    sent: bytes, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It has received every byte, so there is nothing to wait for."""
    settings |= {"http_access_log": "off", "drain_delay": "0s", "shutdown_timeout": "5s"}
    server = SimpleServer(Example(Settings(**settings)))
    serving = asyncio.create_task(server.serve(Stop()))
    await until(lambda: server.phase is Phase.READY)
    async with _deaf(server._ports[0].url, sent):
        connection = await _connection(server)
        await until(lambda: not sent or connection.head_started or connection.expects_request)
        server.stop.request("SIGTERM")
        assert await asyncio.wait_for(serving, PATIENCE) == 0
    assert "answers are cut" not in caplog.text


@_ON_LINUX
async def test_a_client_that_does_not_answer_close_notify_is_disconnected(
    settings: dict[str, Any],
) -> None:
    """asyncio would keep its connection for 30 s."""
    async with pubsubtest.serve(Example, settings=Settings(**settings)) as served:
        asked = request("GET", "/small", b"", "Connection: close")
        async with _deaf(served.url, asked):
            connection = await _connection(served.server)
            await until(lambda: connection.open_transport is None)


async def test_the_write_timeout_applies_to_a_client_over_tls_that_reads_nothing(
    settings: dict[str, Any],
) -> None:
    """A transport below TLS with a whole response in its buffer would hide that it waits."""
    settings |= {"write_timeout": "200ms"}
    async with pubsubtest.serve(Example, settings=Settings(**settings)) as served:
        async with _deaf(served.url, request("GET", "/whole")):
            connection = await _connection(served.server)
            await until(lambda: connection.is_write_paused)
            assert connection.open_transport.get_write_buffer_size() > 0
            await until(lambda: connection.open_transport is None)


async def test_a_client_that_reads_gets_the_whole_response(settings: dict[str, Any]) -> None:
    """A response in pieces has all of them, also as the last one of its connection."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    tls = {"ssl": context, "server_hostname": "localhost"}
    async with pubsubtest.serve(Example, settings=Settings(**settings)) as served:
        async with talk(served.url, **tls) as client:
            for lines in ((), ("Connection: close",)):
                client.ask("GET", "/whole", b"", *lines)
                assert (await client.answer()).body == bytes(SIZE)
            assert await client.rest() == b""


async def test_a_malformed_tls_record_is_not_an_error_of_the_server(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A client that sends garbage in its body counts as gone, and nothing is logged."""
    async with pubsubtest.serve(Example, settings=Settings(**settings)) as served:
        asked = request("PUT", "/length", b"12345")[:-2]
        async with _deaf(served.url, asked) as client:
            connection = await _connection(served.server)
            await until(lambda: connection.request is not None)
            socket.socket.send(client, b"\x17\x03\x03\x00\x20" + bytes(32))
            await until(lambda: connection.open_transport is None and connection.request is None)
    assert not [each for each in caplog.records if each.levelname == "ERROR"]
