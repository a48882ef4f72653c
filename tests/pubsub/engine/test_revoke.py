"""Letting go of partitions that the broker takes away, with a broker that keeps positions."""

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
"""What a log of partitions can do."""
LONG = 60.0
"""Seconds that no test waits for."""
SOON = 0.02


def put(bench: Bench, *ids: str, partition: int = 0, **fields: Any) -> None:
    """Have messages of a partition received."""
    bench.receiver.put(*(message(id=id_, partition=partition, **fields) for id_ in ids))


def acked(bench: Bench) -> list[str]:
    """Return how far the broker was told that partitions are handled."""
    return [each.id for each in bench.receiver.acked]


def gauge(bench: Bench, name: str) -> float:
    """Return a gauge as it is now."""
    bench.subscriber.measure()
    return bench.metrics.gauge(f"gizmo_pubsub_{name}", "").child("t", "s").value


async def test_what_is_not_started_is_dropped_at_once() -> None:
    """It is lost to the next owner, and not a handling is waited for."""
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


async def test_what_waits_in_its_lane_is_dropped() -> None:
    """Only the one in front is waited for."""
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


async def test_what_waits_to_be_tried_again_is_dropped() -> None:
    """Its wait is ended, and its lane is free for the next assignment."""
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


async def test_a_stuck_message_is_nobodys_problem_any_more() -> None:
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


async def test_what_is_started_is_finished_and_handed_over() -> None:
    """The revoke returns when the last ack was taken."""
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


async def test_what_is_not_finished_in_time_is_cancelled_and_not_acked() -> None:
    """Its cancellation is no failure, and the worker works on."""
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


async def test_who_does_not_heed_its_cancellation_does_not_hold_up_the_revoke() -> None:
    """What it ends with later is stale."""
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


async def test_other_partitions_go_on() -> None:
    """Neither their messages nor their handlers are touched."""
    gate = Gate()
    async with running(gate, POSITIONS, concurrency=2) as bench:
        put(bench, "gone", partition=0)
        put(bench, "stays", partition=1)
        await until(lambda: len(gate.started) == 2)
        await bench.subscriber.revoke([0], SOON)
        assert bench.outcomes == [("gone", "lost")]
        gate.open.set()
        await until(lambda: acked(bench) == ["stays"])


async def test_after_a_revoke_the_new_assignment_begins_anew() -> None:
    """What was handled above a gap before does not count; what comes now does."""
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


async def test_a_partition_that_is_not_held_is_let_go_of_at_once() -> None:
    """There is nothing to do, started or not."""
    bench = Bench(nothing, POSITIONS)
    async with asyncio.timeout(5), bench.subscriber:
        await bench.subscriber.revoke([0], LONG)
        task = asyncio.create_task(bench.subscriber.run())
        await until(lambda: bench.receiver.limits)
        await bench.subscriber.revoke([1, 2], LONG)
        await bench.subscriber.drain(0)
        await bench.subscriber.revoke([3], LONG)
        await task


async def test_no_time_is_enough_to_let_go() -> None:
    """With zero seconds all is dropped and cancelled."""
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
    """Each returns when its own partitions are let go of."""
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


async def test_a_dead_letter_under_way_does_not_hold_up_the_revoke() -> None:
    """Unconfirmed, it acks nothing: the next owner sees to the message."""
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
    """The drain's report counts nothing twice, and nothing unfinished is acked."""
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


async def test_what_cannot_be_kept_of_a_leased_broker_is_let_go_of_too() -> None:
    """A revoke is not only for positions: what is not started is dropped, not given back."""
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


async def test_what_was_revoked_is_not_said_to_be_acked() -> None:
    """A position that is handed over to nobody is not an ack: told lost, and only that."""
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


async def test_a_revoke_does_not_give_up_messages_of_partitions_that_stay() -> None:
    """A key may stand in two partitions: what is behind it there is not given back for nothing."""
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
