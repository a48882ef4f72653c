"""Drivers with one fault each, and the checks that have to catch it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any, NamedTuple

from gizmopy.errors import PubSubError, Reject, Retry, UndecodableMessage
from gizmopy.pubsub import Message, Receiver, Sender, Status
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.driver import Results, Revoke
from pubsubtest.conformance import Harness
from tests.pubsub.log_broker import LogBroker
from tests.pubsubtest.engine_mutants import (
    AllOrNothing,
    Boundless,
    CancellingReceiver,
    ClosesNothing,
    Plant,
    all_handled,
    handler_that,
    publisher,
    shared_contexts,
    sound,
    subscriber,
    unconfirmed,
)

LEASE = 0.4


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
    """A broker, in memory unless another is given, whose ends have a fault."""

    def __init__(
        self,
        sender: type[MutantSender] = MutantSender,
        receiver: type[MutantReceiver] = MutantReceiver,
        *,
        broker: Any = None,
        **capabilities: Any,
    ) -> None:
        self.inner = broker or MemoryDriver(lease=LEASE, message_bytes=100_000, batch_messages=50)
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


class LosesNowAndThen(MutantSender):
    """Confirms what it has lost, every tenth time."""

    sends = 0

    async def send(self, batch: Sequence[Message]) -> Results:
        self.sends += 1
        return [None] * len(batch) if self.sends % 10 == 0 else await self.inner.send(batch)


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


class RefusesLargeBatches(MutantSender):
    async def send(self, batch: Sequence[Message]) -> Results:
        if sum(len(message.body or b"") for message in batch) > 100_000:
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


class SendsOutOfTurn(MutantSender):
    """A send overtakes the one before it."""

    kept: Sequence[Message] = ()

    async def send(self, batch: Sequence[Message]) -> Results:
        if not self.kept:
            self.kept = batch
        else:
            await self.inner.send(batch)
            await self.inner.send(self.kept)
            self.kept = ()
        return [None] * len(batch)


class CancelBreaksSender(MutantSender):
    """A send that is cancelled leaves the sender locked."""

    def __init__(self, inner: Sender) -> None:
        super().__init__(inner)
        self.lock = asyncio.Lock()

    async def send(self, batch: Sequence[Message]) -> Results:
        await self.lock.acquire()
        await asyncio.sleep(0)
        results = await self.inner.send(batch)
        self.lock.release()
        return results


class ConfirmsTooSoon(MutantSender):
    """Sends later what it has confirmed; a close forgets it."""

    def __init__(self, inner: Sender) -> None:
        super().__init__(inner)
        self.waiting: list[asyncio.TimerHandle] = []

    async def send(self, batch: Sequence[Message]) -> Results:
        send = lambda: asyncio.ensure_future(self.inner.send(batch))  # noqa: E731 - it is short
        self.waiting.append(asyncio.get_running_loop().call_later(0.01, send))
        return [None] * len(batch)

    async def aclose(self) -> None:
        for timer in self.waiting:
            timer.cancel()
        await self.inner.aclose()


class SenderNeedsConnect(MutantSender):
    connected = False

    async def connect(self) -> None:
        self.connected = True
        await self.inner.connect()

    async def aclose(self) -> None:
        if not self.connected:
            raise RuntimeError("not connected")
        await self.inner.aclose()


class ReceiverNeedsConnect(MutantReceiver):
    connected = False

    async def connect(self, revoke: Revoke) -> None:
        self.connected = True
        await self.inner.connect(revoke)

    async def aclose(self) -> None:
        if not self.connected:
            raise RuntimeError("not connected")
        await self.inner.aclose()


class StatusNeedsConnect(MutantReceiver):
    connected = False

    async def connect(self, revoke: Revoke) -> None:
        self.connected = True
        await self.inner.connect(revoke)

    def status(self) -> Status:
        if not self.connected:
            raise RuntimeError("not connected")
        return self.inner.status()


class DropsWhatHasNoKey(MutantReceiver):
    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        batch = await self.inner.receive(limit, wait)
        await self.inner.ack([message for message in batch if message.key is None])
        return [message for message in batch if message.key is not None]


class AckExtends(MutantReceiver):
    """An ack hides the message for a while."""

    async def ack(self, batch: Sequence[Message]) -> Results:
        return await self.inner.extend(batch, LEASE / 2)


class SecondAckRaises(MutantReceiver):
    def __init__(self, inner: Receiver) -> None:
        super().__init__(inner)
        self.acked: set[Message] = set()

    async def ack(self, batch: Sequence[Message]) -> Results:
        if self.acked.intersection(batch):
            raise KeyError("acked already")
        self.acked.update(batch)
        return await self.inner.ack(batch)


class AcksOnReceipt(MutantReceiver):
    """What is handed out is gone: at most once."""

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        batch = await self.inner.receive(limit, wait)
        await self.inner.ack(batch)
        return batch

    async def ack(self, batch: Sequence[Message]) -> Results:
        return [None] * len(batch)


class AcceptsAnything(MutantReceiver):
    """Whatever is settled or extended, and however late, nothing is refused."""

    async def ack(self, batch: Sequence[Message]) -> Results:
        await self.inner.ack(batch)
        return [None] * len(batch)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        await self.inner.extend(batch, seconds)
        return [None] * len(batch)


class HandsOutOneAtATime(MutantReceiver):
    """Nothing more comes while anything is held."""

    held = 0

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        if self.held:
            await asyncio.sleep(min(wait, 0.05))
            return []
        batch = await self.inner.receive(1, wait)
        self.held += len(batch)
        return batch

    async def ack(self, batch: Sequence[Message]) -> Results:
        self.held -= len(batch)
        return await self.inner.ack(batch)


class NackAfterAckRevives(MutantReceiver):
    """Keeps what was acked, and lines it up again when it is nacked."""

    def __init__(self, inner: Receiver) -> None:
        super().__init__(inner)
        self.acked: list[Message] = []
        self.revived: list[Message] = []

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        revived, self.revived = self.revived, []
        return revived or await self.inner.receive(limit, wait)

    async def ack(self, batch: Sequence[Message]) -> Results:
        self.acked += batch
        return await self.inner.ack(batch)

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        self.revived += [message for message in batch if message in self.acked]
        return await self.inner.nack(batch, delay)


class OneCallAtATime(MutantReceiver):
    """Calls that come together are too much for it."""

    busy = False

    async def ack(self, batch: Sequence[Message]) -> Results:
        return await self._alone(lambda: self.inner.ack(batch))

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        return await self._alone(lambda: self.inner.nack(batch, delay))

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        return await self._alone(lambda: self.inner.extend(batch, seconds))

    async def _alone(self, call: Callable[[], Awaitable[Results]]) -> Results:
        if self.busy:
            raise RuntimeError("another call is under way")
        self.busy = True
        await asyncio.sleep(0.01)
        self.busy = False
        return await call()


class OutageEndsReceive(MutantReceiver):
    """A broker that is away is called an error for good."""

    async def connect(self, revoke: Revoke) -> None:
        try:
            await self.inner.connect(revoke)
        except PubSubError as error:
            raise PubSubError(str(error), transient=False) from error

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        try:
            return await self.inner.receive(limit, wait)
        except PubSubError as error:
            raise PubSubError(str(error), transient=False) from error


class OutageEndsSend(MutantSender):
    async def send(self, batch: Sequence[Message]) -> Results:
        try:
            return await self.inner.send(batch)
        except PubSubError as error:
            raise PubSubError(str(error), transient=False) from error


class AckWaitsForTheBroker(MutantReceiver):
    """An ack that fails is tried again, for ever."""

    async def ack(self, batch: Sequence[Message]) -> Results:
        while True:
            try:
                return await self.inner.ack(batch)
            except PubSubError:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)


class AcksNothingOfPartitions(MutantReceiver):
    async def ack(self, batch: Sequence[Message]) -> Results:
        return [None] * len(batch)


class CommitsOneTooMany(MutantReceiver):
    """Acks of each partition what was handed out last."""

    def __init__(self, inner: Receiver) -> None:
        super().__init__(inner)
        self.last: dict[Any, Message] = {}

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        batch = await self.inner.receive(limit, wait)
        self.last.update({message.partition: message for message in batch})
        return batch

    async def ack(self, batch: Sequence[Message]) -> Results:
        return await self.inner.ack([self.last[message.partition] for message in batch])


class RevokesUnasked(MutantReceiver):
    async def connect(self, revoke: Revoke) -> None:
        async def revoke_nothing(partitions: object, seconds: float) -> None:
            pass

        await self.inner.connect(revoke_nothing)


class ResendsBackwards(MutantDriver):
    """What is given back is sent again, from the last to the first."""

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        sender = self.inner.sender(topic)

        class Resending(MutantReceiver):
            def __init__(self, inner: Receiver) -> None:
                super().__init__(inner)
                self.held: list[Message] = []

            async def receive(self, limit: int, wait: float) -> Sequence[Message]:
                batch = await self.inner.receive(limit, wait)
                self.held += batch
                return batch

            async def nack(self, batch: Sequence[Message], delay: float) -> Results:
                await sender.send(batch[::-1])
                return await self.inner.ack(batch)

            async def aclose(self) -> None:
                await sender.send([m for m in self.held if not any(await self.inner.ack([m]))])
                self.held = []
                await self.inner.aclose()

        return Resending(self.inner.receiver(topic, subscription, ordered=ordered))


class KeyedByReceiver(MutantDriver):
    """Ordered receivers take whatever is next."""

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        return MutantReceiver(self.inner.receiver(topic, subscription, ordered=False))


class ClosesAll(MutantDriver):
    """The close of one end closes all of its kind."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[Any] = []

    def sender(self, topic: str) -> Sender:
        sender: Sender = self._closing_all(MutantSender(self.inner.sender(topic)))
        return sender

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        inner = self.inner.receiver(topic, subscription, ordered=ordered)
        receiver: Receiver = self._closing_all(MutantReceiver(inner))
        return receiver

    def _closing_all(self, end: Any) -> Any:
        self.ends.append(end)

        async def aclose() -> None:
            for other in self.ends:
                if type(other) is type(end):
                    await other.inner.aclose()

        end.aclose = aclose
        return end


class ClosesOnce(MutantDriver):
    closed = False

    async def aclose(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True
        await super().aclose()


class Mutant(NamedTuple):
    """One planted fault."""

    fault: str
    caught_by: tuple[str, ...]
    make: Callable[[], Harness]
    plant: Plant = sound
    """Plants a fault in the engine instead of a driver."""


def in_memory(make: Callable[[], Any] = MutantDriver) -> Callable[[], Harness]:
    """Return what makes the harness of a broker with leases."""
    return lambda: Harness(open=make)


def on_log(
    sender: type[MutantSender] = MutantSender, receiver: type[MutantReceiver] = MutantReceiver
) -> Callable[[], Harness]:
    """Return what makes the harness of a broker that keeps positions, and can fail."""

    def make() -> Harness:
        broker = LogBroker(rebalance_seconds=1.0)

        @asynccontextmanager
        async def outage() -> AsyncIterator[None]:
            with broker.outage():
                yield

        driver = MutantDriver(sender, receiver, broker=broker)
        return Harness(open=lambda: driver, creates_topics=False, outage=outage, quiet=0.2)

    return make


def _sender(fault: str, sender: type[MutantSender], *caught_by: str) -> Mutant:
    return Mutant(fault, caught_by, in_memory(lambda: MutantDriver(sender=sender)))


def _receiver(fault: str, receiver: type[MutantReceiver], *caught_by: str) -> Mutant:
    return Mutant(fault, caught_by, in_memory(lambda: MutantDriver(receiver=receiver)))


def _driver(fault: str, make: Callable[[], Any], *caught_by: str) -> Mutant:
    return Mutant(fault, caught_by, in_memory(make))


def _log(
    fault: str,
    *caught_by: str,
    sender: type[MutantSender] = MutantSender,
    receiver: type[MutantReceiver] = MutantReceiver,
) -> Mutant:
    return Mutant(fault, caught_by, on_log(sender, receiver))


def _engine(fault: str, plant: Plant, *caught_by: str) -> Mutant:
    return Mutant(fault, caught_by, in_memory(), plant)


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
        "a_failing_message_becomes_a_dead_letter",
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
    _receiver(
        "an ack does nothing",
        AckDoesNothing,
        "what_is_acked_never_returns",
        "a_handled_message_is_acked_once",
    ),
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
    _receiver(
        "an extension does nothing, and says it did",
        ExtendDoesNothing,
        "an_extended_lease_lasts",
        "a_lost_lease_cannot_be_extended",
        "a_handler_slower_than_the_lease_is_not_disturbed",
    ),
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
    _driver("subscriptions share their messages", OneSubscription, "each_subscription_gets_all"),
    _driver(
        "receivers do not share",
        SubscriptionOfItsOwn,
        "receivers_of_one_subscription_share_it",
        "a_subscription_outlives_its_receivers",
    ),
    _driver("topics mix", OneTopic, "topics_do_not_mix"),
    _driver(
        "order is broken",
        NoOrder,
        "a_key_arrives_in_order",
        "a_key_published_at_once_keeps_the_order_of_the_calls",
    ),
    _driver(
        "the limit is stated too high",
        lambda: MutantDriver(sender=RefusesLarge, message_bytes=200_000),
        "a_message_as_large_as_the_limit_arrives",
    ),
    _sender(
        "the time of publishing is made up",
        sending(lambda m: changed(m, published_at=datetime(2000, 1, 1, tzinfo=UTC))),
        "the_time_of_publishing_is_told",
    ),
    _sender("a send overtakes the one before it", SendsOutOfTurn, "a_batch_is_sent_in_its_order"),
    _sender("a batch is sent backwards", SendsBackwards, "a_batch_may_hold_several_of_a_key"),
    _sender(
        "a cancelled send locks the sender",
        CancelBreaksSender,
        "a_send_works_after_one_that_was_cancelled",
    ),
    _sender(
        "what is confirmed waits, and a close forgets it",
        ConfirmsTooSoon,
        "closing_a_publisher_sends_what_waits",
    ),
    _sender(
        "of ten sends one is lost, and confirmed",
        LosesNowAndThen,
        "what_is_published_at_once_arrives",
    ),
    _sender(
        "a sender that never connected cannot be closed",
        SenderNeedsConnect,
        "a_sender_may_be_closed_before_it_connects",
    ),
    _receiver(
        "a receiver that never connected cannot be closed",
        ReceiverNeedsConnect,
        "a_receiver_may_be_closed_before_it_connects",
    ),
    _receiver(
        "a receiver that never connected has no status",
        StatusNeedsConnect,
        "the_status_is_told_at_any_time",
    ),
    _receiver(
        "what has no key is dropped where order is kept",
        DropsWhatHasNoKey,
        "an_ordered_receiver_gets_all",
    ),
    _receiver(
        "an ack hides the message for a while",
        AckExtends,
        "what_is_acked_does_not_return_after_its_lease",
    ),
    _receiver("a second ack raises", SecondAckRaises, "acking_twice_harms_nothing"),
    _receiver(
        "what is handed out is acked",
        AcksOnReceipt,
        "an_unsettled_message_comes_again_after_its_lease",
        "a_death_repeats_what_was_not_acked_and_no_more",
    ),
    _receiver(
        "a nack brings back what was acked",
        NackAfterAckRevives,
        "a_nack_after_an_ack_brings_nothing_back",
    ),
    _receiver(
        "calls that come together fail",
        OneCallAtATime,
        "other_calls_do_not_wait_for_a_receive",
    ),
    _receiver(
        "one message is handed out at a time",
        HandsOutOneAtATime,
        "keys_do_not_wait_for_each_other",
    ),
    _driver(
        "what is given back is lost",
        lambda: MutantDriver(receiver=NackAcks, process_local=False),
        "a_drain_gives_back_what_is_not_started",
        "a_cancelled_handling_is_never_acked",
        "nothing_is_lost_by_restarts_under_load",
    ),
    _driver(
        "leases are shorter than stated",
        lambda: MutantDriver(broker=MemoryDriver(lease=LEASE / 3), lease=LEASE),
        "an_unsettled_message_comes_again_after_its_lease",
    ),
    _driver(
        "leases never end",
        lambda: MutantDriver(broker=MemoryDriver(lease=None), lease=LEASE),
        "an_unsettled_message_comes_again_after_its_lease",
    ),
    _driver(
        "leases have no cap, though it is stated",
        lambda: MutantDriver(lease_cap=2 * LEASE),
        "the_cap_on_leases_is_true",
    ),
    _driver(
        "the cap on leases is shorter than stated",
        lambda: MutantDriver(
            receiver=AcceptsAnything,
            broker=MemoryDriver(lease=LEASE, lease_cap=LEASE),
            lease_cap=2 * LEASE,
        ),
        "the_cap_on_leases_is_true",
    ),
    _driver(
        "what is given back is sent again, backwards",
        ResendsBackwards,
        "order_survives_a_nack",
        "order_survives_a_close",
    ),
    _driver(
        "a key is handed to two at once", KeyedByReceiver, "a_key_is_with_one_receiver_at_a_time"
    ),
    _driver(
        "the close of one end closes all",
        ClosesAll,
        "a_receiver_that_leaves_does_not_disturb_the_other",
        "ends_are_independent",
        "stopping_one_subscriber_leaves_the_other",
    ),
    _driver("a second close of a driver raises", ClosesOnce, "a_driver_may_be_closed_twice"),
    _driver(
        "the limit on a batch is stated too high",
        lambda: MutantDriver(sender=RefusesLargeBatches, batch_bytes=120_000),
        "a_send_holds_no_more_bytes_than_the_broker_takes",
    ),
    _log(
        "unknown topics are made, though it is denied",
        "an_unknown_topic_is_not_found",
        "an_unknown_source_is_not_found",
    ),
    _log(
        "positions are not kept",
        "an_ack_stands_for_all_before_it",
        receiver=AcksNothingOfPartitions,
    ),
    _log(
        "positions run ahead",
        "what_follows_the_position_comes_again_in_order",
        receiver=CommitsOneTooMany,
    ),
    _log(
        "partitions are taken away unasked",
        "partitions_are_asked_back_before_another_gets_them",
        receiver=RevokesUnasked,
    ),
    _log(
        "an outage is called an error for good",
        "an_outage_loses_nothing",
        "a_receiver_says_that_a_broker_is_away_for_now",
        receiver=OutageEndsReceive,
    ),
    _log(
        "a send in an outage is refused for good",
        "a_sender_says_that_a_broker_is_away_for_now",
        sender=OutageEndsSend,
    ),
    _log(
        "an ack waits for the end of an outage",
        "a_drain_ends_while_the_broker_is_away",
        receiver=AckWaitsForTheBroker,
    ),
)

ENGINE_MUTANTS = (
    _engine(
        "a rejected message is tried again",
        handler_that(lambda error: ValueError() if isinstance(error, Reject) else error),
        "a_rejected_message_becomes_a_dead_letter_at_once",
    ),
    _engine(
        "an undecodable message is tried again",
        handler_that(lambda e: ValueError() if isinstance(e, UndecodableMessage) else e),
        "an_undecodable_message_holds_up_nobody",
    ),
    _engine(
        "the wait of Retry(after) is forgotten",
        handler_that(lambda error: Retry(after=0) if isinstance(error, Retry) else error),
        "retry_after_is_waited_for",
    ),
    _engine(
        "a cancelled handling counts as handled",
        handler_that(lambda e: None if isinstance(e, asyncio.CancelledError) else e),
        "a_cancelled_handling_is_never_acked",
    ),
    _engine(
        "a dead letter is not waited for",
        subscriber(dead_letter=unconfirmed),
        "a_message_is_kept_until_its_dead_letter_is_confirmed",
    ),
    _engine(
        "order is not kept",
        subscriber(options={"order": "none"}),
        "a_key_is_handled_in_order_whatever_fails",
        "a_partition_is_handled_in_order_whatever_fails",
    ),
    _engine(
        "more is received than asked for",
        subscriber(options={"max_in_flight": 100, "max_in_flight_bytes": 1_000_000}),
        "no_more_is_in_flight_than_asked_for",
    ),
    _engine(
        "the bytes in flight are not counted",
        subscriber(options={"max_in_flight_bytes": 1_000_000}),
        "no_more_is_in_flight_than_asked_for",
    ),
    _engine(
        "a batch is settled as one",
        subscriber(options={"batch_handler": all_handled}),
        "a_batch_handler_settles_each",
    ),
    _engine(
        "a receive is cancelled and made again",
        subscriber(receiver=CancellingReceiver),
        "a_receive_is_never_cancelled",
    ),
    Mutant(
        "the cap on leases is not known",
        ("what_is_held_beyond_the_cap_is_not_acked",),
        in_memory(
            lambda: MutantDriver(
                receiver=AcceptsAnything,
                broker=MemoryDriver(lease=LEASE, lease_cap=LEASE),
                lease_cap=LEASE,
            )
        ),
        subscriber(capabilities={"lease_cap": None}),
    ),
    _engine(
        "handlers share their context",
        shared_contexts,
        "handlers_do_not_see_each_others_context",
    ),
    _engine(
        "one bad value spoils the others", publisher(AllOrNothing), "each_value_has_its_own_result"
    ),
    _engine(
        "a closed publisher goes on",
        publisher(ClosesNothing),
        "a_closed_publisher_refuses_to_publish",
    ),
    Mutant(
        "the broker's limits are not heeded",
        (
            "a_larger_message_is_refused_before_the_wire",
            "a_send_holds_no_more_than_the_broker_takes",
            "a_send_holds_no_more_bytes_than_the_broker_takes",
        ),
        in_memory(lambda: MutantDriver(batch_bytes=100_000)),
        publisher(Boundless),
    ),
)
