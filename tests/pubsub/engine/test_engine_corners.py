"""Corners of the engine in which a first version of it went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gizmopy.errors import PubSubError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Message
from gizmopy.pubsub.engine.in_flight import InFlight
from gizmopy.pubsub.engine.leases import Leases
from gizmopy.pubsub.engine.metrics import SubscriberMetrics
from gizmopy.pubsub.engine.ready_queue import ReadyQueue
from gizmopy.pubsub.supervisor import Supervisor
from tests.pubsub.support import FakeReceiver, capabilities, held, lose_lease, message, turns, until
from tests.pubsub.test_subscriber import Bench, Gate, nothing, running

GONE = PubSubError("its lease is over", transient=False)


async def test_ready_wakes_nobody_who_was_just_cancelled() -> None:
    """A message that comes in the turn in which a sleeper's wait ends is no InvalidStateError."""
    ready = ReadyQueue(lambda: None)
    sleeper = asyncio.create_task(ready.wait())
    await turns(3)
    sleeper.cancel()
    ready.put(message())  # raises InvalidStateError
    await asyncio.wait([sleeper])


async def test_ready_hands_on_a_wake_up_that_came_too_late() -> None:
    """A worker that is woken and cancelled in one turn leaves the message to another sleeper."""
    ready = ReadyQueue(lambda: None)
    first = asyncio.create_task(ready.wait())
    await turns(3)
    second = asyncio.create_task(ready.wait())
    await turns(3)
    ready.put(message())  # wakes the first
    first.cancel()
    await asyncio.wait([first])
    await turns()
    assert second.done()
    second.cancel()


async def test_engine_survives_a_message_at_the_end_of_a_batch_wait() -> None:
    """A message received in the very turn in which batch_wait ends does not kill the engine."""
    loop = asyncio.get_running_loop()
    batches: list[int] = []

    async def batch_handler(batch: Sequence[Message]) -> list[None]:
        batches.append(len(batch))
        return [None] * len(batch)

    async with running(
        nothing, batch_handler=batch_handler, batch_size=5, batch_wait=0.05
    ) as bench:
        bench.receiver.put(message(id="1"))
        await until(lambda: bench.receiver.limits)
        await until(lambda: not bench.receiver.queue)
        await turns()
        # the receive task admits in the loop iteration in which the timer fires
        scheduled: Any = loop
        when = min(h.when() for h in scheduled._scheduled if not h.cancelled())
        loop.call_at(when - 0.00002, lambda: bench.receiver.put(message(id="2")))
        await until(lambda: len(bench.settled) == 2)


class _Extends(FakeReceiver):
    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, list[float]] = {}

    async def extend(self, batch: Sequence[Message], seconds: float) -> list[Exception | None]:
        for each in batch:
            self.seconds.setdefault(each.id, []).append(seconds)
        return await super().extend(batch, seconds)


async def test_an_old_message_does_not_shorten_the_leases_of_the_others() -> None:
    """Near its cap one message is extended by little; those in its batch by a whole lease."""
    receiver = _Extends()
    can = capabilities(lease=10, lease_cap=60)
    metrics = SubscriberMetrics(Metrics(), "t", "s")
    in_flight = InFlight(100, 10**9)
    leases = Leases(receiver, can, in_flight, metrics, lambda *_: None)
    old, young = message(id="old"), message(id="young")
    in_flight.add([old, young])
    in_flight.received_at[old] -= 59.9
    await leases.extend_due([old, young])
    assert receiver.seconds["young"] == [10]


async def test_what_waits_for_its_settling_is_not_reported_lost() -> None:
    """Behind a slow ack of the same lot a handled message is about to be settled: not lost too."""

    async def handler(_: Message) -> None:
        return None

    can = capabilities(lease=0.04, batch_messages=1)
    async with running(handler, can, concurrency=1) as bench:
        bench.receiver.ack_gate.clear()
        bench.receiver.put(message(id="0"), message(id="1"), message(id="2"))
        await until(lambda: bench.receiver.ack_batches)
        bench.receiver.extend_error = GONE
        await until(lambda: len(bench.receiver.extended) >= 3)
        await turns()
        bench.receiver.ack_gate.set()
        await until(lambda: bench.subscriber.is_idle)
        await until(lambda: len(bench.receiver.acked) == 3)
        await turns()
    told = [id_ for id_, _ in bench.outcomes]
    assert sorted(told) == ["0", "1", "2"], bench.outcomes


async def test_what_waits_to_be_acked_again_is_not_reported_lost() -> None:
    """Between two tries of its ack a message is not lost either."""
    wait = asyncio.Event()

    async def sleep(_: float) -> None:
        await wait.wait()

    can = capabilities(lease=0.04)
    async with running(nothing, can, sleep=sleep) as bench:
        bench.receiver.ack_errors = [PubSubError("throttled", transient=True)]
        bench.receiver.put(message(id="0"))
        await until(lambda: bench.receiver.ack_batches)
        bench.receiver.extend_error = GONE
        await until(lambda: bench.receiver.extended)
        await turns()
        wait.set()
        await until(lambda: bench.receiver.acked)
        await turns()
    assert len(bench.outcomes) == 1, bench.outcomes


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


async def test_a_renewal_that_hangs_does_not_keep_leases_from_being_extended() -> None:
    """Message.on_extend is a user's: what it does is not the other messages' concern."""
    gate = Gate()

    async def handler(received: Message) -> None:
        if received.id == "hangs":
            received.on_extend = hang
        await gate(received)

    async def hang(_: float) -> None:
        await asyncio.Event().wait()

    async with running(handler, capabilities(lease=0.04), concurrency=2) as bench:
        bench.receiver.put(message(id="hangs"), message(id="other"))
        async with asyncio.timeout(2):
            await until(lambda: [m.id for m in bench.receiver.extended].count("other") >= 4)
        gate.open.set()


@pytest.mark.parametrize("renew", [lambda seconds: None, lambda: None])
async def test_a_renewal_that_is_no_coroutine_does_not_end_the_subscriber(renew: Any) -> None:
    """A mistake in an on_extend is logged; the leases are kept, and the engine lives."""
    gate = Gate()

    async def handler(received: Message) -> None:
        received.on_extend = renew
        await gate(received)

    async with running(handler, capabilities(lease=0.04)) as bench:
        bench.receiver.put(message())
        await until(lambda: len(bench.receiver.extended) >= 2)
        gate.open.set()


async def test_a_body_that_a_middleware_replaces_is_counted_as_it_came() -> None:
    """The bytes in flight are back at zero when nothing is in flight."""

    async def handler(received: Message) -> None:
        received.body = b""  # decompressed, decrypted, ...

    async with running(handler, max_in_flight_bytes=1000) as bench:
        for count in range(1, 4):
            bench.receiver.put(message(b"x" * 600))
            await turns()
            assert len(bench.settled) == count, "no more is received, ever"


async def test_a_supervisor_ends_though_the_next_subscriber_does_not_get_connected() -> None:
    """A drain while a replacement connects, and hangs in that, ends at its deadline."""
    first, second = FakeReceiver(), _NeverConnects()
    made = iter([first, second])
    supervisor = Supervisor(
        lambda: Bench(nothing, capabilities(), receiver=next(made)).subscriber,
        metrics=Metrics(),
        sleep=_at_once,
    )
    async with supervisor:
        task = asyncio.create_task(supervisor.run())
        await until(lambda: first.limits)
        first.fail_receive(ValueError("a bug"))
        await until(lambda: second.connecting)
        await supervisor.drain(0.01)
        done, _ = await asyncio.wait([task], timeout=3)
        task.cancel()
        assert done


class _NeverConnects(FakeReceiver):
    connecting = False

    async def connect(self, revoke: object) -> None:
        self.connecting = True
        await asyncio.Event().wait()


async def _at_once(_: float) -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("where", ["connect", "make"])
async def test_a_supervisor_lives_on_whatever_the_next_subscriber_is_stopped_by(where: str) -> None:
    """An odd error of a driver as the next one is made or connected is tried again as well."""
    first, last = FakeReceiver(), FakeReceiver()
    second = FakeReceiver()
    second.connects = [OSError("odd")]
    receivers: list[FakeReceiver | None] = [first, second, last]
    if where == "make":
        receivers = [first, None, last]

    def make() -> Any:
        receiver = receivers.pop(0)
        if receiver is None:
            raise OSError("odd")
        return Bench(nothing, capabilities(), receiver=receiver).subscriber

    supervisor = Supervisor(make, metrics=Metrics(), sleep=_at_once)
    async with supervisor:
        task = asyncio.create_task(supervisor.run())
        await until(lambda: first.limits)
        first.fail_receive(ValueError("a bug"))
        await until(lambda: last.limits or task.done())
        assert not task.done()
        await supervisor.drain(0)
        await task


async def test_the_wait_in_the_queue_is_observed_once_for_a_message() -> None:
    """A handling that is put off is no second wait for the first start."""
    from gizmopy.errors import Retry
    from tests.pubsub.test_subscriber import failing

    async with running(failing(Retry(counted=False), Retry(counted=False))) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
        waits = bench.metrics.histogram("gizmo_pubsub_queue_wait_seconds", "")
        assert sum(waits.child("t", "s").counts) == 1


class _ClosesBadly(FakeReceiver):
    async def aclose(self) -> None:
        await super().aclose()
        raise asyncio.CancelledError


async def test_an_engine_ends_though_its_receiver_is_closed_by_a_cancellation() -> None:
    """A driver that awaits a task of its own which it has cancelled is no reason to hang."""
    bench = Bench(nothing, capabilities(), receiver=_ClosesBadly())
    async with bench.subscriber:
        task = asyncio.create_task(bench.subscriber.run())
        await until(lambda: bench.receiver.limits)
        try:
            report = await bench.subscriber.drain(0)
        except asyncio.CancelledError:
            report = None
        done, _ = await asyncio.wait([task], timeout=1)
        task.cancel()
        assert (report, bool(done)) == ((0, 0, 0, 0), True)


class _Short(FakeReceiver):
    async def ack(self, batch: Sequence[Message]) -> list[Exception | None]:
        return []


async def test_results_that_are_too_few_are_no_confirmation() -> None:
    """A driver that says nothing about a message has not acked it."""
    async with running(nothing, receiver=_Short()) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.metric("settle_failures"))
    assert not bench.settled


async def test_what_waits_behind_a_lost_message_is_not_begun_before_it() -> None:
    """A key's first handlings ascend: the lost one comes again, and is to come before them."""
    gate = Gate()
    can = capabilities(lease=600)
    async with running(gate, can, order="key") as bench:
        bench.receiver.put(*(message(id=str(n), key="k") for n in range(4)))
        await until(lambda: gate.started)
        lose_lease(bench.subscriber, held(bench.subscriber)[2])
        await until(lambda: bench.receiver.nacked)
        gate.open.set()
        await until(lambda: len(bench.outcomes) == 4)
    assert gate.started == ["0", "1"]
    assert sorted(bench.outcomes) == [("0", "ack"), ("1", "ack"), ("2", "lost"), ("3", "released")]


@pytest.mark.parametrize("waits", [False, True])
async def test_what_waits_behind_a_lost_message_in_front_goes_back(waits: bool) -> None:
    """So it is where the lost one is at work, or waits to be tried again."""
    gate = Gate()
    forever = asyncio.Event()

    async def handler(received: Message) -> None:
        await gate(received)
        if waits:
            raise ValueError("again")

    async def sleep(_: float) -> None:
        await forever.wait()

    async with running(handler, capabilities(lease=600), order="key", sleep=sleep) as bench:
        bench.receiver.put(*(message(id=str(n), key="k") for n in range(2)))
        await until(lambda: gate.started)
        if waits:
            gate.open.set()
            await until(lambda: bench.metric("retries"))
        lose_lease(bench.subscriber, held(bench.subscriber)[0])
        gate.open.set()
        await until(lambda: len(bench.outcomes) == 2)
        bench.receiver.put(message(id="3", key="k"))
        await until(lambda: gate.started == ["0", "3"])
        forever.set()
    assert bench.outcomes[:2] == [("0", "lost"), ("1", "released")]


async def test_what_is_settled_while_others_are_extended_does_not_end_the_subscriber() -> None:
    """Near its cap a message may be settled while the leases of younger ones are extended."""
    metrics = SubscriberMetrics(Metrics(), "t", "s")
    in_flight = InFlight(100, 10**9)
    old, young = message(id="old"), message(id="young")

    class Receiver(FakeReceiver):
        async def extend(self, batch: Sequence[Message], seconds: float) -> list[Exception | None]:
            in_flight.remove([old])
            return await super().extend(batch, seconds)

    can = capabilities(lease=10, lease_cap=60)
    leases = Leases(Receiver(), can, in_flight, metrics, lambda *_: None)
    in_flight.add([old, young])
    in_flight.received_at[old] -= 55
    await leases.extend_due([old, young])


async def test_hanging_renewals_in_many_batches_do_not_add_up() -> None:
    """The leases of a round are extended first, then what goes along with them, all at once."""
    gate = Gate()
    renewing: list[float] = []
    before_last: list[int] = []

    class Receiver(FakeReceiver):
        async def extend(self, batch: Sequence[Message], seconds: float) -> list[Exception | None]:
            if batch[0].id == "last":
                before_last.append(len(renewing))
            return await super().extend(batch, seconds)

    async def handler(received: Message) -> None:
        received.on_extend = hang
        await gate(received)

    async def hang(seconds: float) -> None:
        renewing.append(seconds)
        await asyncio.Event().wait()

    can = capabilities(lease=0.2, batch_messages=1)
    async with running(handler, can, concurrency=21, receiver=Receiver()) as bench:
        bench.receiver.put(*(message(id=str(n)) for n in range(20)), message(id="last"))
        await until(lambda: len(renewing) >= 21)
        gate.open.set()
    assert before_last[0] == 0


async def test_a_drain_reports_what_it_has_released_itself() -> None:
    """Followers of a message that was lost before the drain were not released by it."""
    gate = Gate()
    async with running(gate, order="key") as bench:
        bench.receiver.put(message(id="1", key="k"), message(id="2", key="k"))
        await until(lambda: gate.started)
        lose_lease(bench.subscriber, held(bench.subscriber)[0])
        await until(lambda: len(bench.settled) == 2)
        gate.open.set()
        assert await bench.subscriber.drain(1) == (0, 0, 0, 0)


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


class _Odd(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("error", [_Odd("odd"), GeneratorExit()])
async def test_whatever_a_handler_raises_is_a_failure_of_its_message(error: BaseException) -> None:
    """What is no Exception ends neither the worker nor the subscriber."""

    async def handler(received: Message) -> None:
        if received.id == "1":
            raise error

    async with running(handler, dead_letter=True, max_deliveries=1) as bench:
        bench.receiver.put(message(id="1"), message(id="2"))
        await until(lambda: len(bench.settled) == 2)
    assert sorted(bench.outcomes) == [("1", "dead_letter"), ("2", "ack")]
