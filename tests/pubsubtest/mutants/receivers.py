"""Receivers with one fault each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from time import time
from typing import Any

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Message, Receiver, Status
from gizmopy.pubsub.driver import Measured, PushAnswer, PushRoute, Results, Revoke
from tests.pubsub.push_broker import PushReceiver
from tests.pubsubtest.mutants.base import (
    LEASE,
    HoldingReceiver,
    MutantReceiver,
)


class IgnoresLimit(MutantReceiver):
    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        return await self.inner.receive(100, wait)


class ReceiveHangs(MutantReceiver):
    """Wait forever if there is no message."""

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        return await self.inner.receive(limit, wait) or await self.inner.receive(limit, 1000)


class ReceivePolls(MutantReceiver):
    """Return messages only at the end of the wait."""

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        if batch := await self.inner.receive(limit, 0):
            return batch
        await asyncio.sleep(wait)
        return await self.inner.receive(limit, 0)


class CloseLeavesReceive(MutantReceiver):
    """Do not end a pending receive on close."""

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


class AcksTooMuch(HoldingReceiver):
    """Ack all received messages."""

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
    """Ack only when no receive is pending."""

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


class CloseKeepsMessages(MutantReceiver):
    """End the receive, but keep leases instead of giving messages back."""

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


class CloseAcksMessages(HoldingReceiver):
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


class DropsMessagesWithoutKey(MutantReceiver):
    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        batch = await self.inner.receive(limit, wait)
        await self.inner.ack([message for message in batch if message.key is None])
        return [message for message in batch if message.key is not None]


class AckExtends(MutantReceiver):
    """Hide the message for a while instead of acking it."""

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
    """Ack messages on receipt."""

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        batch = await self.inner.receive(limit, wait)
        await self.inner.ack(batch)
        return batch

    async def ack(self, batch: Sequence[Message]) -> Results:
        return [None] * len(batch)


class AcceptsAnything(MutantReceiver):
    """Refuse no ack and no extension."""

    async def ack(self, batch: Sequence[Message]) -> Results:
        await self.inner.ack(batch)
        return [None] * len(batch)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        await self.inner.extend(batch, seconds)
        return [None] * len(batch)


class HandsOutOneAtATime(MutantReceiver):
    """Return no message while another one is held."""

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


class NackRevivesAckedMessages(MutantReceiver):
    """Deliver acked messages again if they are nacked."""

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
    """Fail concurrent calls."""

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
    """Report an unreachable broker as a permanent error."""

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


class AckWaitsForTheBroker(MutantReceiver):
    """Retry a failed ack forever."""

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
    """Ack the last received message of each partition."""

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


class PausesNothing(MutantReceiver):
    def pause(self, partitions: object) -> None:
        pass

    def pause_all(self) -> None:
        pass


class InventsTheAge(MutantReceiver):
    """Report the time of publishing as the age."""

    def status(self) -> Status:
        return replace(self.inner.status(), oldest=time())


class MeasuresItself(MutantReceiver):
    """Measure the messages of this receiver instead of the subscription's."""

    async def measure(self) -> Measured:
        return Measured(backlog=0, in_flight=0)


class RoutesNeedConnect(PushReceiver):
    """Have no route before the connect."""

    def routes(self) -> Sequence[PushRoute]:
        return super().routes() if self._accepts else []


class PushesWait(PushReceiver):
    """Let a push wait for a receive that will never come."""

    async def _push(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        self._accepts = True
        return await super()._push(headers, body)
