"""The time of a request: who bounds it, and what happens when it is over."""

import asyncio
import math
import time

import pytest
from aiohttp import web

import pubsubtest
from gizmopy import Problem, Service, Settings, get, time_left
from gizmopy.server.http.deadlines import Deadlines, callers_timeout
from tests.server.support import PATIENCE

BOTH_LOOPS = True


class Slow(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.cancelled = asyncio.Event()

    @get("/left", timeout=20)
    async def left(self) -> float | None:
        return time_left()

    @get("/ignores", timeout=0.02)
    async def ignores(self) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
        return "done all the same"

    @get("/fails", timeout=0.02)
    async def fails(self) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            raise Problem(409, "its own answer")

    @get("/stream", timeout=0.02)
    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(0.1)  # longer than the limit, which is what this is about
        await response.write(b"whole")
        return response


async def test_a_handler_that_ignores_the_end_of_its_time_is_answered_with_what_it_says() -> None:
    """It was cancelled once; what it returns or raises after that counts, and the next is whole."""
    async with pubsubtest.serve(Slow) as slow:
        for _ in range(2):
            async with slow.http.get("/ignores") as response:
                assert (response.status, await response.json()) == (200, "done all the same")
            async with slow.http.get("/fails") as response:
                assert response.status == 409
        assert slow.service.cancelled.is_set()


async def test_a_stream_that_has_begun_has_any_time() -> None:
    """The limit is for the beginning of an answer."""
    async with pubsubtest.serve(Slow) as slow, slow.http.get("/stream") as response:
        assert await response.text() == "whole"


@pytest.mark.parametrize(("asked", "most"), [(None, 20), ("60", 20), ("5", 5)])
async def test_the_sooner_deadline_counts(asked: str | None, most: float) -> None:
    """An endpoint's own limit and its caller's are one deadline: the sooner."""
    headers = {} if asked is None else {"X-Request-Timeout": asked}
    async with pubsubtest.serve(Slow) as slow, slow.http.get("/left", headers=headers) as response:
        assert most - 2 < await response.json() <= most


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, math.inf),
        ({"X-Request-Timeout": "1m30s"}, 90),
        ({"X-Request-Timeout": "2", "grpc-timeout": "1S"}, 2),
        ({"grpc-timeout": "1H"}, 3600),
        ({"grpc-timeout": "250u"}, 250e-6),
    ],
)
def test_a_caller_says_how_long_it_waits(headers: dict[str, str], seconds: float) -> None:
    """In either header; ours beats gRPC's."""
    assert callers_timeout(headers) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Request-Timeout", "-1"),
        ("X-Request-Timeout", "nan"),
        ("X-Request-Timeout", "9" * 400),
        ("grpc-timeout", "5"),
        ("grpc-timeout", "123456789S"),
        ("grpc-timeout", "٣S"),
    ],
)
def test_what_is_no_duration_is_a_bad_request(name: str, value: str) -> None:
    """Neither is guessed at."""
    with pytest.raises(Problem) as caught:
        callers_timeout({name: value})
    assert caught.value.status == 400


async def test_deadlines_are_told_in_their_order_and_only_once() -> None:
    """Whatever order they were set in; what was forgotten is not told."""
    told: asyncio.Queue[str] = asyncio.Queue()
    deadlines = Deadlines[str](told.put_nowait)
    now = time.monotonic()
    for name, seconds in (("c", 0.03), ("x", 0.01), ("a", 0.01), ("b", 0.02), ("past", -1)):
        deadlines.add(name, now + seconds)
    deadlines.remove("x")
    async with asyncio.timeout(PATIENCE):
        assert [await told.get() for _ in range(4)] == ["past", "a", "b", "c"]
    deadlines.close()
    assert told.empty()


@pytest.mark.parametrize("asked", ["1111s" * 12 + "!", "1111s" * 600 + "!", "1" * 3_000 + "!"])
async def test_a_timeout_that_is_no_duration_costs_nothing(asked: str) -> None:
    """No text of the header holds the loop: it took 8 s of it, for /livez too (issue 11)."""
    async with pubsubtest.serve(Slow) as slow:
        began = time.process_time()
        headers = {"X-Request-Timeout": asked}
        async with slow.http.get("/livez", headers=headers) as response:
            assert response.status == 400
        assert time.process_time() - began < 1
