"""Giving up partitions that the broker takes away, on a broker that keeps positions."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from gizmopy.pubsub import Message
from tests.pubsub.support import (
    Bench,
    Gate,
    capabilities,
    message,
    no_wait,
    nothing,
    running,
    turns,
    until,
)

POSITIONS = capabilities(positions=True, can_nack=False, lease=None, delivery_count=False)
"""The capabilities of a log of partitions."""
LONG = 60.0
"""Seconds that no test waits for."""
SOON = 0.02


def put(bench: Bench, *ids: str, partition: int = 0, **fields: Any) -> None:
    """Have messages of a partition received."""
    bench.receiver.put(*(message(id=id_, partition=partition, **fields) for id_ in ids))


def acked(bench: Bench) -> list[str]:
    """Return the positions that were handed to the broker."""
    return [each.id for each in bench.receiver.acked]


def gauge(bench: Bench, name: str) -> float:
    """Return the current value of a gauge."""
    bench.subscriber.measure()
    return bench.metrics.gauge(f"gizmo_pubsub_{name}", "").child("t", "s").value


async def test_a_message_that_has_not_started_is_dropped_at_once() -> None:
    """It is left to the next owner, and the revoke does not wait for it."""
    gate = Gate()
    async with running(gate, POSITIONS) as bench:
        put(bench, "other", partition=1)
        await until(lambda: gate.started)
        put(bench, "1", "2")
        await until(lambda: gauge(bench, "in_flight") == 3)
        async with asyncio.timeout(5):
            await bench.subscriber.revoke([0], LONG)
        assert bench.outcomes == [("1", "lost"), ("2", "lost")]
        gate.open.set()
        await until(lambda: len(bench.settled) == 3)
    assert gate.started == ["other"]
    assert acked(bench) == ["other"]
    assert bench.metric("lost") == 2


async def test_a_message_that_waits_in_its_lane_is_dropped() -> None:
    """The revoke waits only for the one in front."""
    gate = Gate()
    async with running(gate, POSITIONS, order="partition") as bench:
        put(bench, "1", "2", "3")
        await until(lambda: gate.started)
        revoke = asyncio.create_task(bench.subscriber.revoke([0], LONG))
        await until(lambda: len(bench.settled) == 2)
        assert not revoke.done()
        assert gauge(bench, "waiting_in_order") == 0
        gate.open.set()
        async with asyncio.timeout(5):
            await revoke
        assert acked(bench) == ["1"]
    assert gate.started == ["1"]
    assert bench.outcomes == [("2", "lost"), ("3", "lost"), ("1", "ack")]


async def test_a_message_that_waits_for_a_retry_is_dropped() -> None:
    """Its wait is cancelled, and its lane is free for the next assignment."""
    never = asyncio.Event()

    async def sleep(_: float) -> None:
        await never.wait()

    async def handler(received: Message) -> None:
        if received.id == "fails":
            raise ValueError

    async with running(handler, POSITIONS, order="partition", sleep=sleep) as bench:
        put(bench, "fails", "waits")
        await until(lambda: bench.metric("retries"))
        async with asyncio.timeout(5):
            await bench.subscriber.revoke([0], LONG)
        assert sorted(bench.outcomes) == [("fails", "lost"), ("waits", "lost")]
        put(bench, "new")
        await until(lambda: acked(bench) == ["new"])


async def test_a_stuck_message_is_no_longer_counted() -> None:
    """Its next owner has it."""

    async def handler(_: Message) -> None:
        raise ValueError

    never = asyncio.Event()

    async def sleep(_: float) -> None:
        if bench.subscriber.stuck:
            await never.wait()

    async with running(
        handler, POSITIONS, order="partition", sleep=sleep, max_deliveries=1
    ) as bench:
        put(bench, "1")
        await until(lambda: bench.subscriber.stuck == 1)
        await bench.subscriber.revoke([0], LONG)
        assert bench.subscriber.stuck == 0


async def test_a_running_handler_finishes_and_its_ack_is_handed_over() -> None:
    """The revoke returns once the last ack was accepted."""
    gate = Gate()
    async with running(gate, POSITIONS, concurrency=2) as bench:
        put(bench, "1", "2")
        await until(lambda: len(gate.started) == 2)
        bench.receiver.ack_gate.clear()
        revoke = asyncio.create_task(bench.subscriber.revoke([0], LONG))
        gate.open.set()
        await until(lambda: bench.receiver.ack_batches)
        await turns()
        assert not revoke.done()
        bench.receiver.ack_gate.set()
        async with asyncio.timeout(5):
            await revoke
        assert acked(bench)[-1] == "2"
    assert bench.metric("lost") == 0


async def test_a_handler_that_is_late_is_cancelled_and_not_acked() -> None:
    """Its cancellation is not a failure, and the worker continues."""
    started, cancelled = asyncio.Event(), []

    async def handler(received: Message) -> None:
        if received.partition == 0:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(received.id)
                raise

    async with running(handler, POSITIONS) as bench:
        put(bench, "1")
        await started.wait()
        await turns()
        await bench.subscriber.revoke([0], SOON)
        assert cancelled == ["1"]
        put(bench, "2", partition=1)
        await until(lambda: acked(bench) == ["2"])
    assert bench.outcomes == [("1", "lost"), ("2", "ack")]
    assert bench.metric("retries") == 0


async def test_a_handler_that_ignores_its_cancellation_does_not_block_the_revoke() -> None:
    """Its end is counted as stale."""
    stubborn = Gate()

    async def handler(received: Message) -> None:
        stubborn.started.append(received.id)
        while not stubborn.open.is_set():
            with suppress(asyncio.CancelledError):
                await stubborn.open.wait()

    async with running(handler, POSITIONS) as bench:
        put(bench, "1")
        await until(lambda: stubborn.started)
        async with asyncio.timeout(5):
            await bench.subscriber.revoke([0], SOON)
        stubborn.open.set()
        await until(lambda: bench.metric("stale_settles") == 1)
        await turns()
    assert acked(bench) == []
    assert bench.outcomes == [("1", "lost")]


async def test_other_partitions_continue() -> None:
    """The revoke affects neither their messages nor their handlers."""
    gate = Gate()
    async with running(gate, POSITIONS, concurrency=2) as bench:
        put(bench, "gone", partition=0)
        put(bench, "stays", partition=1)
        await until(lambda: len(gate.started) == 2)
        await bench.subscriber.revoke([0], SOON)
        assert bench.outcomes == [("gone", "lost")]
        gate.open.set()
        await until(lambda: acked(bench) == ["stays"])


async def test_a_new_assignment_starts_without_the_old_positions() -> None:
    """Messages handled above a gap before do not count; new ones do."""
    gate = Gate()

    async def handler(received: Message) -> None:
        if received.id == "slow":
            await gate(received)

    async with running(handler, POSITIONS, concurrency=2) as bench:
        put(bench, "slow", "above")
        await until(lambda: bench.outcomes == [("above", "ack")])
        assert gauge(bench, "commit_lag") == 1
        await bench.subscriber.revoke([0], SOON)
        assert gauge(bench, "commit_lag") == 0
        assert acked(bench) == []
        put(bench, "slow again", "above again")
        await until(lambda: len(bench.settled) == 4)
    assert acked(bench)[-1] == "above again"
    assert "above" not in acked(bench)


async def test_a_partition_without_messages_is_given_up_at_once() -> None:
    """With a running subscriber, and without."""
    bench = Bench(nothing, POSITIONS)
    async with asyncio.timeout(5), bench.subscriber:
        await bench.subscriber.revoke([0], LONG)
        task = asyncio.create_task(bench.subscriber.run())
        await until(lambda: bench.receiver.limits)
        await bench.subscriber.revoke([1, 2], LONG)
        await bench.subscriber.drain(0)
        await bench.subscriber.revoke([3], LONG)
        await task


async def test_a_revoke_with_zero_seconds_cancels_at_once() -> None:
    """All messages are dropped, and handlers cancelled."""
    gate = Gate()
    async with running(gate, POSITIONS, order="partition") as bench:
        put(bench, "1", "2")
        await until(lambda: gate.started)
        await bench.subscriber.revoke([0], 0)
        assert sorted(bench.outcomes) == [("1", "lost"), ("2", "lost")]
        assert gauge(bench, "in_flight") == 0
        await turns()
    assert acked(bench) == []


async def test_two_revokes_at_a_time_do_not_wait_for_one_another() -> None:
    """Each returns when its own partitions are given up."""
    gates = {0: Gate(), 1: Gate()}

    async def handler(received: Message) -> None:
        assert isinstance(received.partition, int)
        await gates[received.partition](received)

    async with running(handler, POSITIONS, concurrency=2) as bench:
        put(bench, "0", partition=0)
        put(bench, "1", partition=1)
        await until(lambda: gates[0].started and gates[1].started)
        revokes = [asyncio.create_task(bench.subscriber.revoke([n], LONG)) for n in gates]
        await turns()
        gates[1].open.set()
        async with asyncio.timeout(5):
            await revokes[1]
            assert not revokes[0].done()
            gates[0].open.set()
            await revokes[0]
    assert sorted(bench.outcomes) == [("0", "ack"), ("1", "ack")]


async def test_a_dead_letter_being_published_does_not_block_the_revoke() -> None:
    """It is not confirmed, so nothing is acked: the next owner handles the message."""
    publishing = Gate()

    async def handler(_: Message) -> None:
        raise ValueError

    async with running(
        handler,
        POSITIONS,
        dead_letter=publishing,
        max_deliveries=1,
        sleep=no_wait,
    ) as bench:
        put(bench, "1")
        await until(lambda: publishing.started)
        async with asyncio.timeout(5):
            await bench.subscriber.revoke([0], SOON)
        await turns()
    assert bench.outcomes == [("1", "lost")]
    assert acked(bench) == []


@pytest.mark.parametrize("order", ["none", "partition"])
async def test_a_revoke_during_a_drain_ends_both(order: str) -> None:
    """The report of the drain counts no message twice, and no unfinished one is acked."""
    gate = Gate()
    async with running(gate, POSITIONS, order=order, concurrency=2) as bench:
        put(bench, "0", partition=0)
        put(bench, "1", partition=1)
        await until(lambda: len(gate.started) == 2)
        drain = asyncio.create_task(bench.subscriber.drain(LONG))
        await turns()
        await bench.subscriber.revoke([0], SOON)
        assert bench.outcomes == [("0", "lost")]
        gate.open.set()
        async with asyncio.timeout(5):
            assert await drain == (1, 0, 0, 0)
    assert acked(bench) == ["1"]


async def test_a_revoke_works_without_positions_too() -> None:
    """Messages that have not started are dropped, not given back."""
    gate = Gate()
    async with running(gate, capabilities(lease=30)) as bench:
        put(bench, "1", "2")
        await until(lambda: gate.started)
        revoke = asyncio.create_task(bench.subscriber.revoke([0], LONG))
        await turns()
        gate.open.set()
        await revoke
    assert bench.outcomes == [("2", "lost"), ("1", "ack")]
    assert bench.receiver.nacked == []


async def test_a_revoked_message_is_not_reported_as_acked() -> None:
    """Its position is handed over to no one: it is reported as lost, and only as lost."""
    can = capabilities(positions=True, can_nack=False, delivery_count=False)
    async with running(nothing, can) as bench:
        bench.receiver.ack_gate.clear()
        bench.receiver.put(message(id="0", partition=0))
        await until(lambda: bench.receiver.ack_batches)
        bench.receiver.put(message(id="1", partition=0))
        await turns()
        await bench.subscriber.revoke([0], 0.01)
        bench.receiver.ack_gate.set()
        await turns()
    assert [m.id for m in bench.receiver.acked] == ["0"]
    assert ("1", "ack") not in bench.outcomes, bench.outcomes
    assert len(bench.outcomes) == 2, bench.outcomes


async def test_a_revoke_keeps_the_messages_of_other_partitions() -> None:
    """A key may have messages in two partitions: those of the other one are not given back."""
    never = asyncio.Event()

    async def sleep(_: float) -> None:
        await never.wait()

    async def handler(received: Message) -> None:
        if received.id == "fails":
            raise ValueError

    can = capabilities(positions=True, can_nack=False, delivery_count=False)
    async with running(handler, can, order="key", sleep=sleep) as bench:
        bench.receiver.put(
            message(id="fails", key="k", partition=0), message(id="stays", key="k", partition=1)
        )
        await until(lambda: bench.metric("retries"))
        await bench.subscriber.revoke([0], 1)
        async with asyncio.timeout(2):
            await until(lambda: len(bench.settled) == 2)
        assert sorted(bench.outcomes) == [("fails", "lost"), ("stays", "ack")]
