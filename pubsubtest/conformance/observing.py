"""Ends that look at what passes through them, or cut it off, between the engine and a driver."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Message, Receiver, Sender, Status
from gizmopy.pubsub.driver import Results, Revoke


class WatchedSender:
    """A sender that keeps the batches it is given."""

    def __init__(self, inner: Sender) -> None:
        self._inner = inner
        self.batches: list[Sequence[Message]] = []

    async def connect(self) -> None:
        """Connect the sender within."""
        await self._inner.connect()

    async def send(self, batch: Sequence[Message]) -> Results:
        """Keep the batch, and send it."""
        self.batches.append(batch)
        return await self._inner.send(batch)

    async def aclose(self) -> None:
        """Close the sender within."""
        await self._inner.aclose()


class WatchedReceiver:
    """A receiver that counts what it hands out, and knows whether a receive was cancelled."""

    def __init__(self, inner: Receiver) -> None:
        self._inner = inner
        self.received = 0
        self.cancelled = False

    async def connect(self, revoke: Revoke) -> None:
        """Connect the receiver within."""
        await self._inner.connect(revoke)

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Receive, and count."""
        try:
            batch = await self._inner.receive(limit, wait)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.received += len(batch)
        return batch

    async def ack(self, batch: Sequence[Message]) -> Results:
        """Ack."""
        return await self._inner.ack(batch)

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        """Nack."""
        return await self._inner.nack(batch, delay)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Extend."""
        return await self._inner.extend(batch, seconds)

    def status(self) -> Status:
        """Tell the status of the receiver within."""
        return self._inner.status()

    async def aclose(self) -> None:
        """Close the receiver within."""
        await self._inner.aclose()


class DoomedReceiver(WatchedReceiver):
    """A receiver that takes ``last`` messages, and whose process can then be let die.

    It is asked for nothing after the last one, so that no receive is pending at its death: the
    broker would still hand out to it.
    """

    def __init__(self, inner: Receiver, last: int) -> None:
        super().__init__(inner)
        self._last = last
        self._closed = asyncio.Event()
        self.dead = False

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Receive, up to the last message."""
        left = self._last - self.received
        if left and not self._closed.is_set():
            return await super().receive(min(limit, left), wait)
        await self._closed.wait()
        return []

    async def ack(self, batch: Sequence[Message]) -> Results:
        """Ack, while this lives."""
        self._check()
        return await super().ack(batch)

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        """Nack, while this lives."""
        self._check()
        return await super().nack(batch, delay)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Extend, while this lives."""
        self._check()
        return await super().extend(batch, seconds)

    async def aclose(self) -> None:
        """End a pending receive; the broker is told while this lives."""
        self._closed.set()
        if not self.dead:
            await super().aclose()

    async def bury(self) -> None:
        """Close the receiver within, which a dead process cannot do."""
        await super().aclose()

    def _check(self) -> None:
        if self.dead:
            raise PubSubError("this process has died", transient=False)
