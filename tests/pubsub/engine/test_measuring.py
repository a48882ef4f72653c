"""The figures that cost a call are asked for at intervals, and shown with their age."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gizmopy.errors import PubSubError
from gizmopy.pubsub.driver import Measured
from pubsubtest import Clock
from tests.pubsub.support import Bench, FakeReceiver, capabilities, nothing, turns


class Measurable(FakeReceiver):
    """A receiver that answers with ``answers``, then hangs."""

    def __init__(self, *answers: Measured | Exception) -> None:
        super().__init__()
        self.answers = [*answers]
        self.calls = 0
        self.was_cancelled = False

    async def measure(self) -> Measured:
        self.calls += 1
        if not self.answers:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.was_cancelled = True
                raise
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@asynccontextmanager
async def measuring(receiver: FakeReceiver, clock: Clock) -> AsyncIterator[Bench]:
    """Run a subscriber on ``clock`` while the context lasts."""
    bench = Bench(nothing, capabilities(), receiver=receiver, sleep=clock.sleep)
    async with bench.subscriber:
        bench.task = asyncio.create_task(bench.subscriber.run())
        await turns()
        yield bench
        await bench.subscriber.drain(1)
        await bench.task


def gauges(bench: Bench) -> dict[str, float]:
    """Return the gauges of what waits at the broker."""
    text = bench.metrics.render().decode()
    found = {}
    for name in ("backlog", "oldest_seconds", "held", "delayed", "measured_seconds"):
        for line in text.splitlines():
            if line.startswith(f"gizmo_pubsub_{name}{{"):
                found[name] = float(line.split()[-1])
    return found


def render(bench: Bench) -> dict[str, float]:
    """Scrape the gauges."""
    bench.subscriber.measure()
    return gauges(bench)


async def test_a_broker_is_asked_at_most_every_15_seconds() -> None:
    """It is asked by a task on the clock, and never by a scrape."""
    receiver, clock = Measurable(*[Measured(backlog=n) for n in range(9)]), Clock()
    async with measuring(receiver, clock) as bench:
        for _ in range(10):
            render(bench)
        assert receiver.calls == 1
        await clock.advance(14)
        assert receiver.calls == 1
        await clock.advance(2)
        assert receiver.calls == 2
        assert render(bench)["backlog"] == 1


async def test_figures_that_are_unknown_have_no_gauge() -> None:
    """A broker that knows no age shows none; a figure that is not known any more is NaN."""
    measured = Measured(backlog=7, in_flight=2, oldest=60.0)
    receiver, clock = Measurable(measured, Measured(backlog=3)), Clock()
    async with measuring(receiver, clock) as bench:
        found = render(bench)
        assert 0 <= found.pop("measured_seconds") < 60
        assert found == {"backlog": 7, "held": 2, "oldest_seconds": 60}
        await clock.advance(15)
        found = render(bench)
        assert found["backlog"] == 3
        assert math.isnan(found["oldest_seconds"])


async def test_a_receiver_that_cannot_measure_has_only_its_status() -> None:
    """Nothing is asked for, and the gauges are those of the status."""
    async with measuring(FakeReceiver(), Clock()) as bench:
        assert render(bench) == {}


async def test_failures_are_logged_once_and_the_last_figures_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Their age shows that they are old; another failure after a success is logged again."""
    away = PubSubError("no answer", transient=True)
    answers: list[Measured | Exception] = [
        Measured(backlog=7),
        away,
        KeyError("x"),
        Measured(),
        away,
    ]
    receiver, clock = Measurable(*answers), Clock()
    with caplog.at_level(logging.WARNING, "gizmopy.pubsub.engine.measuring"):
        async with measuring(receiver, clock) as bench:
            await clock.advance(31)
            assert receiver.calls == 3
            assert len(caplog.records) == 1
            assert "t/s" in caplog.text
            assert "no answer" in caplog.text
            assert render(bench)["backlog"] == 7
            await clock.advance(30)
    assert len(caplog.records) == 2


async def test_a_measure_that_hangs_does_not_delay_the_drain() -> None:
    """It is cancelled."""
    receiver = Measurable()
    async with measuring(receiver, Clock()):
        pass
    assert receiver.was_cancelled


async def test_an_unreachable_broker_is_not_measured() -> None:
    """The receiver must be connected first."""
    receiver, clock = Measurable(Measured(backlog=1)), Clock()
    receiver.connects = [PubSubError("away", transient=True)] * 50
    async with measuring(receiver, clock):
        await clock.advance(1)
        assert receiver.calls == 0
