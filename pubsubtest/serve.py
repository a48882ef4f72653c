"""Run the real daemon in the test's process, with HTTP and in-memory brokers or a real one."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Generic, TypeVar, overload
from urllib.parse import urlsplit
from uuid import uuid4

from aiohttp import ClientSession

from gizmopy.config import Settings
from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.config.urls import redacted_url
from gizmopy.errors import UsageError, seconds_from
from gizmopy.pubsub import Capabilities, Driver, Message, Receiver, Sender
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.driver import Results, new_receiver
from gizmopy.server import Endpoints, Service, SimpleServer, make_service
from gizmopy.server.service import settings_class
from gizmopy.untrusted.durations import DurationLike
from gizmopy.web.security.declared import SecurityOption
from pubsubtest import real_broker
from pubsubtest.clock import Clock
from pubsubtest.faults import Faults
from pubsubtest.faulty_driver import FaultyDriver
from pubsubtest.publisher import Recorded
from pubsubtest.real_broker import OwnDriver, OwnSender, RealBroker
from pubsubtest.subscriber import LONGEST_WAIT, incoming

logger = logging.getLogger("pubsubtest")

S = TypeVar("S", bound=Service)
E = TypeVar("E", bound=Endpoints)

_NETWORK_DELAY = 0.005
"""How long a drain waits for the last requests: their clients are in the process of the test."""
_DELIVERY_SECONDS = 0.1
"""How long a publish waits for a broker that a test makes unreachable."""


class _Alone(Service):
    """A service that has nothing but one mounted object."""

    def __init__(
        self, mounted: Endpoints, settings: Settings | None, security: SecurityOption
    ) -> None:
        super().__init__(settings)
        self._mounted = mounted
        self.security = (security,) if callable(security) else security

    def mounts(self) -> Iterable[Endpoints]:
        return (self._mounted,)


@overload
def serve(
    service: type[S],
    *,
    settings: Settings | None = None,
    clock: Clock | None = None,
    faults: Faults | None = None,
    broker: str | None = None,
) -> AbstractAsyncContextManager[Served[S]]: ...
@overload
def serve(
    service: E,
    *,
    settings: Settings | None = None,
    clock: Clock | None = None,
    faults: Faults | None = None,
    broker: str | None = None,
    security: SecurityOption = None,
) -> AbstractAsyncContextManager[Served[E]]: ...
@asynccontextmanager
async def serve(
    service: type[Service] | Endpoints,
    *,
    settings: Settings | None = None,
    clock: Clock | None = None,
    faults: Faults | None = None,
    broker: str | None = None,
    security: SecurityOption = None,
) -> AsyncIterator[Served[Any]]:
    """Serve ``service`` on a free loopback port and in-memory brokers, while the context lasts.

    With ``broker="kafka://…"`` it is served on that broker instead; see below.

    It is the daemon of ``run()``, with the same start and drain. But it reads no environment and no
    ``.env``, sets up no logging, and writes no access log unless ``settings`` ask for it. A class
    is instantiated with ``settings`` (default: the defaults of its settings class). Each URL that
    ``settings`` give to a channel opens a separate in-memory broker, and a warning is logged if it
    names another kind. An object of Endpoints is
    served alone: mounted on a service that has nothing else, except the checkers ``security``.

    Waits between retries and redeliveries are shortened to a millisecond, and messages that are
    published with a delay come at once. With a ``clock`` all of them wait until the test moves it,
    and no lease ends. Background work and the pauses of event streams
    follow the same ``clock``, and real time without one. ``faults`` are applied between the daemon
    and its brokers. The drain waits 5 ms for requests that are on their way, not 100 ms: their
    clients are in this process. It takes at most a second unless ``settings`` say otherwise,
    because a message that never succeeds, or waits for the clock, would delay it to its deadline.

    ``broker`` is the URL of a real broker, without a topic. Each run has topics and subscriptions
    of its own there, whose names end with a mark of the run. Those of all declared channels, dead
    letters included, are made before the start by the ``provision`` of the driver, those of other
    channels on their first publish. All are removed at the end, also if the start or the test
    fails. The test and the service use the channels' own names. Retries wait 50 ms at most.

    Raises UsageError if ``settings`` name a broker: that is what ``broker`` is for. With
    ``broker`` they may not give URLs to channels, and there is no ``clock``.
    """
    tested = running = _made(service, settings)
    if not isinstance(running, Service):
        running = _Alone(running, settings, security)
    elif security is not None:
        name = type(running).__name__
        raise UsageError(f"security= is for an object of Endpoints; {name} declares its own")
    _check_broker(running.settings, broker, clock)
    running.settings = _hermetic(running.settings, broker)
    real = None if broker is None else RealBroker(running.settings.broker_url)
    brokers = _Broker(clock, faults, real)
    server = SimpleServer(
        running,
        open_driver=brokers.open,
        on_settle=brokers.on_settle,
        sleep=clock.sleep if clock else _short_sleep if real is None else _real_sleep,
        clock=clock,
        network_delay=_NETWORK_DELAY,
    )
    server.channels.refuse_undeclared()
    http: ClientSession | None = None
    async with AsyncExitStack() as stack:
        if real is not None:
            publishes = server.application.publishes
            await stack.enter_async_context(real.topics(server.subscriptions, publishes))
        try:
            async with server:
                http = ClientSession(server.url)
                yield Served(tested, server, http, brokers)
        finally:
            if http is not None:  # after the drain, since a test may check it
                await http.close()


def _check_broker(settings: Settings, broker: str | None, clock: Clock | None) -> None:
    """Raise UsageError if ``settings`` and ``broker`` contradict each other."""
    if broker is None:
        if not _is_memory(settings.broker_url):
            raise UsageError(
                f"the settings name the broker {redacted_url(settings.broker_url)}, but serve uses "
                "a broker in memory; leave it out of the settings, or run the service on it with "
                "serve(..., broker=URL)"
            )
        for name, url in (settings.topics | settings.subscriptions).items():
            if not _is_memory(url):
                logger.warning("%s is in memory, not at %s", name, redacted_url(url))
        return
    if clock is not None:
        raise UsageError("clock= is for brokers in memory: a real one has its own time")
    if "pubsub_url" in settings.model_fields_set or settings.topics or settings.subscriptions:
        raise UsageError(
            "with broker= each channel has a topic of this run; leave pubsub_url, topics and "
            "subscriptions out of the settings"
        )


def _is_memory(url: str) -> bool:
    return urlsplit(url).scheme == "memory"


def _made(service: type[Service] | Endpoints, settings: Settings | None) -> Endpoints:
    """Return the object to test."""
    if not isinstance(service, type):
        return service
    if not issubclass(service, Service):
        name = service.__name__
        raise UsageError(f"{name} is mounted, not run: serve an object of it, {name}(...)")
    return make_service(service, settings or settings_class(service)())


async def _short_sleep(seconds: float) -> None:
    await asyncio.sleep(min(seconds, LONGEST_WAIT))


async def _real_sleep(seconds: float) -> None:
    await asyncio.sleep(min(seconds, real_broker.LONGEST_WAIT))


def _hermetic(settings: Settings, broker: str | None) -> Settings:
    """Return ``settings`` that are independent of other tests and of the machine."""
    changes: dict[str, Any] = {
        "http_access_log": "off",
        "drain_delay": timedelta(0),
        "shutdown_timeout": timedelta(seconds=1),
    }
    changes = {name: changes[name] for name in changes.keys() - settings.model_fields_set}
    changes |= {"http_addr": "127.0.0.1", "http_port": 0, "pubsub_url": broker or "memory://"}
    return settings.model_copy(update=changes)


class Served(Generic[E]):
    """A service, or an object of Endpoints, that is being served, with helpers for tests."""

    def __init__(
        self, service: E, server: SimpleServer, http: ClientSession, broker: _Broker
    ) -> None:
        self.service = service
        self.server = server
        self.http = http
        """A client with the daemon's URL as its base: ``http.get("/livez")``."""
        self._broker = broker

    @property
    def url(self) -> str:
        """The URL of the daemon, such as ``http://127.0.0.1:54321``."""
        return self.server.url

    def published(self, topic: str) -> list[Recorded]:
        """Return the messages that the service published to ``topic`` so far, in order.

        They include dead letters, but not the messages of ``deliver``.
        """
        return list(self._broker.published[topic])

    async def deliver(
        self,
        topic: str,
        value: object,
        *,
        key: str | None = None,
        attributes: Mapping[str, str] | None = None,
        timeout: DurationLike = 10.0,
    ) -> str:
        """Publish a message as another service would, and return its outcome.

        ``topic`` is the topic at the broker: the channel's name, unless settings give it another
        one. ``value`` is anything that can be published.

        Returns when every subscription to ``topic`` has settled the message for the first time:
        ``"ack"``, ``"dead_letter"``, or ``"nack"`` (it failed, and is delivered again). If the
        outcomes differ, one that is not ``"ack"`` is returned. Raises UsageError if the service
        does not subscribe to ``topic``, and TimeoutError if the message is not settled within
        ``timeout``: the handler hangs, or it always fails in an ordered subscription
        without dead letters.
        """
        seconds = seconds_from("deliver(timeout=)", timeout)
        consumers = self._broker.consumers.get(topic)
        if not consumers:
            known = ", ".join(sorted(self._broker.consumers)) or "none at all"
            name = type(self.service).__name__
            raise UsageError(f"{name} does not subscribe to topic {topic!r}, but to: {known}")
        message = incoming(value, topic=topic, key=key, attributes=attributes)
        mark = self._broker.mark_of(message)
        delivery = self._broker.deliveries[mark] = _Delivery(consumers)
        try:
            async with asyncio.timeout(seconds):
                await self._broker.inject(message, mark)
                return await delivery.outcome
        except TimeoutError:
            raise TimeoutError(
                f"the message to {topic!r} was not settled within {seconds:g} s: its handler hangs,"
                " or always fails and has no dead-letter channel (the log has its errors)"
            ) from None
        finally:
            del self._broker.deliveries[mark]

    async def idle(self) -> None:
        """Wait until every message is settled, including those that wait for a redelivery.

        It also waits for each run of ``@every`` that is in progress.
        """
        jobs = self.server.application.jobs
        await self._messages_idle()
        while await jobs.idle():
            await self._messages_idle()  # a run may publish

    async def _messages_idle(self) -> None:
        """Wait for the messages, on a real broker and in this process."""
        await self.server.channels.idle()
        if self._broker.real is not None:
            await self._broker.real.idle()


class _Delivery:
    """A message of ``deliver``, until each subscription has settled it."""

    def __init__(self, subscriptions: Iterable[str]) -> None:
        self._missing = set(subscriptions)
        self._worst = "ack"
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def settle(self, subscription: str, outcome: str) -> None:
        """Record the first outcome of a subscription."""
        if subscription not in self._missing:
            return
        self._missing.remove(subscription)
        if outcome != "ack":
            self._worst = outcome
        if not self._missing and not self.outcome.done():
            self.outcome.set_result(self._worst)


class _Broker:
    """The brokers of one daemon, in memory or a real one, and records of its messages."""

    def __init__(self, clock: Clock | None, faults: Faults | None, real: RealBroker | None) -> None:
        self.published: defaultdict[str, list[Recorded]] = defaultdict(list)
        self.deliveries: dict[str, _Delivery] = {}
        """The messages of ``deliver``, by ``mark_of``."""
        self.consumers: defaultdict[str, dict[str, MemoryDriver | OwnDriver]] = defaultdict(dict)
        """For each topic, by subscription, the driver that consumes it."""
        self.shortens_waits = clock is None and real is None
        """Whether the waits of brokers are shortened."""
        self.real = real
        self._clock = clock
        self._faults = faults

    def open(self, url: str) -> Driver:
        """Open a recording broker: the real one, else one in memory for any URL."""
        if self.real is not None:
            return _RecordingDriver(self.real.open(url), self._faults, self)
        if urlsplit(url).scheme == "kafka":
            KafkaSettings.from_url(url)  # raises what the real driver would
        # The engine extends leases by the time of the event loop. If the test moved the clock of
        # the broker, leases would end before they are extended, so they do not end at all.
        memory = MemoryDriver(clock=self._clock, lease=None) if self._clock else MemoryDriver()
        return _RecordingDriver(memory, self._faults, self)

    def mark_of(self, message: Message) -> str:
        """Return what the outcomes of ``message`` are found by."""
        return message.id if self.real is None else uuid4().hex

    async def inject(self, message: Message, mark: str) -> None:
        """Publish ``message`` to each broker that consumes its topic, without recording it."""
        twice = self._faults is not None and self._faults.is_duplicated(message)
        for driver in set(self.consumers[message.topic].values()):
            sender = driver.sender(message.topic)
            if isinstance(sender, OwnSender):
                await _send_and_close(sender, message, mark, times=1 + twice)
            else:
                await sender.send([message, message] if twice else [message])

    def on_settle(self, message: Message, outcome: str, error: BaseException | None) -> None:
        """Pass the outcome of a message to the ``deliver`` that waits for it."""
        mark = message.id if self.real is None else self.real.settled(message, outcome)
        delivery = self.deliveries.get(mark)
        if delivery is not None and outcome != "lost":
            delivery.settle(message.subscription, outcome)


async def _send_and_close(sender: OwnSender, message: Message, mark: str, *, times: int) -> None:
    """Send one message to a real broker. Raises the error of the broker."""
    try:
        await sender.connect()
        for _ in range(times):
            (error,) = await sender.send_marked({mark: message})
            if error is not None:
                raise error
    finally:
        await sender.aclose()


class _RecordingDriver:
    """A driver whose senders record confirmed messages."""

    def __init__(
        self, driver: MemoryDriver | OwnDriver, faults: Faults | None, broker: _Broker
    ) -> None:
        self._driver = driver
        self._inner: Driver = driver if faults is None else FaultyDriver(driver, faults)
        self._broker = broker

    @property
    def capabilities(self) -> Capabilities:
        if self._broker.real is not None:
            return self._inner.capabilities
        return replace(self._inner.capabilities, delivery_timeout=_DELIVERY_SECONDS)

    def sender(self, topic: str) -> Sender:
        return _RecordingSender(
            self._inner.sender(topic),
            self._broker.published[topic],
            at_once=self._broker.shortens_waits,
        )

    def receiver(
        self, topic: str, subscription: str, *, ordered: bool, derived: bool = False
    ) -> Receiver:
        self._broker.consumers[topic][subscription] = self._driver
        receiver = new_receiver(self._inner, topic, subscription, ordered=ordered, derived=derived)
        return _NoDelayReceiver(receiver) if self._broker.shortens_waits else receiver

    async def aclose(self) -> None:
        await self._inner.aclose()


class _RecordingSender:
    """A sender that records messages, and delivers delayed ones ``at_once`` if asked."""

    def __init__(self, inner: Sender, recorded: list[Recorded], *, at_once: bool) -> None:
        self._inner = inner
        self._at_once = at_once
        self._recorded = recorded
        if hasattr(inner, "limits"):
            self.limits = inner.limits
        self.connect = inner.connect
        self.aclose = inner.aclose

    async def send(self, batch: Sequence[Message]) -> Results:
        recorded = [Recorded.of(message) for message in batch]
        for message in batch if self._at_once else ():
            message.deliver_at = None
        results = await self._inner.send(batch)
        for record, error in zip(recorded, results, strict=True):
            if error is None:
                self._recorded.append(record)
        return results


class _NoDelayReceiver:
    """A receiver that shortens the delay of a nack."""

    def __init__(self, inner: Receiver) -> None:
        self._inner = inner
        self.connect = inner.connect
        self.receive = inner.receive
        self.ack = inner.ack
        self.extend = inner.extend
        self.status = inner.status
        self.aclose = inner.aclose

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        return await self._inner.nack(batch, min(delay, LONGEST_WAIT))
