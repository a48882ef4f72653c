"""The batcher without a publisher: its buffer forms batches, its flusher sends them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gizmopy.errors import PubSubError
from gizmopy.observe.metrics import GaugeChild
from gizmopy.pubsub import Message, RetryPolicy
from gizmopy.pubsub.engine.batcher import Batcher
from gizmopy.pubsub.engine.observer import Observer, Observers, PublishFailure
from gizmopy.pubsub.engine.send_buffer import PendingMessage, SendBuffer
from tests.pubsub.support import capabilities, no_wait, turns

TRANSIENT = PubSubError("throttled", transient=True)


class Events(Observer):
    """Record the events of a publisher."""

    def __init__(self) -> None:
        self.published_bodies: list[bytes | None] = []
        self.failures: list[tuple[str, PublishFailure]] = []

    def published(self, message: Message, seconds: float) -> None:
        assert seconds >= 0
        self.published_bodies.append(message.body)

    def publish_failed(self, topic: str, kind: PublishFailure) -> None:
        self.failures.append((topic, kind))


class Wire:
    """A ``send`` that records its batches, waits for ``gate``, and fails while there are errors."""

    def __init__(self) -> None:
        self.batches: list[list[bytes | None]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.errors: list[Exception] = []

    async def send(self, messages: Sequence[Message]) -> list[Exception | None]:
        self.batches.append([message.body for message in messages])
        await self.gate.wait()
        return [self.errors.pop() if self.errors else None for _ in messages]


def batcher(wire: Wire, events: Events | None = None, **options: Any) -> Batcher:
    """Return a batcher for the topic "t" with a large buffer, except ``options``."""
    values: dict[str, Any] = {
        "limits": capabilities(batch_messages=3),
        "retry": RetryPolicy(attempts=2),
        "linger": 0.0,
        "max_messages": 100,
        "max_bytes": 10_000,
        "gauge": GaugeChild(),
        "observers": Observers([events] if events else []),
        "sleep": no_wait,
    }
    return Batcher(wire.send, "t", **(values | options))


def message(body: str, key: str | None = None) -> Message:
    """Return a message for the topic "t"."""
    return Message("t", body.encode(), key=key)


def buffer(**limits: Any) -> tuple[SendBuffer, GaugeChild]:
    """Return a buffer for 4 messages and 10 bytes, and its gauge."""
    gauge = GaugeChild()
    room = {"max_messages": 4, "max_bytes": 10}
    return SendBuffer(capabilities(**limits), gauge=gauge, **room), gauge


def put(into: SendBuffer, *messages: Message) -> list[PendingMessage]:
    """Put messages into a buffer, and return what it holds for each."""
    pending = [PendingMessage(each, 0.0) for each in messages]
    for each in pending:
        into.put(each)
    return pending


async def test_a_key_is_blocked_until_its_message_is_settled() -> None:
    """The second message of a key is taken after the first is settled; the gauge follows."""
    waiting, gauge = buffer()
    first, second, other = put(waiting, message("1", "k"), message("2", "k"), message("3"))
    assert waiting.take() == [first, other]
    assert waiting.take() == []
    assert waiting.first() is None
    assert waiting.settle([first, other], []) == []
    assert waiting.take() == [second]
    waiting.settle([second], [])
    assert (waiting.count, waiting.bytes, gauge.value) == (0, 0, 0)


async def test_a_retried_message_returns_to_the_front_of_its_key() -> None:
    """Its queue stays blocked until it is released; then the order is as before."""
    waiting, gauge = buffer(ordered_batches=True)
    first, second, third = put(waiting, *(message(body, "k") for body in "123"))
    assert waiting.take() == [first, second, third]
    (queue,) = waiting.settle([first, second, third], [second, third])
    assert waiting.take() == []
    assert gauge.value == 2
    waiting.release(queue)
    assert waiting.take() == [second, third]


async def test_room_is_bounded_by_messages_and_by_bytes() -> None:
    """An empty buffer takes a message of any size; the key counts as the body does."""
    waiting, _ = buffer()
    assert waiting.has_room(1000)
    put(waiting, message("12345", "k"))
    assert waiting.bytes == 6
    assert waiting.has_room(4)
    assert not waiting.has_room(5)
    put(waiting, message("6"), message("7"), message("8"))
    assert not waiting.has_room(0)


async def test_a_single_send_starts_no_task() -> None:
    """The message is passed to ``send`` in the caller's task, and its result is reported."""
    wire, events = Wire(), Events()
    sending = batcher(wire, events)
    before = asyncio.all_tasks()
    await sending.send(message("1"))
    assert asyncio.all_tasks() == before
    assert events.published_bodies == [b"1"]
    assert await sending.aclose(0)


async def test_messages_that_wait_are_sent_in_batches() -> None:
    """During a send further messages are buffered, and then sent three at a time."""
    wire, events = Wire(), Events()
    sending = batcher(wire, events)
    wire.gate.clear()
    calls = [asyncio.create_task(sending.send(message(body))) for body in "12345"]
    await turns()
    wire.gate.set()
    await asyncio.gather(*calls)
    assert wire.batches == [[b"1"], [b"2", b"3", b"4"], [b"5"]]
    assert sorted(body or b"" for body in events.published_bodies) == [b"1", b"2", b"3", b"4", b"5"]
    assert await sending.aclose(0)


async def test_a_transient_failure_is_the_problem_until_a_message_is_confirmed() -> None:
    """A direct send that fails is retried from the buffer; then the problem is over."""
    wire, events = Wire(), Events()
    sending = batcher(wire, events)
    wire.errors = [TRANSIENT, TRANSIENT]
    with pytest.raises(PubSubError, match="throttled"):
        await sending.send(message("1"))
    assert wire.batches == [[b"1"], [b"1"]]
    assert (sending.problem, events.failures) == ("throttled", [("t", "transient")])
    wire.errors = [TRANSIENT]
    await sending.send(message("2"))
    assert sending.problem == ""
    assert await sending.aclose(0)


async def test_an_exception_among_many_messages_is_its_own_result() -> None:
    """It takes no room and is not sent; the results are in the order of the messages."""
    wire = Wire()
    sending = batcher(wire, max_messages=1)
    error = ValueError("no message")
    assert await sending.send_many([message("1"), error, message("2")]) == [None, error, None]
    assert wire.batches == [[b"1"], [b"2"]]
    assert await sending.aclose(0)


async def test_aclose_reports_whether_all_messages_were_sent() -> None:
    """At its deadline it fails the messages that wait, and returns False."""
    wire, events = Wire(), Events()
    sending = batcher(wire, events)
    wire.gate.clear()
    direct, waiting = (asyncio.create_task(sending.send(message(body))) for body in "12")
    await turns()
    assert not await sending.aclose(0)
    with pytest.raises(PubSubError, match=r"sending to 't' was stopped"):
        await waiting
    assert events.failures == [("t", "closed")]
    wire.gate.set()
    await direct
    assert events.published_bodies == [b"1"]
