"""The fakes of the tests of redrive: a broker with queues, a reader, and a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.driver import Driver, Receiver, Results, Sender
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.redrive import Plan, Redrive
from gizmopy.pubsub.wanted import Wanted

QUIET = 0.1
_numbers = count(1)


class Queues:
    """A broker that outlives its connections, with topics that may reject messages."""

    def __init__(self, lease: float = 30.0) -> None:
        self._memory = MemoryDriver(lease=lease)
        self.capabilities = replace(
            self._memory.capabilities, process_local=False, client_retries=True
        )
        self.refused: dict[str, Exception] = {}
        """Topics that take nothing, and why."""
        self.gate = asyncio.Event()
        """A send waits until it is set."""
        self.gate.set()
        self.ack_error: Exception | None = None
        """The result of every ack."""
        self.extended = 0

    def sender(self, topic: str) -> Sender:
        return GatedSender(self._memory.sender(topic), self, topic)

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        return WatchedReceiver(self._memory.receiver(topic, subscription, ordered=ordered), self)

    async def aclose(self) -> None:
        """Close the connection; the broker remains."""


class GatedSender:
    def __init__(self, sender: Sender, queues: Queues, topic: str) -> None:
        self.connect, self.aclose, self._send = sender.connect, sender.aclose, sender.send
        self._queues, self._topic = queues, topic

    async def send(self, batch: Sequence[Message]) -> Results:
        await self._queues.gate.wait()
        if self._topic in self._queues.refused:
            raise self._queues.refused[self._topic]
        return await self._send(batch)


class WatchedReceiver:
    def __init__(self, receiver: Receiver, queues: Queues) -> None:
        self.connect, self.receive, self.nack = receiver.connect, receiver.receive, receiver.nack
        self.status, self.aclose = receiver.status, receiver.aclose
        self._receiver, self._queues = receiver, queues

    async def ack(self, batch: Sequence[Message]) -> Results:
        error = self._queues.ack_error
        return await self._receiver.ack(batch) if error is None else [error] * len(batch)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        self._queues.extended += 1
        return await self._receiver.extend(batch, seconds)


async def none_revoked(partitions: object, seconds: float) -> None:
    """Revoke nothing: no message is in flight."""


class Reader:
    """A subscription to a topic that exists before the first message."""

    def __init__(self, driver: Driver, topic: str, subscription: str = "reader") -> None:
        self._driver, self._topic, self._subscription = driver, topic, subscription

    async def begin(self) -> None:
        """Create the subscription."""
        await self.read()

    async def read(self) -> list[Message]:
        """Return the messages without settling them."""
        receiver = self._driver.receiver(self._topic, self._subscription, ordered=False)
        await receiver.connect(none_revoked)
        messages = list(await receiver.receive(1000, 0))
        await receiver.aclose()
        return messages

    async def bodies(self) -> list[bytes | None]:
        return [message.body for message in await self.read()]


def dead(body: bytes = b"cat", *, source: str = "cats", key: str | None = None, **more: str) -> Any:
    """Return a dead letter as the engine makes it."""
    attributes = {
        "colour": "red",
        "gizmo-dl-reason": "exhausted",
        "gizmo-dl-exception": "builtins.ValueError: no",
        "gizmo-dl-source-topic": source,
        "gizmo-dl-message-id": "7",
    }
    number = str(next(_numbers))
    named = {f"gizmo-{name}".replace("_", "-"): text for name, text in more.items()}
    return Message("dead", body, key=key, attributes=attributes | named, id=number)


async def fill(driver: Driver, *messages: Message, topic: str = "dead") -> Reader:
    """Publish dead letters to an existing subscription; return a reader of it."""
    reader = Reader(driver, topic, "redrive")
    await reader.begin()
    sender = driver.sender(topic)
    await sender.connect()
    await sender.send(messages)
    await sender.aclose()
    return reader


class Run(Redrive):
    """A run that records the callbacks."""

    def __init__(
        self,
        driver: Driver | Callable[[str], Driver],
        *,
        topics: dict[str, str] | None = None,
        subscriptions: dict[str, str] | None = None,
        **plan: Any,
    ) -> None:
        self.listed: list[Message] = []
        self.reasons: list[str] = []
        allowed = frozenset(("cats", "dogs", "dead"))
        defaults: dict[str, Any] = {"channel": "dead", "wait": QUIET, "from_topics": allowed}
        if "match" in plan:
            plan["wanted"] = Wanted(match=plan.pop("match"))
        super().__init__(
            Plan(**defaults | plan),
            "queues://",
            topics=topics or {},
            subscriptions=subscriptions or {},
            on_listed=self.listed.append,
            on_failed=lambda _, reason: self.reasons.append(reason),
            open_driver=driver if callable(driver) else lambda url: driver,
        )

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.settled, self.left, self.failed
