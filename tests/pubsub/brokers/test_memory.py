"""The memory broker: delivery, leases, order and waits, over a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub import Message
from gizmopy.pubsub.brokers.memory import MemoryDriver, MemoryReceiver, open_driver
from tests.pubsub.support import FakeClock, turns


class Broker:
    """A memory broker and its clock."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.driver = MemoryDriver(clock=self.clock, **options)

    async def receiver(
        self, subscription: str = "s", *, topic: str = "t", ordered: bool = False
    ) -> MemoryReceiver:
        receiver = self.driver.receiver(topic, subscription, ordered=ordered)
        await receiver.connect(_revoke)
        return receiver

    async def send(self, *ids: str, topic: str = "t") -> None:
        """Send messages; the key is the text before the first digit."""
        keys = [id_.rstrip("0123456789") or None for id_ in ids]
        batch = [Message(topic, b"x", id=i, key=k) for i, k in zip(ids, keys, strict=True)]
        assert await self.driver.sender(topic).send(batch) == [None] * len(batch)


async def _revoke(*_: object) -> None:
    raise AssertionError("memory never revokes")


def ids(batch: Sequence[Message]) -> list[str]:
    """Return the ids of messages."""
    return [message.id for message in batch]


async def test_a_message_arrives_unchanged() -> None:
    """Body, key, attributes, id and time are those of the publish."""
    broker = Broker()
    receiver = await broker.receiver()
    sent = Message("t", b"\xff\x00", key="ö", attributes={"ä": "ü"}, id="7")
    await broker.driver.sender("t").send([sent])
    (received,) = await receiver.receive(10, 0)
    assert (received.topic, received.body, received.key) == ("t", b"\xff\x00", "ö")
    assert (received.attributes, received.id) == ({"ä": "ü"}, "7")
    assert received.published_at == sent.published_at
    assert (received.delivery, received.attempt) == (1, 0)


async def test_each_subscription_gets_all_and_receivers_of_one_share() -> None:
    """Each subscription has a copy of every message; its receivers share them."""
    broker = Broker()
    first, second = await broker.receiver("a"), await broker.receiver("a")
    other = await broker.receiver("b")
    await broker.send("1", "2", "3")
    assert ids(await first.receive(2, 0)) == ["1", "2"]
    assert ids(await second.receive(10, 0)) == ["3"]
    assert ids(await other.receive(10, 0)) == ["1", "2", "3"]


async def test_a_subscription_begins_with_its_first_receiver() -> None:
    """Messages published before are dropped; those published after the receiver closed are kept."""
    broker = Broker()
    await broker.send("1")
    receiver = await broker.receiver()
    assert await receiver.receive(10, 0) == []
    await receiver.aclose()
    await broker.send("2")
    assert ids(await (await broker.receiver()).receive(10, 0)) == ["2"]


async def test_topics_do_not_mix() -> None:
    """A receiver gets its own topic only."""
    broker = Broker()
    receiver = await broker.receiver(topic="a")
    await broker.send("1", topic="b")
    assert await receiver.receive(10, 0) == []


async def test_an_acked_message_is_not_delivered_again() -> None:
    """A second ack is refused and has no effect."""
    broker = Broker(lease=30)
    receiver = await broker.receiver()
    await broker.send("1")
    batch = await receiver.receive(10, 0)
    assert await receiver.ack(batch) == [None]
    (error,) = await receiver.ack(batch)
    assert isinstance(error, PubSubError)
    assert not error.transient
    broker.clock.advance(1000)
    assert await receiver.receive(10, 0) == []


async def test_a_lease_that_ends_redelivers_and_a_late_ack_is_refused() -> None:
    """A message that is not settled in time is delivered again, and the delivery is counted."""
    broker = Broker(lease=30)
    receiver = await broker.receiver()
    await broker.send("1")
    late = await receiver.receive(10, 0)
    broker.clock.advance(29.9)
    assert await receiver.receive(10, 0) == []
    broker.clock.advance(0.1)
    (error,) = await receiver.ack(late)
    assert isinstance(error, PubSubError)
    again = await receiver.receive(10, 0)
    assert [(m.id, m.delivery) for m in again] == [("1", 2)]
    (error,) = await receiver.ack(late)  # after the redelivery it is still refused
    assert isinstance(error, PubSubError)
    assert await receiver.ack(again) == [None]


async def test_extend_postpones_the_redelivery() -> None:
    """The lease ends the given seconds from now, earlier or later than before."""
    broker = Broker(lease=30)
    receiver = await broker.receiver()
    await broker.send("1", "2")
    long, short = await receiver.receive(10, 0)
    assert await receiver.extend([long], 100) == [None]
    assert await receiver.extend([short], 5) == [None]
    broker.clock.advance(5)
    assert ids(await receiver.receive(10, 0)) == ["2"]
    broker.clock.advance(94)
    assert "1" not in ids(await receiver.receive(10, 0))
    broker.clock.advance(1)
    assert "1" in ids(await receiver.receive(10, 0))
    (error,) = await receiver.extend([long], 100)
    assert isinstance(error, PubSubError)


async def test_a_lease_cannot_be_extended_past_its_cap() -> None:
    """An extension past the cap is refused permanently, and does not change the lease."""
    broker = Broker(lease=30, lease_cap=60)
    receiver = await broker.receiver()
    await broker.send("1")
    batch = await receiver.receive(10, 0)
    broker.clock.advance(20)
    assert await receiver.extend(batch, 30) == [None]
    broker.clock.advance(20)
    (error,) = await receiver.extend(batch, 20.5)
    assert isinstance(error, PubSubError)
    assert not error.transient
    assert "cannot last that long" in str(error)
    assert await receiver.extend(batch, 20) == [None]
    broker.clock.advance(19.5)
    assert await receiver.receive(10, 0) == []
    broker.clock.advance(0.5)
    assert [(m.id, m.delivery) for m in await receiver.receive(10, 0)] == [("1", 2)]


async def test_each_delivery_has_a_cap_of_its_own() -> None:
    """The cap counts from the receipt of each message, also if one call extends several."""
    broker = Broker(lease=30, lease_cap=60)
    receiver = await broker.receiver()
    await broker.send("1", "2")
    old = await receiver.receive(1, 0)
    broker.clock.advance(29)
    young = await receiver.receive(1, 0)
    refused, done = await receiver.extend([*old, *young], 40)
    assert (isinstance(refused, PubSubError), done) == (True, None)
    broker.clock.advance(1)
    (again,) = await receiver.receive(10, 0)
    assert await receiver.extend([again], 60) == [None]


async def test_nack_redelivers_after_its_delay() -> None:
    """The message is delivered again after the delay, and the delivery is counted."""
    broker = Broker()
    receiver = await broker.receiver()
    await broker.send("1", "2")
    first, second = await receiver.receive(10, 0)
    assert await receiver.nack([first], 0) == [None]
    assert await receiver.nack([second], 10) == [None]
    assert [(m.id, m.delivery) for m in await receiver.receive(10, 0)] == [("1", 2)]
    assert receiver.status().backlog == 1
    broker.clock.advance(10)
    assert [(m.id, m.delivery) for m in await receiver.receive(10, 0)] == [("2", 2)]


async def test_a_receive_wakes_on_a_publish() -> None:
    """A pending receive returns a published message at once."""
    broker = Broker()
    receiver = await broker.receiver()
    pending = asyncio.create_task(receiver.receive(10, 1000))
    await turns()
    await broker.send("1")
    assert ids(await pending) == ["1"]


async def test_a_receive_wakes_when_a_redelivery_is_due() -> None:
    """A pending receive returns a message when its delay, or another receiver's lease, ends."""
    broker = Broker(lease=30)
    first, second = await broker.receiver(), await broker.receiver()
    pending = asyncio.create_task(second.receive(10, 1000))
    await broker.send("1")
    batch = await first.receive(10, 0)
    await turns()
    broker.clock.advance(30)
    received = await pending
    assert ids(received) == ids(batch)
    pending = asyncio.create_task(first.receive(10, 1000))
    await turns()
    await second.nack(received, 5)
    await turns()
    assert not pending.done()
    broker.clock.advance(5)
    assert ids(await pending) == ["1"]


async def test_a_receive_wakes_when_the_lease_of_another_receiver_ends() -> None:
    """A lease that begins while a receive is pending wakes it at its end."""
    broker = Broker(lease=30)
    first, second = await broker.receiver(), await broker.receiver()
    taken = asyncio.create_task(first.receive(1, 1000))
    await turns()
    waiting = asyncio.create_task(second.receive(1, 1000))
    await turns()
    await broker.send("1")
    assert ids(await taken) == ["1"]
    await turns()
    broker.clock.advance(30)
    assert ids(await waiting) == ["1"]


async def test_a_receive_wakes_when_its_key_is_free() -> None:
    """In an ordered subscription, settling a message wakes a receive that waits for its key."""
    broker = Broker()
    receiver = await broker.receiver(ordered=True)
    await broker.send("a1", "a2", "a3")
    (first,) = await receiver.receive(1, 0)
    waiting = asyncio.create_task(receiver.receive(10, 60))
    await turns()
    assert not waiting.done()
    await receiver.ack([first])
    await turns()
    assert ids(waiting.result()) == ["a2", "a3"]


async def test_leases_that_end_together_redeliver_in_order() -> None:
    """Messages are delivered again in their first order, also without ordered receivers."""
    broker = Broker(lease=30)
    receiver = await broker.receiver()
    await broker.send("1", "2", "3")
    await receiver.receive(10, 0)
    broker.clock.advance(30)
    assert ids(await receiver.receive(10, 0)) == ["1", "2", "3"]


async def test_an_empty_receive_returns_in_time() -> None:
    """Without messages, receive returns none after its wait."""
    broker = Broker()
    receiver = await broker.receiver()
    pending = asyncio.create_task(receiver.receive(10, 20))
    await turns()
    broker.clock.advance(19)
    await turns()
    assert not pending.done()
    broker.clock.advance(1)
    assert await pending == []


async def test_one_publish_wakes_as_many_receivers_as_it_can_serve() -> None:
    """Messages beyond the limit of one receiver go to the next one that waits."""
    broker = Broker()
    receivers = [await broker.receiver() for _ in range(3)]
    await broker.send("held")  # its lease ends first, so no other lease wakes a receiver
    await (await broker.receiver()).receive(1, 0)
    pending = [asyncio.create_task(r.receive(1, 1000)) for r in receivers]
    await turns()
    await broker.send("1", "2", "3")
    assert sorted(i for batch in await asyncio.gather(*pending) for i in ids(batch)) == [
        "1",
        "2",
        "3",
    ]


@pytest.mark.parametrize("is_cancelled_first", [True, False])
async def test_a_receive_that_is_cancelled_takes_no_wake_up_with_it(
    is_cancelled_first: bool,
) -> None:
    """The message that it was woken for goes to another receive that waits."""
    broker = Broker()
    receivers = [await broker.receiver() for _ in range(2)]
    first, second = (asyncio.create_task(r.receive(1, 10)) for r in receivers)
    await turns()
    if is_cancelled_first:
        first.cancel()
        await broker.send("1")
    else:
        await broker.send("1")
        first.cancel()
    await asyncio.wait([first])
    async with asyncio.timeout(5):
        assert ids(await second) == ["1"]


async def test_a_key_is_a_partition() -> None:
    """Order by partition is order by key; messages without a key are one more partition."""
    broker = Broker()
    receiver = await broker.receiver(ordered=True)
    await broker.send("a1", "1")
    assert [m.partition for m in await receiver.receive(10, 0)] == ["a", None]


async def test_close_gives_messages_back_and_ends_a_pending_receive() -> None:
    """A closed receiver's messages are delivered to others at once; a second close is allowed."""
    broker = Broker()
    first, second = await broker.receiver(), await broker.receiver()
    await broker.send("1", "2")
    assert ids(await first.receive(10, 0)) == ["1", "2"]
    pending = asyncio.create_task(first.receive(10, 1000))
    await turns()
    await first.aclose()
    await first.aclose()
    assert await pending == []
    assert ids(await second.receive(10, 0)) == ["1", "2"]
    with pytest.raises(UsageError, match="closed"):
        await first.receive(10, 0)


async def test_a_closed_sender_refuses() -> None:
    """Sending after aclose raises UsageError; a second close does nothing."""
    sender = Broker().driver.sender("t")
    await sender.aclose()
    await sender.aclose()
    with pytest.raises(UsageError, match="closed"):
        await sender.send([Message("t", b"")])


async def test_a_receiver_has_to_connect() -> None:
    """The error of a receiver that is not connected says what to do."""
    receiver = Broker().driver.receiver("t", "s", ordered=False)
    with pytest.raises(UsageError, match="connect"):
        await receiver.receive(1, 0)


async def test_a_key_is_held_by_one_receiver_at_a_time() -> None:
    """The later messages of a key wait while an earlier one is in flight; other keys do not."""
    broker = Broker()
    first, second = await broker.receiver(ordered=True), await broker.receiver(ordered=True)
    await broker.send("a1", "a2", "b1", "1")
    (a1,) = await first.receive(1, 0)
    assert ids(await second.receive(10, 0)) == ["b1", "1"]
    await broker.send("a3")
    assert await second.receive(10, 0) == []
    await first.ack([a1])
    assert ids(await second.receive(10, 0)) == ["a2", "a3"]


async def test_a_returned_message_goes_back_to_its_place() -> None:
    """A key keeps its order if messages are given back together, separately, or as leases end."""
    broker = Broker(lease=30)
    receiver = await broker.receiver(ordered=True)
    await broker.send("a1", "a2", "a3", "a4")
    batch = await receiver.receive(3, 0)
    await receiver.nack([batch[2]], 0)
    await receiver.nack([batch[0]], 0)
    assert await receiver.receive(10, 0) == []  # a2 is still in flight
    await receiver.nack([batch[1]], 0)
    batch = await receiver.receive(10, 0)
    assert ids(batch) == ["a1", "a2", "a3", "a4"]
    await receiver.nack(batch, 0)
    assert ids(await receiver.receive(10, 0)) == ["a1", "a2", "a3", "a4"]
    broker.clock.advance(30)
    assert ids(await receiver.receive(10, 0)) == ["a1", "a2", "a3", "a4"]


async def test_giving_back_does_not_move_waiting_messages() -> None:
    """The cost of giving back does not depend on how many messages of the key wait."""
    broker = Broker()
    receiver = await broker.receiver(ordered=True)
    names = [f"a{number}" for number in range(10)]
    await broker.send(*names)
    batch = await receiver.receive(3, 0)
    queue = broker.driver._topics["t"]["s"]._queues["a"]
    waiting = queue.rest
    await receiver.nack(batch, 0)
    assert queue.rest is waiting
    assert ids(await receiver.receive(10, 0)) == names


async def test_a_delayed_message_blocks_its_key() -> None:
    """While an ordered message waits for its redelivery, the later ones of its key wait too."""
    broker = Broker()
    receiver = await broker.receiver(ordered=True)
    await broker.send("a1", "a2")
    await receiver.nack(await receiver.receive(1, 0), 10)
    assert await receiver.receive(10, 0) == []
    broker.clock.advance(10)
    assert ids(await receiver.receive(10, 0)) == ["a1", "a2"]


async def test_keys_take_turns() -> None:
    """A receive has one message of each key before it has a second one of any."""
    broker = Broker()
    receiver = await broker.receiver(ordered=True)
    await broker.send("a1", "a2", "a3", "b1", "c1")
    assert ids(await receiver.receive(4, 0)) == ["a1", "b1", "c1", "a2"]


async def test_a_subscription_is_ordered_or_not() -> None:
    """A second receiver cannot ask for another order than the first."""
    broker = Broker()
    await broker.receiver(ordered=True)
    with pytest.raises(UsageError, match="already ordered"):
        await broker.receiver(ordered=False)


async def test_brokers_share_nothing() -> None:
    """Each driver that is opened is a separate broker."""
    receiver = await Broker().receiver()
    await Broker().send("1")
    assert await receiver.receive(10, 0) == []


async def test_settled_messages_leave_nothing_behind() -> None:
    """After a hundred thousand keys, no memory is held for them."""
    broker = Broker()
    receiver = await broker.receiver(ordered=True)
    sender = broker.driver.sender("t")
    for start in range(0, 100_000, 1000):
        await sender.send([Message("t", b"", key=str(n)) for n in range(start, start + 1000)])
        await receiver.ack(await receiver.receive(1000, 0))
    subscription = broker.driver._topics["t"]["s"]
    assert not subscription._queues
    assert not subscription._ready
    assert len(subscription._timers) <= 3000


async def test_settled_messages_are_forgotten_before_their_lease_ends() -> None:
    """One message that is held for long does not keep the rest of its batch in memory."""
    broker = Broker()
    receiver = await broker.receiver()
    for _ in range(10):
        await broker.send(*map(str, range(1000)))
        await receiver.ack((await receiver.receive(1000, 0))[1:])
    subscription = broker.driver._topics["t"]["s"]
    assert sum(len(batch) for _, _, batch, _ in subscription._timers) <= 2000


@pytest.mark.parametrize("name", ["lease", "cap"])
@pytest.mark.parametrize("value", ["", "0", "-1", "x", "nan"])
def test_an_invalid_number_of_seconds_is_rejected(name: str, value: str) -> None:
    """The error names the parameter of the URL and a remedy."""
    with pytest.raises(UsageError, match=f"{name}={value} is not a number .* try {name}=30"):
        open_driver(f"memory://?{name}={value}")


def test_an_unknown_parameter_is_rejected() -> None:
    """A misspelt parameter raises UsageError."""
    with pytest.raises(UsageError, match="leese is not a parameter"):
        open_driver("memory://?leese=5")


def test_a_cap_shorter_than_the_lease_is_rejected() -> None:
    """A cap shorter than the lease raises UsageError."""
    with pytest.raises(UsageError, match="cap=20 is shorter than lease=30"):
        open_driver("memory://?cap=20")


def test_lease_and_cap_are_parameters_of_the_url() -> None:
    """memory://?lease=5&cap=60 has leases of 5 seconds, which can be extended to 60."""
    assert open_driver("memory://").capabilities.fan_out
    assert not open_driver("memory://?fan_out=false").capabilities.fan_out
    with pytest.raises(UsageError, match="fan_out=no is neither true nor false"):
        open_driver("memory://?fan_out=no")
    capabilities = open_driver("memory://?lease=5&cap=60").capabilities
    assert (capabilities.lease, capabilities.lease_cap) == (5, 60)
    capabilities = open_driver("memory://").capabilities
    assert (capabilities.lease, capabilities.lease_cap) == (30, None)


def test_a_send_never_fails_in_part() -> None:
    """A batch may hold several messages of a key."""
    assert open_driver("memory://").capabilities.ordered_batches


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from(["a", "b", ""])),
        st.tuples(st.just("receive"), st.integers(0, 1), st.integers(1, 4)),
        st.tuples(st.just("ack"), st.integers(0, 1), st.integers(0, 9)),
        st.tuples(st.just("nack"), st.integers(0, 1), st.integers(0, 9), st.sampled_from([0, 7])),
        st.tuples(st.just("extend"), st.integers(0, 1), st.sampled_from([1, 25, 60])),
        st.tuples(st.just("advance"), st.sampled_from([3, 8, 31])),
        st.tuples(st.just("close"), st.integers(0, 1)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, ordered=st.booleans())
def test_nothing_is_lost_or_delivered_twice_at_a_time(steps: list[Any], ordered: bool) -> None:
    """Each message is acked or delivered again, and each key keeps its order."""
    asyncio.run(_play(steps, ordered))


async def _play(steps: list[Any], ordered: bool) -> None:
    broker = Broker(lease=30)
    receivers = [await broker.receiver(ordered=ordered) for _ in range(2)]
    held: list[list[Message]] = [[], []]
    sent: list[str] = []
    acked: list[str] = []
    for kind, *args in steps:
        if kind == "send":
            sent.append(f"{args[0]}{len(sent)}")
            await broker.send(sent[-1])
        elif kind == "advance":
            broker.clock.advance(args[0])
        elif kind == "receive":
            batch = await receivers[args[0]].receive(args[1], 0)
            held[args[0]] += batch
            _check_order(batch, sent, acked, ordered)
        elif kind == "extend":
            await receivers[args[0]].extend(held[args[0]], args[1])
        elif kind == "close":
            await receivers[args[0]].aclose()
            receivers[args[0]] = await broker.receiver(ordered=ordered)
            held[args[0]] = []
        elif held[args[0]]:
            message = held[args[0]].pop(args[1] % len(held[args[0]]))
            if kind == "nack":
                await receivers[args[0]].nack([message], args[2])
            elif await receivers[args[0]].ack([message]) == [None]:
                acked.append(message.id)
    broker.clock.advance(1000)
    rest = ids(await receivers[0].receive(1000, 0))
    assert sorted(acked + rest) == sorted(sent)
    assert receivers[0].status().backlog == 0


def _check_order(
    batch: Sequence[Message], sent: list[str], acked: list[str], ordered: bool
) -> None:
    """Check that a key begins with its earliest unacked message, and that its numbers ascend."""
    if not ordered:
        return
    for key in "ab":
        got = [m.id for m in batch if m.key == key]
        open_ = [id_ for id_ in sent if id_.startswith(key) and id_ not in acked]
        assert got == open_[: len(got)]
