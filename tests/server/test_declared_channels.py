"""``publishes`` of a service: declared, served, listed and refused."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

import pubsubtest
from gizmopy import Service, put
from gizmopy.errors import DeclarationError, PubSubError, StartError, UsageError
from gizmopy.server.service import declared_channels
from pubsubtest.faults import Faults
from tests.pubsub.publisher.support import Opaque


class Cat(BaseModel):
    name: str


class Animals(Service):
    publishes: ClassVar[Any] = ("animals",)


class Cats(Animals):
    publishes: ClassVar[Any] = {"cats": Cat, "audit": None}

    @put("/cats")
    async def put_cat(self) -> None:
        await self.publish("cats", Cat(name="Tom"))

    @put("/dogs")
    async def put_dog(self) -> None:
        await self.publish("dogs", "Rex")


def test_bases_add_their_channels() -> None:
    """A tuple of names is short for channels of any type."""
    assert declared_channels(Cats()) == {"animals": None, "cats": Cat, "audit": None}


@pytest.mark.parametrize("wrong", ["cats", 1, {"": None}, {1: None}, {"cats": Opaque}])
def test_a_wrong_declaration_names_the_service(wrong: Any) -> None:
    """A text is not a list of names."""

    class Wrong(Service):
        publishes: ClassVar[Any] = wrong

    with pytest.raises(DeclarationError, match="Wrong: publishes"):
        declared_channels(Wrong())


async def test_a_declared_channel_is_published_to_and_an_other_is_refused_in_a_test() -> None:
    """``pubsubtest.serve`` refuses what a daemon only warns of."""
    async with pubsubtest.serve(Cats) as served:
        async with served.http.put("/cats") as response:
            assert response.status == 204
        assert served.published("cats")[0].value(Cat) == Cat(name="Tom")
        with pytest.raises(UsageError, match="publishes to 'dogs'"):
            await served.service.publish("dogs", "Rex")


async def test_a_daemon_is_not_ready_before_its_declared_channels_were_connected() -> None:
    """A start during an outage waits, and clients get 503 with Retry-After meanwhile."""
    faults = Faults()
    async with faults.outage():
        async with pubsubtest.serve(Cats, faults=faults) as served:
            async with served.http.get("/readyz?verbose") as response:
                assert response.status == 503
                assert "[-]brokers failed" in await response.text()
            async with served.http.put("/cats", headers={"X-Request-Timeout": "0.5"}) as response:
                assert response.status == 503
                assert response.headers["Retry-After"] == "5"


async def test_a_declared_channel_without_a_topic_ends_the_start() -> None:
    """The error comes before the first request."""
    faults = Faults()
    faults.fail_next("connect", PubSubError("no grant", transient=False))
    with pytest.raises(StartError, match="no grant"):
        async with pubsubtest.serve(Cats, faults=faults):
            pass
