"""The engine: what becomes of a message, whatever its handler and its broker do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from gizmopy.errors import (
    PubSubError,
    Reject,
    Retry,
    StartError,
    TopicNotFound,
    UndecodableMessage,
    UsageError,
)
from gizmopy.observe.context import message_id, request_id
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Capabilities, Message, RetryPolicy, Status, Subscriber, Subscription
from tests.pubsub.support import (
    CallFails,
    FakeReceiver,
    capabilities,
    message,
    turns,
    until,
)

HandlerBody = Callable[[Message], Coroutine[Any, Any, None]]
TRANSIENT = PubSubError("throttled", transient=True)
PERMANENT = PubSubError("lease is over", transient=False)


class Bench:
    """A subscriber on a fake receiver, and what it did."""

    def __init__(self, handler: HandlerBody, can: Capabilities, **options: Any) -> None:
        self.receiver: FakeReceiver = options.pop("receiver", None) or FakeReceiver()
        self.settled: list[tuple[str, str, BaseException | None]] = []
        self.dead: list[Message] = []
        self.dead_letter_errors: list[BaseException] = []
        self.metrics = Metrics()
        self.sleeps: list[float] = []
        self.sleep = options.pop("sleep", self._sleep)
        dead_letter = options.pop("dead_letter", None)
        if dead_letter is True:
            dead_letter = self._bury
        self.subscriber = Subscriber(
            self.receiver,
            _subscription(handler, **options),
            topic="t",
            capabilities=can,
            metrics=self.metrics,
            dead_letter=dead_letter,
            on_settle=lambda m, outcome, error: self.settled.append((m.id, outcome, error)),
            sleep=self.sleep,
        )
        self.task: asyncio.Task[None] | None = None

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await asyncio.sleep(0)

    async def _bury(self, dead: Message) -> None:
        if self.dead_letter_errors:
            raise self.dead_letter_errors.pop(0)
        self.dead.append(dead)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(id_, outcome) for id_, outcome, _ in self.settled]

    def metric(self, name: str, *labels: str) -> float:
        instrument = self.metrics.counter(f"gizmo_pubsub_{name}", "")
        return instrument.child("t", "s", *labels).value


def _subscription(handler: HandlerBody, **options: Any) -> Subscription:
    defaults: dict[str, Any] = {
        "channel": "t",
        "subscription": "s",
        "concurrency": 1,
        "order": "none",
        "max_in_flight": 100,
        "retry": RetryPolicy(),
        "max_deliveries": 5,
        "dead_letter": "",
        "handler": handler,
        "payload": None,
        "name": "Cats.on_cat",
    }
    return Subscription(**(defaults | options))


@asynccontextmanager
async def running(
    handler: HandlerBody, can: Capabilities | None = None, **options: Any
) -> AsyncIterator[Bench]:
    """Run a subscriber while the context lasts, then drain it."""
    bench = Bench(handler, can or capabilities(), **options)
    async with bench.subscriber:
        bench.task = asyncio.create_task(bench.subscriber.run())
        yield bench
        await bench.subscriber.drain(5)
        await bench.task


class Gate:
    """A handler that waits to be let through."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.open = asyncio.Event()

    async def __call__(self, received: Message) -> None:
        self.started.append(received.id)
        await self.open.wait()


async def nothing(_: Message) -> None:
    """Handle a message by returning."""


def failing(*errors: Exception) -> HandlerBody:
    """Return a handler that raises each of the errors, then returns."""
    left = list(errors)

    async def handler(_: Message) -> None:
        if left:
            raise left.pop(0)

    return handler


def always(error: BaseException) -> HandlerBody:
    """Return a handler that always raises ``error``."""

    async def handler(_: Message) -> None:
        raise error

    return handler


# Outcomes


async def test_a_message_is_acked_when_its_handler_has_returned() -> None:
    """Returning acks, once, and not before."""
    gate = Gate()
    async with running(gate) as bench:
        bench.receiver.put(message())
        await until(lambda: gate.started)
        await turns()
        assert not bench.receiver.acked
        gate.open.set()
        await until(lambda: bench.settled)
    assert [m.id for m in bench.receiver.acked] == ["1"]
    assert bench.settled == [("1", "ack", None)]


async def test_a_failure_is_tried_again_in_place_with_jittered_backoff() -> None:
    """Attempts run here while the message is held, waiting at most as the policy says."""
    attempts = []

    async def handler(received: Message) -> None:
        attempts.append(received.attempt)
        if received.attempt < 3:
            raise ValueError("not yet")

    async with running(handler, retry=RetryPolicy(attempts=3, base=1, factor=2)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert attempts == [1, 2, 3]
    assert bench.outcomes == [("1", "ack")]
    assert 0 <= bench.sleeps[0] <= 1
    assert 0 <= bench.sleeps[1] <= 2
    assert bench.metric("retries") == 2


async def test_a_waiting_retry_does_not_hold_the_worker() -> None:
    """While one message waits to be tried again, the only worker handles others."""
    wait = asyncio.Event()

    async def handler(received: Message) -> None:
        if received.id == "bad" and received.attempt == 1:
            raise ValueError

    async def sleep(_: float) -> None:
        await wait.wait()

    async with running(handler, sleep=sleep) as bench:
        bench.receiver.put(message(id="bad"), message(id="good"))
        await until(lambda: bench.outcomes == [("good", "ack")])
        wait.set()
        await until(lambda: bench.outcomes == [("good", "ack"), ("bad", "ack")])


async def test_unordered_goes_back_to_the_broker_after_its_attempts() -> None:
    """Where there is no order and the broker can, redelivery with delay follows the retries."""
    error = ValueError("no")
    async with running(always(error), retry=RetryPolicy(attempts=2)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.settled == [("1", "nack", error)]
    assert not bench.receiver.acked
    ((_, delay),) = bench.receiver.nacked
    assert 0 <= delay <= 0.2


async def test_retry_after_names_the_delay_of_both_kinds_of_retry() -> None:
    """Retry(after=…) is waited for exactly, in place and at the broker."""
    async with running(always(Retry(after=7)), retry=RetryPolicy(attempts=2)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.sleeps == [7]
    assert [delay for _, delay in bench.receiver.nacked] == [7]


async def test_a_broker_without_delays_is_given_the_message_after_the_delay() -> None:
    """The engine holds the message for the delay, and nacks it then without one."""
    can = capabilities(native_delay=False)
    async with running(always(Retry(after=7)), can, retry=RetryPolicy(attempts=1)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.sleeps == [7]
    assert [delay for _, delay in bench.receiver.nacked] == [0]


async def test_the_dead_letter_follows_the_last_delivery() -> None:
    """At max_deliveries the message is published as a dead letter, and then acked."""
    async with running(
        always(ValueError("bad cat")),
        retry=RetryPolicy(attempts=2),
        max_deliveries=3,
        dead_letter=True,
    ) as bench:
        original = message(b"body", id="7", key="k", attributes={"a": "b"}, delivery=3)
        bench.receiver.put(original)
        await until(lambda: bench.settled)
    assert bench.outcomes == [("7", "dead_letter")]
    assert bench.receiver.acked == [original]
    (dead,) = bench.dead
    assert (dead.body, dead.key, dead.attributes["a"]) == (b"body", "k", "b")
    assert dead.attributes["dl-reason"] == "exhausted"
    assert dead.attributes["dl-exception"] == "builtins.ValueError: bad cat"
    assert dead.attributes["dl-source-topic"] == "t"
    assert dead.attributes["dl-message-id"] == "7"
    assert (dead.attributes["dl-deliveries"], dead.attributes["dl-attempts"]) == ("3", "6")
    assert dead.attributes["dl-handler"] == "Cats.on_cat"
    assert dead.attributes["dl-first-failed-at"].endswith("+00:00")
    assert bench.metric("dead_lettered", "exhausted") == 1


async def test_earlier_deliveries_are_not_dead_lettered() -> None:
    """Before max_deliveries the message goes back to the broker."""
    async with running(
        always(ValueError()), retry=RetryPolicy(attempts=1), max_deliveries=3, dead_letter=True
    ) as bench:
        bench.receiver.put(message(delivery=2))
        await until(lambda: bench.settled)
    assert bench.outcomes == [("1", "nack")]
    assert not bench.dead


@pytest.mark.parametrize(
    ("can", "order"),
    [
        (capabilities(), "key"),
        (capabilities(), "partition"),
        (capabilities(can_nack=False), "none"),
        (capabilities(delivery_count=False), "none"),
    ],
)
async def test_what_stays_in_place_runs_as_often_before_it_is_dead_lettered(
    can: Capabilities, order: str
) -> None:
    """Where a message is not given back, each round of attempts counts as a delivery."""
    runs = []

    async def handler(received: Message) -> None:
        runs.append(received.attempt)
        raise ValueError

    async with running(
        handler,
        can,
        order=order,
        retry=RetryPolicy(attempts=2),
        max_deliveries=3,
        dead_letter=True,
    ) as bench:
        bench.receiver.put(message(key="k"))
        await until(lambda: bench.settled)
    assert runs == [1, 2, 3, 4, 5, 6]
    assert bench.outcomes == [("1", "dead_letter")]
    assert not bench.receiver.nacked


async def test_reject_is_dead_lettered_at_once_with_its_reason() -> None:
    """Reject is not tried again."""
    async with running(always(Reject("no such cat")), dead_letter=True) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.outcomes == [("1", "dead_letter")]
    assert bench.dead[0].attributes["dl-reason"] == "no such cat"
    assert bench.dead[0].attributes["dl-attempts"] == "1"
    assert bench.sleeps == []


async def test_the_undecodable_is_dead_lettered_once_and_the_next_flows() -> None:
    """A body that cannot be decoded blocks nobody, and is not logged."""

    def handler(received: Message) -> Coroutine[Any, Any, None]:
        if received.body == b"bad":
            raise UndecodableMessage("name: Field required")
        return nothing(received)

    async with running(handler, dead_letter=True, order="key") as bench:
        bench.receiver.put(message(b"bad", id="1", key="k"), message(id="2", key="k"))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "dead_letter"), ("2", "ack")]
    assert bench.dead[0].attributes["dl-reason"] == "undecodable"


async def test_a_dead_letter_that_is_refused_does_not_ack() -> None:
    """The message stays with the broker until its dead letter is confirmed."""
    async with running(always(Reject("no")), dead_letter=True) as bench:
        bench.dead_letter_errors = [TRANSIENT]
        bench.receiver.put(message())
        await until(lambda: bench.settled)
        assert bench.outcomes == [("1", "nack")]
        assert not bench.receiver.acked
        bench.receiver.put(message(delivery=2))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes[1] == ("1", "dead_letter")


async def test_a_dead_letter_that_is_refused_blocks_an_ordered_lane() -> None:
    """In an ordered subscription the message stays in front until its dead letter is taken."""

    async def handler(received: Message) -> None:
        if received.id == "1":
            raise Reject("no")

    async with running(handler, dead_letter=True, order="key") as bench:
        bench.dead_letter_errors = [TRANSIENT, TRANSIENT]
        bench.receiver.put(message(id="1", key="k"), message(id="2", key="k"))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "dead_letter"), ("2", "ack")]


@pytest.mark.parametrize("error", [Reject("no"), UndecodableMessage("no"), ValueError("no")])
async def test_without_a_dead_letter_channel_an_ordered_message_is_never_skipped(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It blocks its lane, says so once, and is handled in the end."""

    async def handler(received: Message) -> None:
        if received.id == "1" and received.attempt < 40:
            raise error

    async with running(handler, order="key", max_deliveries=2) as bench:
        bench.receiver.put(message(id="1", key="k"), message(id="2", key="k"))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "ack"), ("2", "ack")]
    stuck = [r for r in caplog.records if "no dead_letter= channel" in r.getMessage()]
    assert len(stuck) == 1
    assert stuck[0].levelno == logging.ERROR


@pytest.mark.parametrize("error", [Reject("no"), UndecodableMessage("no"), ValueError("no")])
async def test_without_a_dead_letter_channel_an_unordered_message_goes_back_forever(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It is nacked however often it was delivered, and said to be stuck once."""
    async with running(always(error), max_deliveries=2) as bench:
        for count, delivery in enumerate((2, 3, 4000), start=1):
            bench.receiver.put(message(delivery=delivery))
            await until(partial(_has_nacked, bench, count))
        assert all(delay <= 30 for _, delay in bench.receiver.nacked)
    assert not bench.receiver.acked
    assert sum("no dead_letter= channel" in r.getMessage() for r in caplog.records) == 1


def _has_nacked(bench: Bench, count: int) -> bool:
    return len(bench.receiver.nacked) == count


async def test_a_body_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    """No failure quotes what a message holds."""
    caplog.set_level(logging.DEBUG)
    async with running(always(Reject("no")), dead_letter=True) as bench:
        bench.receiver.put(message(b"secret body"))
        await until(lambda: bench.settled)
    assert caplog.records
    assert "secret" not in caplog.text


# Cancellation


async def test_a_handler_that_is_cancelled_from_inside_is_tried_again() -> None:
    """A stray CancelledError never acks, and never dead-letters, however often it comes."""
    attempts: list[int] = []

    async def handler(received: Message) -> None:
        attempts.append(received.attempt)
        if received.id == "1" and len(attempts) < 20:
            raise asyncio.CancelledError

    async with running(handler, order="key", max_deliveries=2, dead_letter=True) as bench:
        bench.receiver.put(message(id="1", key="k"), message(id="2", key="k"))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "ack"), ("2", "ack")]
    assert attempts == [*range(1, 21), 1]


async def test_a_cancelled_handling_goes_back_to_a_broker_that_takes_it() -> None:
    """After its attempts it is nacked, at its last delivery too."""
    error = asyncio.CancelledError()
    async with running(always(error), max_deliveries=2, dead_letter=True) as bench:
        bench.receiver.put(message(delivery=9))
        await until(lambda: bench.settled)
    assert bench.settled == [("1", "nack", error)]
    assert not bench.dead


async def test_a_handler_that_cancels_its_own_task_harms_no_later_one() -> None:
    """What one handler does to the task it runs in is undone before the next one runs."""
    seen = []

    async def handler(received: Message) -> None:
        task = asyncio.current_task()
        assert task is not None
        seen.append(task.cancelling())
        if len(seen) == 1:
            task.cancel()
            await asyncio.sleep(0)

    async with running(handler) as bench:
        bench.receiver.put(message(id="1"))
        await until(lambda: bench.settled)
        bench.receiver.put(message(id="2"))
        await until(lambda: ("2", "ack") in bench.outcomes)
    assert set(seen) == {0}


async def _cancel_and(ending: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    if ending == "raise":
        raise Reject("no")
    if ending == "swallow":
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


@pytest.mark.parametrize("ending", ["return", "raise", "swallow"])
async def test_a_cancellation_that_a_handler_leaves_behind_harms_nobody(ending: str) -> None:
    """A worker outlives it, idle or not, and a later handler's task group works as ever."""
    groups = []

    async def handler(received: Message) -> None:
        if received.id == "1":
            return await _cancel_and(ending)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(always(ValueError("in a group"))(received))
                await asyncio.Event().wait()
        except* ValueError:
            groups.append(received.id)

    async with running(handler, dead_letter=True) as bench:
        bench.receiver.put(message(id="1"))
        await until(lambda: bench.settled)
        await turns()
        bench.receiver.put(message(id="2"))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "dead_letter" if ending == "raise" else "ack"), ("2", "ack")]
    assert groups == ["2"]
    assert bench.metric("retries") == 0


async def test_a_publisher_that_is_cancelled_from_inside_has_refused_the_dead_letter() -> None:
    """A stray CancelledError on the way to the dead letters neither acks nor stops the worker."""
    left: list[BaseException] = [asyncio.CancelledError()]

    async with running(always(Reject("no")), dead_letter=True) as bench:
        bench.dead_letter_errors = left
        bench.receiver.put(message())
        await until(lambda: bench.settled)
        bench.receiver.put(message(delivery=2))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "nack"), ("1", "dead_letter")]


async def test_a_dead_letter_under_way_at_the_deadline_is_given_back() -> None:
    """What the drain cancels on its way to the dead letters goes back, and is counted once."""
    asked = asyncio.Event()

    async def bury(_: Message) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with running(always(Reject("no")), dead_letter=bury) as bench:
        bench.receiver.put(message())
        await asked.wait()
        assert await bench.subscriber.drain(0) == (0, 0, 1, 0)
    assert bench.outcomes == [("1", "nack")]


# Order and concurrency


async def test_concurrency_is_reached_and_never_exceeded() -> None:
    """As many handlers run as were asked for, and no more."""
    gate = Gate()
    async with running(gate, concurrency=3) as bench:
        bench.receiver.put(*(message(id=str(n)) for n in range(5)))
        await until(lambda: len(gate.started) == 3)
        await turns()
        assert len(gate.started) == 3
        gate.open.set()
        await until(lambda: len(bench.settled) == 5)


async def test_one_key_runs_one_at_a_time_while_others_run() -> None:
    """A key's second message waits for its first; other keys, and no key, do not."""
    gate = Gate()
    async with running(gate, concurrency=10, order="key") as bench:
        bench.receiver.put(
            message(id="a1", key="a"),
            message(id="a2", key="a"),
            message(id="b1", key="b"),
            message(id="n1"),
            message(id="n2"),
        )
        await until(lambda: len(gate.started) == 4)
        await turns()
        assert gate.started == ["a1", "b1", "n1", "n2"]
        gate.open.set()
        await until(lambda: len(bench.settled) == 5)
    assert gate.started[-1] == "a2"


async def test_a_failed_message_holds_its_key() -> None:
    """While a message waits to be tried again, its key's successors are not handled."""
    wait = asyncio.Event()
    handled = []

    async def handler(received: Message) -> None:
        handled.append(received.id)
        if received.id == "a1" and received.attempt == 1:
            raise ValueError

    async def sleep(_: float) -> None:
        await wait.wait()

    async with running(handler, concurrency=5, order="key", sleep=sleep) as bench:
        bench.receiver.put(message(id="a1", key="a"), message(id="a2", key="a"))
        bench.receiver.put(message(id="b1", key="b"))
        await until(lambda: "b1" in handled)
        await turns()
        assert handled == ["a1", "b1"]
        wait.set()
        await until(lambda: len(bench.settled) == 3)
    assert handled == ["a1", "b1", "a1", "a2"]


async def test_order_by_partition_ignores_keys() -> None:
    """One partition's messages run one after the other; None is a partition too."""
    gate = Gate()
    async with running(gate, concurrency=10, order="partition") as bench:
        bench.receiver.put(
            message(id="p1", key="a", partition=0),
            message(id="p2", key="b", partition=0),
            message(id="q1", key="c", partition=1),
            message(id="r1"),
            message(id="r2"),
        )
        await until(lambda: len(gate.started) == 3)
        await turns()
        assert gate.started == ["p1", "q1", "r1"]
        gate.open.set()
        await until(lambda: len(bench.settled) == 5)


async def test_no_room_no_receive() -> None:
    """What is received and not settled is bounded; a receive asks for the room there is."""
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


# Context


async def test_context_variables_of_a_handler_are_invisible_to_the_next() -> None:
    """Each handling starts with the same context, although the worker is the same task."""
    variable: ContextVar[str] = ContextVar("variable", default="clean")
    seen = []
    tasks = set()

    async def handler(received: Message) -> None:
        tasks.add(asyncio.current_task())
        seen.append((variable.get(), message_id.get(), request_id.get()))
        variable.set(received.id)
        await asyncio.sleep(0)
        assert variable.get() == received.id
        child = await asyncio.create_task(_get(variable))
        assert child == received.id

    request_id.set("outer")
    async with running(handler) as bench:
        bench.receiver.put(message(id="1"), message(id="2"))
        await until(lambda: len(bench.settled) == 2)
    assert seen == [("clean", "1", ""), ("clean", "2", "")]
    assert len(tasks) == 1
    assert bench.outcomes == [("1", "ack"), ("2", "ack")]


async def _get(variable: ContextVar[str]) -> str:
    return variable.get()


async def test_timeouts_and_task_groups_work_inside_a_handler() -> None:
    """The isolation of contexts does not get in the way of structured concurrency."""
    log: list[str] = []

    async def handler(received: Message) -> None:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            log.append("timeout")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(nothing(received))
                group.create_task(always(ValueError("in a group"))(received))
                await asyncio.Event().wait()
        except* ValueError:
            log.append("group")

    async with running(handler) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert log == ["timeout", "group"]
    assert bench.outcomes == [("1", "ack")]


# Settling


async def test_acks_are_batched_naturally() -> None:
    """What is finished while an ack is in flight goes out with the next one, within the limit."""
    async with running(nothing, capabilities(batch_messages=4)) as bench:
        bench.receiver.ack_gate.clear()
        bench.receiver.put(message(id="0"))
        await until(lambda: bench.receiver.ack_batches)
        bench.receiver.put(*(message(id=str(n)) for n in range(1, 7)))
        await turns()
        bench.receiver.ack_gate.set()
        await until(lambda: len(bench.settled) == 7)
    assert bench.receiver.ack_batches == [1, 4, 2]


async def test_only_the_acks_that_failed_for_now_are_tried_again() -> None:
    """A partial failure is the item's own."""
    async with running(nothing) as bench:
        bench.receiver.ack_gate.clear()
        bench.receiver.put(message(id="0"))
        await until(lambda: bench.receiver.ack_batches)
        bench.receiver.put(message(id="1"), message(id="2"))
        await turns()
        bench.receiver.ack_errors = [TRANSIENT]
        bench.receiver.ack_gate.set()
        await until(lambda: len(bench.settled) == 3)
    assert bench.receiver.ack_batches == [1, 1, 2]
    assert [m.id for m in bench.receiver.acked] == ["0", "1", "2"]
    assert bench.metric("settle_failures") == 0


async def test_an_ack_that_is_refused_is_counted_and_not_tried_again() -> None:
    """A lost lease is no ack: nobody is told that the message is settled."""
    async with running(nothing) as bench:
        bench.receiver.ack_errors = [PERMANENT]
        bench.receiver.put(message())
        await until(lambda: bench.metric("settle_failures"))
        await turns()
        report = await bench.subscriber.drain(1)
    assert bench.settled == []
    assert bench.receiver.ack_batches == [1]
    assert report.failed_to_settle == 0  # it failed before the drain


async def test_an_ack_call_that_fails_counts_for_each_item() -> None:
    """An error of the whole call is tried again for the whole batch."""
    async with running(nothing) as bench:
        bench.receiver.ack_errors = [CallFails(TRANSIENT)]
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.receiver.ack_batches == [1, 1]


# Leases


async def test_leases_are_kept_from_receipt_until_the_handling_ends() -> None:
    """What waits for a worker is extended as well as what is handled; nothing is after."""
    gate = Gate()
    async with running(gate, capabilities(lease=0.02)) as bench:
        bench.receiver.put(message(id="handled"), message(id="waiting"))
        await until(lambda: len(bench.receiver.extended) >= 6)
        assert {m.id for m in bench.receiver.extended} == {"handled", "waiting"}
        gate.open.set()
        await until(lambda: len(bench.settled) == 2)
        count = len(bench.receiver.extended)
        await asyncio.sleep(0.03)  # longer than a lease: nothing to wait for may come
        assert len(bench.receiver.extended) == count
    assert bench.metric("lease_extensions", "ok") >= 6


async def test_a_lease_that_cannot_be_extended_is_reported() -> None:
    """A refused extension is counted, and the handler goes on."""
    gate = Gate()
    async with running(gate, capabilities(lease=0.02)) as bench:
        bench.receiver.extend_error = PERMANENT
        bench.receiver.put(message())
        await until(lambda: bench.metric("lease_extensions", "failed"))
        gate.open.set()
        await until(lambda: bench.settled)


class _RefusingOne(FakeReceiver):
    """Fail for now to extend the message ``throttled``."""

    async def extend(self, batch: Sequence[Message], seconds: float) -> list[Exception | None]:
        self.extended.extend(batch)
        return [TRANSIENT if m.id == "throttled" else None for m in batch]


async def test_an_extension_that_failed_for_now_is_tried_again_before_its_lease_is_over() -> None:
    """It is due at the next round, not at the one after it as what was extended."""
    gate, receiver = Gate(), _RefusingOne()
    async with running(gate, capabilities(lease=0.02), receiver=receiver) as bench:
        receiver.put(message(id="throttled"), message(id="fine"))
        await until(lambda: [m.id for m in receiver.extended].count("fine") >= 4)
        gate.open.set()
        await until(lambda: len(bench.settled) == 2)
    ids = [m.id for m in receiver.extended]
    assert ids.count("throttled") > 1.5 * ids.count("fine")


async def test_a_handler_may_extend_its_message() -> None:
    """Message.extend reaches the broker, and its refusal the handler."""
    refused: list[Exception] = []

    async def handler(received: Message) -> None:
        try:
            await received.extend(60)
        except PubSubError as error:
            refused.append(error)

    async with running(handler, capabilities(lease=30)) as bench:
        bench.receiver.put(message(id="1"))
        await until(lambda: bench.settled)
        bench.receiver.extend_error = PERMANENT
        bench.receiver.put(message(id="2"))
        await until(lambda: len(bench.settled) == 2)
    assert [m.id for m in bench.receiver.extended] == ["1", "2"]
    assert refused == [PERMANENT]


# Receiving


async def test_transient_receive_errors_are_tried_again() -> None:
    """Throttling does not end the subscriber."""
    async with running(nothing) as bench:
        bench.receiver.fail_receive(TRANSIENT)
        bench.receiver.fail_receive(TRANSIENT)
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert len(bench.sleeps) == 2


@pytest.mark.parametrize("error", [PERMANENT, RuntimeError("a bug")])
async def test_other_receive_errors_end_the_subscriber(error: Exception) -> None:
    """run raises the error; what was being handled is cancelled and given back."""
    gate = Gate()
    bench = Bench(gate, capabilities())
    async with bench.subscriber:
        task = asyncio.create_task(bench.subscriber.run())
        bench.receiver.put(message(id="1"), message(id="2"))
        await until(lambda: gate.started)
        bench.receiver.fail_receive(error)
        with pytest.raises(type(error)) as caught:
            await task
    assert caught.value is error
    assert sorted(m.id for m, _ in bench.receiver.nacked) == ["1", "2"]
    assert not bench.receiver.acked
    assert bench.receiver.closed


async def test_an_unknown_topic_is_an_error_at_connect() -> None:
    """A permanent error of connect is raised where the subscriber is entered."""
    bench = Bench(nothing, capabilities())
    bench.receiver.connects = [TopicNotFound("no queue 't'")]
    with pytest.raises(TopicNotFound):
        await bench.subscriber.__aenter__()
    await bench.subscriber.drain(0)


async def test_a_broker_that_is_down_at_start_is_tried_again() -> None:
    """A transient error of connect is retried by the engine."""
    bench = Bench(nothing, capabilities())
    bench.receiver.connects = [TRANSIENT, TRANSIENT]
    async with bench.subscriber:
        task = asyncio.create_task(bench.subscriber.run())
        bench.receiver.put(message())
        await until(lambda: bench.settled)
        await bench.subscriber.drain(1)
        await task


async def test_order_needs_a_broker_that_keeps_it() -> None:
    """An ordered subscription to a broker without order is refused, not half kept."""
    with pytest.raises(StartError, match=r"order='key'.*keeps order"):
        Bench(nothing, capabilities(ordering=False), order="key")


async def test_a_subscriber_runs_once() -> None:
    """A second run is a mistake, and so is one after the drain."""
    async with running(nothing) as bench:
        await turns(3)
        with pytest.raises(UsageError, match="runs only once"):
            await bench.subscriber.run()
    with pytest.raises(UsageError, match="runs only once"):
        await bench.subscriber.run()


# Draining


async def test_drain_finishes_the_started_and_releases_the_rest() -> None:
    """The started are waited for and acked; the unstarted go back at once, without delay."""
    gate = Gate()
    async with running(gate) as bench:
        bench.receiver.put(*(message(id=str(n)) for n in range(3)))
        await until(lambda: gate.started)
        drain = asyncio.create_task(bench.subscriber.drain(10))
        await until(lambda: len(bench.receiver.nacked) == 2)
        assert not drain.done()
        gate.open.set()
        report = await drain
    assert report == (1, 2, 0, 0)
    assert bench.outcomes == [("1", "released"), ("2", "released"), ("0", "ack")]
    assert [delay for _, delay in bench.receiver.nacked] == [0, 0]
    assert gate.started == ["0"]


async def test_drain_releases_what_waits_in_a_lane() -> None:
    """A message that waits for its key's turn is not started: it goes back."""
    gate = Gate()
    async with running(gate, order="key", concurrency=2) as bench:
        bench.receiver.put(message(id="1", key="k"), message(id="2", key="k"))
        await until(lambda: gate.started)
        drain = asyncio.create_task(bench.subscriber.drain(10))
        await until(lambda: bench.outcomes == [("2", "released")])
        gate.open.set()
        assert await drain == (1, 1, 0, 0)
    assert gate.started == ["1"]


async def test_drain_cancels_at_the_deadline_and_never_acks_what_it_cancelled() -> None:
    """A handler that is too slow is cancelled; its message goes back and is no failure."""
    gate = Gate()
    async with running(gate, max_deliveries=1, dead_letter=True) as bench:
        bench.receiver.put(message())
        await until(lambda: gate.started)
        assert await bench.subscriber.drain(0) == (0, 0, 1, 0)
    ((id_, outcome, error),) = bench.settled
    assert (id_, outcome) == ("1", "nack")
    assert isinstance(error, asyncio.CancelledError)
    assert not bench.receiver.acked
    assert not bench.dead


async def test_a_handler_that_turns_its_cancellation_into_an_error_is_no_failure() -> None:
    """What a handler raises while it is cancelled by the drain is not held against its message."""
    started = asyncio.Event()

    async def handler(_: Message) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("closing") from None

    async with running(handler, max_deliveries=1, dead_letter=True) as bench:
        bench.receiver.put(message())
        await started.wait()
        assert await bench.subscriber.drain(0) == (0, 0, 1, 0)
    assert bench.outcomes == [("1", "nack")]
    assert not bench.dead


async def test_a_retry_that_waits_at_the_drain_is_released() -> None:
    """A failed message that waits to be tried again goes back; it is not failed for good."""

    async def forever(_: float) -> None:
        await asyncio.Event().wait()

    async with running(
        always(ValueError()), sleep=forever, max_deliveries=1, dead_letter=True
    ) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.metric("retries"))
        assert await bench.subscriber.drain(10) == (0, 1, 0, 0)
    assert bench.outcomes == [("1", "released")]


async def test_without_nack_the_unfinished_is_left_to_the_broker() -> None:
    """Where nothing can be given back, nothing is acked either."""
    gate = Gate()
    async with running(gate, capabilities(can_nack=False)) as bench:
        bench.receiver.put(message(id="1"), message(id="2"))
        await until(lambda: gate.started)
        assert await bench.subscriber.drain(0) == (0, 1, 1, 0)
    assert not bench.receiver.acked
    assert not bench.receiver.nacked


async def test_what_arrives_after_stop_receiving_is_given_back() -> None:
    """A receive that was pending may still bring messages: they are not started."""
    handled = []

    async def handler(received: Message) -> None:
        handled.append(received.id)

    async with running(handler, order="key") as bench:
        await until(lambda: bench.receiver.limits)
        bench.subscriber.stop_receiving()
        bench.receiver.put(message(key="k"))
        await until(lambda: bench.settled)
    assert bench.outcomes == [("1", "released")]
    assert handled == []


async def test_a_pending_receive_is_never_cancelled() -> None:
    """Draining ends it by closing the receiver."""
    async with running(nothing) as bench:
        await until(lambda: bench.receiver.limits)
        await bench.subscriber.drain(1)
    assert bench.receiver.closed
    assert bench.receiver.cancelled_receives == 0


async def test_what_a_receive_brings_as_it_is_closed_is_the_brokers_again() -> None:
    """The driver gives back what it holds at its close: none of it is started or counted."""
    handled = []

    async def handler(received: Message) -> None:
        handled.append(received.id)

    async with running(handler) as bench:
        await until(lambda: bench.receiver.limits)
        bench.receiver.at_close = [message()]
        assert await bench.subscriber.drain(1) == (0, 0, 0, 0)
    assert handled == []
    assert bench.settled == []


async def test_a_second_drain_returns_the_first_report() -> None:
    """Draining twice is one drain."""
    gate = Gate()
    async with running(gate) as bench:
        bench.receiver.put(message())
        await until(lambda: gate.started)
        first = asyncio.create_task(bench.subscriber.drain(10))
        second = asyncio.create_task(bench.subscriber.drain(0))
        await turns()
        gate.open.set()
        assert await first == await second == (1, 0, 0, 0)


async def test_cancelling_run_drains_at_once() -> None:
    """A job that is cancelled gives back what it holds, acks nothing, and leaves no task."""
    gate = Gate()
    bench = Bench(gate, capabilities())
    async with bench.subscriber:
        task = asyncio.create_task(bench.subscriber.run())
        bench.receiver.put(message())
        await until(lambda: gate.started)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert bench.outcomes == [("1", "nack")]
    assert bench.receiver.closed
    assert bench.receiver.cancelled_receives == 0


async def test_what_the_broker_does_not_confirm_at_the_drain_is_reported() -> None:
    """The report counts the handled messages that will come again."""
    gate = Gate()
    async with running(gate) as bench:
        bench.receiver.ack_errors = [PERMANENT]
        bench.receiver.put(message())
        await until(lambda: gate.started)
        gate.open.set()
        assert (await bench.subscriber.drain(10)).failed_to_settle == 1


class _Queue(FakeReceiver):
    """A queue in this process of which others take messages too."""

    backlog = 1

    def status(self) -> Status:
        return Status(backlog=self.backlog)

    async def aclose(self) -> None:
        await super().aclose()
        raise RuntimeError("a bug")


async def test_a_queue_that_others_empty_is_noticed() -> None:
    """Who waits for a shared queue to be empty need not be who settles its last message."""
    receiver = _Queue()
    async with running(nothing, receiver=receiver) as bench:
        idle = asyncio.create_task(bench.subscriber.idle())
        await turns()
        assert not idle.done()
        receiver.backlog = 0
        async with asyncio.timeout(5):
            await idle


async def test_a_drain_of_a_local_queue_ends_with_the_engine() -> None:
    """An engine that dies while its queue is being emptied does not use up the deadline."""
    receiver = _Queue()
    bench = Bench(nothing, capabilities(process_local=True), receiver=receiver)
    async with bench.subscriber:
        task = asyncio.create_task(bench.subscriber.run())
        drain = asyncio.create_task(bench.subscriber.drain(60))
        await until(lambda: receiver.limits)
        receiver.fail_receive(PERMANENT)
        async with asyncio.timeout(5):
            await drain
            with pytest.raises(PubSubError, match="lease is over"):
                await task


async def test_who_receives_no_more_does_not_wait_for_the_queue() -> None:
    """After stop_receiving nothing would empty it: the drain reports it at once."""
    receiver = _Queue()
    async with running(nothing, capabilities(process_local=True), receiver=receiver) as bench:
        await until(lambda: receiver.limits)
        bench.subscriber.stop_receiving()
        async with asyncio.timeout(5):
            assert await bench.subscriber.drain(60) == (0, 1, 0, 0)


async def test_a_drain_that_was_cancelled_can_be_done_again() -> None:
    """The second drain goes on where the first was stopped, and counts nothing twice."""
    gate, receiver = Gate(), _Queue()
    async with running(gate, capabilities(process_local=True), receiver=receiver) as bench:
        receiver.put(message(id="1"), message(id="2"))
        await until(lambda: gate.started)
        bench.subscriber.stop_receiving()
        first = asyncio.create_task(bench.subscriber.drain(0.01))
        await until(lambda: ("2", "released") in bench.outcomes)
        first.cancel()
        await asyncio.wait([first])
        receiver.backlog = 7  # among them what the first has given back
        assert await bench.subscriber.drain(0) == (0, 2, 1, 0)


async def test_an_engine_ends_whatever_the_close_of_its_receiver_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A driver that fails to close is logged; it leaves nobody waiting."""
    receiver = _Queue()
    async with running(nothing, receiver=receiver):
        await until(lambda: receiver.limits)
    assert "closing the receiver of t/s failed: RuntimeError: a bug" in caplog.text
