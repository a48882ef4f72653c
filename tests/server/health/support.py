"""Helpers for the tests of health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession

from gizmopy.config import Settings
from gizmopy.errors import PubSubError, Retry
from gizmopy.pubsub import Message, subscribe
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.server import Service, SimpleServer
from gizmopy.server.health.checks import Health
from gizmopy.web import get
from tests.pubsub.support import FakeReceiver, capabilities


async def problems(health: Health) -> list[str]:
    """Return why the daemon is not ready; an empty list if it is."""
    return health.reasons(await health.results())


async def report(health: Health) -> list[tuple[str, str]]:
    """Return the name of each check with ``ok`` or its failure."""
    results = await health.results()
    return [
        (each.name, f"{each.name} {each.failure}" if each.failure else "ok") for each in results
    ]


AWAY = PubSubError("no route to host", transient=True)


class Broker:
    """A driver outside the process, whose receivers a test controls."""

    capabilities = capabilities()

    def __init__(self) -> None:
        self.receiver_ = FakeReceiver()
        self.sender = MemoryDriver().sender

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Any:
        return self.receiver_

    async def aclose(self) -> None:
        """Do nothing."""


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


class Full(WithEndpoints):
    @subscribe("cats", max_waiting=1)
    async def on_cat(self, message: Message) -> None:
        raise Retry(after=60, counted=False)


class Stuck(WithEndpoints):
    @subscribe("cats", order="key")
    async def on_cat(self, message: Message) -> None:
        raise ValueError("never")


class Daemon:
    """A running server, its broker, and a client for its probes."""

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
        """Wait until ``condition`` is true for the verbose report, and return the report."""
        async with asyncio.timeout(10):
            while not condition(text := await self.verbose()):
                pass
        return text


@asynccontextmanager
async def daemon(service: type[Service], *, away: bool = False) -> AsyncIterator[Daemon]:
    """Serve ``service`` on a broker that is unreachable at first, if ``away``."""
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
