"""What a generator may do: time-outs, tasks, context variables, clean-up; and what is refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextvars import ContextVar
from datetime import timedelta
from typing import Annotated, Any

import pytest
from aiohttp import ClientPayloadError
from pydantic import BaseModel
from typing_extensions import TypeAliasType

import pubsubtest
from gizmopy import Event, EventStream, Service, Settings, get, post
from gizmopy.errors import DeclarationError
from gizmopy.server import SimpleServer
from gizmopy.web.binding import compile_endpoint
from gizmopy.web.decorators import collect_routes
from tests.server.http.test_streams import port_of
from tests.server.support import until

NUMBER: ContextVar[int] = ContextVar("NUMBER")


class Cat(BaseModel):
    name: str


class Numbers:
    """An async iterator that is no generator."""

    def __init__(self) -> None:
        self.left = 3

    def __aiter__(self) -> Numbers:
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        await asyncio.sleep(0)
        return self.left


class Generators(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.notes: list[str] = []
        self.more = asyncio.Event()

    @get("/timeouts")
    async def timeouts(self) -> AsyncIterator[str]:
        for number in range(3):
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.Event().wait()
            except TimeoutError:
                yield f"{number} "

    @get("/tasks")
    async def tasks(self) -> AsyncIterator[str]:
        async with asyncio.TaskGroup() as group:
            NUMBER.set(1)
            tasks = [group.create_task(asyncio.sleep(0, each)) for each in (1, 2)]
            for task in tasks:
                yield f"{await task} {NUMBER.get()} "

    @get("/numbers")
    async def numbers(self) -> AsyncIterator[int]:
        return Numbers()

    @get("/stubborn")
    async def stubborn(self) -> AsyncIterator[int]:
        yield 1
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.notes.append("cancelled")
            yield 2

    @get("/cleanup")
    async def cleanup(self) -> AsyncIterator[int]:
        try:
            yield 1
            await self.more.wait()
        finally:
            await asyncio.sleep(0)
            self.notes.append("clean")

    @get("/bad-cleanup")
    async def bad_cleanup(self) -> AsyncIterator[int]:
        try:
            yield 1
            await self.more.wait()
        finally:
            raise RuntimeError("in the clean-up")

    @post("/posted")
    async def posted(self) -> AsyncIterator[int]:
        try:
            yield 1
            await self.more.wait()
        finally:
            self.notes.append("posted")

    @get("/group")
    async def group(self) -> AsyncIterator[int]:
        yield 1
        async with asyncio.TaskGroup() as group:
            await group.create_task(self._fail())

    async def _fail(self) -> None:
        raise ValueError("of a task")


class Born(Event[Cat]):
    """A kind of event."""

    def __init__(self, name: str) -> None:
        super().__init__(Cat(name=name), event="born")


Cats = TypeAliasType("Cats", AsyncIterator[Cat])


class Aliased(Service):
    @get("/born")
    async def born(self) -> AsyncIterator[Born]:
        yield Born("Tom")

    @get("/alias")
    async def alias(self) -> Annotated[Cats, "of a house"]:
        yield Cat(name="Tom")

    @get("/wrong")
    async def wrong(self) -> AsyncIterator[Cat]:
        return [Cat(name="Tom")]  # type: ignore[return-value]


async def test_a_stream_is_known_by_any_name() -> None:
    """An alias, metadata, and a subclass of Event."""
    async with pubsubtest.serve(Aliased) as served:
        async with served.http.get("/born") as response:
            assert await response.text() == 'event: born\ndata: {"name":"Tom"}\n\n'
        async with served.http.get("/alias") as response:
            assert await response.text() == '{"name":"Tom"}\n'


async def test_a_list_is_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    """The log says what was declared."""
    async with pubsubtest.serve(Aliased) as served, served.http.get("/wrong") as response:
        assert response.status == 500
    assert "Aliased.wrong returned a list" in caplog.text
    assert "not only a stream" in caplog.text


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/timeouts", "0 1 2 "), ("/tasks", "1 1 2 1 "), ("/numbers", "2\n1\n0\n")],
)
async def test_a_generator_runs_in_one_task(path: str, expected: str) -> None:
    """Time-outs, task groups and context variables work across a ``yield``."""
    async with pubsubtest.serve(Generators) as served, served.http.get(path) as response:
        assert await response.text() == expected


async def test_a_generator_that_ignores_its_cancellation_is_closed() -> None:
    """It yields once more, and is not asked again."""
    async with pubsubtest.serve(Generators) as served:
        async with served.http.get("/stubborn") as response:
            await response.content.readany()
        await until(lambda: served.service.notes == ["cancelled"])
        await until(lambda: not served.server.application.handler.active)


@pytest.mark.parametrize("path", ["/cleanup", "/posted"])
async def test_the_clean_up_may_wait(path: str) -> None:
    """Also if the client of a POST leaves, which does not cancel other endpoints."""
    async with pubsubtest.serve(Generators) as served:
        method = "POST" if path == "/posted" else "GET"
        async with served.http.request(method, path) as response:
            await response.content.readany()
        await until(lambda: bool(served.service.notes))


async def test_an_error_of_the_clean_up_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The client sees that the end is missing."""
    async with pubsubtest.serve(Generators) as served:
        async with served.http.get("/bad-cleanup") as response:
            await response.content.readany()
            served.service.more.set()
            with pytest.raises(ClientPayloadError):
                await response.read()
    assert caplog.text.count("in the clean-up") >= 1


async def test_an_error_of_a_task_group_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """With its members."""
    async with pubsubtest.serve(Generators) as served:
        async with served.http.get("/group") as response:
            with pytest.raises(ClientPayloadError):
                await response.read()
    assert len([each for each in caplog.records if each.levelno >= logging.ERROR]) == 1
    assert "of a task" in caplog.text


async def test_a_stream_that_does_not_end_in_time_is_truncated() -> None:
    """At the end of the shutdown's time its generator is closed, without a last chunk."""
    service = Generators(
        Settings(
            http_port=0,
            http_addr="127.0.0.1",
            drain_delay=timedelta(0),
            shutdown_timeout=timedelta(seconds=0.05),
            http_access_log="off",
        )
    )
    server = SimpleServer(service)
    async with server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server.url))
        writer.write(b"GET /cleanup HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"1\n\r\n")
    assert await reader.read() == b""
    writer.close()
    assert service.notes == ["clean"]
    assert server.exit_code == 70


def refusal(function: Any, **options: Any) -> str:
    """Return the error at the start of a service with this endpoint."""
    copy = type(function)(function.__code__, function.__globals__, function.__name__)
    copy.__annotations__ = function.__annotations__

    def start() -> None:
        made = type("Service", (), {"method": get("/a", **options)(copy)})
        for route in collect_routes(made()):
            compile_endpoint(route)

    with pytest.raises(DeclarationError, match=rf"^{__file__}:\d+: ") as refused:
        start()
    return str(refused.value)


async def listed(self: Any) -> list[int]:  # type: ignore[misc]  # as mypy says, too
    """Yield, against the annotation."""
    yield 1


async def cats(self: Any) -> AsyncIterator[Cat]:
    """Yield a cat."""
    yield Cat(name="Tom")


async def numbers(self: Any) -> AsyncIterator[Numbers]:
    """Yield what has no JSON form."""
    yield Numbers()


async def events(self: Any) -> EventStream[Cat]:
    """Yield an event."""
    yield Cat(name="Tom")


async def one(self: Any) -> Cat:
    """Return a cat."""
    return Cat(name="Tom")


@pytest.mark.parametrize(
    ("function", "options", "reason"),
    [
        (listed, {}, "is an async generator, and not of the type list"),
        (cats, {"media_type": "text/csv"}, "sends items of Cat as JSON lines, which are not"),
        (events, {"media_type": "text/plain"}, "sends events, so its media type is text/event"),
        (numbers, {}, "its items have a type without a JSON form"),
        (one, {"endless": True}, "has endless=True and returns no stream"),
        (one, {"media_type": "text/csv"}, "returns Cat as JSON, which is not 'text/csv'"),
        (one, {"media_type": "csv"}, "media_type='csv' is not a media type; write text/csv"),
        (one, {"media_type": "a/b\r\nX: 1"}, "is not a media type"),
        (one, {"media_type": 5}, "media_type=5 is not a media type"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(
    function: Any, options: Any, reason: str
) -> None:
    """At the start, with file, line and remedy."""
    assert reason in refusal(function, **options)
