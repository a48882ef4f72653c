"""The context of a check: its own topics, a driver, and helpers to send, receive and run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

from gizmopy.errors import PubSubError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import (
    Capabilities,
    Driver,
    Message,
    Publisher,
    Receiver,
    RetryPolicy,
    Sender,
    Subscriber,
    Subscription,
)
from gizmopy.pubsub.driver import Revoke
from pubsubtest.conformance.checking import CheckFailed, Harness, expect

UNKNOWN = "conformance-does-not-exist"
"""A topic that is never created."""
QUICK = RetryPolicy(attempts=2, base=0.01, cap=0.05)
"""The retry policy of handlers in checks."""


async def revoke_at_once(partitions: Collection[Hashable], seconds: float) -> None:
    """Give up partitions at once: without an engine there is nothing to finish."""


class CheckContext:
    """The driver, topics and helpers of one check; ``max_wait`` limits each wait, in seconds."""

    def __init__(
        self,
        harness: Harness,
        driver: Driver,
        max_wait: float,
        topics: AsyncExitStack,
        ends: AsyncExitStack,
    ) -> None:
        name = uuid4().hex[:12]
        self.harness = harness
        self.driver = driver
        self.max_wait = max_wait
        self.quiet = harness.quiet or (0.2 if driver.capabilities.process_local else 1.0)
        """Seconds to wait before concluding that no message arrives."""
        self.topic = f"conformance-{name}"
        self.other_topic = f"conformance-{name}-other"
        self.dead_topic = f"conformance-{name}-dead"
        self.subscription = f"first-{name}"
        self.second_subscription = f"second-{name}"
        self._missing_topics = {self.topic, self.other_topic, self.dead_topic}
        self._topics = topics
        self._ends = ends

    @property
    def can(self) -> Capabilities:
        """The capabilities of the driver."""
        return self.driver.capabilities

    @property
    def lease(self) -> float:
        """The seconds of a lease, or 0."""
        return self.can.lease or 0.0

    @property
    def soon(self) -> float:
        """Seconds to wait for an immediate delivery: less than a lease, if there are leases."""
        return min(self.max_wait, 0.8 * self.lease) if self.lease else self.max_wait

    def outage(self) -> AbstractAsyncContextManager[None]:
        """Make the broker unreachable while the context lasts."""
        if self.harness.outage is None:
            raise CheckFailed("this check needs an outage, but does not declare it")
        return self.harness.outage()

    async def provision(self, topic: str) -> None:
        """Create one of the topics, with both subscriptions, on its first use."""
        if topic in self._missing_topics:
            self._missing_topics.remove(topic)
            both = (self.subscription, self.second_subscription)
            await self._topics.enter_async_context(self.harness.provision(topic, both))

    def close_later(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Await ``close`` at the end of the check, in reverse order, for at most ``max_wait``."""
        self._ends.push_async_callback(bounded, close, self.max_wait)

    # Senders and receivers.

    async def sender(self, topic: str = "") -> Sender:
        """Return a connected sender."""
        await self.provision(topic or self.topic)
        sender = self.driver.sender(topic or self.topic)
        self.close_later(sender.aclose)
        await sender.connect()
        return sender

    def new_receiver(self) -> Receiver:
        """Return a receiver that is not connected; the caller closes it."""
        return self.driver.receiver(self.topic, self.subscription, ordered=False)

    async def receiver(
        self,
        subscription: str = "",
        *,
        topic: str = "",
        ordered: bool = False,
        revoke: Revoke = revoke_at_once,
    ) -> Receiver:
        """Return a connected receiver."""
        await self.provision(topic or self.topic)
        receiver = self.driver.receiver(
            topic or self.topic, subscription or self.subscription, ordered=ordered
        )
        self.close_later(receiver.aclose)
        await receiver.connect(revoke)
        return receiver

    def message(self, body: bytes | None, **fields: Any) -> Message:
        """Return a message to be sent."""
        return Message(self.topic, body, **{"id": uuid4().hex, **fields})

    async def send(self, *messages: Message, topic: str = "") -> None:
        """Send messages, each confirmed, in batches that any driver takes."""
        sender = await self.sender(topic)
        for message in messages:
            (error,) = await sender.send([message])
            expect(error is None, f"sending a message failed: {error!r}")

    async def send_numbers(self, count: int, keys: Sequence[str | None] = (None,)) -> None:
        """Send the bodies 0 to ``count`` - 1, with ``keys`` in turn."""
        numbers = range(count)
        await self.send(*(self.message(str(n).encode(), key=keys[n % len(keys)]) for n in numbers))

    async def collect(
        self, receiver: Receiver, count: int, *, settle: bool = False, within: float | None = None
    ) -> list[Message]:
        """Receive ``count`` messages, acking each if ``settle``. Raises CheckFailed if fewer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.max_wait if within is None else within)
        messages: list[Message] = []
        while len(messages) < count and (left := deadline - loop.time()) > 0:
            batch = await receiver.receive(count - len(messages), min(1.0, left))
            messages.extend(batch)
            if settle and batch:
                await self.ack(receiver, *batch)
        expect(len(messages) >= count, f"received {len(messages)} of {count} messages")
        return messages

    async def expect_nothing(self, receiver: Receiver, seconds: float | None = None) -> None:
        """Raise CheckFailed if a message comes within ``seconds`` (default: a moment)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.quiet if seconds is None else seconds)
        while (left := deadline - loop.time()) > 0:
            batch = await receiver.receive(10, left)
            expect(not batch, f"received {[m.body for m in batch]} but expected no message")

    async def ack(self, receiver: Receiver, *messages: Message) -> None:
        """Ack messages; of each partition only the last one, if the broker keeps positions."""
        if self.can.positions:
            messages = tuple({message.partition: message for message in messages}.values())
        for start in range(0, len(messages), self.can.batch_messages):
            results = await receiver.ack(messages[start : start + self.can.batch_messages])
            expect(not any(results), f"acking failed: {[r for r in results if r]}")

    # The real engine on the driver.

    async def publisher(self, topic: str = "", *, sender: Sender | None = None) -> Publisher:
        """Return a connected publisher."""
        name = topic or self.topic
        await self.provision(name)
        publisher = Publisher(
            sender or self.driver.sender(name), name, metrics=Metrics(), limits=self.can
        )
        self.close_later(publisher.aclose)
        await publisher.connect()
        return publisher

    async def dead_letters(self) -> tuple[Receiver, Publisher]:
        """Return a receiver and a publisher of dead letters."""
        return await self.receiver(topic=self.dead_topic), await self.publisher(self.dead_topic)

    async def run(
        self,
        handler: Callable[[Message], Coroutine[Any, Any, None]],
        *,
        receiver: Receiver | None = None,
        subscription: str = "",
        dead_letter: Any = None,
        **options: Any,
    ) -> Running:
        """Run a real Subscriber with ``handler``; ``options`` are those of ``@subscribe``."""
        values: dict[str, Any] = {
            "channel": self.topic,
            "subscription": subscription or self.subscription,
            "concurrency": 1,
            "order": "none",
            "max_in_flight": 100,
            "retry": QUICK,
            "max_deliveries": 2,
            "dead_letter": "",
            "handler": handler,
            "payload": None,
            "name": "Conformance.handler",
        }
        declared = Subscription(**(values | options))
        if receiver is None:
            receiver = self.driver.receiver(
                self.topic, declared.subscription, ordered=declared.order != "none"
            )
        running = Running(self, receiver, declared, dead_letter)
        self.close_later(running.abandon)
        await running.start()
        return running

    async def until(
        self, condition: Callable[[], object], what: str, *, within: float | None = None
    ) -> None:
        """Wait until ``condition`` is true. Raises CheckFailed, naming ``what``, if it is not."""
        loop = asyncio.get_running_loop()
        seconds = self.max_wait if within is None else within
        deadline = loop.time() + seconds
        while not condition():
            expect(loop.time() < deadline, f"{what} did not happen within {seconds:g} s")
            await asyncio.sleep(0.002)

    @asynccontextmanager
    async def in_time(self, what: str) -> AsyncIterator[None]:
        """Bound a block by ``max_wait``. Raises CheckFailed, naming ``what``, when it is over."""
        try:
            async with asyncio.timeout(self.max_wait) as bound:
                yield
        except TimeoutError:
            if not bound.expired():
                raise
            raise CheckFailed(f"{what} did not happen within {self.max_wait:g} s") from None


class Running:
    """A Subscriber that is running, and the outcomes of its messages."""

    def __init__(
        self,
        context: CheckContext,
        receiver: Receiver,
        subscription: Subscription,
        dead_letter: Any,
    ) -> None:
        self.settled: list[tuple[bytes | None, str]] = []
        self.subscriber = Subscriber(
            receiver,
            subscription,
            topic=context.topic,
            capabilities=context.can,
            metrics=Metrics(),
            dead_letter=dead_letter,
            on_settle=lambda m, outcome, _: self.settled.append((m.body, outcome)),
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and run."""
        await self.subscriber.__aenter__()
        self._task = asyncio.create_task(self.subscriber.run(), name="conformance subscriber")
        await asyncio.sleep(0)  # now it runs, and can be drained

    def bodies(self, outcome: str) -> list[bytes | None]:
        """Return the bodies of the messages settled with ``outcome``, in order."""
        return [body for body, ended in self.settled if ended == outcome]

    async def abandon(self) -> None:
        """Drain without waiting, and wait for the end of the engine."""
        await self.subscriber.drain(0)
        if self._task is not None:
            await self._task


async def bounded(close: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    """Close something. Raises CheckFailed if that takes longer than ``seconds``."""
    try:
        async with asyncio.timeout(seconds) as bound:
            await close()
    except TimeoutError:
        if not bound.expired():
            raise
        raise CheckFailed(f"{_name(close)} did not end within {seconds:g} s") from None


def _name(close: Callable[..., Any]) -> str:
    return str(getattr(close, "__qualname__", close))


def is_refused(error: Exception | None) -> bool:
    """Return whether a result is a permanent error."""
    return isinstance(error, PubSubError) and not error.transient


def is_transient(error: Exception | None) -> bool:
    """Return whether an error is transient."""
    return isinstance(error, PubSubError) and error.transient
