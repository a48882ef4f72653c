"""What ``lifespan`` publishes on memory:// is handled, or counted if nobody consumes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import pubsubtest
from gizmopy import Service, subscribe


class Early(Service):
    def __init__(self, settings: object = None) -> None:
        super().__init__()
        self.handled: list[str] = []
        self.is_open = False

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await self.publish("cats", "Tom")
        await self.publish("nobody", "x")
        await self.publish("nobody", "y")
        self.is_open = True
        yield

    @subscribe("cats")
    async def on_cat(self, name: str) -> None:
        assert self.is_open
        self.handled.append(name)


async def test_a_message_of_lifespan_is_handled_once_the_service_works() -> None:
    """The subscription exists before lifespan, and no handler runs before lifespan has yielded."""
    async with pubsubtest.serve(Early) as served:
        await served.idle()
        assert served.service.handled == ["Tom"]


async def test_messages_that_nobody_consumes_are_counted_and_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are dropped, but not in silence."""
    async with pubsubtest.serve(Early) as served:
        counter = served.server.metrics.counter("gizmo_pubsub_unconsumed", "", ("topic",))
        assert [(names, child.value) for names, child in counter.children()] == [(("nobody",), 2)]
    assert caplog.text.count("messages to memory:///nobody are dropped") == 1


async def test_a_lifespan_that_fails_leaves_no_subscription_open() -> None:
    """The error of lifespan is raised, and the connected subscriptions are closed."""

    class Broken(Early):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            raise ValueError("no database")
            yield

    with pytest.raises(ValueError, match="no database"):
        async with pubsubtest.serve(Broken):
            pass
