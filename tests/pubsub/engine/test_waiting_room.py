"""Messages that wait without working: they keep no others from being received, and are bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gizmopy import Message, Reject, Retry, subscribe
from gizmopy.errors import DeclarationError
from gizmopy.pubsub import RetryPolicy
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.engine.sizes import MESSAGE_BYTES
from gizmopy.pubsub.engine.waiting_room import WaitingRoom
from tests.pubsub.engine.support import Gates, Member, broker_of, send
from tests.pubsub.log_broker import LogBroker
from tests.pubsub.support import (
    Bench,
    Gate,
    capabilities,
    lose_lease,
    message,
    running,
    subscription_of,
    turns,
    until,
)

# The room.


def waits(partition: Hashable = 0, size: int = 1) -> Message:
    """Return a message of a partition that takes ``size`` bytes."""
    each = message(partition=partition)
    each._size = size
    return each


def test_a_partition_is_full_at_its_number_of_messages() -> None:
    """Another partition is not."""
    room = WaitingRoom(2, 100, by_partition=True)
    changes: list[tuple[Hashable, bool]] = []
    room.on_full = lambda *change: changes.append(change)
    first, second, other = waits(), waits(), waits(1)
    for each in (first, other, second):
        room.enter(each)
    assert (room.full, room.messages, room.bytes) == ({0}, 3, 3)
    room.leave(other)
    assert room.is_half_full(first)
    assert not room.is_half_full(other)
    room.leave(second)
    assert not room.full
    assert changes == [(0, True), (0, False)]


def test_a_partition_is_full_at_its_bytes() -> None:
    """One message may exceed them."""
    room = WaitingRoom(10, 100, by_partition=True)
    large = waits(size=500)
    room.enter(large)
    assert room.full == {0}
    room.leave(large)
    assert (room.full, room.bytes) == (set(), 0)


def test_a_broker_without_partitions_has_one_room() -> None:
    """In memory each key is a partition: a room for each would be no bound."""
    room = WaitingRoom(2, 100, by_partition=False)
    room.enter(waits("a"))
    room.enter(waits("b"))
    assert room.full == {None}


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60)), max_size=20), st.data())
def test_the_room_is_empty_when_all_have_left(
    given_: list[tuple[int, int]], data: st.DataObject
) -> None:
    """In any order of entering and leaving, it is full exactly at a bound."""
    room = WaitingRoom(3, 100, by_partition=True)
    inside: list[Message] = []
    left = [waits(*each) for each in given_]
    while left or inside:
        if left and (not inside or data.draw(st.booleans())):
            inside.append(left.pop())
            room.enter(inside[-1])
        else:
            room.leave(inside.pop(data.draw(st.integers(0, len(inside) - 1))))
        for partition in range(3):
            here = [m for m in inside if m.partition == partition]
            is_full = len(here) >= 3 or sum(m._size for m in here) >= 100
            assert (partition in room.full) == is_full
    assert (room.messages, room.bytes, room.full, room._used) == (0, 0, set(), {})


@pytest.mark.parametrize("option", ["max_waiting", "max_waiting_bytes"])
def test_a_room_has_a_place(option: str) -> None:
    """With none, a failed message could not wait."""
    bound: dict[str, Any] = {option: 0}
    with pytest.raises(DeclarationError, match=f"{option}=0"):
        subscribe("cats", **bound)(on_cat)


async def on_cat(message: Message) -> None:
    """Handle a cat."""


# Others are received.


async def forever(_: float) -> None:
    """Let a retry wait without end."""
    await asyncio.Event().wait()


def failing_on(letter: str, error: Callable[[], Exception]) -> Any:
    """Return a handler that fails on messages whose id begins with ``letter``."""
    handled: list[str] = []

    async def handle(received: Message) -> None:
        if received.id.startswith(letter):
            raise error()
        handled.append(received.id)

    handle.handled = handled  # type: ignore[attr-defined]  # for the test
    return handle


async def _refuse(dead: Message) -> None:
    raise TimeoutError


async def _hang(dead: Message) -> None:
    await asyncio.Event().wait()


def in_other_partitions(broker: LogBroker, letter: str, count: int) -> list[Message]:
    """Return messages with distinct keys of one partition; its number is that of the letter."""
    messages = []
    for number in range(100_000):
        key = f"{letter}{number}"
        if broker.place(key) == ord(letter) % 2:
            messages.append(Message("t", b"x", id=key, key=key))
        if len(messages) == count:
            break
    return messages


@pytest.mark.parametrize(
    ("error", "dead_letter"),
    [
        (lambda: ValueError(), None),
        (lambda: ValueError(), _refuse),
        (lambda: Reject("no"), _hang),
        (lambda: Reject("no"), None),
        (lambda: Retry(after=60), None),
        (lambda: Retry(after=60, counted=False), None),
    ],
    ids=["fails", "no dead letters", "slow dead letters", "rejected", "later", "postponed"],
)
@pytest.mark.parametrize("order", ["key", "none"])
async def test_a_partition_that_fails_stops_no_other(
    order: str, error: Callable[[], Exception], dead_letter: Callable[[Message], Awaitable[None]]
) -> None:
    """150 messages of one partition fail, and those of the other are handled with the defaults."""
    handle = failing_on("b", error)
    options = {"retry": RetryPolicy(attempts=100, base=60, cap=60), "order": order}
    if dead_letter is not None or isinstance(error(), Reject):
        options["retry"] = RetryPolicy(attempts=1)
    async with broker_of(partitions=2) as broker:
        bad, good = in_other_partitions(broker, "b", 150), in_other_partitions(broker, "a", 10)
        await broker.sender("t").send(bad)
        member = Member(
            broker, handle, concurrency=10, sleep=forever, dead_letter=dead_letter, **options
        )
        async with member:
            await until(lambda: member.subscriber._pipeline.in_flight.waiting.messages == 150)
            await broker.sender("t").send(good)
            await until(lambda: len(handle.handled) == 10)
            await until(lambda: member.metric("in_flight") == 150)
            await member.drain(0)


async def test_messages_that_are_postponed_in_memory_stop_no_others() -> None:
    """The default broker behaves like the others."""
    driver = MemoryDriver()
    handle = failing_on("bad", lambda: Retry(after=60, counted=False))
    options = {"receiver": driver.receiver("t", "s", ordered=False), "sleep": forever}
    async with running(handle, driver.capabilities, concurrency=10, **options) as bench:
        await driver.sender("t").send([message(id="bad") for _ in range(150)])
        await driver.sender("t").send([message(id="good") for _ in range(10)])
        await until(lambda: len(handle.handled) == 10)
        assert waiting(bench)[0] == 150
        await bench.subscriber.drain(0)


async def test_messages_that_wait_for_their_turn_stop_no_others() -> None:
    """A slow key with more messages than ``max_in_flight`` is one message at work."""
    gates = Gates()
    gates.open(*(f"b{n}" for n in range(5)))
    async with running(gates, order="key", concurrency=2, max_in_flight=3) as bench:
        bench.receiver.put(*(message(id=f"a{n}", key="slow") for n in range(20)))
        bench.receiver.put(*(message(id=f"b{n}", key=f"b{n}") for n in range(5)))
        await until(lambda: len(gates.finished) == 5)
        assert gates.started[0] == "a0"
        assert waiting(bench) == (19, 19 * (MESSAGE_BYTES + 2 + 4))
        gates.open(*(f"a{n}" for n in range(20)))
        await until(lambda: len(bench.settled) == 25)
        assert gates.finished[5:] == [f"a{n}" for n in range(20)]
        assert waiting(bench) == (0, 0)


def waiting(bench: Bench) -> tuple[float, float]:
    """Return the gauges of messages that wait, and of their bytes."""
    bench.subscriber.measure()
    names = ("gizmo_pubsub_waiting", "gizmo_pubsub_waiting_bytes")
    messages, bytes_ = (bench.metrics.gauge(name, "").child("t", "s").value for name in names)
    return messages, bytes_


# A full room.


async def test_a_full_room_stops_its_partition_alone() -> None:
    """It is reported, with the remedy."""
    handle = failing_on("b", lambda: Retry(after=60, counted=False))
    async with broker_of(partitions=2) as broker:
        bad, good = in_other_partitions(broker, "b", 50), in_other_partitions(broker, "a", 10)
        await broker.sender("t").send(bad)
        member = Member(
            broker, handle, concurrency=2, max_in_flight=4, max_waiting=5, sleep=forever
        )
        async with member:
            await until(lambda: member.receiver.paused == {0})
            await broker.sender("t").send(good)
            await until(lambda: len(handle.handled) == 10)
            assert member.subscriber._pipeline.in_flight.waiting.messages <= 5 + 4
            problem = member.subscriber.waiting_problem
            assert "of partition 0 is received" in problem
            assert "max_waiting=" in problem
            await member.drain(0)


async def test_a_room_that_gets_free_resumes_its_partition() -> None:
    """All messages are handled in the end, each as often as it is postponed."""
    attempts: dict[str, int] = {}

    async def handle(received: Message) -> None:
        attempts[received.id] = attempts.get(received.id, 0) + 1
        if attempts[received.id] == 1:
            raise Retry(after=60, counted=False)

    async with broker_of(partitions=2) as broker:
        await send(broker, *(f"{letter}{n}" for n in range(40) for letter in "abcd"))
        async with Member(broker, handle, order="key", max_in_flight=4, max_waiting=3):
            await until(lambda: broker.is_consumed("t", "s"))
    assert len(attempts) == 160
    assert set(attempts.values()) == {2}


async def test_without_pauses_a_full_room_stops_the_intake() -> None:
    """A broker that has no partitions has one room."""
    gate = Gate()
    async with running(gate, order="key", max_in_flight=3, max_waiting=4) as bench:
        bench.receiver.put(*(message(id=str(n), key="slow") for n in range(20)))
        await until(lambda: gate.started)
        await turns()
        messages, _ = waiting(bench)
        assert 4 <= messages <= 4 + 3
        assert len(bench.receiver.queue) == 20 - 1 - messages
        assert "no more is received" in bench.subscriber.waiting_problem
        gate.open.set()
        await until(lambda: len(bench.settled) == 20)
        assert bench.subscriber.waiting_problem == ""


async def test_a_message_that_finds_no_room_goes_back_to_a_broker_that_can_hold_it() -> None:
    """It is nacked with its delay, as long as no order forbids that."""
    handle = failing_on("b", lambda: Retry(after=20))
    can = capabilities(lease=60.0)
    options = {"max_in_flight": 2, "max_waiting": 6, "sleep": forever}
    async with running(handle, can, **options) as bench:
        bench.receiver.put(*(message(id=f"b{n}") for n in range(10)))
        bench.receiver.put(*(message(id=f"a{n}") for n in range(5)))
        await until(lambda: len(handle.handled) == 5)
        assert {delay for _, delay in bench.receiver.nacked} == {20}
        assert len(bench.receiver.nacked) == 10 - 3


async def test_a_postponed_message_does_not_go_back_for_want_of_room() -> None:
    """That would count a delivery: an outage of a service would make dead letters."""
    handle = failing_on("b", lambda: Retry(after=20, counted=False))
    options = {"max_in_flight": 2, "max_waiting": 3, "sleep": forever}
    async with running(handle, capabilities(lease=60.0), **options) as bench:
        bench.receiver.put(*(message(id=f"b{n}") for n in range(10)))
        await until(lambda: bench.subscriber.waiting_problem)
        await turns()
        assert bench.receiver.nacked == []
        assert len(bench.receiver.queue) >= 10 - 3 - 2


# The messages that wait leave the room however they end.


@pytest.mark.parametrize("order", ["none", "key"])
async def test_lost_messages_leave_the_room(order: str) -> None:
    """Those that wait for a retry, and those that wait behind them."""
    handle = failing_on("b", lambda: Retry(after=20, counted=False))
    async with running(handle, order=order, sleep=forever) as bench:
        bench.receiver.put(*(message(id=f"b{n}", key="b") for n in range(3)))
        await until(lambda: waiting(bench)[0] == 3)
        for each in list(bench.subscriber._pipeline.in_flight):
            lose_lease(bench.subscriber, each)
        await until(lambda: not bench.subscriber._pipeline.in_flight)
        assert waiting(bench) == (0, 0)


async def test_revoked_messages_leave_the_room() -> None:
    """Also one whose dead letter hangs: its publishing is cancelled in time."""
    handle = failing_on("b", lambda: Reject("no"))
    async with broker_of(partitions=1, rebalance_seconds=0.5) as broker:
        await send(broker, *(f"b{n}" for n in range(3)))
        member = Member(broker, handle, order="key", dead_letter=_hang)
        async with member:
            pipeline = member.subscriber._pipeline
            await until(lambda: pipeline.in_flight.waiting.messages == 3)
            await broker.rebalance("t", "s")
            # They come again, and none of the old ones is left.
            await until(lambda: pipeline.in_flight.waiting.messages == 3)
            assert len(pipeline.in_flight) == 3
            await member.drain(0)
            assert pipeline.in_flight.waiting.messages == 0
    assert broker.committed("t", "s") == {}


async def test_a_drain_waits_for_dead_letters() -> None:
    """A dead letter that is under way is confirmed, and its message is acked."""
    confirm = asyncio.Event()

    async def publish(dead: Message) -> None:
        await confirm.wait()

    handle = failing_on("b", lambda: Reject("no"))
    async with running(handle, dead_letter=publish) as bench:
        bench.receiver.put(message(id="b"))
        await until(lambda: waiting(bench)[0] == 1)
        drain = asyncio.create_task(bench.subscriber.drain(5))
        await turns()
        assert not drain.done()
        confirm.set()
        assert (await drain).finished == 1
        assert bench.outcomes == [("b", "dead_letter")]


async def test_a_drain_gives_up_a_dead_letter_at_its_deadline() -> None:
    """Its message is given back, not acked."""
    handle = failing_on("b", lambda: Reject("no"))
    async with running(handle, dead_letter=_hang) as bench:
        bench.receiver.put(message(id="b"))
        await until(lambda: waiting(bench)[0] == 1)
        assert (await bench.subscriber.drain(0)).cancelled == 1
        assert bench.outcomes == [("b", "nack")]
        assert waiting(bench) == (0, 0)


async def test_a_handler_that_changes_the_key_leaves_no_lane_closed() -> None:
    """The lane of a message is the one that it came in."""

    async def handle(received: Message) -> None:
        received.key = "another"

    async with running(handle, order="key") as bench:
        bench.receiver.put(*(message(id=str(n), key="k") for n in range(3)))
        await until(lambda: len(bench.settled) == 3)


def test_the_bounds_have_defaults() -> None:
    """They hold for a subscription that does not mention them."""
    declared = subscription_of(on_cat)
    assert (declared.max_waiting, declared.max_waiting_bytes) == (10_000, 16 * 1024 * 1024)
