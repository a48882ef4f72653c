"""What is consumed is part of the daemon's health, without taking its endpoints down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession

from gizmopy.config import Settings
from gizmopy.errors import PubSubError, StartError, TopicNotFound
from gizmopy.pubsub import Message, subscribe
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.server import Service, SimpleServer
from gizmopy.server.health.checks import Health
from gizmopy.server.health.messaging import subscription_checks
from gizmopy.web import get
from tests.pubsub.support import FakeReceiver, capabilities, message
from tests.server.health.asking_health import problems

AWAY = PubSubError("no route to host", transient=True)


class Broker:
    """A driver outside the process, whose receivers do as a test says."""

    capabilities = capabilities()

    def __init__(self) -> None:
        self.receiver_ = FakeReceiver()
        self.sender = MemoryDriver().sender

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Any:
        return self.receiver_

    async def aclose(self) -> None:
        """Leave all as it is."""


class WithEndpoints(Service):
    @get("/hello")
    async def hello(self) -> str:
        return "hello"

    @subscribe("cats")
    async def on_cat(self, message: Message) -> None:
        """Handle it."""


class Critical(WithEndpoints):
    @subscribe("cats", critical=True)
    async def on_cat(self, message: Message) -> None:
        """Handle it."""


class WithoutEndpoints(Service):
    @subscribe("cats")
    async def on_cat(self, message: Message) -> None:
        """Handle it."""


class Stuck(WithEndpoints):
    @subscribe("cats", order="key")
    async def on_cat(self, message: Message) -> None:
        raise ValueError("never")


class Daemon:
    """A server that is running, its broker, and what it says of its health."""

    def __init__(self, server: SimpleServer, broker: Broker, http: ClientSession) -> None:
        self.server = server
        self.broker = broker
        self._http = http
        self.retry = asyncio.Event()

    async def status(self) -> int:
        async with self._http.get("/readyz") as response:
            return response.status

    async def verbose(self) -> str:
        async with self._http.get("/readyz", params={"verbose": ""}) as response:
            return await response.text()

    async def until(self, condition: Callable[[str], bool]) -> str:
        """Wait until the verbose report is as expected, and return it."""
        async with asyncio.timeout(10):
            while not condition(text := await self.verbose()):
                pass
        return text


@asynccontextmanager
async def daemon(service: type[Service], *, away: bool = False) -> AsyncIterator[Daemon]:
    """Serve ``service`` on a broker that is away at first, or not."""
    broker = Broker()
    if away:
        broker.receiver_.connects = [AWAY]
    retry = asyncio.Event()

    async def sleep(_: float) -> None:
        await retry.wait()

    settings = Settings(http_port=0, http_access_log="off")
    server = SimpleServer(service(settings), open_driver=lambda _: broker, sleep=sleep)
    if away:
        broker.receiver_.connects.append(AWAY)
    async with server, ClientSession(server.url) as http:
        running = Daemon(server, broker, http)
        running.retry = retry
        yield running
        retry.set()


async def test_a_daemon_is_unready_until_its_broker_was_reached_once() -> None:
    """A broker that is away does not end the start; it is tried again, and the daemon waits."""
    async with daemon(WithEndpoints, away=True) as running:
        assert await running.status() == 503
        assert "brokers failed" in await running.verbose()
        running.retry.set()
        await running.until(lambda text: "brokers failed" not in text)
        assert await running.status() == 200


@pytest.mark.parametrize(
    ("service", "status"), [(WithEndpoints, 200), (Critical, 503), (WithoutEndpoints, 503)]
)
async def test_a_brokers_outage_takes_down_only_whom_it_must(
    service: type[Service], status: int
) -> None:
    """Endpoints go on being served, unless the subscription is critical or there are none."""
    async with daemon(service) as running:
        assert await running.status() == 200
        running.broker.receiver_.fail_receive(AWAY)
        text = await running.until(lambda text: "failed" in text)
        assert any("cats" in line and "failed" in line for line in text.splitlines())
        assert await running.status() == status
        running.retry.set()
        await running.until(lambda text: "failed" not in text)
        assert await running.status() == 200


async def test_a_lane_that_stands_still_is_told() -> None:
    """It does not turn readiness red: another replica would stand still, too."""
    async with daemon(Stuck) as running:
        running.retry.set()
        running.broker.receiver_.put(message(key="tom"))
        text = await running.until(lambda text: "failed" in text)
        (line,) = [line for line in text.splitlines() if "failed" in line]
        assert "order" in line
        assert await running.status() == 200


async def test_what_is_consumed_is_never_out_of_date() -> None:
    """It costs nothing to ask, so it is not answered from the last run in the background."""
    async with daemon(Critical) as running:
        server = running.server
        checks = subscription_checks(server.channels, server.subscriptions, critical=False)
        async with Health(checks, interval=3600) as health:
            health.accepting = True
            assert await problems(health) == []
            running.broker.receiver_.fail_receive(AWAY)
            await running.until(lambda text: "cats/critical failed" in text)
            assert await problems(health) == ["cats/critical failed"]


async def test_a_queue_that_does_not_exist_ends_the_start() -> None:
    """The error says which channel, and what to do."""
    broker = Broker()
    broker.receiver_.connects = [TopicNotFound("no such queue")]
    settings = Settings(http_port=0, http_access_log="off")
    server = SimpleServer(WithEndpoints(settings), open_driver=lambda _: broker)
    with pytest.raises(StartError, match=r"channel 'cats'.*no such queue.*GIZMO_SUBSCRIPTION_CATS"):
        await server.__aenter__()
