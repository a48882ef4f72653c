"""Run the real daemon in the test's own process, and look at it from both doors."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Generic, TypeVar

from aiohttp import ClientSession

from gizmopy.config import Settings
from gizmopy.errors import UsageError
from gizmopy.pubsub import Capabilities, Driver, Message, Receiver, Sender
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.driver import Results
from gizmopy.server import Service, SimpleServer, make_service
from gizmopy.server.service import settings_class
from pubsubtest.clock import Clock
from pubsubtest.faults import Faults, FaultyDriver
from pubsubtest.publisher import Recorded
from pubsubtest.subscriber import LONGEST_WAIT, incoming

S = TypeVar("S", bound=Service)


@asynccontextmanager
async def serve(
    service: type[S] | S,
    *,
    settings: Settings | None = None,
    clock: Clock | None = None,
    faults: Faults | None = None,
) -> AsyncIterator[Served[S]]:
    """Serve ``service`` on a free port of loopback, on a broker in memory, while the context lasts.

    It is the daemon that ``run()`` runs, started and drained as there, but it reads no environment
    and no ``.env``, sets up no logging, and writes no access log unless ``settings`` say so. A
    class is made with ``settings`` (default: those it annotates, with their defaults). Whatever
    URLs ``settings`` give to channels, each leads to a broker in memory of its own.

    Waits between retries and redeliveries are cut short, unless there is a ``clock``: then they are
    over when the test has moved it that far, and no lease ends meanwhile. ``faults`` go wrong
    between the daemon and its brokers. The drain is cut to a second unless ``settings`` say
    otherwise: a message that never succeeds, or waits for the clock, would hold it to the end.
    """
    if isinstance(service, type):
        service = make_service(service, settings or settings_class(service)())
    service.settings = _hermetic(service.settings)
    broker = _Broker(clock, faults)
    server = SimpleServer(
        service,
        open_driver=broker.open,
        on_settle=broker.on_settle,
        sleep=clock.sleep if clock else _nap,
    )
    http: ClientSession | None = None
    try:
        async with server:
            http = ClientSession(server.url)
            yield Served(service, server, http, broker)
    finally:
        if http is not None:  # after the drain, which a test may want to look at
            await http.close()


async def _nap(seconds: float) -> None:
    await asyncio.sleep(min(seconds, LONGEST_WAIT))


def _hermetic(settings: Settings) -> Settings:
    """Return ``settings`` so that a test neither meets another nor the machine it runs on."""
    changes: dict[str, Any] = {
        "http_access_log": "off",
        "drain_delay": timedelta(0),
        "shutdown_timeout": timedelta(seconds=1),
    }
    changes = {name: changes[name] for name in changes.keys() - settings.model_fields_set}
    changes |= {"http_addr": "127.0.0.1", "http_port": 0, "pubsub_url": "memory://"}
    return settings.model_copy(update=changes)


class Served(Generic[S]):
    """A service that is being served, and what a test wants of it."""

    def __init__(
        self, service: S, server: SimpleServer, http: ClientSession, broker: _Broker
    ) -> None:
        self.service = service
        self.server = server
        self.http = http
        """A client whose URLs begin at the daemon's root: ``http.get("/livez")``."""
        self._broker = broker

    @property
    def url(self) -> str:
        """Where the daemon listens, such as ``http://127.0.0.1:54321``."""
        return self.server.url

    def published(self, topic: str) -> list[Recorded]:
        """Return what the service published to ``topic`` so far, in order.

        Dead letters are among it; what ``deliver`` brought in is not.
        """
        return list(self._broker.published[topic])

    async def deliver(
        self,
        topic: str,
        value: object,
        *,
        key: str | None = None,
        attributes: Mapping[str, str] | None = None,
        timeout: float = 10.0,
    ) -> str:
        """Bring in a message as if somebody else had published it, and return its outcome.

        ``topic`` is what the broker calls it: the channel's name, unless settings point that
        elsewhere. ``value`` is anything that can be published.

        Returns when every subscription to ``topic`` has settled it for the first time: ``"ack"``,
        ``"dead_letter"``, or ``"nack"`` (it failed, and comes again); where several differ, the
        one that is no ``"ack"``. Raises UsageError where nothing subscribes to ``topic``, and
        TimeoutError where it is not settled within ``timeout`` seconds: a handler that hangs, or
        one that always fails in an ordered subscription without dead letters, which is held up.
        """
        consumers = self._broker.consumers.get(topic)
        if not consumers:
            known = ", ".join(sorted(self._broker.consumers)) or "none at all"
            name = type(self.service).__name__
            raise UsageError(f"{name} subscribes to no topic {topic!r}; it does to: {known}")
        message = incoming(value, topic=topic, key=key, attributes=attributes)
        delivery = self._broker.deliveries[message.id] = _Delivery(consumers)
        try:
            async with asyncio.timeout(timeout):
                await self._broker.bring_in(message)
                return await delivery.outcome
        except TimeoutError:
            raise TimeoutError(
                f"the message to {topic!r} was not settled within {timeout:g} s: its handler hangs,"
                " or fails each time without a dead letter to go to (the log has its errors)"
            ) from None
        finally:
            del self._broker.deliveries[message.id]

    async def idle(self) -> None:
        """Wait until every message is settled, those that wait for their redelivery included."""
        await self.server.channels.idle()


class _Delivery:
    """A message that ``deliver`` brought in, until each of its subscriptions has settled it."""

    def __init__(self, subscriptions: Iterable[str]) -> None:
        self._missing = set(subscriptions)
        self._worst = "ack"
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def settle(self, subscription: str, outcome: str) -> None:
        """Note what a subscription did, if it is the first time."""
        if subscription not in self._missing:
            return
        self._missing.remove(subscription)
        if outcome != "ack":
            self._worst = outcome
        if not self._missing and not self.outcome.done():
            self.outcome.set_result(self._worst)


class _Broker:
    """The brokers in memory of one daemon, looked at from outside."""

    def __init__(self, clock: Clock | None, faults: Faults | None) -> None:
        self.published: defaultdict[str, list[Recorded]] = defaultdict(list)
        self.deliveries: dict[str, _Delivery] = {}
        self.consumers: defaultdict[str, dict[str, MemoryDriver]] = defaultdict(dict)
        """For each topic, by subscription, where it is consumed from."""
        self.is_hasty = clock is None
        """Waits are cut short."""
        self._clock = clock
        self._faults = faults

    def open(self, url: str) -> Driver:
        """Open a broker that is looked at, whatever the URL."""
        # The engine keeps leases, but not by this clock: where there is one, they do not end.
        memory = MemoryDriver(clock=self._clock, lease=None) if self._clock else MemoryDriver()
        return _LookedAtDriver(memory, self._faults, self)

    async def bring_in(self, message: Message) -> None:
        """Publish ``message`` wherever its topic is consumed, behind the back of the daemon."""
        twice = self._faults is not None and self._faults.is_duplicated(message)
        batch = [message, message] if twice else [message]
        for driver in set(self.consumers[message.topic].values()):
            await driver.sender(message.topic).send(batch)

    def on_settle(self, message: Message, outcome: str, error: BaseException | None) -> None:
        """Pass on how a delivery ended to whoever waits for it."""
        delivery = self.deliveries.get(message.id)
        if delivery is not None and outcome != "lost":
            delivery.settle(message.subscription, outcome)


class _LookedAtDriver:
    """A driver whose senders record what the broker confirmed."""

    def __init__(self, memory: MemoryDriver, faults: Faults | None, broker: _Broker) -> None:
        self._memory = memory
        self._inner: Driver = memory if faults is None else FaultyDriver(memory, faults)
        self._broker = broker

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    def sender(self, topic: str) -> Sender:
        return _RecordingSender(self._inner.sender(topic), self._broker.published[topic])

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        self._broker.consumers[topic][subscription] = self._memory
        receiver = self._inner.receiver(topic, subscription, ordered=ordered)
        return _HastyReceiver(receiver) if self._broker.is_hasty else receiver

    async def aclose(self) -> None:
        await self._inner.aclose()


class _RecordingSender:
    def __init__(self, inner: Sender, recorded: list[Recorded]) -> None:
        self._inner = inner
        self._recorded = recorded
        self.connect = inner.connect
        self.aclose = inner.aclose

    async def send(self, batch: Sequence[Message]) -> Results:
        results = await self._inner.send(batch)
        for message, error in zip(batch, results, strict=True):
            if error is None:
                self._recorded.append(Recorded.of(message))
        return results


class _HastyReceiver:
    """A receiver whose redeliveries do not wait."""

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
