"""idempotent, in a real subscriber: a message that is delivered twice is handled once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from gizmopy.errors import PubSubError, Reject, Retry, UndecodableMessage, UsageError
from gizmopy.pubsub import Handler, Message, RetryPolicy
from gizmopy.pubsub.middleware import Begun, MemoryStore, State, idempotent
from gizmopy.pubsub.middleware.idempotency import mark_key
from tests.pubsub.support import FakeClock, Gate, capabilities, message, running, turns, until

AWAY = PubSubError("Redis is down", transient=True)
ONCE = RetryPolicy(attempts=1)


class Handled:
    """A handler that records its messages, and raises each of the errors first."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.ids: list[str] = []

    async def __call__(self, received: Message) -> None:
        self.ids.append(received.id)
        if self.errors:
            raise self.errors.pop(0)


class FailingStore(MemoryStore):
    """A store of which some methods raise."""

    def __init__(self, **errors: BaseException) -> None:
        super().__init__()
        self.errors = errors

    def _fail(self, method: str) -> None:
        if method in self.errors:
            raise self.errors[method]

    async def begin(self, key: str, seconds: float) -> Begun:
        self._fail("begin")
        return await super().begin(key, seconds)

    async def renew(self, key: str, token: str, seconds: float) -> bool:
        self._fail("renew")
        return await super().renew(key, token, seconds)

    async def commit(self, key: str, token: str, seconds: float) -> bool:
        self._fail("commit")
        return await super().commit(key, token, seconds)

    async def abort(self, key: str, token: str) -> bool:
        self._fail("abort")
        return await super().abort(key, token)


MARK = mark_key("", "t", "1")
"""The key of the mark of the test's message without a subscriber."""


async def state(store: MemoryStore, key: str = MARK) -> State:
    """Return the state of the test's message in a store."""
    return (await store.begin(key, 1)).state


class RememberingStore(MemoryStore):
    """A store that remembers the keys that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []

    async def begin(self, key: str, seconds: float) -> Begun:
        self.keys.append(key)
        return await super().begin(key, seconds)


# The key of a mark


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("s", "t", "x/y"), ("s", "t/x", "y")),
        (("s", "t", "1"), ("s/t", "", "1")),
        (("s", "t", "1:t"), ("s", "t1:", "t")),
        (("", "", "a"), ("", "a", "")),
        (("s", "t", "\udcff"), ("s", "t", "\\udcff")),
        (("s", "t", "\udcff"), ("s", "t", "\xff")),
    ],
)
def test_two_messages_never_share_a_mark(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    """A sender cannot choose a key that makes another message look like a duplicate."""
    assert mark_key(*one) != mark_key(*other)


def test_the_key_of_a_mark_stays_the_same() -> None:
    """Replicas of different versions share their marks."""
    digest = "8680012016bf90d5b9602a712af02bba6799350f81bd8d1c26f228db6af1ad33"
    assert mark_key("s", "t", "1") == digest


async def test_a_long_key_has_a_short_mark() -> None:
    """All marks have one size; a key that is not text is converted."""
    store = RememberingStore()
    for key in ("k" * 10**6, "k", 7):
        handle = idempotent(store, key=lambda _, key=key: key)(Handled())  # type: ignore[misc]
        await handle(message())
    assert [len(key) for key in store.keys] == [64, 64, 64]
    assert store.keys[2] == mark_key("", "t", "7")


# Outcomes of messages


async def test_a_message_whose_handling_failed_is_handled_again() -> None:
    """A handler that fails leaves no mark, so the redelivery is not a duplicate."""
    handler = Handled(ValueError("no"))
    async with running(idempotent(MemoryStore())(handler), retry=ONCE) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
        bench.receiver.put(message(delivery=2))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "nack"), ("1", "ack")]
    assert handler.ids == ["1", "1"]


async def test_a_message_that_fails_in_place_is_handled_again() -> None:
    """A retry in place finds no mark either."""
    handler = Handled(ValueError("no"), Retry(after=1))
    async with running(idempotent(MemoryStore())(handler)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.outcomes == [("1", "ack")]
    assert handler.ids == ["1"] * 3


async def test_a_duplicate_of_a_handled_message_is_acked_without_handling() -> None:
    """The handler runs once, and both deliveries are acked."""
    handler = Handled()
    async with running(idempotent(MemoryStore())(handler)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
        bench.receiver.put(message(delivery=2))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "ack"), ("1", "ack")]
    assert handler.ids == ["1"]


async def test_a_duplicate_of_a_running_handling_waits_for_it() -> None:
    """The second delivery is delayed, uncounted, and finally acked without handling."""
    gate = Gate()
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    async with running(
        idempotent(MemoryStore())(gate), concurrency=2, retry=ONCE, sleep=sleep
    ) as bench:
        bench.receiver.put(message(), message(delivery=2))
        await until(lambda: len(waits) == 7)  # more often than its attempts and deliveries
        assert not bench.settled
        gate.open.set()
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "ack"), ("1", "ack")]
    assert gate.started == ["1"]
    assert set(waits) == {5.0}


async def test_a_duplicate_is_retried_when_the_mark_expires() -> None:
    """A duplicate does not wait longer than until the mark expires."""
    store = MemoryStore(clock=FakeClock().time)
    await store.begin(MARK, 2)
    with pytest.raises(Retry) as caught:
        await idempotent(store)(Handled())(message())
    assert caught.value.after == 2
    assert not caught.value.counted


async def test_a_duplicate_is_retried_if_the_expiry_is_unknown() -> None:
    """A store need not know when a mark expires."""

    class Vague(MemoryStore):
        async def begin(self, key: str, seconds: float) -> Begun:
            return Begun(State.IN_PROGRESS)

    with pytest.raises(Retry) as caught:
        await idempotent(Vague())(Handled())(message())
    assert caught.value.after == 5


@pytest.mark.parametrize(
    "error", [Reject("no cat"), UndecodableMessage("no JSON"), TimeoutError()], ids=repr
)
async def test_the_error_of_the_handler_is_raised(error: Exception) -> None:
    """Any error of the handler is raised unchanged, and no mark is left."""
    store = MemoryStore()
    with pytest.raises(type(error)) as caught:
        await idempotent(store)(Handled(error))(message())
    assert caught.value is error
    assert await state(store) is State.NEW


async def test_an_undecodable_message_leaves_no_mark() -> None:
    """A decoding error, raised before the first await, leaves no mark."""
    store = MemoryStore()

    def undecodable(_: Message) -> Any:
        raise UndecodableMessage("no JSON")

    with pytest.raises(UndecodableMessage):
        await idempotent(store)(undecodable)(message())
    assert await state(store) is State.NEW


# Cancellation


async def test_a_cancelled_handling_leaves_no_mark() -> None:
    """A drain gives the message back, and the next receiver handles it."""
    store, gate = MemoryStore(), Gate()
    async with running(idempotent(store)(gate)) as bench:
        bench.receiver.put(message())
        await until(lambda: gate.started)
        report = await bench.subscriber.drain(0)
    assert report.cancelled == 1
    assert bench.outcomes == [("1", "nack")]
    assert await state(store) is State.NEW


@pytest.mark.parametrize("error", [None, AWAY, RuntimeError("a bug")], ids=repr)
async def test_an_abort_does_not_swallow_a_cancellation(error: Exception | None) -> None:
    """The handling is cancelled, whether the abort works or fails."""
    gate = Gate()
    store = FailingStore() if error is None else FailingStore(abort=error)
    task = asyncio.create_task(idempotent(store)(gate)(message()))
    await until(lambda: gate.started)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_abort_that_hangs_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The abort times out, and the mark is left to expire."""
    monkeypatch.setattr("gizmopy.pubsub.middleware.idempotency._STORE_TIMEOUT", 0.001)

    class Hanging(MemoryStore):
        async def abort(self, key: str, token: str) -> bool:
            await asyncio.Event().wait()
            return True

    gate = Gate()
    task = asyncio.create_task(idempotent(Hanging())(gate)(message()))
    await until(lambda: gate.started)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# A store that fails


async def test_an_outage_of_the_store_dead_letters_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Messages wait in place, uncounted; the log has one line for the outage."""
    caplog.set_level(logging.INFO, "gizmopy.pubsub.middleware")
    store, handler = FailingStore(begin=AWAY), Handled()
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 20:
            store.errors.clear()
        await asyncio.sleep(0)

    async with running(
        idempotent(store)(handler),
        retry=ONCE,
        max_deliveries=1,
        dead_letter=True,
        sleep=sleep,
    ) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.outcomes == [("1", "ack")]
    assert handler.ids == ["1"]
    assert all(1 <= seconds <= 5 for seconds in waits)
    assert [record.getMessage() for record in caplog.records] == [
        "the store of t/s fails, and its messages wait: Redis is down",
        "the store of t/s works again",
    ]


@pytest.mark.parametrize("error", [AWAY, RuntimeError("a bug")], ids=repr)
async def test_a_failed_commit_is_not_a_failure_of_the_handler(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """A handled message is acked, since a retry would surely handle it again; it is logged."""
    handler = Handled()
    async with running(idempotent(FailingStore(commit=error))(handler)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.outcomes == [("1", "ack")]
    assert handler.ids == ["1"]
    assert "message 1 of t/s was handled, but could not be marked as done" in caplog.text


async def test_an_abort_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The error of the handler is raised; the mark expires."""
    store, error = FailingStore(abort=AWAY), ValueError("no")
    with pytest.raises(ValueError, match="no") as caught:
        await idempotent(store, in_progress=30)(Handled(error))(message())
    assert caught.value is error
    assert "the mark of message 1 of t/ could not be removed and expires within 30 s" in caplog.text


# The lifetime of a mark


async def test_the_mark_lasts_as_long_as_the_lease() -> None:
    """The mark is extended with the lease, by the longer of both times."""
    clock, gate = FakeClock(), Gate()
    store = MemoryStore(clock=clock.time)
    received = message()
    task = asyncio.create_task(idempotent(store, in_progress=60)(gate)(received))
    await until(lambda: gate.started)
    for lease, lasts in ((30, 60), (600, 600)):
        clock.advance(50)
        assert received.on_extend is not None
        await received.on_extend(lease)
        assert (await store.begin(MARK, 1)).expires_in == lasts
    gate.open.set()
    await task
    assert received.on_extend is None


async def test_the_engine_extends_the_mark_with_the_lease() -> None:
    """In a subscriber the mark outlasts a handler that is slower than the mark's time."""
    gate, renewed = Gate(), asyncio.Event()

    class Renewed(MemoryStore):
        async def renew(self, key: str, token: str, seconds: float) -> bool:
            renewed.set()
            return await super().renew(key, token, seconds)

    handler = idempotent(Renewed())(gate)
    async with running(handler, capabilities(lease=0.02)) as bench:
        bench.receiver.put(message())
        await renewed.wait()
        gate.open.set()
        await until(lambda: bench.settled)
    assert bench.outcomes == [("1", "ack")]


async def test_a_late_renewal_is_not_an_expiry(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A renewal after the commit finds no mark in progress, which is not a warning."""
    gate, slow = Gate(), asyncio.Event()

    class Slow(MemoryStore):
        async def renew(self, key: str, token: str, seconds: float) -> bool:
            await slow.wait()
            return await super().renew(key, token, seconds)

    received = message()
    task = asyncio.create_task(idempotent(Slow())(gate)(received))
    await until(lambda: gate.started)
    assert received.on_extend is not None
    renewal = asyncio.ensure_future(received.on_extend(30))
    await turns(2)
    gate.open.set()
    await task
    slow.set()
    await renewal
    assert not caplog.records


async def test_a_renewal_that_hangs_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The renewal times out, and the error is reported to the lease keeper."""
    monkeypatch.setattr("gizmopy.pubsub.middleware.idempotency._STORE_TIMEOUT", 0.001)

    class Hanging(MemoryStore):
        async def renew(self, key: str, token: str, seconds: float) -> bool:
            await asyncio.Event().wait()
            return True

    gate, received = Gate(), message()
    task = asyncio.create_task(idempotent(Hanging())(gate)(received))
    await until(lambda: gate.started)
    assert received.on_extend is not None
    with pytest.raises(TimeoutError):
        await received.on_extend(30)
    gate.open.set()
    await task


async def test_a_mark_that_expires_too_early_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log says that another process may handle the message too, and the remedy."""
    clock, gate = FakeClock(), Gate()
    store = MemoryStore(clock=clock.time)
    received = message()
    task = asyncio.create_task(idempotent(store, in_progress=60)(gate)(received))
    await until(lambda: gate.started)
    clock.advance(60)
    assert await state(store) is State.NEW
    assert received.on_extend is not None
    await received.on_extend(30)
    gate.open.set()
    await task
    while_handled, before = [record.getMessage() for record in caplog.records]
    assert "the mark of message 1 of t/ expired while it is handled" in while_handled
    assert "expired before it was handled" in before
    assert "raise in_progress=60" in before
    assert await state(store) is State.IN_PROGRESS, "the other's mark stands"


async def test_a_done_mark_expires() -> None:
    """After ``done`` seconds a duplicate is handled as a new message."""
    clock, handler = FakeClock(), Handled()
    handle = idempotent(MemoryStore(clock=clock.time), done=100)(handler)
    await handle(message())
    clock.advance(99)
    await handle(message())
    assert handler.ids == ["1"]
    clock.advance(1)
    await handle(message())
    assert handler.ids == ["1", "1"]


# The identity of messages


async def test_subscriptions_that_share_a_store_do_not_mix() -> None:
    """A message that one subscription has handled is new to the other."""
    store, one, other = MemoryStore(), Handled(), Handled()
    for subscription, handler in (("one", one), ("other", other), ("one", one)):
        received = message()
        received.subscription = subscription
        await idempotent(store)(handler)(received)
    assert one.ids == other.ids == ["1"]


async def test_topics_do_not_mix() -> None:
    """The same key of another topic is another message."""
    handler = Handled()
    handle = idempotent(MemoryStore())(handler)
    await handle(Message("cats", b"", id="1"))
    await handle(Message("dogs", b"", id="1"))
    assert handler.ids == ["1", "1"]


async def test_the_key_says_which_messages_are_the_same() -> None:
    """Two messages with one key are handled once, whatever their ids."""
    handler = Handled()
    handle = idempotent(MemoryStore(), key=lambda m: m.attributes["order"])(handler)
    await handle(message(id="1", attributes={"order": "7"}))
    await handle(message(id="2", attributes={"order": "7"}))
    await handle(message(id="3", attributes={"order": "8"}))
    assert handler.ids == ["1", "3"]


@pytest.mark.parametrize("key", [lambda _: None, lambda _: ""], ids=["none", "empty"])
async def test_without_a_key_no_message_is_a_duplicate(
    key: Callable[[Message], str | None],
) -> None:
    """A message without a key is handled each time, and so never lost."""
    store, handler = FailingStore(begin=AWAY), Handled()
    handle: Handler = idempotent(store, key=key)(handler)
    await handle(message())
    await handle(message())
    assert handler.ids == ["1", "1"]


async def test_a_duplicate_is_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """The log at DEBUG names the message that was not handled again, without its body."""
    caplog.set_level(logging.DEBUG, "gizmopy.pubsub.middleware")
    handle = idempotent(MemoryStore())(Handled())
    await handle(message(b"secret"))
    assert not caplog.records
    await handle(message(b"secret"))
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert "<Message 1 of t, key None, 6 bytes> was handled before" in record.getMessage()


@pytest.mark.parametrize("options", [{"in_progress": 0}, {"done": -1}])
def test_invalid_arguments_are_rejected(options: dict[str, Any]) -> None:
    """Invalid arguments raise UsageError at the declaration."""
    with pytest.raises(UsageError, match="use seconds above 0"):
        idempotent(MemoryStore(), **options)


async def test_a_topic_that_is_made_anew_has_new_messages() -> None:
    """Partitions and offsets begin again; a redelivery has the date of its message."""
    handled: list[bytes | None] = []

    async def handle(message: Message) -> None:
        handled.append(message.body)

    handler = idempotent(MemoryStore())(handle)
    for day, body in ((1, b"old"), (1, b"old"), (2, b"new")):
        date = datetime(2024, 5, day, tzinfo=UTC)
        await handler(Message("t", body, id="t-0-7", partition=0, published_at=date))
    assert handled == [b"old", b"new"]
