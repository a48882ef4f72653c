"""Leases are kept from receipt to settle, and a message whose lease is lost is evicted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gizmopy.errors import PubSubError, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Message
from gizmopy.pubsub.engine.in_flight import InFlight
from gizmopy.pubsub.engine.leases import Leases
from gizmopy.pubsub.engine.metrics import SubscriberMetrics
from tests.pubsub.support import (
    Bench,
    FakeReceiver,
    Gate,
    capabilities,
    message,
    running,
    turns,
    until,
)

SHORT = 0.04
"""A lease, in seconds: a test waits for half of it."""
TRANSIENT = PubSubError("throttled", transient=True)
PERMANENT = PubSubError("its lease is over", transient=False)


class Receiver(FakeReceiver):
    """Records the calls of extend, and refuses by id."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[list[str], float]] = []
        self.refused: dict[str, Exception] = {}
        self.on_extend: Callable[[Sequence[Message]], object] = len
        """Called during a call of extend."""

    async def extend(self, batch: Sequence[Message], seconds: float) -> list[Exception | None]:
        self.on_extend(batch)
        self.calls.append(([each.id for each in batch], seconds))
        await super().extend(batch, seconds)
        return [self.refused.get(each.id) for each in batch]


class Keeping:
    """Leases of messages whose age the test sets; the test runs each round."""

    def __init__(self, **can: Any) -> None:
        self.receiver = Receiver()
        self.metrics = Metrics()
        self.in_flight = InFlight(100, 10**6)
        self.lost: list[tuple[str, str]] = []
        self.leases = Leases(
            self.receiver,
            capabilities(**can),
            self.in_flight,
            SubscriberMetrics(self.metrics, "t", "s"),
            self._lose,
        )

    def _lose(self, lost: Message, reason: str) -> None:
        self.lost.append((lost.id, reason))

    def received(self, id: str, age: float = 0.0) -> Message:
        each = message(id=id)
        self.in_flight.add([each])
        self.in_flight.received_at[each] -= age
        return each

    def extensions(self, result: str) -> float:
        counter = self.metrics.counter("gizmo_pubsub_lease_extensions", "")
        return counter.child("t", "s", result).value


def extensions(bench: Bench, result: str) -> float:
    """Return how many lease extensions of a subscriber had this result."""
    return bench.metric("lease_extensions", result)


async def test_a_lease_near_its_cap_is_extended_up_to_the_cap() -> None:
    """The broker would refuse a longer one, or accept it without effect."""
    keeping = Keeping(lease=10, lease_cap=60)
    old = keeping.received("old", age=55)
    await keeping.leases.extend_due([old])
    ((ids, seconds),) = keeping.receiver.calls
    assert ids == ["old"]
    assert 4 < seconds <= 5
    assert not keeping.lost


async def test_a_message_at_its_cap_is_lost() -> None:
    """No extension is requested; it is counted, and the reason names the cap."""
    keeping = Keeping(lease=10, lease_cap=60)
    await keeping.leases.extend_due([keeping.received("old", age=60)])
    assert keeping.receiver.calls == []
    assert keeping.lost == [("old", "it was held for 60 s, the longest the broker allows")]
    assert keeping.extensions("capped") == 1


async def test_each_result_counts_for_its_message() -> None:
    """It is extended, retried in the next round, or lost."""
    keeping = Keeping(lease=10)
    keeping.receiver.refused = {"busy": TRANSIENT, "gone": PERMANENT, "odd": ValueError("?")}
    batch = [keeping.received(id_) for id_ in ("fine", "busy", "gone", "odd")]
    assert await keeping.leases.extend_due(batch) == [batch[1]]
    assert [id_ for id_, _ in keeping.lost] == ["gone", "odd"]
    assert (keeping.extensions("ok"), keeping.extensions("failed")) == (1, 3)


async def test_a_refusal_for_a_message_settled_meanwhile_is_ignored() -> None:
    """A settled message has no lease, and is not lost."""
    keeping = Keeping(lease=10)
    keeping.receiver.refused = {"1": PERMANENT}
    keeping.receiver.on_extend = keeping.in_flight.remove
    assert await keeping.leases.extend_due([keeping.received("1")]) == []
    assert keeping.lost == []
    assert keeping.extensions("failed") == 0


async def test_on_extend_is_called_after_the_lease_was_extended() -> None:
    """With the seconds, and only if the extension succeeded."""
    keeping = Keeping(lease=10)
    calls: list[tuple[str, float]] = []

    def renewal(id_: str) -> Any:
        async def renew(seconds: float) -> None:
            calls.append((id_, seconds))

        return renew

    keeping.receiver.refused = {"gone": PERMANENT}
    batch = [keeping.received(id_) for id_ in ("kept", "gone")]
    for each in batch:
        each.on_extend = renewal(each.id)
    await keeping.leases.extend_due(batch)
    assert calls == [("kept", 10)]


async def test_an_on_extend_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The leases of this and all other messages are kept."""

    async def renew(seconds: float) -> None:
        raise ValueError("the store is away")

    keeping = Keeping(lease=10)
    each = keeping.received("1")
    each.on_extend = renew
    assert await keeping.leases.extend_due([each]) == []
    assert "the store is away" in caplog.text
    assert keeping.lost == []


async def test_leases_are_extended_in_batches_before_half_of_their_time() -> None:
    """All messages in flight, handled or not, in batches of the size that the broker takes."""
    gate, receiver = Gate(), Receiver()
    can = capabilities(lease=SHORT, batch_messages=2)
    async with running(gate, can, receiver=receiver) as bench:
        receiver.put(*(message(id=str(n)) for n in range(3)))
        await until(lambda: gate.started)
        assert receiver.calls == []  # not at once
        await until(lambda: len(receiver.calls) >= 2)
        assert receiver.calls[:2] == [(["0", "1"], SHORT), (["2"], SHORT)]
        assert extensions(bench, "ok") >= 3
        gate.open.set()


async def test_the_lease_of_a_settled_message_is_not_extended() -> None:
    """Only messages in flight have a lease to keep."""
    gate, receiver = Gate(), Receiver()

    async def handler(received: Message) -> None:
        if received.id != "quick":
            await gate(received)

    async with running(handler, capabilities(lease=SHORT), receiver=receiver) as bench:
        receiver.put(message(id="quick"), message(id="slow"))
        await until(lambda: bench.settled and len(receiver.calls) >= 2)
        assert {id_ for ids, _ in receiver.calls for id_ in ids} == {"slow"}
        gate.open.set()


async def test_without_leases_the_broker_is_not_called() -> None:
    """The on_extend of a message is still called."""
    keeping = Keeping(lease=None)
    renewed: list[float] = []

    async def renew(seconds: float) -> None:
        renewed.append(seconds)

    each = keeping.received("1")
    each.on_extend = renew
    assert await keeping.leases.extend_due([each]) == []
    assert keeping.receiver.calls == []
    assert renewed == [30]


async def test_a_lost_message_is_reported_once_and_never_acked() -> None:
    """Its handler runs on, and its end is counted as stale."""
    gate, receiver = Gate(), Receiver()
    async with running(gate, capabilities(lease=SHORT), receiver=receiver) as bench:
        receiver.refused = {"1": PERMANENT}
        receiver.put(message(id="1"))
        await until(lambda: bench.settled)
        assert bench.settled == [("1", "lost", None)]
        assert bench.subscriber.is_idle
        gate.open.set()
        await until(lambda: bench.metric("stale_settles"))
    assert not receiver.acked
    assert not receiver.nacked
    assert bench.settled == [("1", "lost", None)]
    assert bench.metric("lost") == 1


@pytest.mark.parametrize(
    ("before", "key"),
    [(["slow"], None), (["slow"], "k"), (["fails"], "k")],
    ids=["is ready", "waits for its key", "waits to be tried again"],
)
async def test_a_message_lost_before_it_starts_is_not_handled(
    before: list[str], key: str | None
) -> None:
    """It is reported once, is not stale, and the next of its key is handled."""
    gate, receiver, retry = Gate(), Receiver(), asyncio.Event()
    lost = "fails" if "fails" in before else "lost"

    async def handler(received: Message) -> None:
        if received.id == "fails":
            gate.started.append(received.id)
            raise ValueError
        await gate(received)

    async def sleep(_: float) -> None:
        await retry.wait()

    can = capabilities(lease=SHORT)
    async with running(handler, can, receiver=receiver, order="key", sleep=sleep) as bench:
        receiver.refused = {lost: PERMANENT}
        receiver.put(*(message(id=id_, key=key) for id_ in dict.fromkeys([*before, lost])))
        await until(lambda: bench.outcomes == [(lost, "lost")])
        receiver.put(message(id="next", key=key))
        gate.open.set()
        retry.set()
        await until(lambda: ("next", "ack") in bench.outcomes)
        await turns()
    assert gate.started == [*before, "next"]
    assert bench.outcomes.count((lost, "lost")) == 1
    assert bench.metric("stale_settles") == 0


async def test_a_redelivered_message_waits_for_its_first_handler() -> None:
    """A key never has two handlers at once, not even for two deliveries of one message."""
    gate, receiver = Gate(), Receiver()
    can = capabilities(lease=SHORT)
    async with running(gate, can, receiver=receiver, order="key", concurrency=2) as bench:
        receiver.refused = {"1": PERMANENT}
        receiver.put(message(id="1", key="k"))
        await until(lambda: bench.settled)
        receiver.put(message(id="1 again", key="k", delivery=2))
        await until(lambda: not receiver.queue)
        await turns()
        assert gate.started == ["1"]
        gate.open.set()
        await until(lambda: ("1 again", "ack") in bench.outcomes)
    assert [each.id for each in receiver.acked] == ["1 again"]


async def test_a_handler_extends_its_own_message() -> None:
    """Message.extend passes the seconds to the broker, and raises if it refuses."""
    seen: list[str] = []

    async def handler(received: Message) -> None:
        await received.extend(600)
        receiver.refused = {"1": PERMANENT}
        with pytest.raises(PubSubError) as caught:
            await received.extend(600)
        seen.append(str(caught.value))

    receiver = Receiver()
    async with running(handler, capabilities(lease=60), receiver=receiver) as bench:
        receiver.put(message(id="1"))
        await until(lambda: bench.settled)
    assert receiver.calls == [(["1"], 600), (["1"], 600)]
    assert seen == ["its lease is over"]
    assert (extensions(bench, "ok"), extensions(bench, "failed")) == (1, 1)


async def test_extending_a_message_that_was_not_received_is_an_error() -> None:
    """The error says that a subscriber must have received it."""
    with pytest.raises(UsageError, match="was not received by a subscriber"):
        await message().extend(1)


async def test_leases_are_kept_from_receipt_until_the_settle() -> None:
    """Those of messages that wait for a worker too, and none after the settle."""
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
    """The refusal is counted, and the handler runs on."""
    gate = Gate()
    async with running(gate, capabilities(lease=0.02)) as bench:
        bench.receiver.extend_error = PERMANENT
        bench.receiver.put(message())
        await until(lambda: bench.metric("lease_extensions", "failed"))
        gate.open.set()
        await until(lambda: bench.settled)


class _RefusingOne(FakeReceiver):
    """Fails to extend the message ``throttled``, for now."""

    async def extend(self, batch: Sequence[Message], seconds: float) -> list[Exception | None]:
        self.extended.extend(batch)
        return [TRANSIENT if m.id == "throttled" else None for m in batch]


async def test_a_failed_extension_is_retried_before_the_lease_is_over() -> None:
    """It is due in the next round, unlike an extended one."""
    gate, receiver = Gate(), _RefusingOne()
    async with running(gate, capabilities(lease=0.02), receiver=receiver) as bench:
        receiver.put(message(id="throttled"), message(id="fine"))
        await until(lambda: [m.id for m in receiver.extended].count("fine") >= 4)
        gate.open.set()
        await until(lambda: len(bench.settled) == 2)
    ids = [m.id for m in receiver.extended]
    assert ids.count("throttled") > 1.5 * ids.count("fine")


async def test_a_handler_may_extend_its_message() -> None:
    """Message.extend calls the broker, and the handler gets the broker's error."""
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


class _Extends(FakeReceiver):
    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, list[float]] = {}

    async def extend(self, batch: Sequence[Message], seconds: float) -> list[Exception | None]:
        for each in batch:
            self.seconds.setdefault(each.id, []).append(seconds)
        return await super().extend(batch, seconds)


async def test_a_message_near_its_cap_does_not_shorten_other_leases() -> None:
    """It is extended for less than the others of its batch."""
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


async def test_an_on_extend_that_hangs_does_not_block_other_leases() -> None:
    """Message.on_extend is the user's code, and must not affect other messages."""
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
async def test_an_on_extend_that_is_not_async_does_not_end_the_subscriber(renew: Any) -> None:
    """The mistake is logged, and the leases are kept."""
    gate = Gate()

    async def handler(received: Message) -> None:
        received.on_extend = renew
        await gate(received)

    async with running(handler, capabilities(lease=0.04)) as bench:
        bench.receiver.put(message())
        await until(lambda: len(bench.receiver.extended) >= 2)
        gate.open.set()


async def test_a_settle_during_an_extension_does_not_end_the_subscriber() -> None:
    """A message near its cap may be settled while the leases of younger ones are extended."""
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


async def test_hanging_on_extends_do_not_add_up() -> None:
    """All leases of a round are extended first, then all on_extends are called at once."""
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
