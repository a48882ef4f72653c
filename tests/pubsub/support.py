"""Helpers for tests of messages: a clock, a receiver, and a subscriber on that receiver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gizmopy.errors import PubSubError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Capabilities, Message, RetryPolicy, Status, Subscriber, Subscription
from tests.support import until as until


async def no_wait(_: float) -> None:
    """Let the loop turn once, instead of waiting."""
    await asyncio.sleep(0)


async def turns(count: int = 50) -> None:
    """Let the loop turn, so that an event that must not happen could."""
    for _ in range(count):
        await asyncio.sleep(0)


HandlerBody = Callable[[Message], Coroutine[Any, Any, None]]
TRANSIENT = PubSubError("throttled", transient=True)
PERMANENT = PubSubError("its lease is over", transient=False)


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
    """Return the messages that the test puts in, record every settle, and fail on request."""

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
        """The errors of the next items to be acked; a CallFails is raised instead."""
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


class Bench:
    """A subscriber on a fake receiver, and its outcomes."""

    def __init__(self, handler: HandlerBody, can: Capabilities, **options: Any) -> None:
        self.receiver: FakeReceiver = options.pop("receiver", None) or FakeReceiver()
        self.settled: list[tuple[str, str, BaseException | None]] = []
        self.dead: list[Message] = []
        self.dead_letter_errors: list[BaseException] = []
        self.metrics = Metrics()
        self.sleeps: list[float] = []
        self.sleep = options.pop("sleep", self._sleep)
        observers = options.pop("observers", ())
        dead_letter = options.pop("dead_letter", None)
        if dead_letter is True:
            dead_letter = self._record_dead_letter
        self.subscriber = Subscriber(
            self.receiver,
            subscription_of(handler, **options),
            topic="t",
            capabilities=can,
            metrics=self.metrics,
            dead_letter=dead_letter,
            on_settle=lambda m, outcome, error: self.settled.append((m.id, outcome, error)),
            observers=observers,
            sleep=self.sleep,
        )
        self.task: asyncio.Task[None] | None = None

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await asyncio.sleep(0)

    async def _record_dead_letter(self, dead: Message) -> None:
        if self.dead_letter_errors:
            raise self.dead_letter_errors.pop(0)
        self.dead.append(dead)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(id_, outcome) for id_, outcome, _ in self.settled]

    def metric(self, name: str, *labels: str) -> float:
        instrument = self.metrics.counter(f"gizmo_pubsub_{name}", "")
        return instrument.child("t", "s", *labels).value


def subscription_of(handler: HandlerBody, **options: Any) -> Subscription:
    """Return a subscription with this handler, and defaults for all other options."""
    defaults: dict[str, Any] = {
        "channel": "t",
        "subscription": "s",
        "concurrency": 1,
        "order": "none",
        "max_in_flight": 100,
        "retry": RetryPolicy(),
        "max_deliveries": 5,
        "dead_letter": "",
        "handler": handler,
        "payload": None,
        "name": "Cats.on_cat",
    }
    return Subscription(**(defaults | options))


@asynccontextmanager
async def running(
    handler: HandlerBody, can: Capabilities | None = None, **options: Any
) -> AsyncIterator[Bench]:
    """Run a subscriber while the context lasts, then drain it."""
    bench = Bench(handler, can or capabilities(), **options)
    async with bench.subscriber:
        bench.task = asyncio.create_task(bench.subscriber.run())
        yield bench
        await bench.subscriber.drain(5)
        await bench.task


class Gate:
    """A handler that waits until the test opens it."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.open = asyncio.Event()

    async def __call__(self, received: Message) -> None:
        self.started.append(received.id)
        await self.open.wait()


async def nothing(_: Message) -> None:
    """Handle a message by returning."""


def failing(*errors: Exception) -> HandlerBody:
    """Return a handler that raises each of the errors once, then returns."""
    left = list(errors)

    async def handler(_: Message) -> None:
        if left:
            raise left.pop(0)

    return handler


def always(error: BaseException) -> HandlerBody:
    """Return a handler that always raises ``error``."""

    async def handler(_: Message) -> None:
        raise error

    return handler
