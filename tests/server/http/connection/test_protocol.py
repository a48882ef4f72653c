"""Connections: the order of requests, the edges between them, timeouts, and the end."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

import pubsubtest
from gizmopy import Service, Settings, get, post, put, time_left
from gizmopy.observe.context import propagated_attributes
from gizmopy.web import Handler
from tests.server.support import request, talk, until

BOTH_LOOPS = True


class Example(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    @get("/hello/{name}")
    async def hello(self, name: str) -> str:
        return name

    @get("/kilobytes/{count}")
    async def kilobytes(self, count: int) -> bytes:
        return b"x" * 1024 * count

    @get("/context")
    async def context(self) -> dict[str, Any]:
        return {"carried": dict(propagated_attributes.get()), "left": time_left() is not None}

    @get("/slow")
    async def slow(self) -> str:
        self.begun.set()
        await self.go_on.wait()
        return "done"

    @put("/length")
    async def length(self, request: web.Request) -> int:
        return len(await request.read())

    @post("/unread")
    async def unread(self) -> str:
        return "no thanks"

    @get("/stream/{kind}")
    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (b"one ", b"two ", b"three"):
            await response.write(part)
        if request.match_info["kind"] == "broken":
            raise RuntimeError("during the stream")
        return response


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[pubsubtest.Served[Example]]:
    """Serve the service of this file."""
    async with pubsubtest.serve(Example, settings=Settings(**settings)) as served:
        yield served


async def test_a_pipelined_request_does_not_see_the_context_of_the_one_before() -> None:
    """Context variables end with their request, also if the next one has arrived already."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = request("GET", "/context", b"", f"traceparent: {parent}", "X-Request-Timeout: 60")
    async with serving() as served, talk(served.url) as client:
        client.send(sent + request("GET", "/context"))
        assert b'"left":true' in (await client.answer()).body
        assert (await client.answer()).body == b'{"carried":{},"left":false}'


async def test_a_deadline_does_not_affect_a_response_that_waits_for_its_reader() -> None:
    """A deadline that passes while responses wait to be read ends none, and adds none."""
    async with serving(handler_timeout="50ms") as served, talk(served.url) as client:
        connection = await _connection(served)
        client.send(request("GET", "/kilobytes/31") * 1000)
        await until(lambda: connection.is_write_paused and connection.task is not None)
        await asyncio.wait((connection.task,), timeout=0.2)  # nothing must happen in this time
        for _ in range(1000):
            answer = await client.answer()
            assert (answer.status, len(answer.body)) == (200, 31 * 1024)


async def test_a_deadline_is_for_the_beginning_of_a_response() -> None:
    """A long response that is read slowly is sent to its end."""
    async with serving(handler_timeout="50ms") as served, talk(served.url) as client:
        connection = await _connection(served)
        client.ask("GET", "/kilobytes/20000")
        await until(lambda: connection.is_write_paused and connection.task is not None)
        await asyncio.wait((connection.task,), timeout=0.2)  # nothing must happen in this time
        assert len((await client.answer()).body) == 20_000 * 1024
        client.ask("GET", "/hello/again")
        assert (await client.answer()).body == b'"again"'


async def test_a_client_that_stays_connected_after_408_does_not_protect_others() -> None:
    """Another slow client gets its 408, too."""
    async with serving(read_timeout="100ms") as served:
        for _ in range(3):
            async with talk(served.url) as first:
                first.send(b"GET / HTTP/1.1\r\n")
                await first.reader.readuntil(b"\r\n\r\n")
                async with talk(served.url) as second:
                    second.send(b"GET / HTTP/1.1\r\n")
                    assert (await second.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_stream_that_fails_counts_as_an_error_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A stream that breaks off is a 500 in the metrics, not a client that left."""
    async with serving() as served:
        async with talk(served.url) as client:
            client.ask("GET", "/stream/broken")
            assert (await client.rest()).endswith(b"5\r\nthree\r\n")
        async with served.http.get("/metrics") as response:
            text = await response.text()
    assert 'http_response_status_code="500",http_route="/stream/{kind}"' in text
    assert "during the stream" in caplog.text


async def test_a_clone_of_a_request_can_be_answered() -> None:
    """Handlers can stream to a clone from a middleware, and it has the client's address."""
    seen: list[str | None] = []

    def clone(handler: Handler) -> Handler:
        async def cloning(request: web.Request) -> web.StreamResponse:
            copy = request.clone(method="GET")
            seen.append(copy.remote)
            return await handler(copy)

        return cloning

    class Cloning(Example):
        middleware = (clone,)

    settings = Settings(trusted_proxies="127.0.0.0/8")
    async with pubsubtest.serve(Cloning, settings=settings) as served:
        headers = {"X-Forwarded-For": "1.2.3.4"}
        async with served.http.get("/stream/whole", headers=headers) as response:
            assert await response.text() == "one two three"
            assert response.headers["Server"] == "gizmopy"
    assert seen == ["1.2.3.4"]


async def _connection(served: pubsubtest.Served[Any]) -> Any:
    """Return the daemon's end of the only connection."""
    server = served.server._ports[0]._server
    await until(server.open_connections)
    (connection,) = server.open_connections()
    return connection


@pytest.mark.parametrize("kind", ["stream", "compressed stream", "compressed"])
async def test_a_response_whose_head_cannot_be_written_does_not_affect_the_500(kind: str) -> None:
    """The 500 in its place has its own framing and encoding."""

    class Bad(Example):
        @get("/bad")
        async def bad(self, request: web.Request) -> web.StreamResponse:
            headers = {"X-Bad": "a\r\nb"}
            if kind == "compressed":
                response: web.StreamResponse = web.Response(text="x" * 100, headers=headers)
            else:
                response = web.StreamResponse(headers=headers)
            if kind.startswith("compressed"):
                response.enable_compression(web.ContentCoding.gzip)
            await response.prepare(request)
            return response

    async with pubsubtest.serve(Bad) as served, talk(served.url) as client:
        client.ask("GET", "/bad")
        answer = await client.answer()
        assert answer.status == 500
        assert answer.problem["detail"].startswith("The server failed")
        client.ask("GET", "/hello/again")
        assert (await client.answer()).body == b'"again"'


async def test_requests_before_a_malformed_one_are_answered() -> None:
    """The malformed one is 400, and nothing after it is served."""
    sent = request("GET", "/hello/one") + b"GET\r\n\r\n" + request("GET", "/hello/three")
    async with serving() as served, talk(served.url) as client:
        client.send(request("GET", "/hello/zero"))
        assert (await client.answer()).body == b'"zero"'
        client.send(sent)
        rest = await client.rest()
    assert b'"three"' not in rest
    assert rest.count(b"Bad Request\r\n") == 1


async def test_a_request_can_arrive_in_any_pieces() -> None:
    """The responses are the same for heads and bodies in pieces of any size."""
    sent = request("PUT", "/length", b"12345") + request("GET", "/hello/again")
    async with serving() as served, talk(served.url) as client:
        for size in (1, 2, 3, 7, 50):
            for begin in range(0, len(sent), size):
                client.send(sent[begin : begin + size])
                await client.writer.drain()
                await asyncio.sleep(0)
            assert (await client.answer()).body == b"5"
            assert (await client.answer()).body == b'"again"'


@pytest.mark.parametrize("path", ["/hello/x", "/stream/whole", "/nowhere"])
async def test_connection_close_is_honoured(path: str) -> None:
    """After it, a response of any kind is the last one, and has the header, too."""
    async with serving() as served, talk(served.url) as client:
        client.ask("GET", path, b"", "Connection: close")
        client.ask("GET", "/hello/never")
        assert (await client.answer()).headers["Connection"] == "close"
        assert await client.rest() == b""


async def test_a_client_of_http_1_0_is_closed_unless_it_keeps_alive() -> None:
    """HTTP/1.0 gets no chunks, and its connection stays open only if the client asks for it."""
    async with serving() as served:
        async with talk(served.url) as client:
            client.send(b"GET /hello/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            answer = await client.answer()
            assert (answer.version, answer.headers["Connection"]) == ("HTTP/1.0", "keep-alive")
            client.send(b"GET /hello/x HTTP/1.0\r\n\r\n")
            assert (await client.rest()).endswith(b'"x"')
        async with talk(served.url) as client:
            client.send(b"GET /stream/whole HTTP/1.0\r\n\r\n")
            head, _, body = (await client.rest()).partition(b"\r\n\r\n")
            assert body == b"one two three"
            assert b"chunked" not in head


@pytest.mark.parametrize("path", ["/hello/x", "/stream/whole", "/nowhere", "/livez"])
async def test_a_head_request_leaves_its_connection_usable(path: str) -> None:
    """HEAD has the head of GET, and no byte of a body, before the next response."""
    async with serving() as served, talk(served.url) as client:
        for _ in range(2):
            client.ask("HEAD", path)
            head = await client.answer(to_head=True)
            client.ask("GET", path)
            whole = await client.answer()
            assert head.status == whole.status
            if head.status == 200:
                assert head.headers.get("Content-Length") == whole.headers.get("Content-Length")


async def test_a_client_that_expects_100_is_asked_for_its_body() -> None:
    """100 Continue is sent once, and the final response after the body."""
    async with serving() as served, talk(served.url) as client:
        for _ in range(2):
            head = request("PUT", "/length", b"12345", "Expect: 100-continue")[:-5]
            client.send(head)
            async with asyncio.timeout(10):
                assert (
                    await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                )
            client.send(b"12345")
            assert (await client.answer()).body == b"5"


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/hello/x", 405)])
async def test_a_request_that_is_refused_gets_no_100(path: str, status: int) -> None:
    """It is refused before its body is sent."""
    async with serving() as served, talk(served.url) as client:
        client.send(request("PUT", path, b"12345", "Expect: 100-continue")[:-5])
        assert (await client.answer()).status == status


async def test_a_chunked_body_is_one_body() -> None:
    """It is read whole, without extensions and trailers, and the next request follows."""
    chunks = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    head = b"PUT /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving() as served, talk(served.url) as client:
        for size in (1000, 1):
            for begin in range(0, len(chunks), size):
                client.send(b"" if begin else head)
                client.send(chunks[begin : begin + size])
                await client.writer.drain()
                await asyncio.sleep(0)
            assert (await client.answer()).body == b"5"


async def test_an_unread_body_over_the_limit_closes_the_connection() -> None:
    """It is not read: the client gets its response, and the connection is closed."""
    async with serving(max_body_bytes=100_000) as served, talk(served.url) as client:
        client.send(request("POST", "/unread", bytes(1_000_000)))
        assert (await client.answer()).body == b'"no thanks"'
        assert await client.rest() == b""


async def test_a_client_that_never_stops_sending_gets_its_response() -> None:
    """Bytes beyond 4 MiB after the response are not read: a reset would destroy the response."""
    async with serving(max_body_bytes=100_000) as served, talk(served.url) as client:
        connection = await _connection(served)
        client.send(request("POST", "/unread", bytes(64_000_000)))
        await until(lambda: connection.discarded_bytes > 4 * 1024 * 1024)
        for _ in range(10):  # long enough for a reset to arrive
            await asyncio.sleep(0)
        assert (await client.answer()).body == b'"no thanks"'


async def test_an_unread_body_can_arrive_after_the_response() -> None:
    """The response is sent before the body, and the body is discarded."""
    async with serving() as served, talk(served.url) as client:
        client.send(request("POST", "/unread", b"12345")[:-5])
        assert (await client.answer()).body == b'"no thanks"'
        client.send(b"12345" + request("GET", "/hello/again"))
        assert (await client.answer()).body == b'"again"'


async def test_a_client_that_reads_nothing_is_disconnected() -> None:
    """It loses its connection after the write timeout."""
    async with serving(write_timeout="50ms") as served, talk(served.url) as client:
        connection = await _connection(served)
        client.ask("GET", "/kilobytes/20000")
        await until(lambda: connection.open_transport is None)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.answer()


async def test_a_client_that_reads_slowly_is_not_disconnected() -> None:
    """The write timeout begins again whenever bytes are read."""
    async with serving(write_timeout="200ms") as served, talk(served.url) as client:
        client.ask("GET", "/kilobytes/20000")
        await client.reader.readuntil(b"\r\n\r\n")
        left = 20_000 * 1024
        while left:
            left -= len(await client.reader.readexactly(min(left, 256 * 1024)))
            await asyncio.sleep(0.005)  # the client has to be slow
        client.ask("GET", "/hello/again")
        assert (await client.answer()).body == b'"again"'


async def test_a_body_that_arrives_too_slowly_is_408() -> None:
    """A byte now and then is not enough: a body has a minimum rate."""
    async with serving(read_timeout="50ms") as served, talk(served.url) as client:
        client.send(b"PUT /length HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")

        async def drip() -> None:
            while True:
                client.send(b"x")
                await asyncio.sleep(0.01)  # the client has to be slow

        dripping = asyncio.create_task(drip())
        answer = await client.answer()
        assert (answer.status, answer.headers["Connection"]) == (408, "close")
        assert "slow" in answer.problem["detail"]
        dripping.cancel()
        await asyncio.wait((dripping,))


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_the_rate_of_a_compressed_body_is_that_of_its_compressed_bytes(
    is_chunked: bool,
) -> None:
    """Its decompressed bytes would allow it a longer time."""
    body = gzip.compress(bytes(900_000))
    framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}"
    async with serving(read_timeout="50ms") as served, talk(served.url) as client:
        lines = ("PUT /length HTTP/1.1", "Host: x", "Content-Encoding: gzip", framing, "", "")
        client.send("\r\n".join(lines).encode())
        client.send((b"%x\r\n" % len(body) if is_chunked else b"") + body[:-20])
        assert (await client.answer()).status == 408


async def test_a_slow_body_does_not_affect_a_handler_that_does_not_read_it() -> None:
    """Its response is sent; then the connection is closed, because the body is incomplete."""
    async with serving(read_timeout="20ms") as served, talk(served.url) as client:
        connection = await _connection(served)
        client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123")
        await served.service.begun.wait()
        await until(lambda: connection.request.content.exception() is not None)
        served.service.go_on.set()
        assert (await client.answer()).body == b'"done"'
        assert await client.rest() == b""


async def test_connections_leave_nothing_behind() -> None:
    """The daemon forgets connections and their tasks, however they end."""
    ends = (
        b"",
        b"GET ",
        request("GET", "/slow"),
        request("GET", "/hello/x"),
        request("PUT", "/length", b"12345")[:-1],
        request("GET", "/stream/whole"),
        b"rubbish\r\n\r\n",
    )
    async with serving() as served:
        before = len(asyncio.all_tasks())
        for sent in ends * 10:
            async with talk(served.url) as client:
                client.send(sent)
                await asyncio.sleep(0)
        server = served.server._ports[0]._server
        await until(lambda: not server.open_connections() and len(asyncio.all_tasks()) <= before)
        assert not served.server.application.handler.active


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/hello/x", 200),
        ("HEAD", "/hello/x", 200),
        ("GET", "/kilobytes/100", 200),
        ("GET", "/stream/whole", 200),
        ("GET", "/nowhere", 404),
        ("DELETE", "/hello/x", 405),
        ("PROPFIND", "/hello/x", 405),
        ("GET", "/kilobytes/many", 422),
        ("GET", "/livez", 200),
    ],
)
async def test_every_response_has_the_standard_headers(method: str, path: str, status: int) -> None:
    """Server, Date and X-Request-ID are in every response once, without aiohttp's own."""
    async with serving() as served, talk(served.url) as client:
        client.ask(method, path, b"", "X-Request-ID: r-1")
        answer = await client.answer(to_head=method == "HEAD")
    assert answer.status == status
    assert answer.headers.getall("Server") == ["gizmopy"]
    assert answer.headers.getall("X-Request-ID") == ["r-1"]
    assert len(answer.headers.getall("Date")) == 1


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="since Python 3.12")
async def test_requests_are_served_with_eager_tasks() -> None:
    """Pipelined requests, errors and bodies are answered the same with eager tasks."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("uvloop 0.23 has none with Python 3.13.0")
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    many = b"".join(request("GET", f"/hello/{n}") for n in range(200))
    async with serving(handler_timeout="50ms") as served, talk(served.url) as client:
        for _ in range(2):
            client.send(many)
            for n in range(200):
                assert (await client.answer()).body == b'"%d"' % n
        client.send(request("PUT", "/length", b"12345") + request("GET", "/nowhere"))
        assert (await client.answer()).body == b"5"
        assert (await client.answer()).status == 404
        client.ask("GET", "/slow")
        assert (await client.answer()).status == 504
        client.ask("GET", "/context", b"", "X-Request-Timeout: 60")
        client.ask("GET", "/hello/last", b"", "Connection: close")
        assert (await client.answer()).status == 200
        assert (await client.answer()).body == b'"last"'
        assert await client.rest() == b""
