"""Hold a service's channels: publishers, subscribers, and the drivers that they share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from warnings import warn

from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import registry
from gizmopy.pubsub.codecs import encoder_for
from gizmopy.pubsub.consumers import ChannelRow, Consumers, SubscriberOptions
from gizmopy.pubsub.control import SubscriptionControl
from gizmopy.pubsub.destinations import DestinationResolver
from gizmopy.pubsub.driver import Driver, Results
from gizmopy.pubsub.engine.observer import Observer
from gizmopy.pubsub.engine.outcome import DrainReport, OnSettle
from gizmopy.pubsub.publisher import Publisher
from gizmopy.pubsub.publishers import Publishers
from gizmopy.pubsub.pushes import PushTarget
from gizmopy.pubsub.shared_drivers import SharedDrivers
from gizmopy.pubsub.subscription import Subscription
from gizmopy.pubsub.unconsumed import UnconsumedSender
from gizmopy.untrusted.durations import DurationLike

__all__ = ["ChannelRow", "Channels"]


class Channels:
    """Hold the channels of ``service``; use it as an async context manager.

    Channels are topics at ``url``, unless ``topics`` or ``subscriptions`` give one its own URL: see
    :class:`~gizmopy.pubsub.destinations.DestinationResolver`. The channels in ``publishes`` connect
    at the start, and take only values of their type, unless it is None; the publishers of other
    channels connect on their first use. ``linger`` is how many seconds a batch waits to become
    full; a send that waits longer than ``publish_stall`` seconds is reported by ``unpublished``.
    ``on_settle`` and ``observers`` are those of all publishers and subscribers. Leaving the context
    drains the subscribers, flushes and closes all publishers side by side, then all drivers.
    """

    def __init__(
        self,
        url: str,
        *,
        service: str,
        topics: Mapping[str, str] = {},
        subscriptions: Mapping[str, str] = {},
        publishes: Mapping[str, Any] = {},
        metrics: Metrics,
        linger: float = 0.0,
        publish_stall: float = 5.0,
        on_settle: OnSettle | None = None,
        observers: Sequence[Observer] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        open_driver: Callable[[str], Driver] = registry.open_driver,
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._linger = linger
        self._observers = observers
        self._sleep = sleep
        self._destinations = DestinationResolver(url, topics, subscriptions)
        self._drivers = SharedDrivers(open_driver)
        self._publishes = publishes
        self._publish_stall = publish_stall
        self._publishers = Publishers(
            service, publishes, self._make_publisher, metrics=metrics, sleep=sleep
        )
        self._consumers = Consumers(
            self._destinations,
            self._drivers,
            SubscriberOptions(
                metrics=metrics, on_settle=on_settle, observers=observers, sleep=sleep
            ),
            publish=self.publish,
        )

    async def __aenter__(self) -> Channels:
        self._publishers.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._consumers.aclose()
        finally:
            await self._publishers.aclose()
            await self._drivers.aclose()

    # Publishing.

    def publish(
        self,
        channel: str,
        value: object,
        *,
        key: str | None = None,
        attributes: Mapping[str, str] | None = None,
        delay: DurationLike | None = None,
        at: datetime | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Publish ``value`` on ``channel``, and return when the broker has confirmed it.

        Raises what :meth:`Publisher.publish` raises. The first call connects the publisher. It also
        raises TopicNotFound if the topic does not exist, UnknownScheme or DriverNotInstalled if the
        channel's URL has no driver, and StartError if the settings give its topic to another
        channel. A broker that cannot be reached is tried
        again, for as long as publishing may take and until the caller's deadline is near; then a
        transient PubSubError is raised.
        """
        if (publisher := self._publishers.connected.get(channel)) is None:
            return self._publishers.publish(channel, value, key, attributes, delay, at)
        if delay is None and at is None:  # most calls: two arguments less to pass
            return publisher.publish(value, key=key, attributes=attributes)
        return publisher.publish(value, key=key, attributes=attributes, delay=delay, at=at)

    async def publish_many(
        self,
        channel: str,
        values: Iterable[Any],
        *,
        key: Callable[[Any], str | None] | str | None = None,
        attributes: Mapping[str, str] | None = None,
        delay: DurationLike | None = None,
        at: datetime | None = None,
    ) -> Results:
        """Publish ``values`` on ``channel``; see :meth:`Publisher.publish_many`."""
        if (publisher := self._publishers.connected.get(channel)) is not None:
            return await publisher.publish_many(
                values, key=key, attributes=attributes, delay=delay, at=at
            )
        return await self._publishers.publish_many(channel, values, key, attributes, delay, at)

    def refuse_undeclared(self) -> None:
        """Raise UsageError for a channel that ``publishes`` lacks, if it has any: for tests."""
        self._publishers.only_declared = True

    def _make_publisher(self, channel: str) -> tuple[Publisher, float]:
        """Return a publisher that is not connected yet, and how long a caller waits for that."""
        destination = self._destinations.for_publishing(channel)
        driver = self._drivers.of(destination)
        sender = driver.sender(destination.topic)
        if driver.capabilities.process_local and destination not in self._consumers.consumed:
            sender = UnconsumedSender(
                sender, destination, metrics=self._metrics, consumed=self._consumers.consumed
            )
        publisher = Publisher(
            sender,
            destination.topic,
            metrics=self._metrics,
            limits=driver.capabilities,
            linger=self._linger,
            observers=self._observers,
            sleep=self._sleep,
            stall=self._publish_stall,
            encode=encoder_for(self._publishes.get(channel)),
        )
        return publisher, driver.capabilities.delivery_timeout

    # Consuming: see Consumers.

    def push_targets(self, subscriptions: Sequence[Subscription]) -> list[PushTarget]:
        """Return the receivers whose routes the server mounts before it listens.

        Raises StartError as ``start`` does.
        """
        return self._consumers.push_targets(subscriptions)

    async def connect_local(self, subscriptions: Sequence[Subscription]) -> None:
        """Connect the subscriptions to brokers in this process, before the start of all of them.

        Such a broker keeps messages only for subscriptions that exist: without this, it would drop
        those that ``lifespan`` publishes. Raises StartError as ``start`` does.
        """
        await self._consumers.connect_local(subscriptions)

    async def start(self, subscriptions: Sequence[Subscription]) -> None:
        """Connect all ``subscriptions`` and the declared channels, then start consuming.

        A broker that cannot be reached is tried again in the background.
        Raises StartError, which names the channel and the remedy; nothing is left running then.
        """
        self._consumers.check(subscriptions)
        await self._publishers.connect_all(
            {each.dead_letter for each in subscriptions if each.dead_letter}
        )
        await self._consumers.start(subscriptions)

    async def run(self) -> None:
        """Return when the subscribers have been drained. Raises the error of one that ends early.

        A Supervisor replaces a subscriber that fails, so an error here is a bug of the engine.
        """
        await self._consumers.run()

    async def idle(self) -> None:
        """Wait until no message is queued or in flight on brokers in this process."""
        await self._consumers.idle()

    def stop_receiving(self) -> None:
        """Stop receiving from brokers outside this process: the first step of a drain."""
        self._consumers.stop_receiving()

    async def drain(self, timeout: float) -> DrainReport:
        """Drain all subscribers within ``timeout`` seconds; see :meth:`Subscriber.drain`.

        Subscribers of brokers outside come first: their handlers may still publish to brokers in
        this process, whose messages would be lost.
        """
        return await self._consumers.drain(timeout)

    def shorten_deadline(self, seconds: float) -> None:
        """Make the drain that is running end within ``seconds``."""
        self._consumers.shorten_deadline(seconds)

    # Health.

    def describe(self) -> list[ChannelRow]:
        """Return a row for each subscription that is consumed."""
        return self._consumers.describe()

    def controls(self) -> list[tuple[ChannelRow, SubscriptionControl]]:
        """Return the control of each subscription that is consumed, with its row."""
        return self._consumers.controls()

    def problem(self, subscription: Subscription) -> str:
        """Return why ``subscription`` is not consumed at present; empty if it is."""
        return self._consumers.problem(subscription)

    def stuck(self, subscription: Subscription) -> int:
        """Return how many messages failed for good, and are kept without a dead letter."""
        return self._consumers.stuck(subscription)

    def waiting_problem(self, subscription: Subscription) -> str:
        """Return why a partition is not received: too many of its messages wait."""
        return self._consumers.waiting_problem(subscription)

    def unreachable_brokers(self) -> list[str]:
        """Return a line for each channel of the start whose broker has never been reached.

        They are the channels that are consumed, declared in ``publishes``, or take dead letters.
        """
        return self._consumers.unreachable_brokers() + self._publishers.unreached()

    def unpublished(self) -> list[str]:
        """Return a line for each channel to which nothing can be published at present."""
        return self._publishers.unpublished()

    # Old names, until gizmopy 0.3.

    def hurry(self, seconds: float) -> None:
        """Call ``shorten_deadline``: the old name, until 0.3."""
        warn("Channels.hurry is now shorten_deadline", DeprecationWarning, stacklevel=2)
        self.shorten_deadline(seconds)

    def unreached(self) -> list[str]:
        """Call ``unreachable_brokers``: the old name, until 0.3."""
        warn("Channels.unreached is now unreachable_brokers", DeprecationWarning, stacklevel=2)
        return self.unreachable_brokers()
