"""throttle: a limit on how many messages are handled per second."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gizmopy.errors import UsageError
from gizmopy.pubsub import Message
from gizmopy.pubsub.middleware import throttle
from tests.pubsub.support import FakeClock, message, nothing, running, turns, until


class Waits:
    """A sleep that returns at once, and remembers how long it would have lasted."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


async def test_messages_begin_at_the_rate() -> None:
    """After the first, each message waits until the rate allows it."""
    clock, waits = FakeClock(), Waits()
    handler = throttle(10, clock=clock.time, sleep=waits)(nothing)
    for _ in range(4):
        await handler(message())
    assert waits.seconds == pytest.approx([0.1, 0.2, 0.3])


async def test_a_burst_begins_at_once() -> None:
    """A burst starts together, again after each pause that is long enough."""
    clock, waits = FakeClock(), Waits()
    handler = throttle(10, burst=3, clock=clock.time, sleep=waits)(nothing)
    for _ in range(4):
        await handler(message())
    assert waits.seconds == pytest.approx([0.1])
    clock.advance(60)
    for _ in range(4):
        await handler(message())
    assert waits.seconds == pytest.approx([0.1, 0.1])


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 5),
    gaps=st.lists(st.floats(0, 10), min_size=1, max_size=50),
)
def test_no_window_holds_more_than_the_rate_and_a_burst(
    rate: float, burst: int, gaps: list[float]
) -> None:
    """In any time, at most the rate plus one burst starts."""
    clock, begun = FakeClock(), list[float]()

    async def sleep(seconds: float) -> None:
        begun[-1] += seconds

    async def arrive() -> None:
        handler = throttle(rate, burst, clock=clock.time, sleep=sleep)(nothing)
        for gap in gaps:
            clock.advance(gap)
            begun.append(clock.now)
            await handler(message())

    asyncio.run(arrive())
    assert begun == sorted(begun)
    for first, start in enumerate(begun):
        for last, end in enumerate(begun[first:], start=first):
            assert last - first + 1 <= burst + rate * (end - start) + 1e-6


async def test_a_waiting_message_keeps_its_place() -> None:
    """While messages wait, no more are received than there is room for."""
    gate = asyncio.Event()
    handled = []

    async def sleep(_: float) -> None:
        await gate.wait()

    async def handler(received: Message) -> None:
        handled.append(received.id)

    throttled = throttle(1, clock=FakeClock().time, sleep=sleep)(handler)
    async with running(throttled, max_in_flight=2) as bench:
        bench.receiver.put(*(message(id=str(number)) for number in range(6)))
        await until(lambda: handled)
        await turns()
        assert handled == ["0"]
        assert len(bench.receiver.queue) == 3
        gate.set()
        await until(lambda: len(bench.settled) == 6)
    assert handled == ["0", "1", "2", "3", "4", "5"]


async def test_each_handler_has_the_rate_for_itself() -> None:
    """One middleware around two handlers has two rates."""
    clock, waits = FakeClock(), Waits()
    wrap = throttle(1, clock=clock.time, sleep=waits)
    for handler in (wrap(nothing), wrap(nothing)):
        await handler(message())
    assert not waits.seconds


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_invalid_arguments_are_rejected(rate: float, burst: int) -> None:
    """Invalid arguments raise UsageError at the declaration."""
    with pytest.raises(UsageError, match="use a rate above 0 and a burst of 1 or more"):
        throttle(rate, burst)
