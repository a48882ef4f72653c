"""Consume the subscriptions of a service: start them, report their health, and drain them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from gizmopy._aio import Deadline, cancel_and_wait
from gizmopy.config.channel_names import channel_key
from gizmopy.errors import (
    DriverNotInstalled,
    GizmoError,
    StartError,
    TopicNotFound,
    UnknownScheme,
)
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub.control import SubscriptionControl
from gizmopy.pubsub.destinations import Destination, DestinationResolver, find_cycle
from gizmopy.pubsub.driver import Driver, Receiver, new_receiver
from gizmopy.pubsub.engine.dead_letter import DeadLetter
from gizmopy.pubsub.engine.observer import Observer
from gizmopy.pubsub.engine.outcome import DrainReport, OnSettle
from gizmopy.pubsub.pushes import PushTarget
from gizmopy.pubsub.shared_drivers import SharedDrivers
from gizmopy.pubsub.subscriber import Subscriber
from gizmopy.pubsub.subscription import Subscription
from gizmopy.pubsub.supervisor import Supervisor

logger = logging.getLogger(__name__)


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
    control: SubscriptionControl


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberOptions:
    """The options that all subscribers of a service share."""

    metrics: Metrics
    on_settle: OnSettle | None
    observers: Sequence[Observer]
    sleep: Callable[[float], Awaitable[None]]


class Consumers:
    """Hold the subscriptions of a service.

    ``publish(channel, message)`` publishes a dead letter.
    """

    def __init__(
        self,
        destinations: DestinationResolver,
        drivers: SharedDrivers,
        options: SubscriberOptions,
        *,
        publish: Callable[..., Awaitable[None]],
    ) -> None:
        self.consumed: set[Destination] = set()
        """The topics that have a subscription here."""
        self._destinations = destinations
        self._drivers = drivers
        self._options = options
        self._publish = publish
        self._early: dict[int, _Consumer] = {}
        """The subscriptions that are connected and wait for the start, by their id()."""
        self._pushed: dict[int, PushTarget] = {}
        """The receivers of pushed messages, by the id() of their subscription."""
        self._running: list[_Running] = []
        self._deadline = Deadline()
        """The end of the drain that runs."""

    # Start.

    def push_targets(self, subscriptions: Sequence[Subscription]) -> list[PushTarget]:
        """Return the receivers whose brokers push messages. Raises StartError as ``start`` does."""
        for subscription in subscriptions:
            destination = self._destination(subscription)
            try:
                driver = self._drivers.of(destination)
                if driver.capabilities.pushes:
                    receiver = self._new_receiver(subscription, destination, driver)
                    self._pushed[id(subscription)] = PushTarget(subscription.name, receiver)
            except GizmoError as error:
                raise _start_error(subscription, destination, error) from error
        return list(self._pushed.values())

    async def connect_local(self, subscriptions: Sequence[Subscription]) -> None:
        """Connect the subscriptions to brokers in this process, before the start of all of them.

        Such a broker keeps messages only for subscriptions that exist: without this, it would drop
        those that ``lifespan`` publishes. Raises StartError as ``start`` does.
        """
        for subscription in subscriptions:
            destination = self._destination(subscription)
            self.consumed.add(destination)
            try:
                is_local = self._drivers.of(destination).capabilities.process_local
            except GizmoError as error:
                raise _start_error(subscription, destination, error) from error
            if is_local:
                self._early[id(subscription)] = await self._connect(subscription, destination)

    async def _drain_early(self) -> None:
        while self._early:
            await self._early.popitem()[1].supervisor.drain(0)

    def check(self, subscriptions: Sequence[Subscription]) -> None:
        """Raise StartError if ``subscriptions`` contradict each other, or their brokers."""
        destinations = [self._destination(subscription) for subscription in subscriptions]
        self.consumed.update(destinations)
        _reject_duplicate_handlers(subscriptions, destinations)
        self._reject_second_subscriptions(subscriptions, destinations)
        self._reject_cycles(subscriptions, destinations)

    async def start(self, subscriptions: Sequence[Subscription]) -> None:
        """Connect all ``subscriptions``, then start consuming; see ``Channels.start``."""
        destinations = [self._destination(subscription) for subscription in subscriptions]
        consumers: list[_Consumer] = []
        try:
            for subscription, destination in zip(subscriptions, destinations, strict=True):
                consumer = self._early.pop(id(subscription), None)
                consumers.append(consumer or await self._connect(subscription, destination))
        except BaseException:
            for consumer in consumers:
                await consumer.supervisor.drain(0)
            raise
        self._running.extend(_start(consumer) for consumer in consumers)

    def _reject_second_subscriptions(
        self, subscriptions: Sequence[Subscription], destinations: Sequence[Destination]
    ) -> None:
        """Raise StartError if two subscriptions would take messages from each other."""
        first: dict[Destination, Subscription] = {}
        for subscription, destination in zip(subscriptions, destinations, strict=True):
            try:
                fan_out = self._drivers.of(destination).capabilities.fan_out
            except GizmoError as error:
                raise _start_error(subscription, destination, error) from error
            other = first.setdefault(destination, subscription)
            if other is not subscription and not fan_out:
                raise StartError(
                    f"{other.name} (subscription {other.subscription!r}) and {subscription.name} "
                    f"(subscription {subscription.subscription!r}) both consume "
                    f"{destination.redacted}, which is one queue: each would get only a part of "
                    "the messages; consume it in one handler, or publish to a broker with "
                    "subscriptions"
                )

    def _reject_cycles(
        self, subscriptions: Sequence[Subscription], destinations: Sequence[Destination]
    ) -> None:
        """Raise StartError if dead letters could come back to the topic that they came from."""
        next_places: dict[str, list[str]] = {}
        for subscription, destination in zip(subscriptions, destinations, strict=True):
            source = self._destinations.source_of(subscription.channel)
            if source is not None and source.place != destination.place:
                next_places.setdefault(source.place, []).append(destination.place)
            if subscription.dead_letter:
                place = self._destinations.for_publishing(subscription.dead_letter).place
                next_places.setdefault(destination.place, []).append(place)
        if cycle := find_cycle(next_places):
            raise StartError(
                f"the dead letters of {' → '.join(cycle)} go round in a cycle, so a failing "
                "message would never rest; give one of the subscriptions another dead_letter="
            )

    def _destination(self, subscription: Subscription) -> Destination:
        destination = self._destinations.for_consuming(
            subscription.channel, subscription.subscription
        )
        if subscription.dead_letter:
            self._destinations.check_name(subscription.dead_letter)
        return destination

    async def _connect(self, subscription: Subscription, destination: Destination) -> _Consumer:
        """Connect a subscription."""
        dead_letter = self._dead_letter(subscription.dead_letter)
        try:
            driver = self._drivers.of(destination)
            supervisor = Supervisor(
                lambda: self._subscriber(subscription, destination, driver, dead_letter),
                metrics=self._options.metrics,
                sleep=self._options.sleep,
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
        return Subscriber(
            self._receiver(subscription, destination, driver),
            subscription,
            topic=destination.topic,
            capabilities=driver.capabilities,
            metrics=self._options.metrics,
            dead_letter=dead_letter,
            on_settle=self._options.on_settle,
            observers=self._options.observers,
            sleep=self._options.sleep,
        )

    def _receiver(
        self, subscription: Subscription, destination: Destination, driver: Driver
    ) -> Receiver:
        """Return the receiver whose routes are mounted, or a new one in its place."""
        target = self._pushed.get(id(subscription))
        if target is not None and (mounted := target.take()) is not None:
            return mounted
        receiver = self._new_receiver(subscription, destination, driver)
        if target is not None:
            target.replace(receiver)
        return receiver

    def _new_receiver(
        self, subscription: Subscription, destination: Destination, driver: Driver
    ) -> Receiver:
        channel, name = subscription.channel, subscription.subscription
        return new_receiver(
            driver,
            destination.topic,
            self._destinations.subscription_of(channel, name),
            ordered=subscription.order != "none",
            derived=subscription.has_default_name,
        )

    def _dead_letter(self, channel: str) -> DeadLetter | None:
        return partial(self._publish, channel) if channel else None

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
        # Now, and not at the close of the receivers: the server waits for its requests before that.
        for target in self._pushed.values():
            target.refuse()

    async def drain(self, timeout: float) -> DrainReport:
        """Drain all subscribers within ``timeout`` seconds; see :meth:`Subscriber.drain`.

        Subscribers of brokers outside come first: their handlers may still publish to brokers in
        this process, whose messages would be lost.
        """
        self._deadline = Deadline(timeout)
        for each in self._running:
            each.control.close()
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

    async def aclose(self) -> None:
        """Drain without waiting."""
        try:
            await self._drain_early()
            await self.drain(0)
        finally:
            # A drain that was cancelled has left subscribers running.
            await cancel_and_wait([each.task for each in self._running])
            for target in self._pushed.values():
                await target.aclose()

    # Health.

    def describe(self) -> list[ChannelRow]:
        """Return a row for each subscription that is consumed."""
        return [each.row for each in self._running]

    def controls(self) -> list[tuple[ChannelRow, SubscriptionControl]]:
        """Return the control of each subscription that is consumed, with its row."""
        return [(each.row, each.control) for each in self._running]

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
        """Return a line for each channel that is consumed, and whose broker was never reached."""
        return [
            f"{each.row.channel}: {each.supervisor.problem}"
            for each in self._running
            if not each.supervisor.connected
        ]

    def _supervisors(self, subscription: Subscription) -> list[Supervisor]:
        supervisors = [each.supervisor for each in self._running]
        return [each for each in supervisors if each.subscription is subscription]


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
    control = SubscriptionControl(consumer.supervisor)
    return _Running(consumer.supervisor, task, consumer.is_local, row, control)


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
        variable = f"GIZMO_SUBSCRIPTION_{channel_key(subscription.channel)}"
        return StartError(f"{name}: {error}; set GIZMO_PUBSUB_URL, or {variable} for this channel")
    remedy = ""
    if isinstance(error, TopicNotFound):
        variable = f"GIZMO_SUBSCRIPTION_{channel_key(subscription.channel)}"
        remedy = f"; create it there, or set {variable} to another one"
    return StartError(f"{name} cannot be consumed from {destination.redacted}: {error}{remedy}")


def _sum(reports: Iterable[DrainReport]) -> DrainReport:
    return DrainReport(*map(sum, zip(DrainReport(), *reports, strict=True)))
