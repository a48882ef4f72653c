"""A loop that is blocked for longer than the broker waits is logged, and shown in the health."""

from __future__ import annotations

import asyncio
from time import perf_counter

import pytest

from gizmopy.pubsub import Message
from gizmopy.pubsub.engine.loop_watch import LoopWatch
from gizmopy.pubsub.engine.observer import Observer
from tests.pubsub.support import Bench, capabilities, until


class Blocked:
    """A clock, and a sleep that takes longer than it should by each of ``delays``."""

    def __init__(self, *delays: float) -> None:
        self.now = 100.0
        self.pauses: list[float] = []
        self._delays = [*delays]

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if not self._delays:
            raise asyncio.CancelledError
        self.pauses.append(seconds)
        self.now += seconds + self._delays.pop(0)


async def _watch(clock: Blocked, **limits: float | None) -> LoopWatch:
    """Watch until the delays of the clock are used up."""
    watch = LoopWatch(
        capabilities(**limits),
        Observer(),
        name="cats/svc",
        handler="Cats.on_cat",
        clock=clock,
        sleep=clock.sleep,
    )
    with pytest.raises(asyncio.CancelledError):
        await watch.run()
    return watch


@pytest.mark.parametrize("limits", [{"lease": 6.0}, {"silence": 6.0}, {"lease": 30, "silence": 6}])
async def test_a_blockage_names_the_handler_and_the_cure(
    limits: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    """The warning has the subscription, both times, the handler, and what to do."""
    watch = await _watch(Blocked(8.0), **limits)
    problem = (
        "the event loop was blocked for 8.0 s, and the broker waits 6 s for this process: it "
        "delivers the messages of Cats.on_cat again, those that were handled, too"
    )
    assert watch.problem == problem
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"cats/svc: {problem}; if Cats.on_cat blocks, let it run")
    assert "asyncio.to_thread" in record.getMessage()


async def test_a_shorter_blockage_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """As long as the broker waits, no message comes again."""
    watch = await _watch(Blocked(0.0, 5.9, 0.1), silence=6.0)
    assert not watch.problem
    assert not caplog.records


async def test_the_warning_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that blocks for each message is not a line each."""
    clock = Blocked(*[8.0] * 14)  # 9 s each
    await _watch(clock, silence=6.0)
    assert len(caplog.records) == 2


async def test_the_health_shows_it_for_a_minute_or_twice_its_time() -> None:
    """So it is shown without a gap while one blockage follows another."""
    for seconds, shown in ((8.0, 60), (100.0, 200)):
        clock = Blocked(seconds)
        watch = await _watch(clock, silence=6.0)
        clock.now += shown - 0.5
        assert watch.problem
        clock.now += 1
        assert not watch.problem


async def test_a_short_limit_is_watched_more_often() -> None:
    """A pause is at most a tenth of the limit, and a second."""
    for limit, pause in ((1.0, 0.1), (300.0, 1.0)):
        clock = Blocked(0.0)
        await _watch(clock, lease=limit)
        assert clock.pauses == [pause]


async def test_a_broker_that_waits_for_ever_is_not_watched() -> None:
    """Without a lease and without heartbeats, nothing is lost."""
    clock = Blocked(8.0)
    watch = LoopWatch(
        capabilities(), Observer(), name="", handler="", clock=clock, sleep=clock.sleep
    )
    await watch.run()
    assert not clock.pauses


async def test_a_subscriber_reports_its_blocked_loop(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that blocks for longer than a lease is a problem of its subscriber."""

    async def block(_: Message) -> None:
        end = perf_counter() + 0.1
        while perf_counter() < end:
            pass

    bench = Bench(block, capabilities(silence=0.05))
    async with bench.subscriber:
        task = asyncio.create_task(bench.subscriber.run())
        bench.receiver.put(Message("t", b"1"))
        await until(lambda: bench.subscriber.problem)
        assert "the event loop was blocked for" in bench.subscriber.problem
        assert bench.subscriber.subscription.name in caplog.text
        assert bench.metric("blocked") == 1
        await bench.subscriber.drain(1)
        await task
