"""Leases are kept from receipt to settling, and what cannot be kept is let go of."""

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
    """Remembers the calls of extend; refuses by id."""

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
    """Leases on a receiver, of messages whose age the test says; a round is run by hand."""

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
    """Return how many leases a subscriber has extended with this result."""
    return bench.metric("lease_extensions", result)


async def test_a_message_near_its_cap_is_kept_up_to_it_and_no_longer() -> None:
    """The broker would refuse more, or take it and not keep it."""
    keeping = Keeping(lease=10, lease_cap=60)
    old = keeping.received("old", age=55)
    await keeping.leases.extend_due([old])
    ((ids, seconds),) = keeping.receiver.calls
    assert ids == ["old"]
    assert 4 < seconds <= 5
    assert not keeping.lost


async def test_a_message_at_its_cap_is_lost() -> None:
    """It is not asked for any more, is counted, and the reason names the cap."""
    keeping = Keeping(lease=10, lease_cap=60)
    await keeping.leases.extend_due([keeping.received("old", age=60)])
    assert keeping.receiver.calls == []
    assert keeping.lost == [("old", "it was held for 60 s, the longest the broker allows")]
    assert keeping.extensions("capped") == 1


async def test_each_answer_counts_for_its_message() -> None:
    """Extended, tried again at once, or lost."""
    keeping = Keeping(lease=10)
    keeping.receiver.refused = {"busy": TRANSIENT, "gone": PERMANENT, "odd": ValueError("?")}
    batch = [keeping.received(id_) for id_ in ("fine", "busy", "gone", "odd")]
    assert await keeping.leases.extend_due(batch) == [batch[1]]
    assert [id_ for id_, _ in keeping.lost] == ["gone", "odd"]
    assert (keeping.extensions("ok"), keeping.extensions("failed")) == (1, 3)


async def test_a_refusal_for_what_is_settled_meanwhile_is_none() -> None:
    """A settled message has no lease, and is not lost."""
    keeping = Keeping(lease=10)
    keeping.receiver.refused = {"1": PERMANENT}
    keeping.receiver.on_extend = keeping.in_flight.remove
    assert await keeping.leases.extend_due([keeping.received("1")]) == []
    assert keeping.lost == []
    assert keeping.extensions("failed") == 0


async def test_what_goes_along_with_a_lease_is_told_of_it() -> None:
    """With its seconds, and only where the lease was extended."""
    keeping = Keeping(lease=10)
    told: list[tuple[str, float]] = []

    def renewal(id_: str) -> Any:
        async def renew(seconds: float) -> None:
            told.append((id_, seconds))

        return renew

    keeping.receiver.refused = {"gone": PERMANENT}
    batch = [keeping.received(id_) for id_ in ("kept", "gone")]
    for each in batch:
        each.on_extend = renewal(each.id)
    await keeping.leases.extend_due(batch)
    assert told == [("kept", 10)]


async def test_a_renewal_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It is the handler's own; the lease is kept, and so are those of the others."""

    async def renew(seconds: float) -> None:
        raise ValueError("the store is away")

    keeping = Keeping(lease=10)
    each = keeping.received("1")
    each.on_extend = renew
    assert await keeping.leases.extend_due([each]) == []
    assert "the store is away" in caplog.text
    assert keeping.lost == []


async def test_leases_are_extended_by_half_time_in_batches() -> None:
    """From receipt on, as many in a call as the broker takes, whether started or not."""
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


async def test_a_settled_message_is_extended_no_more() -> None:
    """Only what is in flight has a lease to keep."""
    gate, receiver = Gate(), Receiver()

    async def handler(received: Message) -> None:
        if received.id != "quick":
            await gate(received)

    async with running(handler, capabilities(lease=SHORT), receiver=receiver) as bench:
        receiver.put(message(id="quick"), message(id="slow"))
        await until(lambda: bench.settled and len(receiver.calls) >= 2)
        assert {id_ for ids, _ in receiver.calls for id_ in ids} == {"slow"}
        gate.open.set()


async def test_a_broker_without_leases_is_not_asked_to_extend() -> None:
    """What a handler keeps along with one is still to be renewed there; nothing else is done."""
    keeping = Keeping(lease=None)
    renewed: list[float] = []

    async def renew(seconds: float) -> None:
        renewed.append(seconds)

    each = keeping.received("1")
    each.on_extend = renew
    assert await keeping.leases.extend_due([each]) == []
    assert keeping.receiver.calls == []
    assert renewed == [30]


async def test_a_lost_message_is_told_of_once_and_never_acked() -> None:
    """Its handler works on; what it ends with is stale."""
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
async def test_a_message_that_is_lost_before_its_handling_is_not_handled(
    before: list[str], key: str | None
) -> None:
    """It is told of once, nothing of it is stale, and the next of its key flows."""
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


async def test_a_lost_message_that_comes_again_waits_for_its_first_handling() -> None:
    """Never two handlers of one key at once, not even for two deliveries of one message."""
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
    """By what it says, and the broker's refusal is its own to see."""
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


async def test_a_message_of_no_subscriber_has_no_lease() -> None:
    """Extending it is a mistake, and says so."""
    with pytest.raises(UsageError, match="was not received by a subscriber"):
        await message().extend(1)


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
