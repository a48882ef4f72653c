"""Streams of items and of events, as a client sees them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import ClientPayloadError, web
from pydantic import BaseModel

import pubsubtest
from gizmopy import Event, EventStream, LastEventID, Problem, Service, Settings, get, time_left
from gizmopy._aio import background
from gizmopy.server import SimpleServer
from gizmopy.web import Handler
from gizmopy.web.streams import ItemStream
from tests.server.support import until


class Cat(BaseModel):
    name: str


class SecretCat(Cat):
    password: str = "secret"


class Cats(Service):
    """Its streams note how they end."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.closed: list[str] = []
        self.yielded = 0
        self.more = asyncio.Event()
        self.time_left: list[float | None] = []

    @get("/cats")
    async def cats(self) -> AsyncIterator[Cat]:
        try:
            yield SecretCat(name="Tom")
            yield {"name": "Kit"}  # type: ignore[misc]  # what the type makes of it
        finally:
            self.closed.append("cats")

    @get("/returned")
    async def returned(self, missing: bool = False) -> AsyncIterator[Cat] | None:
        return None if missing else self.cats()

    @get("/accepted")
    async def accepted(self) -> tuple[int, AsyncIterator[Cat]]:
        return 202, self.cats()

    @get("/none")
    async def none(self) -> AsyncIterator[Cat]:
        for name in list[str]():
            yield Cat(name=name)

    @get("/report", media_type="text/csv")
    async def report(self) -> AsyncIterator[str]:
        yield "a,b\n"
        yield "1,ü\n"

    @get("/bytes")
    async def blocks(self) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 100_000

    @get("/many")
    async def many(self) -> AsyncIterator[int]:
        for number in range(1000):
            yield number

    @get("/fails")
    async def fails(self, at: int, kind: str = "problem") -> AsyncIterator[int]:
        try:
            for number in range(5):
                if number == at and kind == "type":
                    yield "text"  # type: ignore[misc]  # not of the declared type
                if number == at:
                    raise Problem(404, "There is no such cat.")
                yield number
                await asyncio.sleep(0)
        finally:
            self.closed.append("fails")

    @get("/waits")
    async def waits(self, first: bool = True) -> AsyncIterator[int]:
        try:
            if first:
                yield 1
            await self.more.wait()
            yield 2
        finally:
            self.closed.append("waits")

    @get("/flood")
    async def flood(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.yielded += 1
                yield b"x" * 1000
        finally:
            self.closed.append("flood")

    @get("/timed", timeout=0.2)
    async def timed(self, first: bool = True) -> AsyncIterator[int]:
        if first:
            self.time_left.append(time_left())
            yield 1
            self.time_left.append(time_left())
        await self.more.wait()
        yield 2

    @get("/tail", endless=True)
    async def tail(self) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            self.closed.append("tail")

    @get("/events")
    async def events(self, last: LastEventID = None, fail: bool = False) -> EventStream[Cat]:
        try:
            if fail:
                raise Problem(403, "No events for you.")
            yield SecretCat(name=f"after {last}")
            yield Event(Cat(name="Kit"), id=2, event="born", retry=500, comment="new")
            await asyncio.Event().wait()
        finally:
            self.closed.append("events")

    @get("/silent")
    async def silent(self) -> EventStream[int]:
        await self.more.wait()
        yield 1

    @get("/text-events")
    async def text_events(self) -> EventStream[str]:
        yield "one\ntwo\r\nthree\rfour\u2028five"
        yield ""


async def test_models_are_sent_as_json_lines() -> None:
    """Each item is filtered and validated by the declared type."""
    async with pubsubtest.serve(Cats) as cats:
        for path in ("/cats", "/returned"):
            async with cats.http.get(path) as response:
                assert response.headers["Content-Type"] == "application/x-ndjson"
                assert response.headers["X-Accel-Buffering"] == "no"
                assert await response.text() == '{"name":"Tom"}\n{"name":"Kit"}\n'
        assert cats.service.closed == ["cats", "cats"]


async def test_a_stream_has_a_status_or_is_none() -> None:
    """A coroutine may return a stream with a status, or None in its place."""
    async with pubsubtest.serve(Cats) as cats:
        async with cats.http.get("/accepted") as response:
            assert response.status == 202
            assert (await response.text()).count("\n") == 2
        async with cats.http.get("/returned?missing=true") as response:
            assert response.status == 204


async def test_an_empty_stream_is_an_empty_body() -> None:
    """It has a head, and its end."""
    async with pubsubtest.serve(Cats) as cats, cats.http.get("/none") as response:
        assert (response.status, await response.text()) == (200, "")


async def test_text_and_bytes_are_sent_as_they_are() -> None:
    """The media type is that of the decorator, or a plain one."""
    async with pubsubtest.serve(Cats) as cats:
        async with cats.http.get("/report") as response:
            assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
            assert await response.text() == "a,b\n1,ü\n"
        async with cats.http.get("/bytes") as response:
            assert response.headers["Content-Type"] == "application/octet-stream"
            assert await response.read() == b"x" * 300_000


async def test_items_that_do_not_wait_are_one_chunk() -> None:
    """A thousand small items are not a thousand writes."""
    async with pubsubtest.serve(Cats) as cats, cats.http.get("/many") as response:
        chunks = [chunk async for chunk, is_end in response.content.iter_chunks() if is_end]
        assert b"".join(chunks) == b"".join(b"%d\n" % number for number in range(1000))
        assert len(chunks) < 50


async def test_an_item_is_sent_before_the_next_one_is_ready() -> None:
    """Nothing that was yielded waits for more."""
    async with pubsubtest.serve(Cats) as cats, cats.http.get("/waits") as response:
        assert await response.content.readline() == b"1\n"
        cats.service.more.set()
        assert await response.content.readline() == b"2\n"


@pytest.mark.parametrize("kind", ["problem", "type"])
async def test_an_error_before_the_first_item_is_an_ordinary_answer(kind: str) -> None:
    """The head is not sent yet."""
    async with pubsubtest.serve(Cats) as cats:
        async with cats.http.get(f"/fails?at=0&kind={kind}") as response:
            assert response.status == (404 if kind == "problem" else 500)
            assert response.content_type == "application/problem+json"
        assert cats.service.closed == ["fails"]


@pytest.mark.parametrize("kind", ["problem", "type"])
async def test_an_error_after_an_item_truncates_the_stream(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client sees that the end is missing; the error is logged once, and counted as a 500."""
    async with pubsubtest.serve(Cats) as cats:
        async with cats.http.get(f"/fails?at=2&kind={kind}") as response:
            assert response.status == 200
            with pytest.raises(ClientPayloadError):
                await response.read()
        assert cats.service.closed == ["fails"]
        async with cats.http.get("/metrics") as response:
            metrics = await response.text()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info
    if kind == "type":
        assert "/fails: Cats.fails yielded a str" in caplog.text
    assert 'http_route="/fails",http_response_status_code="500"' in metrics or (
        'status_code="500"' in metrics
    )


async def test_two_streams_share_a_connection() -> None:
    """A stream that has ended leaves its connection open."""
    async with pubsubtest.serve(Cats) as cats:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(cats.url))
        for _ in range(2):
            writer.write(b"GET /cats HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"Transfer-Encoding: chunked" in await reader.readuntil(b"\r\n\r\n")
            assert (await reader.readuntil(b"0\r\n\r\n")).count(b"name") == 2
        writer.close()


def port_of(url: str) -> int:
    """Return the port of a URL."""
    return int(url.rpartition(":")[2])


async def test_http_1_0_reads_until_the_connection_ends() -> None:
    """It has no chunks."""
    async with pubsubtest.serve(Cats) as cats:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(cats.url))
        writer.write(b"GET /cats HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        assert b"chunked" not in answer
        assert answer.endswith(b'\r\n\r\n{"name":"Tom"}\n{"name":"Kit"}\n')
        writer.close()


async def test_head_has_the_status_and_no_body() -> None:
    """The generator runs to its first item, and is closed."""
    async with pubsubtest.serve(Cats) as cats:
        async with cats.http.head("/cats") as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "application/x-ndjson"
        async with cats.http.head("/fails?at=0") as response:
            assert response.status == 404
        async with cats.http.head("/events") as response:
            assert response.headers["Content-Type"] == "text/event-stream"
        assert cats.service.closed == ["cats", "fails"]


@pytest.mark.parametrize("path", ["/waits", "/flood", "/events", "/tail"])
async def test_a_generator_is_closed_when_its_client_leaves(path: str) -> None:
    """Whether it waits, or the client reads too slowly."""
    async with pubsubtest.serve(Cats) as cats:
        async with cats.http.get(path) as response:
            await response.content.readany()
        await until(lambda: cats.service.closed == [path.strip("/")])


async def test_a_client_that_does_not_read_stops_the_generator() -> None:
    """Memory does not grow with the stream."""
    async with pubsubtest.serve(Cats) as cats:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(cats.url), limit=1)
        writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        seen = -1
        while cats.service.yielded != seen:  # the buffers of the kernel are full
            seen = cats.service.yielded
            for _ in range(100):
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
        assert cats.service.yielded < 20_000  # thousand bytes each
        writer.transport.abort()
        await until(lambda: cats.service.closed == ["flood"])


async def test_the_deadline_is_for_the_first_item() -> None:
    """A stream that has begun has no deadline; one that has not is 504."""
    async with pubsubtest.serve(Cats) as cats:
        async with cats.http.get("/timed?first=false") as response:
            assert response.status == 504
        async with cats.http.get("/timed") as response:
            assert await response.content.readline() == b"1\n"
            await until(lambda: len(cats.service.time_left) == 2)
            before, after = cats.service.time_left
            assert before is not None
            assert after is None
            cats.service.more.set()
            assert await response.content.readline() == b"2\n"


async def test_events_have_their_fields() -> None:
    """A value is the data of an event; an Event has the other fields, too."""
    async with pubsubtest.serve(Cats) as cats:
        async with cats.http.get("/events", headers={"Last-Event-ID": "1"}) as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["X-Accel-Buffering"] == "no"
            expected = (
                b'data: {"name":"after 1"}\n\n'
                b': new\nevent: born\nid: 2\nretry: 500\ndata: {"name":"Kit"}\n\n'
            )
            assert await response.content.readexactly(len(expected)) == expected
        async with cats.http.get("/text-events") as response:
            text = await response.text()
        assert text == ("data: one\ndata: two\ndata: three\ndata: four\u2028five\n\ndata: \n\n")


async def test_an_error_before_the_first_event_is_an_ordinary_answer() -> None:
    """A browser does not reconnect after a 403."""
    async with pubsubtest.serve(Cats) as cats, cats.http.get("/events?fail=true") as response:
        assert response.status == 403


async def test_a_silent_stream_has_a_head_and_comments() -> None:
    """A browser knows that it is connected, and a proxy that the connection is in use."""
    clock = pubsubtest.Clock()
    async with pubsubtest.serve(Cats, clock=clock) as cats:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(cats.url))
        writer.write(b"GET /silent HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: bool(clock._calls))
        await clock.advance(1)
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        for pause in (14, 15, 15):
            await clock.advance(pause)
            assert await reader.readuntil(b"\n\n\r\n") == b"3\r\n:\n\n\r\n"
        cats.service.more.set()
        assert (await reader.readuntil(b"\n\n\r\n")).endswith(b"data: 1\n\n\r\n")
        assert (await reader.readuntil(b"0\r\n\r\n")) == b"0\r\n\r\n"
        writer.close()


async def test_a_client_that_does_not_read_gets_no_comments() -> None:
    """Else it would never seem to be silent, and no timeout would end it."""
    sent: list[bytes] = []
    clock = pubsubtest.Clock()

    class Transport:
        waiting = 1

        def get_write_buffer_size(self) -> int:
            return self.waiting

    class Output:
        async def write(self, chunk: bytes, *, drain: bool = True) -> None:
            sent.append(chunk)

    class Stub:
        transport = Transport()

    async def none() -> AsyncIterator[int]:
        yield 1

    stream = ItemStream(none(), repr, keep_alive=b":", sleep=clock.sleep)  # type: ignore[arg-type]
    stream._output = Output()  # type: ignore[assignment]
    stub: Any = Stub()
    async with background(stream._pulse(stub, asyncio.current_task())):  # type: ignore[arg-type]
        await clock.advance(60)
        assert sent == []
        Stub.transport.waiting = 0
        await clock.advance(15)
        assert sent == [b":"]


async def test_a_stream_of_events_without_any_ends_with_the_daemon() -> None:
    """Also before its head, which would come after a second."""
    clock = pubsubtest.Clock()
    async with pubsubtest.serve(Cats, clock=clock) as cats:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(cats.url))
        writer.write(b"GET /silent HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: bool(clock._calls))
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n0\r\n\r\n")
    assert cats.server.exit_code == 0
    writer.close()


@pytest.mark.parametrize("path", ["/events", "/tail"])
async def test_an_endless_stream_ends_with_the_daemon(path: str) -> None:
    """The client sees the last chunk, at once, and the exit code is 0."""
    settings = Settings(
        http_port=0,
        http_addr="127.0.0.1",
        drain_delay=timedelta(0),
        shutdown_timeout=timedelta(seconds=30),
        http_access_log="off",
    )
    service = Cats(settings)
    server = SimpleServer(service)
    async with server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server.url))
        writer.write(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
        await reader.readuntil(b"\r\n\r\n")
    assert (await reader.read()).endswith(b"\r\n0\r\n\r\n")
    writer.close()
    assert service.closed == [path.strip("/")]
    assert server.exit_code == 0


async def test_middleware_adds_headers_to_a_stream() -> None:
    """It sees the response before it begins; a stream is never compressed."""

    def mark(handler: Handler) -> Handler:
        async def marked(request: web.Request) -> web.StreamResponse:
            response = await handler(request)
            response.headers["X-Mark"] = "1"
            response.enable_compression()
            return response

        return marked

    class Marked(Cats):
        middleware = (mark,)

    async with pubsubtest.serve(Marked) as cats, cats.http.get("/cats") as response:
        assert response.headers["X-Mark"] == "1"
        assert "Content-Encoding" not in response.headers
        assert await response.text() == '{"name":"Tom"}\n{"name":"Kit"}\n'
