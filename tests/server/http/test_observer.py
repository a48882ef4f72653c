"""Observers of requests: each sees every request, and only the methods in use are called."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gizmopy.config import Settings
from gizmopy.observe.context import request_id
from gizmopy.observe.metrics import Metrics
from gizmopy.server.http.connection.served_request import ServedRequest
from gizmopy.server.http.endpoint import Endpoint
from gizmopy.server.http.handler import RequestHandler
from gizmopy.server.http.listening.listener import Port
from gizmopy.server.http.listening.shedding import Shedding
from gizmopy.server.http.observer import Observers, RequestObserver
from gizmopy.web.responses import RawResponse
from gizmopy.web.router import Router
from tests.server.support import request, talk


class Recording(RequestObserver):
    """Record all events."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.ended = asyncio.Event()

    def request_begun(self, request: ServedRequest) -> None:
        self.events.append(("begun", request.request_id, request_id.get()))

    def request_failed(self, request: ServedRequest, error: BaseException) -> None:
        self.events.append(("failed", request.request_id, type(error)))

    def request_ended(self, request: ServedRequest) -> None:
        sizes = (request.received_bytes, request.sent_bytes)
        route = request.endpoint.template
        assert 0 <= request.duration < 10
        self.events.append(("ended", request.request_id, route, request.status, sizes))
        self.ended.set()


class OnlyEnds(RequestObserver):
    """Count the requests that ended."""

    def __init__(self) -> None:
        self.count = 0

    def request_ended(self, request: ServedRequest) -> None:
        self.count += 1


async def _echo(request: Any) -> RawResponse:
    return RawResponse(await request.read() * 2, 200, "text/plain")


async def _fail(request: Any) -> RawResponse:
    raise LookupError("a mistake")


async def test_an_observer_sees_the_life_of_each_request(caplog: pytest.LogCaptureFixture) -> None:
    """Its id is set when it begins; its route, status and sizes are known when it ends."""
    recording, ends = Recording(), OnlyEnds()
    router = Router[Endpoint]()
    router.add("PUT", "/echo/{name}", Endpoint("/echo/{name}", _echo, builtin=True))
    router.add("GET", "/fail", Endpoint("/fail", _fail, builtin=True))
    handler = RequestHandler(router, (recording, ends))
    port = Port(handler, "127.0.0.1", 0, Settings(), Shedding(Metrics()))
    await port.listen(None)
    try:
        async with talk(port.url) as client:
            client.ask("PUT", "/echo/x", b"123", "X-Request-ID: a")
            assert (await client.answer()).body == b"123123"
            client.ask("GET", "/fail", b"", "X-Request-ID: b")
            failed = await client.answer()
            assert failed.status == 500
            client.send(request("GET", "/nowhere", b"", "X-Request-ID: c") + b"GET\r\n\r\n")
            missing = await client.answer()
            assert missing.status == 404
            await client.rest()
    finally:
        await port.close()
    problem, lost = (len(answer.body) for answer in (failed, missing))
    assert recording.events[:7] == [
        ("begun", "a", "a"),
        ("ended", "a", "/echo/{name}", 200, (3, 6)),
        ("begun", "b", "b"),
        ("failed", "b", LookupError),
        ("ended", "b", "/fail", 500, (0, problem)),
        ("begun", "c", "c"),
        ("ended", "c", "__404__", 404, (0, lost)),
    ]
    begun, ended = recording.events[7:]
    assert begun[0] == "begun"
    assert ended[2:4] == ("__404__", 400)
    assert ends.count == 4


def test_a_method_that_no_observer_overrides_is_absent() -> None:
    """The handler does not call it; a single method is called directly."""
    ends = OnlyEnds()
    observers = Observers((ends, RequestObserver()))
    assert observers.begun is None
    assert observers.failed is None
    assert observers.ended == ends.request_ended
