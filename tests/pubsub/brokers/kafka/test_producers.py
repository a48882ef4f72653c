"""The senders of a driver share a producer, until a send of theirs fails."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any, cast
from uuid import uuid4

import pytest

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Message
from gizmopy.pubsub import registry as drivers
from gizmopy.pubsub.brokers.kafka import producers as module
from gizmopy.pubsub.brokers.kafka.producers import SharedProducers
from tests.pubsub.brokers.kafka.cluster import AnyCluster
from tests.pubsub.brokers.kafka.support import created
from tests.pubsub.support import turns

AWAY = PubSubError("no broker answers", transient=True)


class FakeProducers:
    """Producers that start and stop as the test says."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[object] = []
        self.stopped: list[object] = []
        self.dead: list[object] = []
        self.errors: list[Exception] = []
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.shared = SharedProducers(cast(Any, None), cast(Any, None))
        patch.setattr(module, "new_producer", self._new)
        patch.setattr(module, "start_producer", self._start)
        patch.setattr(module, "stop_producer", self._stop)
        patch.setattr(module, "producer_is_alive", lambda producer: producer not in self.dead)

    def _new(self, *_: object) -> object:
        self.made.append(object())
        return self.made[-1]

    async def _start(self, producer: object) -> None:
        await self.may_start.wait()
        if self.errors:
            raise self.errors.pop(0)

    async def _stop(self, producer: object) -> None:
        await asyncio.sleep(0)
        self.stopped.append(producer)


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> FakeProducers:
    """Provide producers that need no broker."""
    return FakeProducers(monkeypatch)


async def test_the_last_one_that_leaves_stops_the_producer(fake: FakeProducers) -> None:
    """The next one makes another."""
    shares = [await fake.shared.join(f"t{number}") for number in range(60)]
    assert len(fake.made) == 1
    for share in shares[1:]:
        await fake.shared.leave(share)
    assert fake.stopped == []
    await fake.shared.leave(shares[0])
    assert fake.stopped == fake.made
    await fake.shared.leave(await fake.shared.join("t"))
    assert fake.stopped == fake.made
    assert len(fake.made) == 2


async def test_a_topic_that_failed_gets_another_producer(fake: FakeProducers) -> None:
    """Those that come later join that one, and those whose sends work stay."""
    bad, good = await fake.shared.join("bad"), await fake.shared.join("good")
    assert bad is good
    bad.unfit.add("bad")
    await fake.shared.leave(bad)
    again, late = await fake.shared.join("bad"), await fake.shared.join("late")
    assert again is late is not good
    assert fake.stopped == []
    await fake.shared.leave(good)
    assert fake.stopped == fake.made[:1]


async def test_a_producer_whose_task_has_ended_is_not_joined(fake: FakeProducers) -> None:
    """All of its sends would fail."""
    first = await fake.shared.join("a")
    fake.dead.append(first.producer)
    assert await fake.shared.join("b") is not first


async def test_all_that_wait_for_a_start_get_its_error(fake: FakeProducers) -> None:
    """One start for all of them, and the next call starts again."""
    fake.may_start.clear()
    fake.errors.append(AWAY)
    waiting = [asyncio.create_task(fake.shared.join(f"t{number}")) for number in range(3)]
    await turns()
    fake.may_start.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert results == [AWAY] * 3
    assert fake.stopped == fake.made
    assert len(fake.made) == 1
    assert (await fake.shared.join("t0")).producer is fake.made[1]


async def test_a_cancelled_sender_does_not_cancel_the_start_of_others(fake: FakeProducers) -> None:
    """The last one that gives up stops the producer that is starting."""
    fake.may_start.clear()
    first, second = (asyncio.create_task(fake.shared.join(topic)) for topic in "ab")
    await turns()
    first.cancel()
    await turns()
    fake.may_start.set()
    share = await second
    assert share.users == 1
    fake.may_start.clear()
    share.unfit.add("c")
    alone = asyncio.create_task(fake.shared.join("c"))
    await turns()
    alone.cancel()
    await asyncio.wait((alone,))
    await fake.shared.aclose()
    assert fake.stopped == fake.made[1:]


async def test_sixty_topics_take_one_producer(kafka: AnyCluster) -> None:
    """All of them publish, and the driver has nothing left when they are closed."""
    driver = drivers.open_driver(kafka.url)
    names = [f"cats-{uuid4().hex[:8]}" for _ in range(6)]
    async with AsyncExitStack() as stack:
        senders: list[Any] = []
        for name in names:
            await stack.enter_async_context(created(kafka, name, 1))
            senders.append(driver.sender(name))
            stack.push_async_callback(senders[-1].aclose)
            await senders[-1].connect()
        for name, sender in zip(names, senders, strict=True):
            assert await sender.send([Message(name, b"x", id="1")]) == [None]
        assert len({id(sender._producer) for sender in senders}) == 1
        producer = senders[0]._producer
        senders[0]._is_broken = True  # as after a failed send
        assert await senders[0].send([Message(names[0], b"y", id="2")]) == [None]
        assert senders[0]._producer is not producer
        assert await senders[1].send([Message(names[1], b"y", id="2")]) == [None]
        assert senders[1]._producer is producer
    await driver.aclose()
    assert producer._closed
