"""The deadline of a request: its sources, and the effect when it has passed."""

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
        await asyncio.sleep(0.1)  # longer than the limit
        await response.write(b"whole")
        return response


async def test_a_handler_that_catches_its_cancellation_decides_the_response() -> None:
    """It is cancelled once. The result or error after that counts."""
    async with pubsubtest.serve(Slow) as slow:
        for _ in range(2):
            async with slow.http.get("/ignores") as response:
                assert (response.status, await response.json()) == (200, "done all the same")
            async with slow.http.get("/fails") as response:
                assert response.status == 409
        assert slow.service.cancelled.is_set()


async def test_a_stream_that_has_begun_has_no_deadline() -> None:
    """A timeout is for the beginning of a response."""
    async with pubsubtest.serve(Slow) as slow, slow.http.get("/stream") as response:
        assert await response.text() == "whole"


@pytest.mark.parametrize(("asked", "most"), [(None, 20), ("60", 20), ("5", 5)])
async def test_the_earlier_deadline_counts(asked: str | None, most: float) -> None:
    """The timeouts of the endpoint and of the caller become one deadline."""
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
def test_a_caller_can_send_its_timeout(headers: dict[str, str], seconds: float) -> None:
    """It is in either header; X-Request-Timeout wins over grpc-timeout."""
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
def test_a_malformed_timeout_is_a_bad_request(name: str, value: str) -> None:
    """This holds for both headers."""
    with pytest.raises(Problem) as caught:
        callers_timeout({name: value})
    assert caught.value.status == 400


async def test_each_deadline_expires_once_and_in_order() -> None:
    """The order of adding does not matter; removed ones do not expire."""
    expired: asyncio.Queue[str] = asyncio.Queue()
    deadlines = Deadlines[str](expired.put_nowait)
    now = time.monotonic()
    for name, seconds in (("c", 0.6), ("x", 0.2), ("a", 0.2), ("b", 0.4), ("past", -1)):
        deadlines.add(name, now + seconds)
    deadlines.remove("x")
    async with asyncio.timeout(PATIENCE):
        assert [await expired.get() for _ in range(4)] == ["past", "a", "b", "c"]
    deadlines.close()
    assert expired.empty()


@pytest.mark.parametrize("asked", ["1111s" * 12 + "!", "1111s" * 600 + "!", "1" * 3_000 + "!"])
async def test_a_malformed_timeout_is_parsed_in_linear_time(asked: str) -> None:
    """A long text blocked the event loop for 8 s, also for /livez (issue 11)."""
    async with pubsubtest.serve(Slow) as slow:
        began = time.process_time()
        headers = {"X-Request-Timeout": asked}
        async with slow.http.get("/livez", headers=headers) as response:
            assert response.status == 400
        assert time.process_time() - began < 1
