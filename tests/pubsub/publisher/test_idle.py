"""A publisher that nobody uses is closed, and connects again when it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels
from gizmopy.pubsub.brokers.memory import MemoryDriver
from tests.pubsub.publisher.support import GatedSender
from tests.pubsub.support import capabilities, no_wait, turns, until


class Elsewhere:
    """A driver whose senders stand for sockets."""

    capabilities = capabilities()

    def __init__(self) -> None:
        self.senders: list[tuple[str, GatedSender]] = []

    def sender(self, topic: str) -> GatedSender:
        self.senders.append((topic, GatedSender()))
        return self.senders[-1][1]

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Any:
        raise AssertionError

    async def aclose(self) -> None:
        pass

    @property
    def open(self) -> list[str]:
        return [topic for topic, sender in self.senders if not sender.closes]


@asynccontextmanager
async def serving(driver: Any, **options: Any) -> AsyncIterator[Channels]:
    """Return channels at ``driver``."""
    given: dict[str, Any] = {"service": "svc", "metrics": Metrics(), "sleep": no_wait} | options
    async with Channels("far://", open_driver=lambda _: driver, **given) as channels:
        yield channels


async def test_idle_publishers_are_closed_and_connect_again() -> None:
    """Sixty topics keep sixty connections only as long as they are used."""
    far = Elsewhere()
    async with serving(far) as channels:
        for number in range(60):
            await channels.publish(f"t{number}", b"x")
        assert len(far.open) == 60
        await channels._publishers.close_idle()
        assert len(far.open) == 60  # used since the last look
        await channels.publish("t7", b"x")
        await channels._publishers.close_idle()
        assert far.open == ["t7"]
        await channels.publish("t3", b"again")
        assert far.open == ["t7", "t3"]
        assert channels.unpublished() == []
        await channels._publishers.close_idle()
        await channels._publishers.close_idle()
        assert far.open == []
        results = await channels.publish_many("t3", [b"1", b"2"])
        assert results == [None, None]


async def test_a_publisher_with_a_message_that_waits_is_not_idle() -> None:
    """The broker may take longer than the time after which a publisher is idle."""
    far = Elsewhere()
    async with serving(far) as channels:
        await channels.publish("cats", b"x")
        sender = far.senders[0][1]
        sender.gate.clear()
        waiting = asyncio.create_task(channels.publish("cats", b"y"))
        await turns()
        for _ in range(3):
            await channels._publishers.close_idle()
        assert far.open == ["cats"]
        sender.gate.set()
        await waiting


async def test_a_call_that_has_the_publisher_already_still_publishes() -> None:
    """A coroutine that was made before the close, and starts during it, is served."""
    far = Elsewhere()
    over = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await over.wait()

    async with serving(far, sleep=sleep) as channels:
        await channels.publish("cats", b"x")
        await channels._publishers.close_idle()
        made = channels.publish("cats", b"y")
        closing = asyncio.create_task(channels._publishers.close_idle())
        await turns()
        await made
        over.set()
        await closing
        assert [message.body for message in far.senders[0][1].sent] == [b"x", b"y"]
        assert far.open == []


async def test_senders_within_the_process_stay() -> None:
    """They hold no socket, and would warn again of messages that nobody consumes."""
    async with serving(MemoryDriver()) as channels:
        await channels.publish("cats", b"x")
        for _ in range(3):
            await channels._publishers.close_idle()
        assert list(channels._publishers.connected) == ["cats"]


async def test_idle_publishers_are_looked_for_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task does that, which ends with the channels."""
    monkeypatch.setattr("gizmopy.pubsub.publishers._IDLE_SECONDS", 0.001)
    far = Elsewhere()
    async with serving(far) as channels:
        await channels.publish("cats", b"x")
        await until(lambda: not far.open)


async def test_a_close_ends_the_closing_of_idle_publishers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A publisher that was about to be closed is closed by the end of the channels."""
    monkeypatch.setattr("gizmopy.pubsub.publishers._IDLE_SECONDS", 0.001)
    far = Elsewhere()

    async def forever(seconds: float) -> None:
        await asyncio.Event().wait()

    async with serving(far, sleep=forever) as channels:
        await channels.publish("cats", b"x")
        await until(lambda: channels._publishers._retiring)
        assert far.open == ["cats"]
    assert far.open == []
