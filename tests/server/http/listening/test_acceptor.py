"""How many connections there are, which of them are closed for new ones, and how long they last."""

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
from tests.server.support import Talk, request, talk, until

BOTH_LOOPS = True


class Stand(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.begun = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()

    @get("/hello")
    async def hello(self) -> str:
        return "hello"

    @get("/stream")
    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"hello")
        return response

    @get("/slow")
    async def slow(self) -> str:
        self.begun.release()
        await self.go_on.wait()
        return "done"


@asynccontextmanager
async def stand(**settings: Any) -> AsyncIterator[pubsubtest.Served[Stand]]:
    """Serve the stand of this file."""
    async with pubsubtest.serve(Stand, settings=Settings(**settings)) as served:
        yield served


def states(served: pubsubtest.Served[Stand]) -> list[str]:
    """Return the states of the connections of the main port."""
    return sorted(served.server._ports[0].connection_states())


async def asked(client: Talk) -> bytes:
    """Return the body of an answer on a connection that stays open."""
    client.send(request("GET", "/hello"))
    return (await client.answer()).body


async def shed(url: str) -> dict[str, float]:
    """Return how many connections were closed or refused at the limit."""
    async with ClientSession(url) as http, http.get("/metrics") as response:
        rows = [row for row in (await response.text()).splitlines() if "_shed_total{" in row]
    return {row.split('"')[1]: float(row.split()[-1]) for row in rows}


async def test_the_longest_silent_connection_is_closed_for_a_new_one() -> None:
    """At the limit those without a complete head go first, in order, however much they sent."""
    async with stand(max_connections=3) as served, AsyncExitStack() as stack:
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
        assert await asked(idle) == b'"hello"'  # which is the last one to be so, now
        async with talk(served.url) as fifth:
            assert await third.rest() == b""
            assert await asked(fifth) == b'"hello"'
        assert await asked(idle) == b'"hello"'


async def test_no_request_is_cut_for_a_new_connection() -> None:
    """If a request is under way on each connection, the new one is closed; others go on."""
    async with stand(max_connections=2, admin_port=0) as served:
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


async def test_the_admin_port_has_a_count_of_its_own() -> None:
    """It is reached though each connection of the main port is busy, and has its own limit."""
    async with stand(max_connections=1, admin_port=0) as served, AsyncExitStack() as stack:
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


async def test_a_silent_connection_has_the_time_to_read() -> None:
    """It runs since the connection was accepted; after a request the idle timeout counts."""
    async with stand(read_timeout="100ms", idle_timeout="1h") as served:
        async with talk(served.url) as first, talk(served.url) as second:
            assert await asked(first) == b'"hello"'
            assert await second.rest() == b""
            assert states(served) == ["idle"]
            assert await asked(first) == b'"hello"'


async def test_bytes_that_drip_do_not_prolong_the_first_head() -> None:
    """A head that begins late is 408 once the time since the connection was accepted is over."""
    async with stand(read_timeout="1s") as served, talk(served.url) as client:
        await until(lambda: states(served))
        (connection,) = served.server._ports[0]._server.open_connections()
        accepted = connection.idle_since
        client.send(b"GET /")
        await until(lambda: connection.head_started)
        assert connection.idle_since == accepted > 0
        connection.idle_since -= 1  # a second of waiting
        assert (await client.answer()).status == 408


async def test_handshakes_are_silent_connections(tmp_path: Path) -> None:
    """With TLS a client that never begins its handshake counts, and is closed for a new one."""
    files = Files(tmp_path / "pair").issue()
    trust = ssl.create_default_context()
    AUTHORITY.configure_trust(trust)
    settings = {"tls_cert": str(files.cert), "tls_key": str(files.key), "max_connections": 2}
    async with stand(**settings) as served, AsyncExitStack() as stack:
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


async def test_connections_that_come_at_once_are_shed_too() -> None:
    """Of those accepted in one turn of the loop the last are served, and all others are closed."""
    async with stand(max_connections=2) as served:
        served.server._ports[0]._acceptor._batch = 32
        address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
        clients = [socket.create_connection(address) for _ in range(8)]  # nothing runs meanwhile
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


async def test_a_handshake_has_the_time_to_read(tmp_path: Path) -> None:
    """A client that begins none is closed, and leaves nothing behind."""
    files = Files(tmp_path / "pair").issue()
    settings = {"tls_cert": str(files.cert), "tls_key": str(files.key), "read_timeout": "50ms"}
    async with stand(**settings) as served, talk(served.url) as client:
        assert await client.rest() == b""
        await until(lambda: not served.server._ports[0]._acceptor._handshakes)
        assert states(served) == []


async def test_an_error_that_nothing_mends_does_not_fill_the_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While connections cannot be accepted, it is tried ten times a second, and no more often."""
    tried = 0

    async with stand() as served:
        acceptor = served.server._ports[0]._acceptor
        listener = acceptor._listener

        class Failing:
            def accept(self) -> Any:
                nonlocal tried
                tried += 1
                if tried < 3:
                    raise OSError(errno.ENOBUFS, "no memory")
                return listener.accept()

            def fileno(self) -> int:
                return listener.fileno()

        monkeypatch.setattr(acceptor, "_listener", Failing())
        async with talk(served.url) as client:
            assert await asked(client) == b'"hello"'
        assert tried >= 3
        assert caplog.text.count("cannot accept connections") == 1
        acceptor._listener = listener


async def test_connections_that_come_and_go_are_counted() -> None:
    """After any number of connections, however they end, there is none to be counted."""
    async with stand() as served:
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
    """GIZMO_MAX_REQUESTS_PER_CONNECTION is met within a tenth; the last answer says so."""
    async with stand(max_requests_per_connection=20) as served, talk(served.url) as client:
        client.send(request("GET", path) * ahead)
        count = 1
        while (await client.answer()).headers.get("Connection") != "close":
            count += 1
            if count > ahead:
                client.send(request("GET", path))
        assert 18 <= count <= 22
        assert await client.rest() == b""


async def test_a_connection_ends_with_the_first_answer_after_its_age() -> None:
    """GIZMO_MAX_CONNECTION_AGE cuts no request, and closes no connection between two."""
    async with stand(max_connection_age="1h") as served, talk(served.url) as client:
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
    """By default connections take three quarters of them, and leave 32 at least."""
    monkeypatch.setattr("resource.getrlimit", lambda kind: (soft, 4096))
    assert descriptors.max_connections() == most


def test_the_acceptor_lets_others_have_their_turn() -> None:
    """One turn of the loop accepts at most as many connections as half of the free ones."""
    assert accepting._BATCH <= descriptors._LEAST_FREE
