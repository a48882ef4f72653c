"""Pausing a subscription: no handler begins, nothing is lost, and a drain works as ever."""

from __future__ import annotations

import asyncio

import pytest

from gizmopy.pubsub import Message, RetryPolicy
from tests.pubsub.support import (
    FakeReceiver,
    Gate,
    capabilities,
    message,
    nothing,
    running,
    turns,
    until,
)

KEEPS = {"can_nack": False, "positions": True, "delivery_count": False}
"""A broker that takes no message back."""


class PausingAll(FakeReceiver):
    """Record pauses of the whole receiver."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False

    def pause_all(self) -> None:
        self.paused = True

    def resume_all(self) -> None:
        self.paused = False


async def test_a_paused_subscription_receives_nothing() -> None:
    """It receives again after it was resumed."""
    async with running(nothing) as bench:
        bench.subscriber.pause()
        await turns()
        first = len(bench.receiver.limits)
        bench.receiver.put(message(id="a"))
        await turns()
        assert len(bench.receiver.limits) <= first
        assert "ack" not in dict(bench.outcomes).values()
        bench.receiver.put(message(id="b"))
        bench.subscriber.resume()
        await until(lambda: ("b", "ack") in bench.outcomes)


@pytest.mark.parametrize("order", ["none", "key"])
async def test_a_pause_gives_back_what_no_handler_has(order: str) -> None:
    """Leases of messages that wait here would end; the handler that runs ends as ever."""
    gate = Gate()
    async with running(gate, order=order) as bench:
        bench.receiver.put(*(message(id=f"m{n}", key="k") for n in range(3)))
        await until(lambda: gate.started)
        bench.subscriber.pause()
        await until(lambda: len(bench.receiver.nacked) == 2)
        assert [delay for _, delay in bench.receiver.nacked] == [0, 0]
        gate.open.set()
        await until(lambda: len(bench.settled) == 3)
        assert bench.outcomes == [("m1", "released"), ("m2", "released"), ("m0", "ack")]
        bench.subscriber.resume()
        bench.receiver.put(message(id="m1", key="k"))
        await until(lambda: bench.outcomes[-1] == ("m1", "ack"))


async def test_what_a_pending_receive_returns_is_given_back() -> None:
    """The receive began before the pause, and its messages came after it."""
    async with running(nothing, order="key") as bench:
        await until(lambda: bench.receiver.limits)
        bench.subscriber.pause()
        bench.receiver.put(message(id="a", key="k"))
        await until(lambda: bench.outcomes == [("a", "released")])


async def test_a_retry_that_is_due_in_a_pause_is_given_back() -> None:
    """It waits for no handler here, because its lease would end."""
    due = asyncio.Event()

    async def fail(_: Message) -> None:
        raise ValueError

    async def sleep(_: float) -> None:
        await due.wait()

    async with running(fail, sleep=sleep, retry=RetryPolicy(attempts=3)) as bench:
        bench.receiver.put(message(id="a"))
        await until(lambda: bench.metric("retries") == 1)
        bench.subscriber.pause()
        due.set()
        await until(lambda: bench.outcomes == [("a", "released")])


async def test_a_broker_that_takes_nothing_back_has_its_messages_kept() -> None:
    """They are handled after the pause, in their order."""
    gate = Gate()
    async with running(gate, capabilities(**KEEPS), order="partition") as bench:
        bench.receiver.put(*(message(id=f"m{n}", partition=0) for n in range(3)))
        await until(lambda: gate.started)
        bench.subscriber.pause()
        gate.open.set()
        await until(lambda: len(bench.settled) == 1)
        await turns()
        assert gate.started == ["m0"]
        bench.subscriber.resume()
        await until(lambda: len(bench.settled) == 3)
        assert gate.started == ["m0", "m1", "m2"]


async def test_kept_messages_of_a_revoked_partition_are_lost_here() -> None:
    """Another member handles them: this one forgets them, and handles none after the pause."""
    gate = Gate()
    async with running(gate, capabilities(**KEEPS), order="partition") as bench:
        bench.receiver.put(*(message(id=f"m{n}", partition=n) for n in range(3)))
        await until(lambda: gate.started)
        bench.subscriber.pause()
        await bench.subscriber.revoke({1, 2}, 1)
        bench.subscriber.resume()
        gate.open.set()
        await until(lambda: bench.outcomes == [("m1", "lost"), ("m2", "lost"), ("m0", "ack")])
        await turns()
        assert gate.started == ["m0"]


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_paused_subscription_drains(keeps: bool) -> None:
    """Kept messages are given back, and the drain does not wait for the end of the pause."""
    gate = Gate()
    async with running(gate, capabilities(**(KEEPS if keeps else {}))) as bench:
        bench.receiver.put(*(message(id=f"m{n}", partition=n) for n in range(3)))
        await until(lambda: gate.started)
        bench.subscriber.pause()
        gate.open.set()
        report = await bench.subscriber.drain(60)
    assert report.failed_to_settle == 0
    assert sorted(bench.outcomes) == [("m0", "ack"), ("m1", "released"), ("m2", "released")]


async def test_a_broker_in_this_process_is_emptied_by_the_drain() -> None:
    """Its messages end with the process, so the drain ends the pause."""
    async with running(nothing, capabilities(process_local=True)) as bench:
        await until(lambda: bench.receiver.limits)
        bench.subscriber.pause()
        bench.receiver.put(message(id="a"))
        await turns()
        assert bench.outcomes == []
        await bench.subscriber.drain(5)
    assert bench.outcomes == [("a", "ack")]


async def test_a_receiver_that_pauses_as_a_whole_is_called_on() -> None:
    """Its session needs ``receive``; it returns nothing meanwhile."""
    receiver = PausingAll()
    can = capabilities(**KEEPS, can_pause_all=True)
    async with running(nothing, can, receiver=receiver, start_paused=True) as bench:
        await until(lambda: receiver.limits)
        assert receiver.paused
        bench.subscriber.resume()
        assert not receiver.paused
        receiver.put(message(id="a", partition=0))
        await until(lambda: bench.outcomes == [("a", "ack")])


async def test_a_subscription_that_starts_paused_shows_it() -> None:
    """It is connected and well, its gauge is 1, and it is idle: nothing waits for it."""
    async with running(nothing, start_paused=True) as bench:
        bench.receiver.put(message(id="a"))
        await turns()
        assert bench.subscriber.connected
        assert bench.subscriber.paused
        assert bench.subscriber.problem == bench.subscriber.stall == ""
        assert bench.subscriber.is_idle
        bench.subscriber.measure()
        gauge = bench.metrics.gauge("gizmo_pubsub_paused", "")
        assert gauge.child("t", "s").value == 1
        bench.subscriber.resume()
        await until(lambda: bench.outcomes == [("a", "ack")])
        bench.subscriber.measure()
        assert gauge.child("t", "s").value == 0


async def test_batches_are_not_begun_in_a_pause() -> None:
    """A batch handler waits for the end of the pause, too."""
    sizes: list[int] = []

    async def handle(batch: list[Message]) -> list[None]:
        sizes.append(len(batch))
        return [None] * len(batch)

    can = capabilities(**KEEPS)
    async with running(nothing, can, batch_handler=handle, batch_size=5, start_paused=True) as b:
        b.subscriber.resume()
        await until(lambda: b.receiver.limits)
        b.subscriber.pause()
        b.receiver.put(*(message(id=f"m{n}", partition=0) for n in range(3)))
        await turns()
        assert sizes == []
        b.subscriber.resume()
        await until(lambda: sizes == [3])
