"""Run the real daemon in the test's own process, and look at it from both doors."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Generic, TypeVar

from aiohttp import ClientSession

from gizmopy.config import Settings
from gizmopy.errors import UsageError
from gizmopy.observe.context import new_id
from gizmopy.pubsub import Capabilities, Driver, Message, Receiver, Sender, open_driver
from gizmopy.pubsub.codecs import encode
from gizmopy.pubsub.driver import Results
from gizmopy.pubsub.message import CONTENT_TYPE
from gizmopy.server import Service, SimpleServer, make_service
from pubsubtest.publisher import Recorded

S = TypeVar("S", bound=Service)

_LONGEST_WAIT = 0.001
"""Seconds that a retry or a redelivery waits: a test does not want to wait for backoff."""


@asynccontextmanager
async def serve(
    service: type[S] | S, *, settings: Settings | None = None
) -> AsyncIterator[Served[S]]:
    """Serve ``service`` on a free port of loopback, on a broker in memory, while the context lasts.

    It is the daemon that ``run()`` runs, started and drained as there, but it reads no environment
    and no ``.env``, sets up no logging, and writes no access log unless ``settings`` say so. A
    class is made with ``settings`` (default: those it annotates, with their defaults). Waits
    between retries and redeliveries are cut short, and the drain to a second unless ``settings``
    say otherwise: a message that never succeeds would hold it to the end.
    """
    if isinstance(service, type):
        service = make_service(service, settings or service.settings_class()())
    service.settings = _hermetic(service.settings)
    broker = _Broker()
    server = SimpleServer(
        service,
        open_driver=broker.open,
        on_settle=broker.on_settle,
        sleep=lambda seconds: asyncio.sleep(min(seconds, _LONGEST_WAIT)),
    )
    http: ClientSession | None = None
    try:
        async with server:
            http = ClientSession(server.url)
            yield Served(service, server, http, broker)
    finally:
        if http is not None:  # after the drain, which a test may want to look at
            await http.close()


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

        Returns when every subscription to ``topic`` has settled its first delivery: ``"ack"``,
        ``"dead_letter"``, or ``"nack"`` (it failed, and comes again); where several differ, the
        one that is no ``"ack"``. Raises UsageError where nothing subscribes to ``topic``, and
        TimeoutError where it is not settled within ``timeout`` seconds: a handler that hangs, or
        one that always fails in an ordered subscription without dead letters, which is held up.
        """
        driver, subscribers = self._broker.consumers(topic)
        if driver is None:
            raise UsageError(f"{type(self.service).__name__} subscribes to no topic {topic!r}")
        body, content_type = encode(value)
        headers = {CONTENT_TYPE: content_type} if content_type else {}
        message = Message(
            topic, body, key=key, attributes={**headers, **(attributes or {})}, id=new_id()
        )
        delivery = self._broker.deliveries[message.id] = _Delivery(subscribers)
        try:
            async with asyncio.timeout(timeout):
                await driver.sender(topic).send([message])
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

    def __init__(self, subscribers: int) -> None:
        self._missing = subscribers
        self._worst = "ack"
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def settle(self, outcome: str) -> None:
        """Note what one subscription did."""
        self._missing -= 1
        if outcome != "ack":
            self._worst = outcome
        if not self._missing and not self.outcome.done():
            self.outcome.set_result(self._worst)


class _Broker:
    """The brokers in memory of one daemon, looked at from outside."""

    def __init__(self) -> None:
        self.published: defaultdict[str, list[Recorded]] = defaultdict(list)
        self.deliveries: dict[str, _Delivery] = {}
        self._consumers: defaultdict[str, list[Driver]] = defaultdict(list)

    def open(self, url: str) -> Driver:
        """Open a driver that is looked at."""
        return _LookedAtDriver(open_driver(url), self)

    def consumers(self, topic: str) -> tuple[Driver | None, int]:
        """Return the driver that ``topic`` is consumed from, and by how many subscriptions."""
        drivers = self._consumers[topic]
        return (drivers[0] if drivers else None), len(drivers)

    def add_consumer(self, topic: str, driver: Driver) -> None:
        """Note a subscription to ``topic``."""
        self._consumers[topic].append(driver)

    def on_settle(self, message: Message, outcome: str, error: BaseException | None) -> None:
        """Pass on how a first delivery ended to whoever waits for it."""
        delivery = self.deliveries.get(message.id)
        if delivery is not None and message.delivery == 1:
            delivery.settle(outcome)


class _LookedAtDriver:
    """A driver whose senders record what the broker confirmed."""

    def __init__(self, inner: Driver, broker: _Broker) -> None:
        self._inner = inner
        self._broker = broker

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    def sender(self, topic: str) -> Sender:
        return _RecordingSender(self._inner.sender(topic), self._broker.published[topic])

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        self._broker.add_consumer(topic, self._inner)
        return _HastyReceiver(self._inner.receiver(topic, subscription, ordered=ordered))

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
        return await self._inner.nack(batch, min(delay, _LONGEST_WAIT))
