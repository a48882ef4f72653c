"""A driver that passes calls to another one, and applies the faults of a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from contextlib import suppress
from typing import cast

from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub import Capabilities, Driver, Message, Receiver, Sender, Status
from gizmopy.pubsub.driver import PauseAllReceiver, PausingReceiver, Results, Revoke, new_receiver
from pubsubtest.faults import Call, Fault, Faults, failure


class FaultyDriver:
    """A driver that works like ``inner``, except for ``faults``."""

    def __init__(self, inner: Driver, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the inner driver."""
        return self._inner.capabilities

    def sender(self, topic: str) -> Sender:
        """Return a sender with faults."""
        return _FaultySender(self._inner.sender(topic), self._faults)

    def receiver(
        self, topic: str, subscription: str, *, ordered: bool, derived: bool = False
    ) -> Receiver:
        """Return a receiver with faults, which reconnects after an outage."""

        def make() -> Receiver:
            return new_receiver(self._inner, topic, subscription, ordered=ordered, derived=derived)

        return _FaultyReceiver(make, self.capabilities, self._faults)

    async def aclose(self) -> None:
        """Close the inner driver."""
        await self._inner.aclose()


class _FaultySender:
    def __init__(self, inner: Sender, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults
        if hasattr(inner, "limits"):
            self.limits = inner.limits

    async def connect(self) -> None:
        await self._faults.begin("connect")
        self._faults.check_call("connect")
        await self._inner.connect()

    async def send(self, batch: Sequence[Message]) -> Results:
        await self._faults.begin("send")
        faults = self._faults.decide("send", batch)
        sent = _executed(batch, faults)
        results = await self._inner.send(sent) if sent else []
        twice = [m for m in sent if self._faults.is_duplicated(m)]
        with suppress(PubSubError):
            if twice:
                await self._inner.send(twice)
        self._faults.check_outage("send")
        return _combine(faults, results)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _FaultyReceiver:
    """A receiver whose connection can break; it is then replaced by a new one."""

    def __init__(self, make: Callable[[], Receiver], can: Capabilities, faults: Faults) -> None:
        self._make = make
        self._can = can
        self._faults = faults
        self._inner = make()
        self._revoke: Revoke | None = None
        self._is_broken = False
        self._is_closed = False
        self._undelivered: list[Message] = []
        """Received during an outage; returned after it."""
        self._held: set[Message] = set()
        """Received on this connection and not settled; empty for a broker with positions."""

    async def connect(self, revoke: Revoke) -> None:
        await self._faults.begin("connect")
        self._faults.check_call("connect")
        self._revoke = revoke
        await self._inner.connect(self._on_revoke)
        self._faults.remove(self)
        self._faults.add(self)

    async def _on_revoke(self, partitions: Collection[Hashable], seconds: float) -> None:
        assert self._revoke is not None
        self._undelivered = [m for m in self._undelivered if m.partition not in partitions]
        await self._revoke(partitions, seconds)

    async def break_connection(self) -> None:
        """Break the connection, so that the broker takes back the messages that are held."""
        if not self._can.positions:
            self._is_broken = True
            self._undelivered.clear()
            self._held.clear()
            await self._inner.aclose()

    async def _reconnect(self) -> None:
        inner = self._make()
        try:
            await inner.connect(self._on_revoke)
        except BaseException:
            await inner.aclose()
            raise
        self._inner = inner
        self._is_broken = False
        if self._is_closed:
            await inner.aclose()

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        if self._is_closed:
            return await self._inner.receive(limit, wait)  # raises UsageError
        batch = await self._receive(limit, wait)
        if self._is_closed:
            return []  # the broker has taken back the messages
        if self._is_broken:
            raise failure("receive", "the connection is broken")
        self._undelivered = list(batch)
        self._faults.check_outage("receive")
        batch, self._undelivered = self._undelivered[:limit], self._undelivered[limit:]
        if not self._can.positions:
            self._held.update(batch)
        return batch

    async def _receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Receive, delayed, and on a new connection if the last one has broken."""
        await self._faults.begin("receive", lambda: self._is_closed)
        self._faults.check_call("receive")
        if self._is_broken and not self._is_closed:
            await self._reconnect()
        if self._is_closed:
            return []
        batch = self._undelivered or await self._inner.receive(limit, wait)
        await self._faults.hang("receive", lambda: self._is_closed)
        return batch

    async def ack(self, batch: Sequence[Message]) -> Results:
        return await self._settle("ack", batch, lambda messages: self._inner.ack(messages))

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        return await self._settle("nack", batch, lambda messages: self._inner.nack(messages, delay))

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        return await self._settle(
            "extend", batch, lambda messages: self._inner.extend(messages, seconds)
        )

    async def _settle(
        self,
        call: Call,
        batch: Sequence[Message],
        settle: Callable[[Sequence[Message]], Awaitable[Results]],
    ) -> Results:
        await self._faults.begin(call, lambda: self._is_closed)
        known = [self._can.positions or message in self._held for message in batch]
        ours = [message for message, is_known in zip(batch, known, strict=True) if is_known]
        faults = self._faults.decide(call, ours)
        done = _executed(ours, faults)
        if call != "nack":
            await self._lose(done)
        results = await settle(done) if done else []
        self._faults.check_outage(call)
        combined = _combine(faults, results)
        if call != "extend":
            self._held -= {
                m for m, error in zip(ours, combined, strict=True) if not _is_transient(error)
            }
        remaining = iter(combined)
        return [
            next(remaining) if is_known else _stale(m)
            for m, is_known in zip(batch, known, strict=True)
        ]

    async def _lose(self, messages: Sequence[Message]) -> None:
        """Nack the messages whose leases end by a fault, so that they are delivered again."""
        lost = [message for message in messages if self._faults.is_lost(message)]
        if lost and not self._can.can_nack:
            raise UsageError("this driver cannot nack, so a fault cannot end its leases")
        if lost:
            await self._inner.nack(lost, 0)

    def pause(self, partitions: Collection[Hashable]) -> None:
        cast(PausingReceiver, self._inner).pause(partitions)

    def resume(self, partitions: Collection[Hashable]) -> None:
        cast(PausingReceiver, self._inner).resume(partitions)

    def pause_all(self) -> None:
        cast(PauseAllReceiver, self._inner).pause_all()

    def resume_all(self) -> None:
        cast(PauseAllReceiver, self._inner).resume_all()

    def status(self) -> Status:
        return self._inner.status()

    async def aclose(self) -> None:
        self._is_closed = True
        self._faults.remove(self)
        self._faults.wake_hanging_calls()
        await self._inner.aclose()


def _executed(batch: Sequence[Message], faults: Sequence[Fault]) -> list[Message]:
    """Return the messages for which the call takes effect."""
    return [message for message, fault in zip(batch, faults, strict=True) if fault.takes_effect]


def _combine(faults: Sequence[Fault], results: Results) -> list[Exception | None]:
    """Return a result for each message; ``results`` are those of the executed ones."""
    remaining = iter(results)
    return [(fault.takes_effect and next(remaining)) or fault.error for fault in faults]


def _is_transient(error: Exception | None) -> bool:
    """Return whether an error is transient."""
    return isinstance(error, PubSubError) and error.transient


def _stale(message: Message) -> PubSubError:
    reason = f"message {message.id} was received on a broken connection, or is settled already"
    return PubSubError(reason, transient=False)
