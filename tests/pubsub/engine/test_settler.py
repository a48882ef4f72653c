"""The calls that settle: their batches, their retries, and the outcomes that they report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gizmopy.errors import PubSubError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Message
from gizmopy.pubsub.engine.in_flight import InFlight
from gizmopy.pubsub.engine.metrics import SubscriberMetrics
from gizmopy.pubsub.engine.observer import Observer, Observers, SettleCallback
from gizmopy.pubsub.engine.settler import Settler, Stopped
from tests.pubsub.support import (
    CallFails,
    FakeReceiver,
    capabilities,
    message,
    nothing,
    running,
    turns,
    until,
)

TRANSIENT = PubSubError("throttled", transient=True)
OUTCOMES = ("ack", "nack", "dead_letter", "released")
PERMANENT = PubSubError("lease is over", transient=False)


class Settling:
    """A settler on a fake receiver, and the outcomes that it reported."""

    def __init__(self, *, without_callback: bool = False, **can: Any) -> None:
        self.receiver = FakeReceiver()
        self.metrics = Metrics()
        self.in_flight = InFlight(100, 10**6)
        self.reported: list[tuple[str, str, BaseException | None]] = []
        self.sleeps: list[float] = []
        observers: list[Observer] = [SubscriberMetrics(self.metrics, "t", "s")]
        if not without_callback:
            observers.append(SettleCallback(lambda m, *what: self.reported.append((m.id, *what))))
        self.settler = Settler(
            self.receiver,
            capabilities(**can),
            self.in_flight,
            Observers(observers),
            name="t/s",
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await asyncio.sleep(0)

    def received(self, count: int, **fields: Any) -> list[Message]:
        """Return messages that are in flight, with ids from 0."""
        batch = [message(id=str(n), **fields) for n in range(count)]
        self.in_flight.add(batch)
        if (positions := self.settler.positions) is not None:
            for each in batch:
                positions.received(each.partition, each)
        return batch

    def metric(self, name: str, *labels: str) -> float:
        """Return a counter of the settler."""
        return self.metrics.counter(f"gizmo_pubsub_{name}", "").child("t", "s", *labels).value

    @property
    def acked(self) -> list[str]:
        return [each.id for each in self.receiver.acked]


@asynccontextmanager
async def settling(**options: Any) -> AsyncIterator[Settling]:
    """Settle while the context lasts, then settle the rest."""
    bench = Settling(**options)
    task = asyncio.create_task(bench.settler.run())
    yield bench
    bench.receiver.ack_gate.set()
    bench.settler.close()
    await asyncio.wait_for(task, 5)


async def test_messages_that_end_during_a_call_go_with_the_next() -> None:
    """There are as few calls as possible without any wait."""
    async with settling() as bench:
        bench.receiver.ack_gate.clear()
        first, *others = bench.received(6)
        bench.settler.ack(first)
        await until(lambda: bench.receiver.ack_batches)
        for each in others:
            bench.settler.ack(each)
        await turns()
        bench.receiver.ack_gate.set()
        await until(lambda: not len(bench.in_flight))
    assert bench.receiver.ack_batches == [1, 5]


async def test_a_call_holds_at_most_the_batch_of_the_broker() -> None:
    """More messages are split into several calls."""
    async with settling(batch_messages=3) as bench:
        for each in bench.received(7):
            bench.settler.ack(each)
    assert bench.receiver.ack_batches == [3, 3, 1]
    assert bench.reported == [(str(n), "ack", None) for n in range(7)]


async def test_nacks_of_one_delay_go_together() -> None:
    """Each call has one delay."""
    async with settling() as bench:
        error = ValueError()
        for each, delay in zip(bench.received(4), (0, 5, 0, 5), strict=True):
            bench.settler.release(each, "nack", error, delay)
    assert [(m.id, delay) for m, delay in bench.receiver.nacked] == [
        ("0", 0),
        ("2", 0),
        ("1", 5),
        ("3", 5),
    ]
    assert {reported[1:] for reported in bench.reported} == {("nack", error)}


async def test_a_closed_settler_settles_its_messages_first() -> None:
    """All messages handed in before are settled, then run returns."""
    bench = Settling(batch_messages=1)
    for each in bench.received(3):
        bench.settler.ack(each)
    bench.settler.close()
    await asyncio.wait_for(bench.settler.run(), 5)
    assert bench.acked == ["0", "1", "2"]


@pytest.mark.parametrize("as_call", [True, False])
async def test_a_transient_failure_has_three_attempts(
    as_call: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Then the message is dropped, counted and logged: the broker delivers it again."""
    async with settling() as bench:
        errors = [TRANSIENT] * 3
        bench.receiver.ack_errors = [CallFails(e) for e in errors] if as_call else [*errors]
        (each,) = bench.received(1)
        bench.settler.ack(each)
        await until(lambda: not len(bench.in_flight))
    assert bench.receiver.ack_batches == [1, 1, 1]
    assert len(bench.sleeps) == 2
    assert (bench.acked, bench.reported) == ([], [])
    assert bench.metric("settle_failures") == 1
    assert bench.settler.tally.failed_to_settle == 1
    assert (
        "the ack of message 0 of t/s failed, so the broker delivers it again: throttled"
        in caplog.text
    )


async def test_only_transient_failures_are_retried() -> None:
    """The next call contains neither confirmed nor refused messages."""
    async with settling() as bench:
        bench.receiver.ack_errors = [TRANSIENT, PERMANENT]
        for each in bench.received(3):
            bench.settler.ack(each)
    assert bench.receiver.ack_batches == [3, 1]
    assert bench.acked == ["2", "0"]
    assert [id_ for id_, *_ in bench.reported] == ["2", "0"]
    assert bench.metric("settle_failures") == 1


async def test_a_refused_nack_is_not_reported_as_a_nack() -> None:
    """It is counted as a failure."""
    async with settling() as bench:
        bench.receiver.nack_errors = [PERMANENT]
        (each,) = bench.received(1)
        bench.settler.release(each, "nack", ValueError())
    assert bench.reported == []
    assert bench.settler.tally.failed_to_settle == 1
    assert bench.metric("settled", "nack") == 0


async def test_without_nack_the_broker_is_not_called() -> None:
    """It delivers unacked messages again by itself."""
    async with settling(can_nack=False) as bench:
        (each,) = bench.received(1)
        bench.settler.release(each, "released")
    assert bench.receiver.nacked == []
    assert bench.reported == [("0", "released", None)]
    assert not len(bench.in_flight)


async def test_each_outcome_is_counted_by_its_name() -> None:
    """Metrics, the tally of a drain and on_settle agree."""
    async with settling() as bench:
        acked, dead, nacked, released, stopped = bench.received(5)
        error = ValueError()
        bench.settler.ack(acked)
        bench.settler.ack(dead, error)
        bench.settler.release(nacked, "nack", error)
        bench.settler.release(released, "released")
        bench.settler.release(stopped, "nack", Stopped())
    assert [outcome for _, outcome, _ in bench.reported] == [
        "ack",
        "dead_letter",
        "nack",
        "released",
        "nack",
    ]
    counts = {outcome: bench.metric("settled", outcome) for outcome in OUTCOMES}
    assert counts == {"ack": 1, "dead_letter": 1, "nack": 2, "released": 1}
    tally = bench.settler.tally
    assert (tally.finished, tally.released, tally.cancelled) == (3, 1, 1)


async def test_acks_are_counted_without_on_settle() -> None:
    """The counts are the same."""
    async with settling(without_callback=True) as bench:
        for each in bench.received(3):
            bench.settler.ack(each)
    assert bench.metric("settled", "ack") == 3
    assert bench.settler.tally.finished == 3


async def test_a_message_is_pending_from_its_ack_until_it_is_settled() -> None:
    """In the queue, in the call, behind the call, and between two attempts."""
    bench = Settling(batch_messages=1)
    seen: list[list[bool]] = []

    async def see(_: float) -> None:
        seen.append([each in bench.settler.pending() for each in batch])

    bench.settler._sleep = see
    batch = acked, given_back, _ = bench.received(3)
    assert acked not in bench.settler.pending()
    bench.settler.ack(acked)
    bench.settler.release(given_back, "nack")
    assert [each in bench.settler.pending() for each in batch] == [True, True, False]
    bench.receiver.ack_errors = [TRANSIENT]
    bench.settler.close()
    await bench.settler.run()
    assert seen == [[True, True, False]]
    assert not any(each in bench.settler.pending() for each in batch)


async def test_a_message_lost_meanwhile_has_no_second_outcome() -> None:
    """Its settle is neither a success nor a failure, whatever the broker returns."""
    async with settling() as bench:
        bench.receiver.ack_gate.clear()
        acked, refused = bench.received(2)
        bench.receiver.ack_errors = []
        bench.settler.ack(acked)
        bench.settler.ack(refused, ValueError())
        await until(lambda: bench.receiver.ack_batches)
        bench.in_flight.remove([acked, refused])
        bench.receiver.ack_errors = [PERMANENT]
    assert bench.reported == []
    assert bench.settler.tally.finished == bench.settler.tally.failed_to_settle == 0
    assert bench.metric("settle_failures") == 0


class _Odd(FakeReceiver):
    async def ack(self, batch: Sequence[Message]) -> list[Exception | None]:
        raise RuntimeError("a bug")


async def test_an_unexpected_error_of_a_driver_ends_the_settler() -> None:
    """The message stays in flight."""
    bench = Settling()
    bench.settler._receiver = _Odd()
    (each,) = bench.received(1)
    bench.settler.ack(each)
    with pytest.raises(RuntimeError, match="a bug"):
        await bench.settler.run()
    assert each in bench.in_flight
    assert bench.reported == []


# Positions


POSITIONS: dict[str, Any] = {"positions": True, "can_nack": False, "delivery_count": False}


async def test_a_position_is_handed_over_once_for_each_partition() -> None:
    """Only the last message handled without a gap is acked."""
    async with settling(**POSITIONS, batch_messages=1) as bench:
        left, right = bench.received(3, partition=0), bench.received(3, partition=1)
        for each in (left[2], left[0], left[1], right[1], right[0]):
            bench.settler.ack(each)
    assert bench.receiver.acked == [left[2], right[1]]
    assert bench.receiver.ack_batches == [2]
    assert len(bench.reported) == 5


async def test_behind_a_gap_nothing_is_handed_over() -> None:
    """The engine counts messages above the gap as settled all the same."""
    async with settling(**POSITIONS) as bench:
        first, second, third = bench.received(3, partition=0)
        bench.settler.ack(second)
        bench.settler.ack(third)
        await until(lambda: len(bench.reported) == 2)
        assert bench.receiver.ack_batches == []
        assert bench.settler.positions is not None
        assert bench.settler.positions.above_mark == 2
        bench.settler.ack(first)
    assert bench.receiver.acked == [third]


async def test_a_released_message_is_a_gap() -> None:
    """No message above it is ever handed over in this assignment."""
    async with settling(**POSITIONS) as bench:
        first, second = bench.received(2, partition=0)
        bench.settler.release(first, "released")
        bench.settler.ack(second)
    assert bench.receiver.acked == []
    assert [outcome for _, outcome, _ in bench.reported] == ["ack", "released"]


async def test_a_commit_that_failed_is_part_of_the_next() -> None:
    """Also after the engine has dropped its messages."""
    async with settling(**POSITIONS) as bench:
        bench.receiver.ack_errors = [PERMANENT]
        left, right = bench.received(1, partition=0), bench.received(1, partition=1)
        for each in (*left, *right):
            bench.settler.ack(each)
        await until(lambda: not len(bench.in_flight))
        assert bench.receiver.acked == right
        assert bench.settler.tally.failed_to_settle == 1
        later = bench.received(1, partition=1)
        bench.settler.ack(later[0])
    assert bench.receiver.acked == [*right, *left, *later]


async def test_a_commit_that_failed_for_now_is_retried() -> None:
    """Until then its messages are not settled."""
    async with settling(**POSITIONS) as bench:
        bench.receiver.ack_errors = [CallFails(TRANSIENT), TRANSIENT]
        (each,) = bench.received(1, partition=0)
        bench.settler.ack(each)
    assert bench.receiver.ack_batches == [1, 1, 1]
    assert bench.reported == [("0", "ack", None)]


async def test_a_revoked_partition_is_not_handed_over(caplog: pytest.LogCaptureFixture) -> None:
    """Messages handled too late are dropped, also if the partition is assigned again."""
    caplog.set_level(logging.DEBUG)
    async with settling(**POSITIONS) as bench:
        positions = bench.settler.positions
        assert positions is not None
        (old,) = bench.received(1, partition=0)
        positions.revoke([0])
        bench.in_flight.remove([old])
        (new,) = bench.received(1, partition=0)
        bench.settler.ack(old)
        await turns()
        assert bench.receiver.acked == []
        bench.settler.ack(new)
    assert bench.receiver.acked == [new]
    assert bench.reported == [("0", "ack", None)]


async def test_acks_are_batched_while_a_call_runs() -> None:
    """Messages that end during an ack go with the next one, up to the limit."""
    async with running(nothing, capabilities(batch_messages=4)) as bench:
        bench.receiver.ack_gate.clear()
        bench.receiver.put(message(id="0"))
        await until(lambda: bench.receiver.ack_batches)
        bench.receiver.put(*(message(id=str(n)) for n in range(1, 7)))
        await turns()
        bench.receiver.ack_gate.set()
        await until(lambda: len(bench.settled) == 7)
    assert bench.receiver.ack_batches == [1, 4, 2]


async def test_only_the_acks_that_failed_for_now_are_retried() -> None:
    """A failed item does not affect the others of its batch."""
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


async def test_an_ack_that_is_refused_is_counted_and_not_retried() -> None:
    """After a lost lease the message is not reported as settled."""
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
    """If the whole call fails, the whole batch is retried."""
    async with running(nothing) as bench:
        bench.receiver.ack_errors = [CallFails(TRANSIENT)]
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.receiver.ack_batches == [1, 1]


class _Short(FakeReceiver):
    async def ack(self, batch: Sequence[Message]) -> list[Exception | None]:
        return []


async def test_too_few_results_confirm_nothing() -> None:
    """A driver that returns no result for a message has not acked it."""
    async with running(nothing, receiver=_Short()) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.metric("settle_failures"))
    assert not bench.settled


async def test_a_message_about_to_be_settled_is_not_reported_as_lost() -> None:
    """It waits behind a slow ack of the same batch."""

    async def handler(_: Message) -> None:
        return None

    can = capabilities(lease=0.04, batch_messages=1)
    async with running(handler, can, concurrency=1) as bench:
        bench.receiver.ack_gate.clear()
        bench.receiver.put(message(id="0"), message(id="1"), message(id="2"))
        await until(lambda: bench.receiver.ack_batches)
        bench.receiver.extend_error = PERMANENT
        await until(lambda: len(bench.receiver.extended) >= 3)
        await turns()
        bench.receiver.ack_gate.set()
        await until(lambda: bench.subscriber.is_idle)
        await until(lambda: len(bench.receiver.acked) == 3)
        await turns()
    reported = [id_ for id_, _ in bench.outcomes]
    assert sorted(reported) == ["0", "1", "2"], bench.outcomes


async def test_a_message_between_two_acks_is_not_reported_as_lost() -> None:
    """Its ack is retried after a wait."""
    wait = asyncio.Event()

    async def sleep(_: float) -> None:
        await wait.wait()

    can = capabilities(lease=0.04)
    async with running(nothing, can, sleep=sleep) as bench:
        bench.receiver.ack_errors = [PubSubError("throttled", transient=True)]
        bench.receiver.put(message(id="0"))
        await until(lambda: bench.receiver.ack_batches)
        bench.receiver.extend_error = PERMANENT
        await until(lambda: bench.receiver.extended)
        await turns()
        wait.set()
        await until(lambda: bench.receiver.acked)
        await turns()
    assert len(bench.outcomes) == 1, bench.outcomes
