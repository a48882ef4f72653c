"""A real broker for one test, with topics and subscriptions that no other run has.

Within the test each has its own name; at the broker that name ends with the mark of the run. The
topics are made by the ``provision`` of the driver and removed by it, so only those that it made.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from gizmopy.config.urls import redacted_url
from gizmopy.errors import UsageError
from gizmopy.pubsub import Capabilities, Driver, Message, Receiver, Sender, Subscription
from gizmopy.pubsub.addresses import by_path
from gizmopy.pubsub.destinations import DestinationResolver
from gizmopy.pubsub.driver import Results, new_receiver
from gizmopy.pubsub.message import RepeatedAttributes, merged
from gizmopy.pubsub.registry import open_driver, provision, resolver_of
from gizmopy.untrusted.error_text import text_of

logger = logging.getLogger("pubsubtest")

LONGEST_WAIT = 0.05
"""The longest wait of a retry, in seconds: a broker outside is not asked a thousand times a second.
"""
_MARK = "pubsubtest-mark"
"""The attribute that says which message of the test this is. A broker may choose ids of its own."""
_SHARED_NAMES = ("group", "group_instance_id")
"""Parameters that would make the service a member of somebody else's consumer group."""


class RealBroker:
    """The topics of one run at ``url``. Raises UsageError if ``url`` names more than a broker."""

    def __init__(self, url: str) -> None:
        _check(url)
        self._url = url
        self._run = uuid4().hex[:12]
        self._consumers: defaultdict[str, set[str]] = defaultdict(set)
        """The subscriptions of each topic."""
        self._topics: dict[str, _Topic] = {}
        self._over = asyncio.Event()
        self._marks: dict[Message, str] = {}
        """The mark of each message that is being handled."""
        self._pending: set[tuple[str, str]] = set()
        """The mark and subscription of each message that was sent and has no final outcome."""
        self._changed = asyncio.Event()

    def name(self, name: str) -> str:
        """Return the name that the broker has for a topic or a subscription."""
        return f"{name}-{self._run}"

    # Topics.

    @asynccontextmanager
    async def topics(
        self, subscriptions: Iterable[Subscription], publishes: Iterable[str]
    ) -> AsyncIterator[None]:
        """Make the topics of all declared channels, and remove all topics of the run at the end."""
        destinations = DestinationResolver(self._url, {}, {})
        wanted: dict[str, set[str]] = {}
        for each in subscriptions:
            topic = destinations.for_consuming(each.channel, each.subscription).topic
            name = destinations.subscription_of(each.channel, each.subscription)
            wanted.setdefault(topic, set()).add(name)
            self._consumers[topic].add(each.subscription)
            if each.dead_letter:
                wanted.setdefault(destinations.for_publishing(each.dead_letter).topic, set())
        for channel in publishes:
            wanted.setdefault(destinations.for_publishing(channel).topic, set())
        logger.info("the topics of this run end with -%s", self._run)
        try:
            await asyncio.gather(*(self.provide(topic, wanted[topic]) for topic in wanted))
            yield
        except BaseException:
            await self._remove_topics()
            raise
        if errors := await self._remove_topics():
            raise errors[0]

    async def provide(self, topic: str, subscriptions: Iterable[str] = ()) -> None:
        """Make a topic, unless this run has it. Raises the error of ``provision``."""
        if topic not in self._topics:
            if self._over.is_set():
                raise UsageError(f"topic {topic!r} is published to after the end of the test")
            names = [self.name(each) for each in sorted(subscriptions)]
            self._topics[topic] = _Topic(self._url, self.name(topic), names, self._over)
        try:
            # A publish that is cancelled must not leave half a topic behind.
            await asyncio.shield(self._topics[topic].made)
        except Exception:
            self._topics.pop(topic, None)  # the next publish tries again
            raise

    async def _remove_topics(self) -> list[BaseException]:
        """Remove the topics side by side, also if that is cancelled; log and return the errors."""
        self._over.set()
        tasks = [each.task for each in self._topics.values()]
        removing = asyncio.gather(*tasks, return_exceptions=True)
        try:
            await asyncio.shield(removing)
        except asyncio.CancelledError:
            await removing
            raise
        errors = [each for each in removing.result() if each is not None]
        for error in errors:
            logger.error("a topic of this run may be left at the broker: %s", text_of(error))
        return errors

    # Messages.

    def open(self, url: str) -> OwnDriver:
        """Open the driver of ``url``, whose topics are those of this run."""
        return OwnDriver(open_driver(url), self)

    def marked(self, message: Message, topic: str, mark: str) -> Message:
        """Return a copy of a message that carries ``mark``, and wait for its outcomes."""
        self._pending.update((mark, subscription) for subscription in self._consumers[topic])
        copy = Message.received(
            self.name(topic),
            message.body,
            message.key,
            merged(message.attributes, {_MARK: mark}),
            message.id,
            message.published_at,
            None,
            None,
        )
        copy.deliver_at = message.deliver_at
        return copy

    def unmark(self, message: Message, topic: str) -> None:
        """Make a message that was received look as it was published."""
        message.topic = topic
        if mark := message.attributes.get(_MARK):
            self._marks[message] = mark
            message.attributes = _without_mark(message.attributes)

    def forget(self, mark: str) -> None:
        """Wait no longer for a message that was not sent."""
        self._pending = {each for each in self._pending if each[0] != mark}
        self._changed.set()

    def settled(self, message: Message, outcome: str) -> str:
        """Note an outcome, and return the mark of the message; empty if it is another run's."""
        mark = self._marks.pop(message, "")
        if outcome in ("ack", "dead_letter"):
            self._pending.discard((mark, message.subscription))
            self._changed.set()
        return mark

    async def idle(self) -> None:
        """Wait until every message that was sent has been handled or is a dead letter."""
        while self._pending:
            self._changed.clear()
            await self._changed.wait()

    @property
    def is_idle(self) -> bool:
        """Whether no message waits for its outcome."""
        return not self._pending


class _Topic:
    """A topic that is there until ``over``.

    It has a task of its own: the context of ``provision`` is left in the task that entered it.
    """

    def __init__(
        self, url: str, topic: str, subscriptions: Sequence[str], over: asyncio.Event
    ) -> None:
        self.made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.made.add_done_callback(_retrieve)
        self.task = asyncio.create_task(
            self._hold(url, topic, subscriptions, over), name=f"topic {topic}"
        )

    async def _hold(
        self, url: str, topic: str, subscriptions: Sequence[str], over: asyncio.Event
    ) -> None:
        try:
            async with provision(url, topic, subscriptions):
                self.made.set_result(None)
                await over.wait()
        except Exception as error:
            if self.made.done():
                raise
            self.made.set_exception(error)
        finally:
            self.made.cancel()  # no effect if it is done


class OwnDriver:
    """A driver whose topics and subscriptions are those of one run."""

    def __init__(self, inner: Driver, broker: RealBroker) -> None:
        self._inner = inner
        self._broker = broker

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the inner driver."""
        return self._inner.capabilities

    def sender(self, topic: str) -> OwnSender:
        """Return a sender, which makes its topic when it connects."""
        return OwnSender(self._inner.sender(self._broker.name(topic)), self._broker, topic)

    def receiver(
        self, topic: str, subscription: str, *, ordered: bool, derived: bool = False
    ) -> Receiver:
        """Return a receiver of messages as they were published."""
        names = self._broker.name(topic), self._broker.name(subscription)
        inner = new_receiver(self._inner, *names, ordered=ordered, derived=derived)
        receiver: Any = _OwnReceiver(inner, self._broker, topic)
        return receiver  # type: ignore[no-any-return]  # it has all members of the inner one

    async def aclose(self) -> None:
        """Close the inner driver."""
        await self._inner.aclose()


class OwnSender:
    """A sender whose messages can be found again."""

    def __init__(self, inner: Sender, broker: RealBroker, topic: str) -> None:
        self._inner = inner
        self._broker = broker
        self._topic = topic
        self.aclose = inner.aclose
        if hasattr(inner, "limits"):
            self.limits = inner.limits

    async def connect(self) -> None:
        """Make the topic, and connect."""
        await self._broker.provide(self._topic)
        await self._inner.connect()

    async def send(self, batch: Sequence[Message]) -> Results:
        """Send messages with marks of their own."""
        return await self.send_marked({uuid4().hex: message for message in batch})

    async def send_marked(self, batch: Mapping[str, Message]) -> Results:
        """Send messages with these marks."""
        copies = [self._broker.marked(batch[mark], self._topic, mark) for mark in batch]
        failed = list(batch)
        try:
            results = await self._inner.send(copies)
            failed = [mark for mark, error in zip(batch, results, strict=True) if error]
        finally:
            for mark in failed:
                self._broker.forget(mark)
        return results


class _OwnReceiver:
    """A receiver of messages as they were published; the rest is that of the inner one."""

    def __init__(self, inner: Receiver, broker: RealBroker, topic: str) -> None:
        self._inner = inner
        self._broker = broker
        self._topic = topic

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        batch = await self._inner.receive(limit, wait)
        for message in batch:
            self._broker.unmark(message, self._topic)
        return batch

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        return await self._inner.nack(batch, min(delay, LONGEST_WAIT))


def _check(url: str) -> None:
    """Raise UsageError if a URL gives the service names that other processes may use, too."""
    shown = redacted_url(url, with_path=True)
    parts = urlsplit(url)
    if resolver_of(url) is by_path and parts.path.strip("/"):
        raise UsageError(
            f"broker= {shown} names a topic, but each run makes topics of its own: leave out the "
            "path"
        )
    for name in _SHARED_NAMES:
        if name in parse_qs(parts.query):
            raise UsageError(
                f"broker= {shown} has {name}=, but each run has subscriptions of its own: leave it "
                "out"
            )


def _without_mark(attributes: Mapping[str, str]) -> Mapping[str, str]:
    kept = [(name, text) for name, text in attributes.items() if name != _MARK]
    return RepeatedAttributes(kept) if len({*dict(kept)}) < len(kept) else dict(kept)


def _retrieve(made: asyncio.Future[None]) -> None:
    """Mark the error of a topic as seen: the publish that asked for it may have been cancelled."""
    if not made.cancelled():
        made.exception()
