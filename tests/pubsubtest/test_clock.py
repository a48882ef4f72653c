"""Clock: sleeps and calls at times that the test moves to."""

import asyncio
from functools import partial

import pytest

from gizmopy.errors import UsageError
from gizmopy.pubsub import Message
from gizmopy.pubsub.brokers.memory import MemoryDriver
from pubsubtest import Clock


async def test_a_sleep_ends_at_its_time() -> None:
    """A sleep ends when the clock has moved that far, in any number of steps."""
    clock = Clock()
    sleeping = asyncio.create_task(clock.sleep(5))
    await clock.advance(3)
    await clock.advance(1.9)
    assert not sleeping.done()
    await clock.advance(0.1)
    assert sleeping.done()
    assert clock.time() == pytest.approx(5)


async def test_calls_run_in_order_at_their_times() -> None:
    """One large step is equivalent to many small ones; equal times keep their order."""
    clock = Clock()
    seen: list[tuple[str, float]] = []

    def note(name: str) -> None:
        seen.append((name, clock.time()))

    for name, when in (("c", 7.0), ("a", 2.0), ("b", 2.0)):
        clock.call_at(when, partial(note, name))
    await clock.advance(10)
    assert seen == [("a", 2), ("b", 2), ("c", 7)]
    assert clock.time() == 10


async def test_calls_scheduled_on_the_way_run_too() -> None:
    """A loop that sleeps a second runs ten times in ten seconds, each at its second."""
    clock = Clock()
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await clock.sleep(1)
            ticks.append(clock.time())

    ticking = asyncio.create_task(tick())
    await clock.advance(10)
    ticking.cancel()
    assert ticks == list(range(1, 11))


async def test_woken_tasks_run_before_the_next_call() -> None:
    """Tasks that wake each other all run before the next scheduled call."""
    clock = Clock()
    seen: list[float] = []

    async def hand_on(hops: int) -> None:
        if hops:
            await asyncio.create_task(hand_on(hops - 1))
        else:
            seen.append(clock.time())

    async def start() -> None:
        await clock.sleep(1)
        await hand_on(10)

    starting = asyncio.create_task(start())
    clock.call_at(1.5, lambda: None)
    await clock.advance(2)
    await starting
    assert seen == [1]


async def test_a_cancelled_call_does_not_run() -> None:
    """A cancelled call does not run, and a cancelled sleep leaves no call."""
    clock = Clock()
    clock.call_at(1, lambda: pytest.fail("it was taken back")).cancel()
    sleeping = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    sleeping.cancel()
    await clock.advance(2)
    assert sleeping.cancelled()


async def test_no_sleep_is_a_turn_of_the_loop() -> None:
    """sleep(0) does not wait for the clock."""
    clock = Clock()
    await clock.sleep(0)
    await clock.sleep(-1)
    assert clock.time() == 0


async def test_time_does_not_go_back() -> None:
    """Moving the clock by a negative time raises, and does not change it."""
    clock = Clock()
    await clock.advance(5)
    with pytest.raises(UsageError, match=r"advance\(-3\).*use 0 or more"):
        await clock.advance(-3)
    assert clock.time() == 5


async def test_the_memory_broker_uses_it() -> None:
    """A pending receive returns a message that was delayed by thirty seconds after that time."""
    clock = Clock()
    driver = MemoryDriver(clock=clock)
    receiver = driver.receiver("t", "s", ordered=False)
    await receiver.connect(_revoke)
    await driver.sender("t").send([Message("t", b"x", id="1")])
    await receiver.nack(await receiver.receive(10, 0), 30)
    pending = asyncio.create_task(receiver.receive(10, 1000))
    await clock.advance(29)
    assert not pending.done()
    await clock.advance(1)
    assert [(m.id, m.delivery) for m in pending.result()] == [("1", 2)]


async def _revoke(*_: object) -> None: ...
