"""Drivers with one fault each, and the checks that have to catch it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Message, Receiver, Sender, Status
from gizmopy.pubsub.driver import Results, Revoke
from gizmopy.pubsub.memory import MemoryDriver


class MutantSender:
    """A sender that does as the one within."""

    def __init__(self, inner: Sender) -> None:
        self.inner = inner

    async def connect(self) -> None:
        await self.inner.connect()

    async def send(self, batch: Sequence[Message]) -> Results:
        return await self.inner.send(batch)

    async def aclose(self) -> None:
        await self.inner.aclose()


class MutantReceiver:
    """A receiver that does as the one within."""

    def __init__(self, inner: Receiver) -> None:
        self.inner = inner

    async def connect(self, revoke: Revoke) -> None:
        await self.inner.connect(revoke)

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        return await self.inner.receive(limit, wait)

    async def ack(self, batch: Sequence[Message]) -> Results:
        return await self.inner.ack(batch)

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        return await self.inner.nack(batch, delay)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        return await self.inner.extend(batch, seconds)

    def status(self) -> Status:
        return self.inner.status()

    async def aclose(self) -> None:
        await self.inner.aclose()


class MutantDriver:
    """A broker in memory whose ends have a fault."""

    def __init__(
        self,
        sender: type[MutantSender] = MutantSender,
        receiver: type[MutantReceiver] = MutantReceiver,
        **capabilities: Any,
    ) -> None:
        self.inner = MemoryDriver(lease=0.6, message_bytes=100_000)
        self.capabilities = replace(self.inner.capabilities, **capabilities)
        self._sender = sender
        self._receiver = receiver

    def sender(self, topic: str) -> Sender:
        return self._sender(self.inner.sender(topic))

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        return self._receiver(self.inner.receiver(topic, subscription, ordered=ordered))

    async def aclose(self) -> None:
        await self.inner.aclose()


def changed(message: Message, **fields: Any) -> Message:
    """Return a copy of ``message`` with other fields."""
    values = {
        "key": message.key,
        "attributes": message.attributes,
        "id": message.id,
        "published_at": message.published_at,
    }
    body = fields.pop("body", message.body)
    return Message(fields.pop("topic", message.topic), body, **(values | fields))


def sending(change: Callable[[Message], Message]) -> type[MutantSender]:
    """Return a sender that changes what is sent."""

    class Changing(MutantSender):
        async def send(self, batch: Sequence[Message]) -> Results:
            return await self.inner.send([change(message) for message in batch])

    return Changing


def receiving(change: Callable[[list[Message]], Sequence[Message]]) -> type[MutantReceiver]:
    """Return a receiver that changes what is received."""

    class Changing(MutantReceiver):
        async def receive(self, limit: int, wait: float) -> Sequence[Message]:
            return change(list(await self.inner.receive(limit, wait)))

    return Changing


def _as_text(message: Message) -> Message:
    body = message.body
    return changed(message, body=body and body.decode(errors="replace").encode())


def _with_delivery(messages: list[Message]) -> list[Message]:
    for message in messages:
        message.delivery = 1
    return messages


def _with_id(messages: list[Message]) -> list[Message]:
    for message in messages:
        message.id = ""
    return messages


class LosesOne(MutantSender):
    """Confirms a batch of which it has lost a part."""

    async def send(self, batch: Sequence[Message]) -> Results:
        await self.inner.send(batch[: len(batch) // 2 + (len(batch) == 1)])
        return [None] * len(batch)


class SendsTwice(MutantSender):
    async def send(self, batch: Sequence[Message]) -> Results:
        await self.inner.send(batch)
        return await self.inner.send(batch)


class SendsAfterClose(MutantSender):
    async def aclose(self) -> None:
        pass


class SendsBackwards(MutantSender):
    async def send(self, batch: Sequence[Message]) -> Results:
        return await self.inner.send(batch[::-1])


class RefusesLarge(MutantSender):
    async def send(self, batch: Sequence[Message]) -> Results:
        if any(len(message.body or b"") > 100_000 for message in batch):
            raise PubSubError("too large", transient=False)
        return await self.inner.send(batch)


class CloseOfSenderFails(MutantSender):
    closed = False

    async def aclose(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True
        await self.inner.aclose()


class IgnoresLimit(MutantReceiver):
    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        return await self.inner.receive(100, wait)


class ReceiveHangs(MutantReceiver):
    """Waits for ever where there is nothing."""

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        return await self.inner.receive(limit, wait) or await self.inner.receive(limit, 1000)


class ReceivePolls(MutantReceiver):
    """Returns what comes only at the end of the wait."""

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        if batch := await self.inner.receive(limit, 0):
            return batch
        await asyncio.sleep(wait)
        return await self.inner.receive(limit, 0)


class CloseLeavesReceive(MutantReceiver):
    """A close that does not end the receive that is pending."""

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        batch = await self.inner.receive(limit, wait)
        if not batch:
            await asyncio.sleep(wait)
        return batch


class AckDoesNothing(MutantReceiver):
    async def ack(self, batch: Sequence[Message]) -> Results:
        return [None] * len(batch)


class AcksHalf(MutantReceiver):
    async def ack(self, batch: Sequence[Message]) -> Results:
        await self.inner.ack(batch[: (len(batch) + 1) // 2])
        return [None] * len(batch)


class AcksTooMuch(MutantReceiver):
    """Acks all that it has handed out."""

    def __init__(self, inner: Receiver) -> None:
        super().__init__(inner)
        self.held: list[Message] = []

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        batch = await self.inner.receive(limit, wait)
        self.held += batch
        return batch

    async def ack(self, batch: Sequence[Message]) -> Results:
        await self.inner.ack(self.held)
        return [None] * len(batch)


class AcceptsLateAck(MutantReceiver):
    async def ack(self, batch: Sequence[Message]) -> Results:
        await self.inner.ack(batch)
        return [None] * len(batch)


class CallsLateAckTransient(MutantReceiver):
    async def ack(self, batch: Sequence[Message]) -> Results:
        results = await self.inner.ack(batch)
        return [e and PubSubError(str(e), transient=True) for e in results]


class SwapsResults(MutantReceiver):
    async def ack(self, batch: Sequence[Message]) -> Results:
        results = list(await self.inner.ack(batch))
        return results[1:] + results[:1]


class AckBlocksOnReceive(MutantReceiver):
    """One call at a time: an ack waits for the receive that is pending."""

    def __init__(self, inner: Receiver) -> None:
        super().__init__(inner)
        self.lock = asyncio.Lock()

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        async with self.lock:
            return await self.inner.receive(limit, wait)

    async def ack(self, batch: Sequence[Message]) -> Results:
        async with self.lock:
            return await self.inner.ack(batch)


class NackDoesNothing(MutantReceiver):
    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        return [None] * len(batch)


class NackAcks(MutantReceiver):
    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        return await self.inner.ack(batch)


class IgnoresDelay(MutantReceiver):
    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        return await self.inner.nack(batch, 0)


class NacksTheBatchOfOne(MutantReceiver):
    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        await self.inner.nack(batch[:1], delay)
        return [None] * len(batch)


class ExtendDoesNothing(MutantReceiver):
    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        return [None] * len(batch)


class CloseKeepsTheHeld(MutantReceiver):
    """Ends the receive, and lets leases run out instead of giving back."""

    def __init__(self, inner: Receiver) -> None:
        super().__init__(inner)
        self.closed = asyncio.Event()

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        if self.closed.is_set():
            return await self.inner.receive(limit, wait)
        receive = asyncio.ensure_future(self.inner.receive(limit, wait))
        closed = asyncio.ensure_future(self.closed.wait())
        await asyncio.wait((receive, closed), return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        if not receive.done():
            receive.cancel()
            return []
        return receive.result()

    async def aclose(self) -> None:
        self.closed.set()


class CloseAcksTheHeld(MutantReceiver):
    def __init__(self, inner: Receiver) -> None:
        super().__init__(inner)
        self.held: list[Message] = []

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        batch = await self.inner.receive(limit, wait)
        self.held += batch
        return batch

    async def aclose(self) -> None:
        if self.held:
            await self.inner.ack(self.held)
        await self.inner.aclose()


class CloseHangs(MutantReceiver):
    async def aclose(self) -> None:
        await self.inner.aclose()
        await asyncio.Event().wait()


class ReceivesAfterClose(MutantReceiver):
    closed = False

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        return [] if self.closed else await self.inner.receive(limit, wait)

    async def aclose(self) -> None:
        self.closed = True
        await self.inner.aclose()


class LeavesATask(MutantReceiver):
    async def connect(self, revoke: Revoke) -> None:
        self.task = asyncio.create_task(asyncio.sleep(3), name="poller")
        await self.inner.connect(revoke)


class LiesAboutBacklog(MutantReceiver):
    def status(self) -> Status:
        return Status(backlog=1)


class CallsItselfStalled(MutantReceiver):
    def status(self) -> Status:
        return Status(stalled="no assignment")


class OneSubscription(MutantDriver):
    """All subscriptions to a topic are one."""

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        return self.inner.receiver(topic, "the only one", ordered=ordered)


class SubscriptionOfItsOwn(MutantDriver):
    """Each receiver has a subscription to itself."""

    numbers = count()

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        own = f"{subscription}{next(self.numbers)}"
        return self.inner.receiver(topic, own, ordered=ordered)


class OneTopic(MutantDriver):
    """All topics are one."""

    def sender(self, topic: str) -> Sender:
        return self.inner.sender("the only one")

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        return self.inner.receiver("the only one", subscription + topic, ordered=ordered)


class NoOrder(MutantDriver):
    """Ordered receivers are like any other."""

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        return receiving(lambda batch: batch[::-1])(
            self.inner.receiver(topic, subscription, ordered=False)
        )


class Mutant(NamedTuple):
    """One planted fault."""

    fault: str
    make: Callable[[], Any]
    caught_by: tuple[str, ...]


def _sender(fault: str, sender: type[MutantSender], *caught_by: str) -> Mutant:
    return Mutant(fault, lambda: MutantDriver(sender=sender), caught_by)


def _receiver(fault: str, receiver: type[MutantReceiver], *caught_by: str) -> Mutant:
    return Mutant(fault, lambda: MutantDriver(receiver=receiver), caught_by)


MUTANTS = (
    _sender("bodies are decoded as text", sending(_as_text), "any_bytes_travel"),
    _sender(
        "an empty body becomes a tombstone",
        sending(lambda m: changed(m, body=m.body or None)),
        "an_empty_body_is_no_tombstone",
    ),
    _sender(
        "a tombstone becomes an empty body",
        sending(lambda m: changed(m, body=m.body or b"")),
        "a_tombstone_arrives_as_one",
    ),
    _sender(
        "JSON is decoded and encoded again",
        sending(lambda m: changed(m, body=m.body and b"".join(m.body.split()))),
        "json_is_not_mangled",
    ),
    _sender(
        "attributes are dropped",
        sending(lambda m: changed(m, attributes={})),
        "a_message_arrives_as_it_was",
        "the_content_type_travels",
        "the_trace_context_travels",
        "cloudevents_travel",
    ),
    _sender(
        "attributes are stripped of spaces",
        sending(lambda m: changed(m, attributes={k: v.strip() for k, v in m.attributes.items()})),
        "odd_attributes_travel",
    ),
    _sender(
        "keys are dropped", sending(lambda m: changed(m, key=None)), "keys_are_text_of_any_kind"
    ),
    _sender(
        "no key becomes an empty one",
        sending(lambda m: changed(m, key=m.key or "")),
        "no_key_is_no_key",
    ),
    _sender("part of a batch is lost, and confirmed", LosesOne, "a_full_batch_arrives"),
    _sender("what is sent is sent twice", SendsTwice, "what_is_acked_never_returns"),
    _sender("a closed sender sends", SendsAfterClose, "a_closed_sender_refuses_to_send"),
    _sender(
        "a second close of a sender raises", CloseOfSenderFails, "a_sender_may_be_closed_twice"
    ),
    _receiver("ids are lost", receiving(_with_id), "each_message_has_an_id_of_its_own"),
    _receiver("the delivery count is stuck", receiving(_with_delivery), "deliveries_are_counted"),
    _receiver("receive ignores its limit", IgnoresLimit, "receive_returns_at_most_its_limit"),
    _receiver("receive hangs", ReceiveHangs, "an_empty_receive_ends_after_its_wait"),
    _receiver("receive polls", ReceivePolls, "a_pending_receive_gets_what_comes"),
    _receiver(
        "a close does not end the pending receive",
        CloseLeavesReceive,
        "closing_ends_a_pending_receive",
    ),
    _receiver("an ack does nothing", AckDoesNothing, "what_is_acked_never_returns"),
    _receiver("of a batch half is acked", AcksHalf, "what_is_acked_never_returns"),
    _receiver("an ack acks all that is held", AcksTooMuch, "an_ack_is_for_its_messages_alone"),
    _receiver("a late ack is accepted", AcceptsLateAck, "a_late_ack_is_refused"),
    _receiver("a late ack is called transient", CallsLateAckTransient, "a_late_ack_is_refused"),
    _receiver(
        "results are out of order", SwapsResults, "results_are_in_the_order_of_their_messages"
    ),
    _receiver(
        "an ack waits for the pending receive",
        AckBlocksOnReceive,
        "other_calls_do_not_wait_for_a_receive",
    ),
    _receiver("a nack does nothing", NackDoesNothing, "a_nack_is_for_its_messages_alone"),
    _receiver("a nack acks", NackAcks, "a_nacked_message_comes_again"),
    _receiver("a nack ignores its delay", IgnoresDelay, "the_delay_of_a_nack_is_waited_for"),
    _receiver("of a batch one is nacked", NacksTheBatchOfOne, "a_nack_is_for_its_messages_alone"),
    _receiver("an extension does nothing", ExtendDoesNothing, "an_extended_lease_lasts"),
    _receiver("a late extension is accepted", ExtendDoesNothing, "a_lost_lease_cannot_be_extended"),
    _receiver(
        "a close keeps what is held until its lease ends",
        CloseKeepsTheHeld,
        "what_is_held_at_the_close_is_given_back_at_once",
    ),
    _receiver(
        "a close loses what is held",
        CloseAcksTheHeld,
        "what_is_held_at_the_close_is_given_back_at_once",
    ),
    _receiver("a close hangs", CloseHangs, "a_receiver_may_be_closed_twice"),
    _receiver(
        "a closed receiver receives", ReceivesAfterClose, "a_closed_receiver_refuses_to_receive"
    ),
    _receiver("a task is left running", LeavesATask, "a_message_arrives_as_it_was"),
    _receiver("the backlog is made up", LiesAboutBacklog, "the_status_is_cheap"),
    _receiver("a sound receiver is called stalled", CallsItselfStalled, "the_status_is_cheap"),
    Mutant("subscriptions share their messages", OneSubscription, ("each_subscription_gets_all",)),
    Mutant(
        "receivers do not share",
        SubscriptionOfItsOwn,
        ("receivers_of_one_subscription_share_it", "a_subscription_outlives_its_receivers"),
    ),
    Mutant("topics mix", OneTopic, ("topics_do_not_mix",)),
    Mutant(
        "order is broken",
        NoOrder,
        ("a_key_arrives_in_order", "a_key_published_at_once_keeps_the_order_of_the_calls"),
    ),
    Mutant(
        "the limit is stated too high",
        lambda: MutantDriver(sender=RefusesLarge, message_bytes=200_000),
        ("a_message_as_large_as_the_limit_arrives",),
    ),
)
