"""What a check works with: a topic of its own, and a driver whose ends are closed after it."""

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
"""A topic that nobody makes."""
QUICK = RetryPolicy(attempts=2, base=0.01, cap=0.05)
"""How failing handlers are tried again here."""


async def let_go(partitions: Collection[Hashable], seconds: float) -> None:
    """Let go of partitions at once: a bare receiver has nothing to finish."""


class Bench:
    """Hold what one check opens. ``patience`` is how long, in seconds, it waits for what comes."""

    def __init__(
        self,
        harness: Harness,
        driver: Driver,
        patience: float,
        topics: AsyncExitStack,
        ends: AsyncExitStack,
    ) -> None:
        name = uuid4().hex[:12]
        self.harness = harness
        self.driver = driver
        self.patience = patience
        self.quiet = harness.quiet or (0.2 if driver.capabilities.process_local else 1.0)
        """Seconds in which what must not come would have come."""
        self.topic = f"conformance-{name}"
        self.other_topic = f"conformance-{name}-other"
        self.dead_topic = f"conformance-{name}-dead"
        self.subscription = f"first-{name}"
        self.second_subscription = f"second-{name}"
        self._unmade = {self.topic, self.other_topic, self.dead_topic}
        self._topics = topics
        self._ends = ends

    @property
    def can(self) -> Capabilities:
        """What the driver says that its broker can do."""
        return self.driver.capabilities

    @property
    def lease(self) -> float:
        """Seconds of a lease."""
        return self.can.lease or 0.0

    @property
    def soon(self) -> float:
        """Seconds in which what comes at once is there, and no lease is over yet."""
        return min(self.patience, 0.8 * self.lease) if self.lease else self.patience

    def outage(self) -> AbstractAsyncContextManager[None]:
        """Make the broker unreachable while the context lasts."""
        if self.harness.outage is None:
            raise CheckFailed("a check that needs an outage did not say so")
        return self.harness.outage()

    async def make(self, topic: str) -> None:
        """Make one of the topics, with both subscriptions, unless that is done already."""
        if topic in self._unmade:
            self._unmade.remove(topic)
            both = (self.subscription, self.second_subscription)
            await self._topics.enter_async_context(self.harness.provision(topic, both))

    def close_at_the_end(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Await ``close`` in bounded time when the check is over, the last one first."""
        self._ends.push_async_callback(bounded, close, self.patience)

    # The driver's ends.

    async def sender(self, topic: str = "") -> Sender:
        """Return a connected sender."""
        await self.make(topic or self.topic)
        sender = self.driver.sender(topic or self.topic)
        self.close_at_the_end(sender.aclose)
        await sender.connect()
        return sender

    async def receiver(
        self,
        subscription: str = "",
        *,
        topic: str = "",
        ordered: bool = False,
        revoke: Revoke = let_go,
    ) -> Receiver:
        """Return a connected receiver."""
        await self.make(topic or self.topic)
        receiver = self.driver.receiver(
            topic or self.topic, subscription or self.subscription, ordered=ordered
        )
        self.close_at_the_end(receiver.aclose)
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
        """Receive ``count`` messages, acking each where ``settle``. Raises CheckFailed if fewer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.patience if within is None else within)
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
            expect(not batch, f"received {[m.body for m in batch]} where nothing was to come")

    async def ack(self, receiver: Receiver, *messages: Message) -> None:
        """Ack messages; of each partition the last one where the broker keeps positions."""
        if self.can.positions:
            messages = tuple({message.partition: message for message in messages}.values())
        for start in range(0, len(messages), self.can.batch_messages):
            results = await receiver.ack(messages[start : start + self.can.batch_messages])
            expect(not any(results), f"acking failed: {[r for r in results if r]}")

    # The real engine on top.

    async def publisher(self, topic: str = "", *, sender: Sender | None = None) -> Publisher:
        """Return a connected publisher."""
        name = topic or self.topic
        await self.make(name)
        publisher = Publisher(
            sender or self.driver.sender(name), name, metrics=Metrics(), limits=self.can
        )
        self.close_at_the_end(publisher.aclose)
        await publisher.connect()
        return publisher

    async def dead_letters(self) -> tuple[Receiver, Publisher]:
        """Return who receives dead letters, and who publishes them."""
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
        self.close_at_the_end(running.abandon)
        await running.start()
        return running

    async def until(
        self, condition: Callable[[], object], what: str, *, within: float | None = None
    ) -> None:
        """Wait until ``condition`` is true. Raises CheckFailed, naming ``what``, if it is not."""
        loop = asyncio.get_running_loop()
        seconds = self.patience if within is None else within
        deadline = loop.time() + seconds
        while not condition():
            expect(loop.time() < deadline, f"{what} did not happen within {seconds:g} s")
            await asyncio.sleep(0.002)

    @asynccontextmanager
    async def in_time(self, what: str) -> AsyncIterator[None]:
        """Bound a block by ``patience``. Raises CheckFailed, naming ``what``, when it is over."""
        try:
            async with asyncio.timeout(self.patience) as bound:
                yield
        except TimeoutError:
            if not bound.expired():
                raise
            raise CheckFailed(f"{what} did not happen within {self.patience:g} s") from None


class Running:
    """A Subscriber at work, and what became of its messages."""

    def __init__(
        self, bench: Bench, receiver: Receiver, subscription: Subscription, dead_letter: Any
    ) -> None:
        self.settled: list[tuple[bytes | None, str]] = []
        self.subscriber = Subscriber(
            receiver,
            subscription,
            topic=bench.topic,
            capabilities=bench.can,
            metrics=Metrics(),
            dead_letter=dead_letter,
            on_settle=lambda m, outcome, _: self.settled.append((m.body, outcome)),
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and run."""
        await self.subscriber.__aenter__()
        self._task = asyncio.create_task(self.subscriber.run(), name="conformance subscriber")
        await asyncio.sleep(0)  # it has begun: a drain may follow

    def bodies(self, outcome: str) -> list[bytes | None]:
        """Return the bodies of what was settled with ``outcome``, in order."""
        return [body for body, ended in self.settled if ended == outcome]

    async def abandon(self) -> None:
        """Drain without waiting, and see that the engine has ended."""
        await self.subscriber.drain(0)
        if self._task is not None:
            await self._task


async def bounded(close: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    """Close something. Raises CheckFailed where that takes longer than ``seconds``."""
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
    """Return whether a result says no for good."""
    return isinstance(error, PubSubError) and not error.transient


def is_transient(error: Exception | None) -> bool:
    """Return whether an error says that trying again may help."""
    return isinstance(error, PubSubError) and error.transient
