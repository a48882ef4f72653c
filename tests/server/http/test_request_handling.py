"""Deadlines, limits, timeouts, streams, CORS and ports, seen by a client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector, WSMsgType, web

import pubsubtest
from gizmopy import Service, Settings, SimpleServer, get, post, put, time_left
from gizmopy.errors import ConfigError
from gizmopy.observe.context import propagated_attributes
from gizmopy.server import Stop
from gizmopy.server.http.client_timeouts import ClientTimeout
from gizmopy.server.http.connection.protocol import Connection
from gizmopy.web import CORS
from tests.server.support import echo
from tests.support import until


class Example(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled: list[str] = []

    @get("/left")
    async def left(self) -> dict[str, float | None]:
        return {"left": time_left()}

    @get("/slow")
    async def slow(self) -> str:
        return await self._wait("GET")

    @get("/patient", timeout=0)
    async def patient(self) -> str:
        return await self._wait("patient")

    @put("/slow")
    async def store(self) -> str:
        return await self._wait("PUT")

    @post("/slow", cancel_on_disconnect=True)
    async def ask(self) -> str:
        return await self._wait("POST")

    async def _wait(self, name: str) -> str:
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        finally:
            self.ended.set()
        return "done"

    @put("/raw")
    async def raw(self, request: web.Request) -> int:
        return len(await request.read())

    @put("/unread")
    async def unread(self) -> str:
        return "no thanks"

    @get("/echo")
    async def echo(self, request: web.Request) -> web.StreamResponse:
        return await echo(request, lambda data: f"you said {data}")

    @get("/events")
    async def events(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"data: 1\n\n")
        self.begun.set()
        await asyncio.Event().wait()
        return stream

    @get("/who")
    async def who(self, request: web.Request) -> dict[str, Any]:
        before = dict(propagated_attributes.get())
        propagated_attributes.set({"left": "behind"})
        return {"remote": request.remote, "scheme": request.scheme, "carried": before}


@asynccontextmanager
async def _serving(**settings: Any) -> AsyncIterator[pubsubtest.Served[Example]]:
    async with pubsubtest.serve(Example, settings=Settings(**settings)) as served:
        yield served


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


async def _raw(url: str, sent: bytes) -> bytes:
    """Send bytes, and return all bytes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", _port(url))
    writer.write(sent)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_an_endpoint_has_a_timeout_for_the_beginning_of_its_response() -> None:
    """After it the handler is cancelled, and the response is 504; timeout=0 is no limit."""
    async with _serving(handler_timeout="50ms") as served:
        async with served.http.get("/slow") as response:
            assert response.status == 504
            assert response.content_type == "application/problem+json"
        assert served.service.cancelled == ["GET"]
        served.service.begun.clear()
        asking = asyncio.create_task(served.http.get("/patient"))
        await served.service.begun.wait()
        async with served.http.put("/slow") as response:  # takes longer than the limit
            assert response.status == 504
        served.service.go_on.set()
        async with await asking as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("header", "value", "most"),
    [
        ("X-Request-Timeout", "2", 2.0),
        ("X-Request-Timeout", "500ms", 0.5),
        ("grpc-timeout", "3S", 3.0),
        ("grpc-timeout", "250m", 0.25),
    ],
)
async def test_a_handler_can_read_how_long_its_caller_waits(
    header: str, value: str, most: float
) -> None:
    """time_left() counts down from the caller's timeout; without one it is None."""
    async with _serving() as served:
        async with served.http.get("/left") as response:
            assert await response.json() == {"left": None}
        async with served.http.get("/left", headers={header: value}) as response:
            assert most - 0.2 < (await response.json())["left"] <= most


@pytest.mark.parametrize("header", ["X-Request-Timeout", "grpc-timeout"])
async def test_a_malformed_timeout_is_refused(header: str) -> None:
    """The request is not served without a timeout instead."""
    async with _serving() as served:
        async with served.http.get("/left", headers={header: "soon"}) as response:
            assert response.status == 400


async def test_a_callers_deadline_cancels_only_cancellable_handlers() -> None:
    """It cancels a GET; a PUT runs to its end."""
    given = {"X-Request-Timeout": "50ms"}
    async with _serving() as served:
        asking = asyncio.create_task(served.http.put("/slow", headers=given))
        async with served.http.get("/slow", headers=given) as response:
            assert response.status == 504
        served.service.go_on.set()
        async with await asking as response:
            assert response.status == 200
        assert served.service.cancelled == ["GET"]


@pytest.mark.parametrize(
    ("method", "cut"), [("GET", True), ("HEAD", True), ("POST", True), ("PUT", False)]
)
async def test_a_client_that_disconnects_cancels_only_cancellable_handlers(
    method: str, cut: bool
) -> None:
    """GET and HEAD are cancelled, other methods only if the endpoint allows it."""
    async with _serving() as served:
        head = f"{method} /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
        _, writer = await asyncio.open_connection("127.0.0.1", _port(served.url))
        writer.write(head)
        await served.service.begun.wait()
        writer.close()
        await writer.wait_closed()
        if not cut:
            connections = served.server._ports[0]._server.open_connections()
            await until(lambda: all(each.open_transport is None for each in connections))
            served.service.go_on.set()
        await served.service.ended.wait()
        assert bool(served.service.cancelled) == cut


async def test_requests_beyond_the_limit_are_refused_but_probes_are_not() -> None:
    """The next request is 503 with Retry-After; /readyz still answers."""
    async with _serving(max_concurrent_requests=1) as served:
        asking = asyncio.create_task(served.http.get("/slow"))
        await served.service.begun.wait()
        async with served.http.get("/left") as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
        async with served.http.get("/readyz") as response:
            assert response.status == 200
        served.service.go_on.set()
        async with await asking as response:
            assert response.status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /left HTTP/1.1\r\nHost: x\r\nX-Slow:",
        b"PUT /raw HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123",
    ],
)
async def test_a_head_or_body_that_does_not_arrive_is_408(sent: bytes) -> None:
    """Both have the read timeout, also a body that its handler reads itself."""
    async with _serving(read_timeout="50ms") as served:
        assert (await _raw(served.url, sent)).startswith(b"HTTP/1.1 408 Request Timeout")


async def test_an_idle_connection_is_closed() -> None:
    """It ends after the idle timeout, before the first request and after one."""
    async with _serving(idle_timeout="50ms", read_timeout="200ms") as served:
        assert await _raw(served.url, b"") == b""
        answer = await _raw(served.url, b"GET /left HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"rubbish\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 500 + b"\r\n", b"431"),
    ],
)
async def test_a_request_that_is_not_http_gets_a_problem(sent: bytes, status: bytes) -> None:
    """It is problem+json with an id, is counted, and closes its connection."""
    async with _serving() as served:
        head, _, body = (await _raw(served.url, sent)).partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == status
        assert b"Server: gizmopy" in head
        assert b"X-Request-ID: " in head
        assert json.loads(body)["status"] == int(status)
        async with served.http.get("/metrics") as response:
            label = f'http_response_status_code="{status.decode()}",http_route="__404__"'
            assert label in await response.text()


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Fifty requests in one packet, with and without bodies, have fifty responses in order."""
    puts = b"PUT /raw HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
    sent = b"".join(puts % (n, b"x" * n) for n in range(49))
    sent += b"GET /left HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with _serving() as served:
        answers = (await _raw(served.url, sent)).split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert [each.rpartition(b"\r\n\r\n")[2] for each in answers] == [
        *(b"%d" % n for n in range(49)),
        b'{"left":null}',
    ]


async def test_an_unread_body_does_not_affect_the_next_request() -> None:
    """It is discarded, and the connection stays open."""
    body = b"x" * 100_000
    sent = b"PUT /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + body
    sent += b"GET /left HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with _serving() as served:
        assert (await _raw(served.url, sent)).count(b"HTTP/1.1 200 OK") == 2


async def test_a_declined_upgrade_leaves_the_connection_usable() -> None:
    """A client that offers HTTP/2 is answered in HTTP/1.1, each time."""
    ask = b"GET /left HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with _serving() as served:
        port = _port(served.url)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(ask)
            answer = await reader.readuntil(b'{"left":null}')
            assert answer.startswith(b"HTTP/1.1 200 OK")
        writer.close()
        await writer.wait_closed()


async def test_a_request_does_not_see_the_context_of_the_one_before() -> None:
    """Context variables end with their request, on the same connection, too."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with _serving() as served:
        async with served.http.get("/who", headers={"traceparent": parent}) as response:
            assert (await response.json())["carried"] == {"traceparent": parent}
        async with served.http.get("/who") as response:
            assert (await response.json())["carried"] == {}


async def test_websockets_and_event_streams_end_with_the_daemon() -> None:
    """A WebSocket gets 1001, an event stream its last chunk, and the exit code is 0."""
    async with pubsubtest.serve(Example) as served:
        async with served.http.ws_connect("/echo") as socket:
            assert socket._response.headers["X-Request-ID"]
            await socket.send_str("hello")
            assert await socket.receive_str() == "you said hello"
            async with served.http.get("/events") as events:
                assert events.headers["Server"] == "gizmopy"
                await served.service.begun.wait()
                stopping = asyncio.create_task(served.server.__aexit__(None, None, None))
                message = await socket.receive()
                assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)
                assert await events.read() == b"data: 1\n\n"
                await stopping
        assert served.server.exit_code == 0


async def test_a_trusted_proxy_names_the_client() -> None:
    """request.remote and request.scheme are the client's."""
    headers = {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https"}
    for trusted, remote, scheme in (
        ("127.0.0.0/8", "1.2.3.4", "https"),
        ("10.0.0.0/8", "127.0.0.1", "http"),
    ):
        async with _serving(trusted_proxies=trusted) as served:
            async with served.http.get("/who", headers=headers) as response:
                answer = await response.json()
        assert (answer["remote"], answer["scheme"]) == (remote, scheme)


async def test_pages_of_allowed_origins_may_call() -> None:
    """Preflights are answered, and every response has CORS headers, errors too."""
    origin = {"Origin": "https://app.example"}
    async with _serving(cors_origins="https://app.example") as served:
        asks = origin | {"Access-Control-Request-Method": "PUT"}
        async with served.http.options("/slow", headers=asks) as response:
            assert response.status == 204
            assert "PUT" in response.headers["Access-Control-Allow-Methods"]
        for path in ("/left", "/nowhere"):
            async with served.http.get(path, headers=origin) as response:
                allowed = response.headers["Access-Control-Allow-Origin"]
                assert allowed == "https://app.example"
        async with served.http.get("/left", headers={"Origin": "https://evil.example"}) as response:
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_a_services_own_cors_answers_preflights() -> None:
    """As a middleware it sees no preflight and no 404: the handler applies it there."""

    class Own(Example):
        middleware = (CORS(["https://app.example"], allow_credentials=True),)

    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "PUT"}
    async with pubsubtest.serve(Own) as served:
        async with served.http.options("/slow", headers=asks) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Credentials"] == "true"
        async with served.http.get("/nowhere", headers=asks) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"


async def test_the_active_requests_of_both_ports_are_counted() -> None:
    """The gauge includes the scrape on the admin port and the requests on the main port."""
    async with _serving(admin_port=0) as served, ClientSession(served.server.admin_url) as admin:
        asking = asyncio.create_task(served.http.get("/slow"))
        await served.service.begun.wait()
        async with admin.get("/metrics") as response:
            text = await response.text()
        line = 'http_server_active_requests{http_request_method="GET",url_scheme="http"} 2.0'
        assert line in text
        served.service.go_on.set()
        async with await asking as response:
            assert response.status == 200


async def test_a_head_that_arrives_too_slowly_gets_a_problem() -> None:
    """It is 408 as problem+json with an id, and is counted."""
    async with _serving(read_timeout="50ms") as served:
        head, _, body = (await _raw(served.url, b"GET / HTTP/1.1\r\nX-")).partition(b"\r\n\r\n")
        assert b"X-Request-ID: " in head
        assert json.loads(body)["detail"] == "The head of the request arrived too slowly."
        async with served.http.get("/metrics") as response:
            assert 'status_code="408",http_route="__404__"' in await response.text()


async def test_the_read_timeout_applies_to_a_pipelined_head() -> None:
    """A head that began during another request does not get the idle timeout."""
    async with _serving(read_timeout="50ms", idle_timeout="1h") as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", _port(served.url))
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await served.service.begun.wait()
        (connection,) = served.server._ports[0]._server.open_connections()
        writer.write(b"GET /left HTTP/1.1\r\nX-")
        await until(lambda: connection.head_started)
        served.service.go_on.set()
        async with asyncio.timeout(10):
            answers = await reader.read()
        assert answers.startswith(b"HTTP/1.1 200 OK")
        assert b"HTTP/1.1 408 Request Timeout" in answers
        writer.close()
        await writer.wait_closed()


async def test_a_connection_that_cannot_be_checked_does_not_keep_others_from_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is logged, the connection closed, and others still have their timeouts."""
    async with _serving(idle_timeout="50ms", read_timeout="50ms") as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", _port(served.url))
        await until(lambda: served.server._ports[0]._server.open_connections())
        (broken,) = served.server._ports[0]._server.open_connections()
        exceeded_timeout = Connection.exceeded_timeout

        def fail(connection: Connection, *arguments: Any) -> ClientTimeout | None:
            if connection is broken:
                raise RuntimeError("a mistake of ours")
            return exceeded_timeout(connection, *arguments)

        monkeypatch.setattr(Connection, "exceeded_timeout", fail)
        assert await _raw(served.url, b"") == b""
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert "could not be checked for timeouts" in caplog.text


def test_a_malformed_origin_ends_the_start() -> None:
    """A mistake in GIZMO_CORS_ORIGINS is reported before a port is bound."""
    with pytest.raises(ConfigError, match="GIZMO_CORS_ORIGINS"):
        SimpleServer(Example(Settings(cors_origins="nonsense")))


def test_a_custom_health_check_has_to_be_served() -> None:
    """With GIZMO_HEALTH_CHECK_TYPE=custom the service must have an endpoint at the path."""
    with pytest.raises(ConfigError, match=r"serves no GET /status\.txt"):
        SimpleServer(Example(Settings(health_check_type="custom")))


async def test_the_admin_port_has_metrics_and_debug_and_the_main_port_has_not() -> None:
    """Probes are on both ports."""
    settings = {"admin_port": 0, "debug_token": "s3cret"}
    bearer = {"Authorization": "Bearer s3cret"}
    async with _serving(**settings) as served, ClientSession(served.server.admin_url) as admin:
        for client, path, status in (
            (served.http, "/metrics", 404),
            (served.http, "/debug/info", 404),
            (served.http, "/livez", 200),
            (admin, "/metrics", 200),
            (admin, "/debug/routes", 200),
            (admin, "/livez", 200),
            (admin, "/left", 404),
        ):
            async with client.get(path, headers=bearer) as response:
                assert (path, response.status) == (path, status)


async def test_the_documentation_is_served_by_default() -> None:
    """/openapi.json and /docs; GIZMO_OPENAPI=false turns both off."""
    async with _serving() as served:
        async with served.http.get("/openapi.json") as response:
            assert "/slow" in (await response.json())["paths"]
        async with served.http.get("/docs") as response:
            assert response.content_type == "text/html"
        await asyncio.get_running_loop().shutdown_default_executor()
    async with _serving(openapi=False) as served:
        for path in ("/openapi.json", "/docs"):
            async with served.http.get(path) as response:
                assert response.status == 404


async def test_probes_are_answered_while_the_daemon_starts() -> None:
    """During a long lifespan /livez is 200, /readyz 503, and endpoints 503 with Retry-After."""

    class Slow(Example):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            self.begun.set()
            await self.go_on.wait()
            yield

    slow = Slow(Settings(http_port=0, http_access_log="off"))
    server = SimpleServer(slow)
    serving = asyncio.create_task(server.serve(Stop()))
    await slow.begun.wait()
    async with ClientSession(server.url) as http:
        for path, status in (("/livez", 200), ("/readyz", 503), ("/left", 503)):
            async with http.get(path) as response:
                assert (path, response.status) == (path, status)
    slow.go_on.set()
    server.stop.request("test")
    assert await serving == 0


async def test_a_unix_socket_is_a_port_too(tmp_path: Any) -> None:
    """HTTP_ADDR=unix:/path is served, and the path is removed at the end."""
    path = tmp_path / "door.sock"
    settings = Settings(http_addr=f"unix:{path}", http_access_log="off")
    async with SimpleServer(Example(settings)) as server:
        assert server.url == f"unix:{path}"
        async with ClientSession(connector=UnixConnector(str(path))) as http:
            async with http.get("http://socket/left") as response:
                assert response.status == 200
    assert not path.exists()


async def test_the_trace_and_the_client_are_in_messages_and_in_the_access_log(
    tmp_path: Any,
) -> None:
    """The trace is the caller's, and the client is the one that the proxy names."""

    class Telling(Example):
        @post("/tell")
        async def tell(self) -> None:
            await self.publish("news", "it rains")

    path = tmp_path / "access"
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "X-Forwarded-For": "1.2.3.4"}
    settings = Settings(http_access_log=str(path), trusted_proxies="127.0.0.0/8")
    async with pubsubtest.serve(Telling, settings=settings) as served:
        async with served.http.post("/tell", headers=headers) as response:
            assert response.status == 204
        await _raw(served.url, b"rubbish\r\n\r\n")
        (published,) = served.published("news")
        assert published.attributes["traceparent"].split("-")[1] == trace
        async with served.http.get("/metrics") as response:
            assert 'http_request_method="_OTHER"' in await response.text()
    logged, refused = (json.loads(line) for line in path.read_text().splitlines())
    assert (logged["trace_id"], logged["remote"]) == (trace, "1.2.3.4")
    assert (refused["method"], refused["status"], refused["route"]) == ("_OTHER", 400, "__404__")
