"""The limit of connections: which are closed for new ones, and how long each one lasts."""

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

import pubsubtest
from gizmopy import Service, Settings, get
from gizmopy.server.http.listening import acceptor as accepting
from gizmopy.server.http.listening import descriptors
from tests.server.certificates import AUTHORITY, Files
from tests.server.support import Talk, request, stream, talk, until

BOTH_LOOPS = True


class Example(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.begun = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()

    @get("/hello")
    async def hello(self) -> str:
        return "hello"

    @get("/stream")
    async def stream(self, request: web.Request) -> web.StreamResponse:
        return await stream(request, b"hello")

    @get("/slow")
    async def slow(self) -> str:
        self.begun.release()
        await self.go_on.wait()
        return "done"


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[pubsubtest.Served[Example]]:
    """Serve the service of this file."""
    async with pubsubtest.serve(Example, settings=Settings(**settings)) as served:
        yield served


def states(served: pubsubtest.Served[Example]) -> list[str]:
    """Return the states of the connections of the main port."""
    return sorted(served.server._ports[0].connection_states())


async def asked(client: Talk) -> bytes:
    """Return the body of a response on a connection that stays open."""
    client.send(request("GET", "/hello"))
    return (await client.answer()).body


async def shed(url: str) -> dict[str, float]:
    """Return how many connections were closed or refused at the limit."""
    async with ClientSession(url) as http, http.get("/metrics") as response:
        rows = [row for row in (await response.text()).splitlines() if "_shed_total{" in row]
    return {row.split('"')[1]: float(row.split()[-1]) for row in rows}


async def test_the_longest_silent_connection_is_closed_for_a_new_one() -> None:
    """At the limit, connections without a complete head are closed first, oldest first."""
    async with serving(max_connections=3) as served, AsyncExitStack() as stack:
        idle = await stack.enter_async_context(talk(served.url))
        assert await asked(idle) == b'"hello"'
        first = await stack.enter_async_context(talk(served.url))
        first.send(b"GET /hello HTTP/1.1\r\n")
        await until(lambda: len(states(served)) == 2)
        second = await stack.enter_async_context(talk(served.url))
        await until(lambda: len(states(served)) == 3)
        third = await stack.enter_async_context(talk(served.url))
        assert await first.rest() == b""
        assert await asked(third) == b'"hello"'
        fourth = await stack.enter_async_context(talk(served.url))
        assert await second.rest() == b""
        assert await asked(fourth) == b'"hello"'
        assert await asked(idle) == b'"hello"'  # now it is idle for the shortest time
        async with talk(served.url) as fifth:
            assert await third.rest() == b""
            assert await asked(fifth) == b'"hello"'
        assert await asked(idle) == b'"hello"'


async def test_no_request_is_ended_for_a_new_connection() -> None:
    """If every connection has an active request, the new connection is closed."""
    async with serving(max_connections=2, admin_port=0) as served:
        async with talk(served.url) as first, talk(served.url) as second:
            for client in (first, second):
                client.send(request("GET", "/slow"))
                await served.service.begun.acquire()
            async with talk(served.url) as third:
                assert await third.rest() == b""
            assert states(served) == ["active", "active"]
            assert await shed(served.server.admin_url) == {"silent": 0, "idle": 0, "refused": 1}
            served.service.go_on.set()
            for client in (first, second):
                assert (await client.answer()).body == b'"done"'


async def test_the_admin_port_has_its_own_limit() -> None:
    """It is reachable while every connection of the main port is busy."""
    async with serving(max_connections=1, admin_port=0) as served, AsyncExitStack() as stack:
        busy = await stack.enter_async_context(talk(served.url))
        busy.send(request("GET", "/slow"))
        await served.service.begun.acquire()
        url = served.server.admin_url
        silent = [
            await stack.enter_async_context(talk(url)) for _ in range(descriptors.ADMIN_CONNECTIONS)
        ]
        async with ClientSession(url) as http, http.get("/livez") as response:
            assert response.status == 200
        assert await silent[0].rest() == b""
        served.service.go_on.set()
        assert (await busy.answer()).body == b'"done"'


async def test_the_read_timeout_applies_before_the_first_request() -> None:
    """It begins when the connection is accepted; the idle timeout applies after a request."""
    async with serving(read_timeout="100ms", idle_timeout="1h") as served:
        async with talk(served.url) as first, talk(served.url) as second:
            assert await asked(first) == b'"hello"'
            assert await second.rest() == b""
            assert states(served) == ["idle"]
            assert await asked(first) == b'"hello"'


async def test_a_late_first_byte_does_not_extend_the_read_timeout() -> None:
    """A head that begins late is 408 after the read timeout since the connection was accepted."""
    async with serving(read_timeout="1s") as served, talk(served.url) as client:
        await until(lambda: states(served))
        (connection,) = served.server._ports[0]._server.open_connections()
        accepted = connection.idle_since
        client.send(b"GET /")
        await until(lambda: connection.head_started)
        assert connection.idle_since == accepted > 0
        connection.idle_since -= 1  # a second of waiting
        assert (await client.answer()).status == 408


async def test_handshakes_count_as_silent_connections(tmp_path: Path) -> None:
    """With TLS, a client that never begins its handshake is closed for a new one."""
    files = Files(tmp_path / "pair").issue()
    trust = ssl.create_default_context()
    AUTHORITY.configure_trust(trust)
    settings = {"tls_cert": str(files.cert), "tls_key": str(files.key), "max_connections": 2}
    async with serving(**settings) as served, AsyncExitStack() as stack:
        acceptor = served.server._ports[0]._acceptor
        silent = []
        silent.append(await stack.enter_async_context(talk(served.url)))
        await until(lambda: len(acceptor._handshakes) == 1)
        silent.append(await stack.enter_async_context(talk(served.url)))
        await until(lambda: len(acceptor._handshakes) == 2)
        async with talk(served.url, ssl=trust, server_hostname="127.0.0.1") as client:
            assert await silent[0].rest() == b""
            assert await asked(client) == b'"hello"'
            assert len(acceptor._handshakes) == 1
        await until(lambda: served.server._ports[0]._server.count == 1)


async def test_connections_of_one_batch_are_shed_too() -> None:
    """The last ones that were accepted together are served, and all others are closed."""
    async with serving(max_connections=2) as served:
        served.server._ports[0]._acceptor._batch = 32
        address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
        clients = [
            socket.create_connection(address) for _ in range(8)
        ]  # the event loop does not run here
        clients[-1].setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(clients[-1], request("GET", "/hello"))
        assert (await loop.sock_recv(clients[-1], 100)).startswith(b"HTTP/1.1 200 ")
        for client in clients[:6]:
            assert client.recv(1) == b""
        for client in clients:
            client.close()
        await until(lambda: not served.server._ports[0]._server.count)
        assert not served.server._ports[0]._acceptor._handshakes


async def test_the_read_timeout_applies_to_a_tls_handshake(tmp_path: Path) -> None:
    """A client that does not begin one is closed, and leaves nothing behind."""
    files = Files(tmp_path / "pair").issue()
    settings = {"tls_cert": str(files.cert), "tls_key": str(files.key), "read_timeout": "50ms"}
    async with serving(**settings) as served, talk(served.url) as client:
        assert await client.rest() == b""
        await until(lambda: not served.server._ports[0]._acceptor._handshakes)
        assert states(served) == []


async def test_accepting_pauses_after_a_persistent_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried ten times a second at most."""
    tried = 0

    async with serving() as served:
        acceptor = served.server._ports[0]._acceptor
        (listener,) = acceptor._listeners

        class Failing:
            def accept(self) -> Any:
                nonlocal tried
                tried += 1
                if tried < 3:
                    raise OSError(errno.ENOBUFS, "no memory")
                return listener.accept()

            def fileno(self) -> int:
                return listener.fileno()

        acceptor._stop_accepting()
        monkeypatch.setattr(acceptor, "_listeners", (Failing(),))
        acceptor._start_accepting()
        async with talk(served.url) as client:
            assert await asked(client) == b'"hello"'
        assert tried >= 3
        assert caplog.text.count("cannot accept connections") == 1
        acceptor._stop_accepting()
        monkeypatch.undo()


async def test_the_count_of_connections_returns_to_zero() -> None:
    """This holds after any number of connections, however they end."""
    async with serving() as served:
        server = served.server._ports[0]._server
        for sent in (b"", b"GET ", request("GET", "/hello"), b"rubbish\r\n\r\n") * 5:
            async with talk(served.url) as client:
                client.send(sent)
                await asyncio.sleep(0)
        await until(lambda: not server.count and not server.open_connections())
        assert not (server.silent | server.idle | served.server._ports[0]._acceptor._handshakes)


@pytest.mark.parametrize("path", ["/hello", "/stream", "/nowhere", "/livez"])
@pytest.mark.parametrize("ahead", [1, 30])
async def test_a_connection_ends_with_its_last_request(path: str, ahead: int) -> None:
    """GIZMO_MAX_REQUESTS_PER_CONNECTION varies by a tenth; the last response closes."""
    async with serving(max_requests_per_connection=20) as served, talk(served.url) as client:
        client.send(request("GET", path) * ahead)
        count = 1
        while (await client.answer()).headers.get("Connection") != "close":
            count += 1
            if count > ahead:
                client.send(request("GET", path))
        assert 18 <= count <= 22
        assert await client.rest() == b""


async def test_a_connection_ends_with_the_first_response_after_its_age() -> None:
    """GIZMO_MAX_CONNECTION_AGE ends no request, and closes no idle connection."""
    async with serving(max_connection_age="1h") as served, talk(served.url) as client:
        assert await asked(client) == b'"hello"'
        (connection,) = served.server._ports[0]._server.open_connections()
        now = asyncio.get_running_loop().time()
        assert connection.lifetime is not None
        assert now + 3200 < connection.lifetime.end < now + 4000
        monkey = pytest.MonkeyPatch()
        monkey.setattr("gizmopy.server.http.connection.turnover.monotonic", lambda: now + 4000)
        client.send(request("GET", "/slow"))
        await served.service.begun.acquire()
        served.service.go_on.set()
        answer = await client.answer()
        monkey.undo()
        assert (answer.body, answer.headers["Connection"]) == (b'"done"', "close")
        assert await client.rest() == b""


@pytest.mark.parametrize(("soft", "most"), [(80, 48), (1024, 768), (33, 1), (20, 1)])
def test_a_quarter_of_the_descriptors_is_kept_free(
    monkeypatch: pytest.MonkeyPatch, soft: int, most: int
) -> None:
    """The default limit of connections is three quarters of them, and leaves 32 at least."""
    monkeypatch.setattr("resource.getrlimit", lambda kind: (soft, 4096))
    assert descriptors.max_connections() == most


def test_one_turn_accepts_a_limited_number_of_connections() -> None:
    """It is at most half of the descriptors that are free."""
    assert accepting._BATCH <= descriptors._LEAST_FREE
