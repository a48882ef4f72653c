"""What the publisher's tests share: a sender that a test controls, and readers of its metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from gizmopy.errors import PubSubError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Message, Publisher
from tests.pubsub.support import capabilities, no_wait

TRANSIENT = PubSubError("throttled", transient=True)
PERMANENT = PubSubError("no permission", transient=False)
HELD = PubSubError("behind a message that failed", transient=True)

LIMITS = ("batch_messages", "batch_bytes", "message_bytes", "ordered_batches", "client_retries")


class Opaque:
    """A type that pydantic does not know."""


class GatedSender:
    """Send when ``gate`` is set; fail the messages for which ``verdict`` returns an error."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.sent: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.verdict: Callable[[Message], Exception | None] = lambda _: None
        self.call_error: Exception | None = None
        self.calls = 0
        self.most_calls = 0
        self.closes = 0
        self.missing_results = 0
        self.slow = False
        """Answer one turn of the loop later."""
        self.holds_keys = False
        """Fail the messages behind a failed one of their key, as ordered batches do."""

    async def connect(self) -> None:
        pass

    async def send(self, batch: Sequence[Message]) -> Sequence[Exception | None]:
        self.batches.append([(m.body or b"").decode() for m in batch])
        self.calls += 1
        self.most_calls = max(self.calls, self.most_calls)
        try:
            await self.gate.wait()
            if self.slow:
                await asyncio.sleep(0)
        finally:
            self.calls -= 1
        if self.call_error is not None:
            raise self.call_error
        results: list[Exception | None] = []
        failed: set[str | None] = set()
        for message in batch:
            held = self.holds_keys and message.key in failed
            results.append(HELD if held else self.verdict(message))
            if results[-1] is None:
                self.sent.append(message)
            elif message.key is not None:
                failed.add(message.key)
        return results[self.missing_results :]

    async def aclose(self) -> None:
        self.closes += 1


class HandClock:
    """Waits that last until the test ends them."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        over = self._over
        await over.wait()

    def end(self) -> None:
        """End all waits."""
        self._over.set()
        self._over = asyncio.Event()


def publisher(sender: GatedSender, metrics: Metrics | None = None, **options: Any) -> Publisher:
    """Return a publisher with the default limits and options, except ``options``."""
    limits = capabilities(**{name: options.pop(name) for name in LIMITS if name in options})
    sender.holds_keys = limits.ordered_batches
    options = {"sleep": no_wait} | options
    return Publisher(sender, "t", metrics=metrics or Metrics(), limits=limits, **options)


def publish_each(count: int, out: Publisher) -> list[asyncio.Task[None]]:
    """Publish ``count`` messages, each in its own task."""
    return [asyncio.create_task(out.publish(str(n))) for n in range(count)]


def bodies(sender: GatedSender) -> list[str]:
    """Return the bodies that were confirmed, in order."""
    return [(message.body or b"").decode() for message in sender.sent]


def failures(metrics: Metrics) -> dict[str, float]:
    """Return how many failures of each kind the metrics have."""
    counter = metrics.counter("gizmo_pubsub_publish_failures", "")
    return {kind: child.value for (_, kind), child in counter.children() if child.value}


def buffered(metrics: Metrics) -> float:
    """Return the number of messages in the buffer, from the metrics."""
    return metrics.gauge("gizmo_pubsub_publish_buffered", "").child("t").value


async def forever(_: float) -> None:
    """Sleep until cancelled."""
    await asyncio.Event().wait()
