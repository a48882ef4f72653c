"""What a connection does between its requests, at their edges, and at its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

import pubsubtest
from gizmopy import Service, Settings, get, post, put, time_left
from gizmopy.observe.context import carried
from gizmopy.web import Handler
from tests.server.talking import request, talk, until

BOTH_LOOPS = True


class Desk(Service):
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
        return {"carried": dict(carried.get()), "left": time_left() is not None}

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
            raise RuntimeError("amid the stream")
        return response


@asynccontextmanager
async def desk(**settings: Any) -> AsyncIterator[pubsubtest.Served[Desk]]:
    """Serve the desk of this file."""
    async with pubsubtest.serve(Desk, settings=Settings(**settings)) as served:
        yield served


async def test_what_a_pipelined_request_set_is_not_seen_by_the_next() -> None:
    """Context variables end with their request, also where the next one was there already."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = request("GET", "/context", b"", f"traceparent: {parent}", "X-Request-Timeout: 60")
    async with desk() as served, talk(served.url) as client:
        client.send(sent + request("GET", "/context"))
        assert b'"left":true' in (await client.answer()).body
        assert (await client.answer()).body == b'{"carried":{},"left":false}'


async def test_an_answer_whose_reader_is_slow_is_not_answered_twice() -> None:
    """A deadline that passes while answers wait to be read cuts none, and adds none."""
    async with desk(handler_timeout="50ms") as served, talk(served.url) as client:
        connection = await _connection(served)
        client.send(request("GET", "/kilobytes/31") * 1000)
        await until(lambda: connection.clogged and connection.task is not None)
        await asyncio.wait((connection.task,), timeout=0.2)  # nothing tells that nothing happens
        for _ in range(1000):
            answer = await client.answer()
            assert (answer.status, len(answer.body)) == (200, 31 * 1024)


async def test_a_long_answer_that_is_read_slowly_is_not_late() -> None:
    """The time for an endpoint is for the beginning of its answer, however long that is."""
    async with desk(handler_timeout="50ms") as served, talk(served.url) as client:
        connection = await _connection(served)
        client.ask("GET", "/kilobytes/20000")
        await until(lambda: connection.clogged and connection.task is not None)
        await asyncio.wait((connection.task,), timeout=0.2)  # nothing tells that nothing happens
        assert len((await client.answer()).body) == 20_000 * 1024
        client.ask("GET", "/hello/again")
        assert (await client.answer()).body == b'"again"'


async def test_a_client_that_stays_after_its_408_does_not_spare_the_others() -> None:
    """Whoever is slow is cut, even while one that was told so has not left yet."""
    async with desk(read_timeout="20ms") as served:
        for _ in range(3):
            async with talk(served.url) as first, talk(served.url) as second:
                first.send(b"GET / HTTP/1.1\r\n")
                await first.reader.readuntil(b"\r\n\r\n")
                second.send(b"GET / HTTP/1.1\r\n")
                assert (await second.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_stream_that_fails_counts_as_an_error_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An answer that breaks off is a 500 in the metrics, not a client that went away."""
    async with desk() as served:
        async with talk(served.url) as client:
            client.ask("GET", "/stream/broken")
            assert (await client.rest()).endswith(b"5\r\nthree\r\n")
        async with served.http.get("/metrics") as response:
            text = await response.text()
    assert 'http_response_status_code="500",http_route="/stream/{kind}"' in text
    assert "amid the stream" in caplog.text


async def test_a_cloned_request_is_as_good_as_the_first() -> None:
    """A middleware may hand on a copy: it can be streamed to, and knows who asks."""
    seen: list[str | None] = []

    def clone(handler: Handler) -> Handler:
        async def cloning(request: web.Request) -> web.StreamResponse:
            copy = request.clone(method="GET")
            seen.append(copy.remote)
            return await handler(copy)

        return cloning

    class Cloning(Desk):
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
    await until(server.open)
    (connection,) = server.open()
    return connection


@pytest.mark.parametrize("kind", ["stream", "compressed stream", "compressed"])
async def test_an_answer_whose_head_cannot_be_written_leaves_no_trace(kind: str) -> None:
    """The 500 in its place is framed and encoded as its own head says."""

    class Bad(Desk):
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
