"""Hold a service's channels: where each one leads, its publisher, and the engines that consume.

A channel is a name in the source; where it leads is a matter of settings. In settings a channel is
written in upper case with ``_`` for everything else: its environment form.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from gizmopy.config.channel_names import channel_key
from gizmopy.config.urls import redacted_url
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
from gizmopy.pubsub import registry as drivers
from gizmopy.pubsub.driver import Driver, Results
from gizmopy.pubsub.engine.dead_letter import DeadLetter
from gizmopy.pubsub.engine.outcome import DrainReport, OnSettle
from gizmopy.pubsub.publisher import Publisher
from gizmopy.pubsub.subscriber import Subscriber
from gizmopy.pubsub.subscription import Subscription
from gizmopy.pubsub.supervisor import Supervisor
from gizmopy.untrusted.error_text import named

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 5.0
"""What flushing a publisher, or closing a driver, may take at most."""


class ChannelRow(NamedTuple):
    """One line of the start-up log: a subscription, and where it leads."""

    channel: str
    url: str
    """Its scheme, its hosts and the topic."""
    subscription: str
    handler: str
    concurrency: int
    order: str


class _Place(NamedTuple):
    """Where a channel leads: a topic of a driver."""

    driver_url: str
    topic: str

    @property
    def shown(self) -> str:
        return f"{redacted_url(self.driver_url)}/{self.topic}"


class _Engine(NamedTuple):
    subscriber: Supervisor
    task: asyncio.Task[None]
    is_local: bool
    row: ChannelRow


class Channels:
    """Hold the channels of ``service``; use it as an async context manager.

    A channel leads to ``url``, under its own name, unless ``topics`` or ``subscriptions`` (by
    environment form) give a URL of its own, ``scheme://host/topic?params``; what is consumed
    follows its topic unless a subscription says otherwise. Publishers connect when first used; a
    batch of theirs waits ``linger`` seconds to fill.
    Leaving the context drains what is not drained, flushes and closes the publishers, and closes
    the drivers.

    A topic in ``url`` itself is for the only channel there is: another one is refused.
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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        open_driver: Callable[[str], Driver] = drivers.open_driver,
    ) -> None:
        self._url = url
        self._service = service
        self._topics = topics
        self._subscriptions = subscriptions
        self._metrics = metrics
        self._linger = linger
        self._on_settle = on_settle
        self._sleep = sleep
        self._open_driver = open_driver
        self._names: dict[str, str] = {}
        self._only = ""
        """The one channel that a topic in ``url`` is for."""
        self._drivers: dict[str, Driver] = {}
        self._publishers: dict[str, Publisher] = {}
        self._connecting = asyncio.Lock()
        self._engines: list[_Engine] = []
        self._closed = False
        self._deadline = math.inf
        self._bound: asyncio.Timeout | None = None

    async def __aenter__(self) -> Channels:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self.drain(0)
        finally:
            self._closed = True
            await _ended([engine.task for engine in self._engines])
            while self._publishers:
                channel, publisher = self._publishers.popitem()
                await _close(f"the publisher of channel {channel!r}", publisher.aclose())
            for driver in self._drivers.values():
                await _close("a driver", driver.aclose())

    def publish(
        self,
        channel: str,
        value: object,
        *,
        key: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Publish ``value`` on ``channel``, and return when the broker has confirmed it.

        See :meth:`Publisher.publish`, and what it raises. The first call connects the publisher,
        and raises TopicNotFound where the topic does not exist.
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
        """Connect the publisher of a channel, once."""
        async with self._connecting:
            if channel in self._publishers:
                return self._publishers[channel]
            self._check_open()
            place = self._place(channel, self._topics)
            driver = self._driver(place)
            publisher = Publisher(
                driver.sender(place.topic),
                place.topic,
                metrics=self._metrics,
                limits=driver.capabilities,
                linger=self._linger,
                sleep=self._sleep,
            )
            try:
                await publisher.connect()
                self._check_open()  # it may have taken until after the end
            except BaseException:
                await _close(f"the publisher of channel {channel!r}", publisher.aclose())
                raise
            self._publishers[channel] = publisher
            return publisher

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"the channels of {self._service} are closed; publish before that")

    async def start(self, subscriptions: Sequence[Subscription]) -> None:
        """Connect everything that ``subscriptions`` need, then let the engines run.

        Raises StartError that says which channel and what to do; nothing is left running then.
        """
        places = [self._checked(subscription) for subscription in subscriptions]
        self._refuse_twins(subscriptions, places)
        ready: list[tuple[Supervisor, _Place, bool]] = []
        try:
            for subscription, place in zip(subscriptions, places, strict=True):
                ready.append(await self._connect(subscription, place))
        except BaseException:
            for subscriber, _, _ in ready:
                await subscriber.drain(0)
            raise
        self._engines.extend(_engine(*each) for each in ready)

    def _checked(self, subscription: Subscription) -> _Place:
        self._check_name(subscription.channel)
        if subscription.dead_letter:
            self._check_name(subscription.dead_letter)
        return self._place(subscription.channel, self._subscriptions, self._topics)

    def _refuse_twins(
        self, subscriptions: Sequence[Subscription], places: Sequence[_Place]
    ) -> None:
        """Refuse two handlers that would share one subscription: each would get a part."""
        first: dict[tuple[_Place, str], Subscription] = {}
        for subscription, place in zip(subscriptions, places, strict=True):
            twin = first.setdefault((place, subscription.subscription), subscription)
            if twin is not subscription:
                raise StartError(
                    f"{twin.name} and {subscription.name} both handle {place.shown} in the "
                    f"subscription {subscription.subscription!r}; give one another subscription="
                )

    async def _connect(
        self, subscription: Subscription, place: _Place
    ) -> tuple[Supervisor, _Place, bool]:
        """Connect a subscription, and the publisher of its dead letters."""
        try:
            driver = self._driver(place)
            dead_letter = await self._dead_letter(subscription.dead_letter)
            supervisor = Supervisor(
                lambda: self._subscriber(subscription, place, driver, dead_letter),
                metrics=self._metrics,
                sleep=self._sleep,
            )
            await supervisor.__aenter__()
        except StartError:
            raise
        except (UnknownScheme, DriverNotInstalled) as error:
            raise StartError(
                f"channel {subscription.channel!r} ({subscription.name}): {error}; "
                "GIZMO_PUBSUB_URL names the broker of every channel"
            ) from error
        except GizmoError as error:
            form = channel_key(subscription.channel)
            remedy = ""
            if isinstance(error, TopicNotFound):
                remedy = (
                    "; create it there, or point the channel elsewhere with "
                    f"GIZMO_SUBSCRIPTION_{form}"
                )
            raise StartError(
                f"channel {subscription.channel!r} ({subscription.name}) cannot be consumed from "
                f"{place.shown}: {error}{remedy}"
            ) from error
        return supervisor, place, driver.capabilities.process_local

    def _subscriber(
        self,
        subscription: Subscription,
        place: _Place,
        driver: Driver,
        dead_letter: DeadLetter | None,
    ) -> Subscriber:
        return Subscriber(
            driver.receiver(
                place.topic, subscription.subscription, ordered=subscription.order != "none"
            ),
            subscription,
            topic=place.topic,
            capabilities=driver.capabilities,
            metrics=self._metrics,
            dead_letter=dead_letter,
            on_settle=self._on_settle,
            sleep=self._sleep,
        )

    async def _dead_letter(self, channel: str) -> DeadLetter | None:
        if not channel:
            return None
        try:
            publisher = await self._publisher(channel)
        except PubSubError as error:
            raise StartError(
                f"dead letter channel {channel!r} cannot be published to: {error}; create it, or "
                f"point it elsewhere with GIZMO_TOPIC_{channel_key(channel)}"
            ) from error
        return publisher.publish

    def problem(self, subscription: Subscription) -> str:
        """Return why ``subscription`` is not consumed now; empty where all is well."""
        return next((e.subscriber.problem for e in self._of(subscription)), "it is not started")

    def stuck(self, subscription: Subscription) -> int:
        """Return how many messages block their lanes for want of a dead letter channel."""
        return sum(engine.subscriber.stuck for engine in self._of(subscription))

    def unreached(self) -> list[str]:
        """Return why brokers that were never reached are not, a line for each subscription."""
        return [
            f"{engine.row.channel}: {engine.subscriber.problem}"
            for engine in self._engines
            if not engine.subscriber.connected
        ]

    def unpublished(self) -> list[str]:
        """Return why messages cannot be sent, a line for each channel that has such trouble."""
        publishers = self._publishers.items()
        return [f"{channel}: {each.problem}" for channel, each in publishers if each.problem]

    def _of(self, subscription: Subscription) -> list[_Engine]:
        return [e for e in self._engines if e.subscriber.subscription is subscription]

    async def run(self) -> None:
        """Return when the engines have been drained. Raises what one of them dies of."""
        tasks = [engine.task for engine in self._engines]
        if tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()

    def stop_receiving(self) -> None:
        """Receive no more from brokers outside the process: the first step of a drain."""
        for engine in self._engines:
            if not engine.is_local:
                engine.subscriber.stop_receiving()

    async def drain(self, timeout: float) -> DrainReport:
        """Drain all engines within ``timeout`` seconds; see :meth:`Subscriber.drain`.

        Those on brokers outside come first, as what they still handle may publish to the others.
        """
        self._deadline = asyncio.get_running_loop().time() + timeout
        for engine in self._engines:
            engine.subscriber.begin_drain()
        outside = await self._drain([e for e in self._engines if not e.is_local])
        try:
            async with asyncio.timeout_at(self._deadline) as self._bound:
                await self.idle()
        except TimeoutError:
            logger.warning("the queues in this process are not empty at the deadline")
        finally:
            self._bound = None
        inside = await self._drain([e for e in self._engines if e.is_local])
        return DrainReport(*map(sum, zip(outside, inside, strict=True)))

    def hurry(self, seconds: float) -> None:
        """Have the drain that runs end within ``seconds``."""
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + seconds)
        if self._bound is not None:
            self._bound.reschedule(self._deadline)
        for engine in self._engines:
            engine.subscriber.hurry(seconds)

    async def _drain(self, engines: Sequence[_Engine]) -> DrainReport:
        """Drain engines at the same time, and add up their reports."""
        left = self._deadline - asyncio.get_running_loop().time()
        drains = [engine.subscriber.drain(max(0.0, left)) for engine in engines]
        reports = await asyncio.gather(*drains)
        if engines:
            await asyncio.wait([engine.task for engine in engines])
        return DrainReport(*map(sum, zip(DrainReport(), *reports, strict=True)))

    async def idle(self) -> None:
        """Wait until nothing is queued or in flight on brokers in this process."""
        local = [engine.subscriber for engine in self._engines if engine.is_local]
        while busy := next((engine for engine in local if not engine.is_idle), None):
            await busy.idle()

    def describe(self) -> list[ChannelRow]:
        """Return a row for each subscription that is running."""
        return [engine.row for engine in self._engines]

    # Where a channel leads.

    def _place(self, channel: str, *addresses: Mapping[str, str]) -> _Place:
        """Return where ``channel`` leads by the first of ``addresses`` that names it."""
        form = self._check_name(channel)
        url = next((urls[form] for urls in addresses if form in urls), None)
        parts = urlsplit(self._url if url is None else url)
        if url is None and parts.path.strip("/"):
            self._check_only(channel)
        return _Place(
            parts._replace(path="", fragment="").geturl(),
            unquote(parts.path.strip("/")) or channel,
        )

    def _check_only(self, channel: str) -> None:
        """Refuse a second channel to the topic that the URL of all names."""
        self._only = self._only or channel
        if channel != self._only:
            place = redacted_url(self._url, with_path=True)
            raise StartError(
                f"channels {self._only!r} and {channel!r} would both be {place}"
                "; leave the topic out there, or give one of them a URL of its own with "
                f"GIZMO_TOPIC_{channel_key(channel)}"
            )

    def _check_name(self, channel: str) -> str:
        """Return a channel's environment form; refuse two channels that one address would move."""
        form = channel_key(channel)
        other = self._names.setdefault(form, channel)
        if other != channel and (form in self._topics or form in self._subscriptions):
            raise StartError(
                f"channels {other!r} and {channel!r} are both {form} in settings, and one of "
                f"GIZMO_TOPIC_{form} and GIZMO_SUBSCRIPTION_{form} is set; rename one of them"
            )
        return form

    def _driver(self, place: _Place) -> Driver:
        """Return the driver of a place, opened once for all that share its URL."""
        if place.driver_url not in self._drivers:
            self._drivers[place.driver_url] = self._open_driver(place.driver_url)
        return self._drivers[place.driver_url]


def _engine(subscriber: Supervisor, place: _Place, is_local: bool) -> _Engine:
    subscription = subscriber.subscription
    row = ChannelRow(
        channel=subscription.channel,
        url=place.shown,
        subscription=subscription.subscription,
        handler=subscription.name,
        concurrency=subscription.concurrency,
        order=subscription.order,
    )
    task = asyncio.create_task(subscriber.run(), name=f"subscriber {subscription.name}")
    return _Engine(subscriber, task, is_local, row)


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End the engines that a drain has not ended, because it was cancelled."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def _close(name: str, closing: Awaitable[None]) -> None:
    """Close one thing; what goes wrong must not keep the next one open."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await closing
    except Exception as error:  # noqa: BLE001 - see above
        logger.warning("closing %s failed: %s", name, named(error))
