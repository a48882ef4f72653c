"""Hold a service's channels: publishers, subscribers, and the drivers that they share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from warnings import warn

from gizmopy._aio import Deadline, cancel_and_wait
from gizmopy.config.channel_names import channel_key
from gizmopy.errors import (
    DriverNotInstalled,
    GizmoError,
    PubSubError,
    StartError,
    TopicNotFound,
    UnknownScheme,
    UsageError,
)
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import registry
from gizmopy.pubsub.destinations import Destination, DestinationResolver
from gizmopy.pubsub.driver import Driver, Results
from gizmopy.pubsub.engine.dead_letter import DeadLetter
from gizmopy.pubsub.engine.observer import Observer
from gizmopy.pubsub.engine.outcome import DrainReport, OnSettle
from gizmopy.pubsub.publisher import Publisher
from gizmopy.pubsub.subscriber import Subscriber
from gizmopy.pubsub.subscription import Subscription
from gizmopy.pubsub.supervisor import Supervisor
from gizmopy.untrusted.error_text import describe_error

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 5.0
"""The longest time to flush all publishers, and to close all drivers."""


class ChannelRow(NamedTuple):
    """One line of the start-up log: a subscription and its destination."""

    channel: str
    url: str
    """Scheme, hosts and topic."""
    subscription: str
    handler: str
    concurrency: int
    order: str


class _Consumer(NamedTuple):
    """A subscription that is connected."""

    supervisor: Supervisor
    destination: Destination
    is_local: bool
    """The broker is in this process: its messages are gone when the process ends."""


class _Running(NamedTuple):
    """A subscription that is being consumed."""

    supervisor: Supervisor
    task: asyncio.Task[None]
    is_local: bool
    row: ChannelRow


class Channels:
    """Hold the channels of ``service``; use it as an async context manager.

    Channels are topics at ``url``, unless ``topics`` or ``subscriptions`` give one its own URL: see
    :class:`~gizmopy.pubsub.destinations.DestinationResolver`. A publisher connects on its first
    use; ``linger`` is how many seconds its batches wait to become full. ``on_settle`` and
    ``observers`` are those of all publishers and subscribers. Leaving the context drains the
    subscribers, flushes and closes all publishers side by side, then all drivers.
    """

    def __init__(
        self,
        url: str,
        *,
        service: str,
        topics: Mapping[str, str] = {},
        subscriptions: Mapping[str, str] = {},
        metrics: Metrics,
        linger: float = 0.0,
        on_settle: OnSettle | None = None,
        observers: Sequence[Observer] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        open_driver: Callable[[str], Driver] = registry.open_driver,
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._linger = linger
        self._on_settle = on_settle
        self._observers = observers
        self._sleep = sleep
        self._open_driver = open_driver
        self._destinations = DestinationResolver(url, topics, subscriptions)
        self._drivers: dict[str, Driver] = {}
        """The drivers by URL."""
        self._publishers: dict[str, Publisher] = {}
        """The connected publishers by channel."""
        self._connecting = asyncio.Lock()
        self._running: list[_Running] = []
        self._deadline = Deadline()
        """The end of the drain that runs."""
        self._is_closed = False

    async def __aenter__(self) -> Channels:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self.drain(0)
        finally:
            self._is_closed = True
            # A drain that was cancelled has left subscribers running.
            await cancel_and_wait([each.task for each in self._running])
            publishers, self._publishers = self._publishers, {}
            await _close_all(
                (f"the publisher of channel {channel!r}", publisher.aclose())
                for channel, publisher in publishers.items()
            )
            await _close_all(("a driver", driver.aclose()) for driver in self._drivers.values())

    # Publishing.

    def publish(
        self,
        channel: str,
        value: object,
        *,
        key: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Publish ``value`` on ``channel``, and return when the broker has confirmed it.

        Raises what :meth:`Publisher.publish` raises. The first call connects the publisher, and
        raises TopicNotFound if the topic does not exist.
        """
        if (publisher := self._publishers.get(channel)) is not None:
            return publisher.publish(value, key=key, attributes=attributes)
        return self._connect_and_publish(channel, value, key, attributes)

    async def publish_many(
        self,
        channel: str,
        values: Iterable[Any],
        *,
        key: Callable[[Any], str | None] | str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Results:
        """Publish ``values`` on ``channel``; see :meth:`Publisher.publish_many`."""
        publisher = self._publishers.get(channel) or await self._publisher(channel)
        return await publisher.publish_many(values, key=key, attributes=attributes)

    async def _connect_and_publish(
        self, channel: str, value: object, key: str | None, attributes: Mapping[str, str] | None
    ) -> None:
        publisher = await self._publisher(channel)
        await publisher.publish(value, key=key, attributes=attributes)

    async def _publisher(self, channel: str) -> Publisher:
        """Return the publisher of a channel, connected once for all concurrent first calls."""
        async with self._connecting:
            if channel in self._publishers:
                return self._publishers[channel]
            self._check_open()
            destination = self._destinations.for_publishing(channel)
            driver = self._driver(destination)
            publisher = Publisher(
                driver.sender(destination.topic),
                destination.topic,
                metrics=self._metrics,
                limits=driver.capabilities,
                linger=self._linger,
                observers=self._observers,
                sleep=self._sleep,
            )
            try:
                await publisher.connect()
                # The channels may have closed meanwhile. They would not close this publisher.
                self._check_open()
            except BaseException:
                await _close(f"the publisher of channel {channel!r}", publisher.aclose())
                raise
            self._publishers[channel] = publisher
            return publisher

    def _check_open(self) -> None:
        if self._is_closed:
            raise UsageError(f"the channels of {self._service} are closed; publish before that")

    def _driver(self, destination: Destination) -> Driver:
        """Return the driver of a destination; all destinations with its URL share it."""
        url = destination.driver_url
        if url not in self._drivers:
            self._drivers[url] = self._open_driver(url)
        return self._drivers[url]

    # Consuming.

    async def start(self, subscriptions: Sequence[Subscription]) -> None:
        """Connect all ``subscriptions`` and their dead letter channels, then start consuming.

        Raises StartError, which names the channel and the remedy; nothing is left running then.
        """
        destinations = [self._destination(subscription) for subscription in subscriptions]
        _reject_duplicate_handlers(subscriptions, destinations)
        consumers: list[_Consumer] = []
        try:
            for subscription, destination in zip(subscriptions, destinations, strict=True):
                consumers.append(await self._connect(subscription, destination))
        except BaseException:
            for consumer in consumers:
                await consumer.supervisor.drain(0)
            raise
        self._running.extend(_start(consumer) for consumer in consumers)

    def _destination(self, subscription: Subscription) -> Destination:
        destination = self._destinations.for_consuming(subscription.channel)
        if subscription.dead_letter:
            self._destinations.check_name(subscription.dead_letter)
        return destination

    async def _connect(self, subscription: Subscription, destination: Destination) -> _Consumer:
        """Connect a subscription and the publisher of its dead letters."""
        try:
            driver = self._driver(destination)
            dead_letter = await self._dead_letter(subscription.dead_letter)
            supervisor = Supervisor(
                lambda: self._subscriber(subscription, destination, driver, dead_letter),
                metrics=self._metrics,
                sleep=self._sleep,
            )
            await supervisor.__aenter__()
        except StartError:
            raise
        except GizmoError as error:
            raise _start_error(subscription, destination, error) from error
        return _Consumer(supervisor, destination, driver.capabilities.process_local)

    def _subscriber(
        self,
        subscription: Subscription,
        destination: Destination,
        driver: Driver,
        dead_letter: DeadLetter | None,
    ) -> Subscriber:
        topic, is_ordered = destination.topic, subscription.order != "none"
        return Subscriber(
            driver.receiver(topic, subscription.subscription, ordered=is_ordered),
            subscription,
            topic=topic,
            capabilities=driver.capabilities,
            metrics=self._metrics,
            dead_letter=dead_letter,
            on_settle=self._on_settle,
            observers=self._observers,
            sleep=self._sleep,
        )

    async def _dead_letter(self, channel: str) -> DeadLetter | None:
        if not channel:
            return None
        try:
            publisher = await self._publisher(channel)
        except PubSubError as error:
            raise StartError(
                f"cannot publish to the dead letter channel {channel!r}: {error}; create its "
                f"topic, or set GIZMO_TOPIC_{channel_key(channel)} to another one"
            ) from error
        return publisher.publish

    async def run(self) -> None:
        """Return when the subscribers have been drained. Raises the error of one that ends early.

        A Supervisor replaces a subscriber that fails, so an error here is a bug of the engine.
        """
        tasks = [each.task for each in self._running]
        if tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()

    async def idle(self) -> None:
        """Wait until no message is queued or in flight on brokers in this process."""
        local = [each.supervisor for each in self._running if each.is_local]
        # A handler of one subscription may publish to another that was idle before: ask all again.
        while busy := next((each for each in local if not each.is_idle), None):
            await busy.idle()

    # Draining.

    def stop_receiving(self) -> None:
        """Stop receiving from brokers outside this process: the first step of a drain."""
        for each in self._running:
            if not each.is_local:
                each.supervisor.stop_receiving()

    async def drain(self, timeout: float) -> DrainReport:
        """Drain all subscribers within ``timeout`` seconds; see :meth:`Subscriber.drain`.

        Subscribers of brokers outside come first: their handlers may still publish to brokers in
        this process, whose messages would be lost.
        """
        self._deadline = Deadline(timeout)
        for each in self._running:
            each.supervisor.begin_drain()
        outside = await self._drain([each for each in self._running if not each.is_local])
        try:
            await self._deadline.wait_for(self.idle())
        except TimeoutError:
            logger.warning("the queues in this process are not empty at the deadline")
        inside = await self._drain([each for each in self._running if each.is_local])
        return _sum([outside, inside])

    def shorten_deadline(self, seconds: float) -> None:
        """Make the drain that is running end within ``seconds``."""
        self._deadline.shorten(seconds)
        for each in self._running:
            each.supervisor.shorten_deadline(seconds)

    async def _drain(self, running: Sequence[_Running]) -> DrainReport:
        """Drain subscribers at the same time."""
        left = self._deadline.remaining()
        reports = await asyncio.gather(*(each.supervisor.drain(left) for each in running))
        if running:
            await asyncio.wait([each.task for each in running])
        return _sum(reports)

    # Health.

    def describe(self) -> list[ChannelRow]:
        """Return a row for each subscription that is consumed."""
        return [each.row for each in self._running]

    def problem(self, subscription: Subscription) -> str:
        """Return why ``subscription`` is not consumed at present; empty if it is."""
        return next((each.problem for each in self._supervisors(subscription)), "it is not started")

    def stuck(self, subscription: Subscription) -> int:
        """Return how many messages failed for good, and are kept without a dead letter."""
        return sum(each.stuck for each in self._supervisors(subscription))

    def waiting_problem(self, subscription: Subscription) -> str:
        """Return why a partition is not received: too many of its messages wait."""
        return "; ".join(
            problem for each in self._supervisors(subscription) if (problem := each.waiting_problem)
        )

    def unreachable_brokers(self) -> list[str]:
        """Return a line for each subscription whose broker has never been reached."""
        return [
            f"{each.row.channel}: {each.supervisor.problem}"
            for each in self._running
            if not each.supervisor.connected
        ]

    def unpublished(self) -> list[str]:
        """Return a line for each channel whose last message could not be sent."""
        publishers = self._publishers.items()
        return [f"{channel}: {each.problem}" for channel, each in publishers if each.problem]

    def _supervisors(self, subscription: Subscription) -> list[Supervisor]:
        supervisors = [each.supervisor for each in self._running]
        return [each for each in supervisors if each.subscription is subscription]

    # Old names, until gizmopy 0.3.

    def hurry(self, seconds: float) -> None:
        """Call ``shorten_deadline``: the old name, until 0.3."""
        warn("Channels.hurry is now shorten_deadline", DeprecationWarning, stacklevel=2)
        self.shorten_deadline(seconds)

    def unreached(self) -> list[str]:
        """Call ``unreachable_brokers``: the old name, until 0.3."""
        warn("Channels.unreached is now unreachable_brokers", DeprecationWarning, stacklevel=2)
        return self.unreachable_brokers()


def _start(consumer: _Consumer) -> _Running:
    subscription = consumer.supervisor.subscription
    row = ChannelRow(
        channel=subscription.channel,
        url=consumer.destination.redacted,
        subscription=subscription.subscription,
        handler=subscription.name,
        concurrency=subscription.concurrency,
        order=subscription.order,
    )
    task = asyncio.create_task(consumer.supervisor.run(), name=f"subscriber {subscription.name}")
    return _Running(consumer.supervisor, task, consumer.is_local, row)


def _reject_duplicate_handlers(
    subscriptions: Sequence[Subscription], destinations: Sequence[Destination]
) -> None:
    """Raise StartError if two handlers share one subscription: each would get some messages."""
    first: dict[tuple[Destination, str], Subscription] = {}
    for subscription, destination in zip(subscriptions, destinations, strict=True):
        other = first.setdefault((destination, subscription.subscription), subscription)
        if other is not subscription:
            raise StartError(
                f"{other.name} and {subscription.name} both handle {destination.redacted} in the "
                f"subscription {subscription.subscription!r}; give one of them another "
                "subscription="
            )


def _start_error(
    subscription: Subscription, destination: Destination, error: GizmoError
) -> StartError:
    """Return the error of a subscription that cannot be connected, with the remedy."""
    name = f"channel {subscription.channel!r} ({subscription.name})"
    if isinstance(error, (UnknownScheme, DriverNotInstalled)):
        return StartError(f"{name}: {error}; GIZMO_PUBSUB_URL is the broker of every channel")
    remedy = ""
    if isinstance(error, TopicNotFound):
        variable = f"GIZMO_SUBSCRIPTION_{channel_key(subscription.channel)}"
        remedy = f"; create it there, or set {variable} to another one"
    return StartError(f"{name} cannot be consumed from {destination.redacted}: {error}{remedy}")


def _sum(reports: Iterable[DrainReport]) -> DrainReport:
    return DrainReport(*map(sum, zip(DrainReport(), *reports, strict=True)))


async def _close_all(closings: Iterable[tuple[str, Awaitable[None]]]) -> None:
    """Close things side by side, so that the slowest one alone decides how long it takes."""
    async with asyncio.TaskGroup() as group:
        for name, closing in closings:
            group.create_task(_close(name, closing))


async def _close(name: str, closing: Awaitable[None]) -> None:
    """Await ``closing``; log an error, so that the next thing is closed too."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await closing
    except Exception as error:  # noqa: BLE001 - logged, see above
        logger.warning("closing %s failed: %s", name, describe_error(error))
