"""The cases of JSONTestSuite, as bodies of requests and of messages."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from pydantic import RootModel

import pubsubtest
from gizmopy import Service, post
from gizmopy.errors import UndecodableMessage
from gizmopy.pubsub.codecs import codec_for
from tests.server.support import talk
from tests.web.json_suite import ACCEPTED, EITHER, REFUSED


class Value(RootModel[Any]):
    """Any JSON value."""


class Example(Service):
    @post("/model")
    async def model(self, body: Value) -> str:
        return "accepted"

    @post("/union")
    async def union(self, body: dict[str, Any] | list[Any] | str | float | bool | None) -> str:
        return "accepted"

    @post("/lists")
    async def lists(self, body: dict[str, list[int]] | list[str]) -> str:
        return "accepted"

    @post("/request")
    async def request(self, request: web.Request) -> str:
        await request.json()
        return "accepted"


async def _statuses(path: str, cases: dict[str, bytes]) -> dict[str, int]:
    """Return the status of the response to each case."""
    statuses: dict[str, int] = {}
    async with pubsubtest.serve(Example) as served, talk(served.url) as client:
        for name, body in cases.items():
            client.ask("POST", path, body, "Content-Type: application/json")
            statuses[name] = (await client.answer()).status
    return statuses


@pytest.mark.parametrize("path", ["/model", "/union", "/request"])
async def test_every_json_text_is_accepted(path: str) -> None:
    """Each ``y_`` case is 200, as the body of an endpoint and for ``request.json()``."""
    statuses = await _statuses(path, ACCEPTED)
    assert {name: status for name, status in statuses.items() if status != 200} == {}


@pytest.mark.parametrize("path", ["/model", "/union", "/lists", "/request"])
async def test_every_other_text_is_refused(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each ``n_`` case is 400, on one connection, and nothing is logged as an error."""
    statuses = await _statuses(path, REFUSED)
    assert {name: status for name, status in statuses.items() if status != 400} == {}
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


@pytest.mark.parametrize("path", ["/model", "/union", "/lists", "/request"])
async def test_no_text_is_an_error_of_the_server(path: str) -> None:
    """Each ``i_`` case is 200, 400 or 422."""
    assert set((await _statuses(path, EITHER)).values()) <= {200, 400, 422}


def test_message_bodies_follow_the_same_rules() -> None:
    """A subscriber accepts each ``y_`` case, and no ``n_`` case."""
    codec = codec_for(Value)
    for body in ACCEPTED.values():
        codec.decode(body)
    for name, body in REFUSED.items():
        with pytest.raises(UndecodableMessage):
            raise AssertionError(f"{name}: {codec.decode(body)}")
