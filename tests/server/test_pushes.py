"""A broker pushes messages to the daemon's own port, by routes that its driver offers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession

from gizmopy import Message, Retry, Service, post, subscribe
from gizmopy.config import Settings
from gizmopy.errors import StartError
from gizmopy.pubsub import Driver
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.server import SimpleServer
from tests.pubsub.push_broker import PushBroker, PushReceiver
from tests.pubsub.support import until


class Cats(Service):
    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.seen: list[tuple[bytes | None, str]] = []
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    @subscribe("cats", max_in_flight=1)
    async def on_cat(self, message: Message) -> None:
        self.started.set()
        await self.go_on.wait()
        self.seen.append((message.body, message.attributes.get("colour", "")))
        if message.body == b"bad":
            raise Retry(after=0)

    @post("/own")
    async def own(self) -> None: ...


def settings(**changes: Any) -> Settings:
    """Return the settings of a daemon whose channels are pushed."""
    defaults: dict[str, Any] = {
        "http_addr": "127.0.0.1",
        "http_port": 0,
        "http_access_log": "off",
        "drain_delay": 0,
        "pubsub_url": "push://",
    }
    return Settings(**(defaults | changes))


@asynccontextmanager
async def served(
    broker: PushBroker, **changes: Any
) -> AsyncIterator[tuple[SimpleServer, Cats, ClientSession]]:
    """Serve cats that ``broker`` pushes."""
    service = Cats(settings(**changes))
    server = SimpleServer(service, open_driver=opens(broker), sleep=lambda _: asyncio.sleep(0))
    async with server, ClientSession(server.url) as http:
        yield server, service, http


def opens(broker: PushBroker) -> Callable[[str], Driver]:
    """Return a function that opens ``broker``, and brokers in memory."""
    return lambda url: broker if url.startswith("push") else MemoryDriver()


async def test_a_push_is_answered_when_its_message_is_settled() -> None:
    """The route has the headers and the body, and its answer is that of the driver."""
    async with served(PushBroker()) as (server, service, http):
        async with http.post("/push/cats", data=b"Tom", headers={"Colour": "grey"}) as response:
            assert response.status == 204
            assert response.headers["X-Settled"] == "ack"
        assert service.seen == [(b"Tom", "grey")]
        service.started.clear()
        service.go_on.clear()
        pending = asyncio.create_task(http.post("/push/cats", data=b"Kit"))
        await service.started.wait()
        assert not pending.done()
        service.go_on.set()
        assert (await pending).status == 204
        text = server.metrics.render().decode()
        assert 'http_route="/push/cats"' in text


async def test_a_push_has_the_limits_of_an_endpoint_but_no_check_of_its_origin() -> None:
    """A body that is too large is 413; another method 405; a page of another origin may push."""
    async with served(PushBroker(), max_body_bytes=10) as (_, service, http):
        assert (await http.post("/push/cats", data=b"x" * 11)).status == 413
        assert (await http.get("/push/cats")).status == 405
        other = {"Origin": "https://other.example"}
        assert (await http.post("/own", headers=other)).status == 403
        assert (await http.post("/push/cats", data=b"x", headers=other)).status == 204
        assert len(service.seen) == 1


async def test_a_drain_answers_each_push_once() -> None:
    """A handler that runs is waited for; pushes that wait, and later ones, are answered 503."""
    broker = PushBroker()
    async with served(broker, shutdown_timeout=5) as (server, service, http):
        service.go_on.clear()
        handled = asyncio.create_task(http.post("/push/cats", data=b"Tom"))
        await service.started.wait()
        waiting = [asyncio.create_task(http.post("/push/cats", data=b"Kit")) for _ in range(2)]
        (receiver,) = broker.receivers
        await until(lambda: len(receiver._answers) == 3)
        server.channels.stop_receiving()
        for each in waiting:
            response = await each
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert (await http.post("/push/cats", data=b"late")).status == 503
        assert not handled.done()
        service.go_on.set()
        assert (await handled).status == 204
    assert [body for body, _ in service.seen] == [b"Tom"]
    assert receiver.closed


async def test_the_routes_stay_when_a_subscriber_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests go to the receiver of the new one."""
    broker = PushBroker()
    async with served(broker) as (_, service, http):
        (first,) = broker.receivers

        async def fail(limit: int, wait: float) -> list[Message]:
            raise ValueError("a bug")

        monkeypatch.setattr(first, "receive", fail)
        first._changed.set()
        await until(lambda: len(broker.receivers) == 2 and broker.receivers[1]._accepts)
        assert (await http.post("/push/cats", data=b"Tom")).status == 204
        assert first.closed
        assert service.seen == [(b"Tom", "")]


class Conflict(Service):
    @subscribe("cats")
    async def on_cat(self, message: Message) -> None: ...

    @post("/push/cats")
    async def own(self) -> None: ...


async def test_a_path_that_an_endpoint_has_is_refused_at_the_start() -> None:
    """The error names the handler and the path, and the receiver is closed."""
    broker = PushBroker()
    server = SimpleServer(Conflict(settings()), open_driver=opens(broker))
    with pytest.raises(StartError, match=r"Conflict.on_cat cannot receive POST /push/cats"):
        async with server:
            pass
    assert broker.receivers[0].closed
    assert broker.closed


async def test_a_path_is_no_template() -> None:
    """A URL with braces would match more than one path."""
    broker = PushBroker()
    changes = {"pubsub_url": "push:///{any}"}
    server = SimpleServer(Cats(settings(**changes)), open_driver=opens(broker))
    with pytest.raises(StartError, match="it is a template"):
        async with server:
            pass


def test_the_receiver_is_as_the_contract_says() -> None:
    """A double that lacks a member would prove nothing."""
    assert {"routes", "refuse_pushes", "receive", "ack", "nack"} <= set(dir(PushReceiver))
