"""Senders with one fault each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Message, Sender
from gizmopy.pubsub.driver import Limits, Results
from tests.pubsubtest.mutants.base import MutantSender, changed


class LosesOne(MutantSender):
    """Confirm a batch after losing a part of it."""

    async def send(self, batch: Sequence[Message]) -> Results:
        await self.inner.send(batch[: len(batch) // 2 + (len(batch) == 1)])
        return [None] * len(batch)


class LosesSometimes(MutantSender):
    """Lose every tenth batch, and confirm it."""

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


class SendsOutOfTurn(MutantSender):
    """Send each batch before the previous one."""

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
    """Stay locked after a send was cancelled."""

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
    """Confirm messages before they are sent; aclose drops them."""

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


class OutageEndsSend(MutantSender):
    async def send(self, batch: Sequence[Message]) -> Results:
        try:
            return await self.inner.send(batch)
        except PubSubError as error:
            raise PubSubError(str(error), transient=False) from error


class RefusesManyAttributes(MutantSender):
    async def send(self, batch: Sequence[Message]) -> Results:
        if any(len(message.attributes) > 5 for message in batch):
            raise PubSubError("too many attributes", transient=False)
        return await self.inner.send(batch)


class CutsAttributes(MutantSender):
    async def send(self, batch: Sequence[Message]) -> Results:
        return await self.inner.send(
            [
                changed(m, attributes={name: text[:50] for name, text in m.attributes.items()})
                for m in batch
            ]
        )


class LimitsOfAnother(MutantSender):
    def limits(self) -> Limits:
        return Limits(batch_messages=50, message_bytes=10**9)
