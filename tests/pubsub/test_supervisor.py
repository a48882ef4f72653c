"""A subscriber that fails or hangs is replaced, and health reports the reason meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import pytest

from gizmopy.errors import PubSubError, TopicNotFound
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import DrainReport, Status, Subscriber
from gizmopy.pubsub.supervisor import Supervisor
from tests.pubsub.support import (
    Bench,
    FakeReceiver,
    Gate,
    HandlerBody,
    always,
    capabilities,
    message,
    no_wait,
    nothing,
    subscription_of,
    turns,
    until,
)

TRANSIENT = PubSubError("the broker is away", transient=True)
SOON = 0.005
"""Seconds between two looks."""


class Receiver(FakeReceiver):
    """Is stalled if the test says so."""

    stalled = ""
    backlog: int | None = None

    def status(self) -> Status:
        return Status(stalled=self.stalled, backlog=self.backlog)


class Watch:
    """A supervisor, with all the receivers that its subscribers have had."""

    def __init__(self, handler: HandlerBody, connects: list[list[Exception]]) -> None:
        self.handler = handler
        self.connects = connects
        self.receivers: list[Receiver] = []
        self.metrics = Metrics()
        self.sleeps: list[float] = []
        self.wait = asyncio.Event()
        self.wait.set()
        self.supervisor = Supervisor(
            self.make, metrics=self.metrics, sleep=self.sleep, check_every=SOON
        )

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await self.wait.wait()

    def make(self) -> Subscriber:
        receiver = Receiver()
        if self.connects:
            receiver.connects = self.connects.pop(0)
        self.receivers.append(receiver)
        return Subscriber(
            receiver,
            subscription_of(self.handler, order="key"),
            topic="t",
            capabilities=capabilities(),
            metrics=self.metrics,
            sleep=self.sleep,
        )

    @property
    def current(self) -> Receiver:
        return self.receivers[-1]

    @property
    def restarts(self) -> float:
        counter = self.metrics.counter("gizmo_pubsub_restarts", "", ("topic", "subscription"))
        return counter.child("t", "s").value

    async def kill(self, error: Exception) -> None:
        """Let the running subscriber fail."""
        dying = self.current
        await until(lambda: dying.limits)
        dying.fail_receive(error)
        await until(lambda: dying.closed)


@asynccontextmanager
async def watching(
    handler: HandlerBody = nothing, connects: list[list[Exception]] | None = None
) -> AsyncIterator[Watch]:
    """Run a supervisor while the context lasts, and drain it."""
    watch = Watch(handler, connects or [])
    async with watch.supervisor:
        task = asyncio.create_task(watch.supervisor.run())
        yield watch
        await watch.supervisor.drain(5)
        await asyncio.wait_for(task, 5)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a bug"),
        PubSubError("no permission", transient=False),
        TopicNotFound("no queue"),
    ],
)
async def test_a_subscriber_that_fails_is_replaced(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """After any error: its receiver is closed, the next one consumes, and it is counted."""
    async with watching() as watch:
        await watch.kill(error)
        await until(lambda: len(watch.receivers) == 2)
        watch.current.put(message())
        await until(lambda: watch.current.acked)
        assert watch.restarts == 1
        assert watch.receivers[0].closed
        assert not watch.current.closed
    assert "the subscriber of t/s failed" in caplog.text
    assert str(error) in caplog.text


async def test_a_failing_subscriber_gives_its_messages_back() -> None:
    """None of them is acked."""
    gate = Gate()
    async with watching(gate) as watch:
        watch.current.put(message(id="1"))
        await until(lambda: gate.started)
        await watch.kill(RuntimeError("a bug"))
        assert [m.id for m, _ in watch.receivers[0].nacked] == ["1"]
        assert watch.receivers[0].acked == []


async def test_a_failure_is_a_problem_until_the_next_subscriber_works() -> None:
    """Health reports why nothing is consumed, and recovers afterwards."""
    async with watching() as watch:
        assert watch.supervisor.problem == ""
        watch.wait.clear()
        await watch.kill(RuntimeError("a bug"))
        await until(lambda: watch.sleeps)
        assert watch.supervisor.problem == "RuntimeError: a bug"
        assert watch.supervisor.connected  # it was
        watch.wait.set()
        await until(lambda: watch.supervisor.problem == "")
        assert len(watch.receivers) == 2


async def test_the_wait_grows_with_each_failure() -> None:
    """A subscriber that fails again and again does not load the broker."""
    async with watching() as watch:
        for _ in range(7):
            await watch.kill(RuntimeError("a bug"))
            await until(lambda: not watch.current.closed)
    assert len(watch.sleeps) == 7
    for number, delay in enumerate(watch.sleeps):
        assert 0 <= delay <= min(60, 2**number)


async def test_a_stalled_subscriber_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    """Its driver has reported the reason; it is drained, and the next one starts."""
    async with watching() as watch:
        first = watch.current
        first.stalled = "the group has lost this member"
        await until(lambda: len(watch.receivers) == 2)
        assert first.closed
        await until(lambda: watch.supervisor.problem == "")
        assert watch.restarts == 1
    assert "the subscriber of t/s makes no progress: the group has lost this member" in caplog.text


async def test_a_stalled_subscriber_finishes_its_running_handlers() -> None:
    """If they do not take long."""
    gate = Gate()
    async with watching(gate) as watch:
        first = watch.current
        first.put(message(id="1"))
        await until(lambda: gate.started)
        first.stalled = "its client died"
        await until(lambda: watch.supervisor.problem)
        gate.open.set()
        await until(lambda: len(watch.receivers) == 2)
        assert [m.id for m in first.acked] == ["1"]


async def test_a_receive_that_does_not_return_is_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was asked to wait for 10 s only."""
    async with watching() as watch:
        await until(lambda: watch.current.limits)
        with monkeypatch.context() as patch:
            later = perf_counter() + 41
            patch.setattr("gizmopy.pubsub.engine.intake.perf_counter", lambda: later)
            await until(lambda: len(watch.receivers) == 2)


async def test_a_broker_that_is_away_is_not_a_stall() -> None:
    """The subscriber retries by itself; health reports the reason."""
    async with watching(connects=[[TRANSIENT, TRANSIENT]]) as watch:
        await until(lambda: watch.current.limits)
        watch.current.put(message())
        await until(lambda: watch.current.acked and not watch.supervisor.problem)
        assert watch.restarts == 0


async def test_health_reports_a_broker_that_was_never_reached() -> None:
    """Until it is reached."""
    watch = Watch(nothing, [[TRANSIENT, TRANSIENT]])
    watch.wait.clear()
    async with watch.supervisor:
        assert not watch.supervisor.connected
        assert watch.supervisor.problem == "cannot reach the broker yet: the broker is away"


async def test_a_fatal_error_at_the_start_is_raised() -> None:
    """The receiver is closed, because the context is never left."""
    watch = Watch(nothing, [[TopicNotFound("no queue")]])
    with pytest.raises(TopicNotFound):
        await watch.supervisor.__aenter__()
    assert watch.current.closed
    assert watch.restarts == 0


async def test_a_fatal_error_after_the_start_is_retried() -> None:
    """Queues are recreated while a daemon runs; failed receivers are closed."""
    connects: list[list[Exception]] = [
        [],
        [TopicNotFound("no queue")],
        [TopicNotFound("no queue")],
        [],
    ]
    async with watching(connects=connects) as watch:
        await watch.kill(TopicNotFound("no queue"))
        await until(lambda: len(watch.receivers) == 4)
        watch.current.put(message())
        await until(lambda: watch.current.acked)
        assert [receiver.closed for receiver in watch.receivers] == [True, True, True, False]
        assert watch.restarts == 3


@pytest.mark.parametrize("end", ["drain", "stop_receiving", "begin_drain"])
async def test_a_drain_between_two_subscribers_makes_no_other_one(end: str) -> None:
    """The wait before the next one ends at once."""
    watch = Watch(nothing, [])
    async with watch.supervisor:
        task = asyncio.create_task(watch.supervisor.run())
        watch.wait.clear()
        await watch.kill(RuntimeError("a bug"))
        await until(lambda: watch.sleeps)
        if end == "drain":
            assert await watch.supervisor.drain(5) == DrainReport()
        else:
            getattr(watch.supervisor, end)()
        await asyncio.wait_for(task, 5)
        assert len(watch.receivers) == 1


async def test_a_subscriber_that_fails_during_its_drain_is_not_replaced() -> None:
    """The drain ends the supervisor."""
    gate = Gate()
    async with watching(gate) as watch:
        watch.current.put(message())
        await until(lambda: gate.started)
        drain = asyncio.create_task(watch.supervisor.drain(60))
        await turns()
        watch.current.fail_receive(RuntimeError("a bug"))
        gate.open.set()
        await asyncio.wait_for(drain, 5)
    assert len(watch.receivers) == 1


async def test_a_drain_ends_the_run_and_reports() -> None:
    """The report is the subscriber's; a second drain returns the same one."""
    gate = Gate()
    watch = Watch(gate, [])
    async with watch.supervisor:
        task = asyncio.create_task(watch.supervisor.run())
        watch.current.put(message(id="1", key="k"), message(id="2", key="k"))
        await until(lambda: gate.started)
        drain = asyncio.create_task(watch.supervisor.drain(60))
        await turns()
        gate.open.set()
        assert await drain == await watch.supervisor.drain(0) == (1, 1, 0, 0)
        await asyncio.wait_for(task, 5)
    assert watch.restarts == 0


async def test_a_run_that_is_cancelled_ends_its_subscriber() -> None:
    """Its messages are given back before the cancellation ends."""
    gate = Gate()
    watch = Watch(gate, [])
    async with watch.supervisor:
        task = asyncio.create_task(watch.supervisor.run())
        watch.current.put(message())
        await until(lambda: gate.started)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert watch.current.closed
        assert len(watch.current.nacked) == 1


async def test_a_scrape_measures_the_running_subscriber() -> None:
    """And not the one before."""
    gate = Gate()
    async with watching(gate) as watch:
        await watch.kill(RuntimeError("a bug"))
        await until(lambda: len(watch.receivers) == 2)
        watch.current.put(message(), message())
        await until(lambda: gate.started)
        assert float(_line(watch, "gizmo_pubsub_in_flight{").rpartition(" ")[2]) == 2
        gate.open.set()


def _line(watch: Watch, start: str) -> str:
    lines = watch.metrics.render().decode().splitlines()
    return next(line for line in lines if line.startswith(start))


async def test_stuck_messages_are_those_of_the_running_subscriber() -> None:
    """The stuck messages of the one before are delivered to its successor."""
    async with watching(always(ValueError())) as watch:
        watch.current.put(message(key="k"))
        await until(lambda: watch.supervisor.stuck == 1)
        await watch.kill(RuntimeError("a bug"))
        await until(lambda: len(watch.receivers) == 2)
        assert watch.supervisor.stuck == 0


async def test_a_supervisor_is_idle_if_nothing_is_in_flight() -> None:
    """And nothing is queued, as far as its driver knows."""
    gate = Gate()
    async with watching(gate) as watch:
        watch.current.put(message())
        await until(lambda: gate.started)
        assert not watch.supervisor.is_idle
        gate.open.set()
        async with asyncio.timeout(5):
            await watch.supervisor.idle()
        assert watch.supervisor.is_idle
        watch.current.backlog = 1
        assert not watch.supervisor.is_idle
        watch.current.backlog = 0


async def test_a_supervisor_ends_while_the_next_subscriber_connects() -> None:
    """A drain ends at its deadline if a replacement hangs in connect."""
    first, second = FakeReceiver(), _NeverConnects()
    made = iter([first, second])
    supervisor = Supervisor(
        lambda: Bench(nothing, capabilities(), receiver=next(made)).subscriber,
        metrics=Metrics(),
        sleep=no_wait,
    )
    async with supervisor:
        task = asyncio.create_task(supervisor.run())
        await until(lambda: first.limits)
        first.fail_receive(ValueError("a bug"))
        await until(lambda: second.connecting)
        await supervisor.drain(0.01)
        done, _ = await asyncio.wait([task], timeout=3)
        task.cancel()
        assert done


class _NeverConnects(FakeReceiver):
    connecting = False

    async def connect(self, revoke: object) -> None:
        self.connecting = True
        await asyncio.Event().wait()


@pytest.mark.parametrize("where", ["connect", "make"])
async def test_a_supervisor_retries_any_error_of_the_next_subscriber(where: str) -> None:
    """Also an unexpected error of a driver, when the next one is made or connected."""
    first, last = FakeReceiver(), FakeReceiver()
    second = FakeReceiver()
    second.connects = [OSError("odd")]
    receivers: list[FakeReceiver | None] = [first, second, last]
    if where == "make":
        receivers = [first, None, last]

    def make() -> Any:
        receiver = receivers.pop(0)
        if receiver is None:
            raise OSError("odd")
        return Bench(nothing, capabilities(), receiver=receiver).subscriber

    supervisor = Supervisor(make, metrics=Metrics(), sleep=no_wait)
    async with supervisor:
        task = asyncio.create_task(supervisor.run())
        await until(lambda: first.limits)
        first.fail_receive(ValueError("a bug"))
        await until(lambda: last.limits or task.done())
        assert not task.done()
        await supervisor.drain(0)
        await task
