"""Messages in flight: how much room they leave, and which figures are reported."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gizmopy.pubsub import Message
from gizmopy.pubsub.engine.in_flight import InFlight
from gizmopy.pubsub.engine.sizes import ATTRIBUTE_BYTES, MESSAGE_BYTES, size_of
from tests.pubsub.engine.support import Gates, Member, broker_of, send
from tests.pubsub.support import Bench, Gate, message, running, turns, until


def in_flight(most: int = 10, most_bytes: int = 10**6) -> InFlight:
    """Return a new one with room for ``most`` messages."""
    return InFlight(most, most_bytes)


def gauge(bench: Bench, name: str) -> float:
    """Return the current value of a gauge."""
    bench.subscriber.measure()
    return bench.metrics.gauge(f"gizmo_pubsub_{name}", "").child("t", "s").value


def test_room_is_the_limit_minus_the_messages_in_flight() -> None:
    """Messages take up room when they arrive, and free it when they leave."""
    held = in_flight(most=3)
    first, second = message(), message()
    held.add([first, second])
    assert held.room == 1
    held.remove([first])
    assert held.room == 2


def test_there_is_no_room_while_messages_take_too_many_bytes() -> None:
    """One receive may exceed the bytes; the next one waits until they are below the limit."""
    held = in_flight(most_bytes=MESSAGE_BYTES + 100)
    small, large = message(b"x" * 99), message(b"x" * 5000)
    held.add([small])
    assert held.room == 9
    held.add([large])
    assert held.room == 0
    held.remove([small])
    assert held.room == 0
    held.remove([large])
    assert (held.room, held.bytes) == (10, 0)


def test_a_message_that_leaves_twice_is_counted_once() -> None:
    """A message may be lost and settled, in either order."""
    held = in_flight()
    one, other = message(b"abc"), message(b"de")
    held.add([one, other])
    assert list(held.remove([one])) == []
    assert list(held.remove([one, other])) == [one]
    assert (held.bytes, held.room) == (0, 10)


def test_waiters_are_notified_when_messages_leave() -> None:
    """They are notified also if the message had left before."""
    held = in_flight()
    held.remove([message()])
    assert held.changed.is_set()


def test_the_oldest_message_is_the_one_received_first() -> None:
    """The age is 0 if nothing is in flight."""
    held = in_flight()
    old, young = message(), message()
    held.add([old])
    held.add([young])
    held.received_at[old] -= 60
    held.received_at[young] -= 5
    assert 60 <= held.oldest_age < 65
    assert held.age(young) >= 5
    held.remove([old])
    assert 5 <= held.oldest_age < 60
    held.remove([young])
    assert held.oldest_age == 0


@given(
    st.lists(
        st.builds(
            message,
            st.none() | st.binary(max_size=5),
            key=st.none() | st.text(max_size=5),
            attributes=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
        ),
        max_size=12,
    ),
    st.lists(st.integers(0, 11), max_size=30),
)
def test_the_counts_match_the_messages_in_flight(batch: list[Message], leaves: list[int]) -> None:
    """In any order of leaving, tombstones included."""
    held = in_flight(most=12)
    held.add(batch)
    for number in leaves:
        held.remove(batch[number : number + 1])
    left = [each for n, each in enumerate(batch) if n not in leaves]
    assert len(held) == len(left)
    assert held.bytes == sum(size_of(each) for each in left)
    assert held.room == 12 - len(left)


MANY = {f"name{n}": "" for n in range(1000)}


@pytest.mark.parametrize(
    ("fields", "bytes_"),
    [
        ({"body": None}, 0),
        ({"key": "k" * 10**6}, 10**6),
        ({"key": "k" * 10**6 + "🐈"}, 4 * 10**6),
        ({"attributes": {"n": "v" * 10**6}}, 10**6),
        ({"attributes": {"n" * 10**6: "v"}}, 10**6),
        ({"attributes": {"n": "v" * 10**6 + "🐈"}}, 4 * 10**6),
        ({"attributes": MANY}, 1000 * ATTRIBUTE_BYTES),
        ({"body": b"x" * 10**6}, 10**6),
    ],
)
def test_every_field_that_a_sender_chooses_is_counted(fields: dict[str, Any], bytes_: int) -> None:
    """Body, key, and the names and values of attributes count as the memory that they take."""
    held = in_flight()
    one = message(**{"body": b"", **fields})
    held.add([message(b""), one])
    size = held.bytes - MESSAGE_BYTES
    assert size == size_of(one)
    assert MESSAGE_BYTES + bytes_ <= size <= MESSAGE_BYTES + 1.01 * bytes_ + 1000 + len(MANY) * 10
    held.remove([one])
    assert held.bytes == MESSAGE_BYTES


def test_attributes_that_change_are_counted_as_received() -> None:
    """A handler that adds or removes attributes does not change the count."""
    held = in_flight()
    attributes = {"n": "v" * 10**5}
    one = message(b"", attributes=attributes)
    held.add([one])
    attributes.clear()
    held.remove([one])
    assert held.bytes == 0


async def test_the_engine_receives_no_more_than_its_bytes() -> None:
    """With large bodies in flight nothing is received, although the count leaves room."""
    gate = Gate()
    async with running(gate, max_in_flight_bytes=1100) as bench:
        bench.receiver.put(message(b"x" * 200, id="1"))
        await until(lambda: gate.started)
        bench.receiver.put(message(id="2"))
        assert gauge(bench, "in_flight") == 1
        assert gauge(bench, "in_flight_bytes") == MESSAGE_BYTES + 200
        assert len(bench.receiver.queue) == 1
        gate.open.set()
        await until(lambda: len(bench.settled) == 2)
    assert gauge(bench, "in_flight_bytes") == 0


async def test_the_engine_receives_no_more_than_its_bytes_in_attributes() -> None:
    """A megabyte in an attribute counts like one in a body."""
    gate = Gate()
    async with running(gate, max_in_flight_bytes=2 * 10**6, concurrency=9) as bench:
        for number in range(5):
            attributes = {"a": "x" * 10**6}
            bench.receiver.put(message(b"", id=str(number), attributes=attributes))
            await turns()
        assert gauge(bench, "in_flight") == 2
        assert len(bench.receiver.queue) == 3
        gate.open.set()
        await until(lambda: len(bench.settled) == 5)
    assert gauge(bench, "in_flight_bytes") == 0


async def test_messages_that_wait_for_their_key_are_measured() -> None:
    """A slow key is visible in the metrics before it has used up the room of the others."""
    gate = Gate()
    async with running(gate, order="key", concurrency=4) as bench:
        bench.receiver.put(*(message(id=str(n), key="slow") for n in range(4)), message(key="k"))
        await until(lambda: len(gate.started) == 2)
        assert gauge(bench, "waiting_in_order") == 3
        assert gauge(bench, "in_flight") == 5
        gate.open.set()
        await until(lambda: len(bench.settled) == 5)
        assert gauge(bench, "waiting_in_order") == 0


@pytest.mark.parametrize("order", ["key", "partition"])
async def test_a_slow_message_starves_no_other_partition(order: str) -> None:
    """If the broker keeps positions, the messages behind a slow one take up no room."""
    gates = Gates()
    slow, behind, others = "a0", [f"a{n}" for n in range(1, 20)], [f"d{n}" for n in range(20)]
    gates.open(*behind, *others)
    async with broker_of(partitions=2) as broker:
        await send(broker, slow, *behind)
        async with Member(broker, gates, order=order, concurrency=2, max_in_flight=3) as member:
            await until(lambda: gates.started == [slow])
            await turns()
            await send(broker, *others)
            await until(lambda: broker.committed("t", "s") == {0: 20})
            assert gates.started == [slow, *others]
            gates.open(slow)
            await until(lambda: broker.is_consumed("t", "s"))
            assert member.metric("lost") == 0


async def test_a_slow_message_starves_no_other_key() -> None:
    """Another key of the same partition continues, as far ahead as the driver delivers."""
    gates = Gates()
    slow, behind, others = "a0", [f"a{n}" for n in range(1, 20)], [f"b{n}" for n in range(20)]
    gates.open(*behind, *others)
    async with broker_of(partitions=1, ahead=40) as broker:
        await send(broker, slow, *behind, *others)
        async with Member(broker, gates, order="key", concurrency=2, max_in_flight=3):
            await until(lambda: len(gates.finished) == 20)
            assert gates.finished == others
            gates.open(slow)
            await until(lambda: broker.is_consumed("t", "s"))


async def test_a_busy_subscriber_receives_once_a_quarter_of_its_room_is_free() -> None:
    """Until then it does not call receive."""
    permits = asyncio.Semaphore(0)

    async def handle(message: Message) -> None:
        await permits.acquire()

    async with running(handle, max_in_flight=8) as bench:
        limits, acked = bench.receiver.limits, bench.receiver.acked
        bench.receiver.put(*(message(id=str(n)) for n in range(10)))
        permits.release()
        await until(lambda: len(acked) == 1)
        await turns()
        assert limits == [8]
        permits.release()
        await until(lambda: len(acked) == 2)
        await until(lambda: limits == [8, 2])
        for _ in range(8):
            permits.release()
        await until(lambda: len(acked) == 10)


async def test_without_room_nothing_is_received() -> None:
    """A receive asks for as many messages as there is room for."""
    gate = Gate()
    async with running(gate, max_in_flight=3) as bench:
        bench.receiver.put(*(message(id=str(n)) for n in range(10)))
        await until(lambda: gate.started)
        await turns()
        assert len(bench.receiver.queue) == 7
        assert bench.receiver.limits == [3]
        gate.open.set()
        await until(lambda: len(bench.settled) == 10)
    assert max(bench.receiver.limits) == 3
    assert min(bench.receiver.limits) > 0


async def test_a_body_that_a_middleware_replaces_is_counted_as_received() -> None:
    """The bytes in flight return to zero."""

    async def handler(received: Message) -> None:
        received.body = b""  # decompressed, decrypted, ...

    async with running(handler, max_in_flight_bytes=1000) as bench:
        for count in range(1, 4):
            bench.receiver.put(message(b"x" * 600))
            await turns()
            assert len(bench.settled) == count, "no more is received, ever"
