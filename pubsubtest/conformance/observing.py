"""Senders and receivers between the engine and a driver, which record calls or simulate a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Sequence
from typing import cast

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Message, Receiver, Sender, Status
from gizmopy.pubsub.driver import PauseAllReceiver, PausingReceiver, Results, Revoke


class WatchedSender:
    """A sender that records its batches."""

    def __init__(self, inner: Sender) -> None:
        self._inner = inner
        self.batches: list[Sequence[Message]] = []
        if hasattr(inner, "limits"):
            self.limits = inner.limits

    async def connect(self) -> None:
        """Connect the inner sender."""
        await self._inner.connect()

    async def send(self, batch: Sequence[Message]) -> Results:
        """Record the batch, and send it."""
        self.batches.append(batch)
        return await self._inner.send(batch)

    async def aclose(self) -> None:
        """Close the inner sender."""
        await self._inner.aclose()


class WatchedReceiver:
    """A receiver that counts its messages, and records whether a receive was cancelled."""

    def __init__(self, inner: Receiver) -> None:
        self._inner = inner
        self.received = 0
        self.cancelled = False

    async def connect(self, revoke: Revoke) -> None:
        """Connect the inner receiver."""
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

    def pause(self, partitions: Collection[Hashable]) -> None:
        """Pause."""
        cast(PausingReceiver, self._inner).pause(partitions)

    def resume(self, partitions: Collection[Hashable]) -> None:
        """Resume."""
        cast(PausingReceiver, self._inner).resume(partitions)

    def pause_all(self) -> None:
        """Pause all."""
        cast(PauseAllReceiver, self._inner).pause_all()

    def resume_all(self) -> None:
        """Resume all."""
        cast(PauseAllReceiver, self._inner).resume_all()

    def status(self) -> Status:
        """Return the status of the inner receiver."""
        return self._inner.status()

    async def aclose(self) -> None:
        """Close the inner receiver."""
        await self._inner.aclose()


class CrashingReceiver(WatchedReceiver):
    """A receiver that takes ``last`` messages, after which a test can simulate a crash.

    It receives no more after the last message. Otherwise a receive would be pending at the crash,
    and the broker would still deliver to it.
    """

    def __init__(self, inner: Receiver, last: int) -> None:
        super().__init__(inner)
        self._last = last
        self._closed = asyncio.Event()
        self.has_crashed = False

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Receive, up to the last message."""
        left = self._last - self.received
        if left and not self._closed.is_set():
            return await super().receive(min(limit, left), wait)
        await self._closed.wait()
        return []

    async def ack(self, batch: Sequence[Message]) -> Results:
        """Ack, unless crashed."""
        self._check()
        return await super().ack(batch)

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        """Nack, unless crashed."""
        self._check()
        return await super().nack(batch, delay)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Extend, unless crashed."""
        self._check()
        return await super().extend(batch, seconds)

    async def aclose(self) -> None:
        """End a pending receive; and close the inner receiver, unless crashed."""
        self._closed.set()
        if not self.has_crashed:
            await super().aclose()

    async def close_inner(self) -> None:
        """Close the inner receiver at the end of the check, also after a crash."""
        await super().aclose()

    def _check(self) -> None:
        if self.has_crashed:
            raise PubSubError("this process has crashed", transient=False)
