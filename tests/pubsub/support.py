"""Fakes for the tests of messages: a clock, and a receiver that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gizmopy.pubsub import Capabilities, Message, Status, Subscriber


async def no_wait(_: float) -> None:
    """Wait for a turn of the loop instead of the time asked for."""
    await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until ``condition`` is true."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is anything at all
            await asyncio.sleep(0)


async def turns(count: int = 50) -> None:
    """Let the loop turn, for what must not happen to have its chance."""
    for _ in range(count):
        await asyncio.sleep(0)


@dataclass
class _Call:
    when: float
    callback: Callable[[], Any]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class FakeClock:
    """Time that stands still until it is advanced."""

    now: float = 0.0
    calls: list[_Call] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], Any]) -> _Call:
        call = _Call(when, callback)
        self.calls.append(call)
        return call

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [call for call in self.calls if call.when <= self.now and not call.cancelled]
        self.calls = [c for c in self.calls if c.when > self.now and not c.cancelled]
        for call in due:
            call.callback()


def capabilities(**changes: Any) -> Capabilities:
    """Return the capabilities of a broker that can do everything, but for ``changes``."""
    everything: dict[str, Any] = {
        "ordering": True,
        "can_nack": True,
        "native_delay": True,
        "lease": None,
        "positions": False,
        "delivery_count": True,
        "process_local": False,
        "batch_messages": 10,
        "batch_bytes": None,
        "message_bytes": None,
    }
    return Capabilities(**(everything | changes))


class FakeReceiver:
    """Hand out what the test puts in; remember every settling; fail as the test says."""

    def __init__(self) -> None:
        self.queue: list[Message] = []
        self.connects: list[Exception] = []
        """Raised by the next calls of connect."""
        self.receive_errors: list[Exception] = []
        self.acked: list[Message] = []
        self.ack_batches: list[int] = []
        self.nacked: list[tuple[Message, float]] = []
        self.extended: list[Message] = []
        self.limits: list[int] = []
        self.ack_errors: list[Exception] = []
        """Given for the next items to be acked, or raised where it is a CallFails."""
        self.nack_errors: list[Exception] = []
        self.extend_error: Exception | None = None
        self.cancelled_receives = 0
        self.closed = False
        self.at_close: list[Message] = []
        """Returned by the receive that is pending when the receiver is closed."""
        self.ack_gate = asyncio.Event()
        self.ack_gate.set()
        self._changed = asyncio.Event()

    def put(self, *messages: Message) -> None:
        self.queue.extend(messages)
        self._changed.set()

    def fail_receive(self, error: Exception) -> None:
        self.receive_errors.append(error)
        self._changed.set()

    async def connect(self, revoke: object) -> None:
        if self.connects:
            raise self.connects.pop(0)

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        self.limits.append(limit)
        while not self.closed:
            if self.receive_errors:
                raise self.receive_errors.pop(0)
            if self.queue:
                batch, self.queue = self.queue[:limit], self.queue[limit:]
                return batch
            self._changed.clear()
            try:
                await self._changed.wait()
            except asyncio.CancelledError:
                self.cancelled_receives += not self.closed
                raise
        return self.at_close

    async def ack(self, batch: Sequence[Message]) -> list[Exception | None]:
        self.ack_batches.append(len(batch))
        await self.ack_gate.wait()
        if self.ack_errors and isinstance(self.ack_errors[0], CallFails):
            raise self.ack_errors.pop(0).error  # type: ignore[attr-defined]  # it is a CallFails
        return self._settle(batch, self.ack_errors, self.acked.append)

    async def nack(self, batch: Sequence[Message], delay: float) -> list[Exception | None]:
        return self._settle(batch, self.nack_errors, lambda m: self.nacked.append((m, delay)))

    def _settle(
        self,
        batch: Sequence[Message],
        errors: list[Exception],
        settle: Callable[[Message], None],
    ) -> list[Exception | None]:
        results: list[Exception | None] = []
        for message in batch:
            error = errors.pop(0) if errors else None
            if error is None:
                settle(message)
            results.append(error)
        return results

    async def extend(self, batch: Sequence[Message], seconds: float) -> list[Exception | None]:
        self.extended.extend(batch)
        return [self.extend_error] * len(batch)

    def status(self) -> Status:
        return Status()

    async def aclose(self) -> None:
        self.closed = True
        self._changed.set()


class CallFails(Exception):
    """Make the call as a whole raise ``error``."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def message(body: bytes | None = b"{}", **fields: Any) -> Message:
    """Return a message of the topic ``t``."""
    return Message("t", body, **{"id": "1", **fields})


def held(subscriber: Subscriber) -> list[Message]:
    """Return the messages that a subscriber has in flight, the oldest first."""
    return list(subscriber._pipeline.in_flight)


def lose_lease(subscriber: Subscriber, lost: Message) -> None:
    """Have a subscriber lose a lease now: the broker's refusal would take half of a lease."""
    subscriber._pipeline._lease_lost(lost, "its lease is over")
