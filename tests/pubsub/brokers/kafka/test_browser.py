"""Dead letters on Kafka: any of them is settled by a mark in the topic itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from aiokafka import TopicPartition

from gizmopy.cli import main
from gizmopy.errors import PubSubError
from gizmopy.pubsub import registry as drivers
from gizmopy.pubsub.brokers.kafka.driver import KafkaDriver
from tests.pubsub.brokers.kafka.cluster import AnyCluster, Cluster
from tests.pubsub.brokers.kafka.support import Topic, a_topic, ack, bodies, collect, in_time


@pytest_asyncio.fixture
async def topic(real_kafka: Cluster) -> AsyncIterator[Topic]:
    """Give a topic with two partitions."""
    async with a_topic(real_kafka, partitions=2) as topic:
        yield topic


class Place:
    """The dead letters of a topic, as one process after the other sees them."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        driver = drivers.open_driver(topic.cluster.url)
        assert isinstance(driver, KafkaDriver)
        self.browser = driver.browser(topic.name, topic.name)

    async def __aenter__(self) -> Place:
        await self.browser.connect()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await in_time(self.browser.aclose())

    async def open(self) -> list[str]:
        """Return the bodies of what is open."""
        found = [m async for batch in self.browser.browse() for m in batch]
        return sorted((m.body or b"").decode() for m in found)

    async def settle(self, *chosen: bytes) -> None:
        found = [m async for batch in self.browser.browse() for m in batch if m.body in chosen]
        assert set(await self.browser.settle(found)) == {None}


async def test_the_group_moves_to_the_first_open_record(topic: Topic) -> None:
    """What is settled from the beginning is not read again, and a later mark keeps its place."""
    await topic.publish(*(b"%d" % n for n in range(5)))
    async with Place(topic) as place:
        await place.settle(b"0", b"1", b"3")
    assert await topic.committed() == 2
    async with Place(topic) as place:
        assert await place.open() == ["2", "4"]
        await place.settle(b"2", b"4")
    assert await topic.committed() == 6  # the first mark; the second one is behind it
    async with Place(topic) as place:
        assert await place.open() == []


async def test_an_older_redrive_has_settled_what_it_committed(topic: Topic) -> None:
    """Dead letters before the offset of the group were moved by a version without marks."""
    await topic.publish(b"old", b"older", b"open")
    async with topic.member() as receiver:
        first, second, _ = await collect(receiver, 3)
        await ack(receiver, second)
    async with Place(topic) as place:
        assert await place.open() == ["open"]
    assert first.body == b"old"


async def test_a_consumer_gets_no_marks_and_no_lag(topic: Topic) -> None:
    """A service that handles the dead letters never sees a mark, nor waits behind it."""
    async with topic.member() as receiver:
        await topic.publish(b"0", b"1", b"2")
        got = await collect(receiver, 3)
        async with Place(topic) as place:
            await place.settle(b"0", b"2")
        await topic.publish(b"3")
        got += await collect(receiver, 1)
        assert bodies(got) == [b"0", b"1", b"2", b"3"]
        await ack(receiver, got[-1])
        async with Place(topic) as place:
            await place.settle(b"1", b"3")
        assert await receiver.receive(10, 0.5) == []
    end = (await topic.observer.end_offsets([_partition(topic)]))[_partition(topic)]
    assert await topic.committed() == end


def _partition(topic: Topic) -> TopicPartition:
    return TopicPartition(topic.name, 0)


async def test_what_is_new_is_measured(topic: Topic) -> None:
    """Counts follow publishes and the settles of other processes; so does the age."""
    async with Place(topic) as watcher, Place(topic) as other:
        assert (await watcher.browser.measure()).backlog == 0
        await topic.publish(b"0", b"1")
        await topic.publish(b"2", partition=1)
        found = await watcher.browser.measure()
        assert found.backlog == 3
        assert found.oldest is not None
        assert 0 < found.oldest < 60
        await other.settle(b"0", b"2")
        assert (await watcher.browser.measure()).backlog == 1
        await other.settle(b"1")
        found = await watcher.browser.measure()
        assert (found.backlog, found.oldest) == (0, 0)


async def test_a_look_goes_on_after_it_was_cancelled(topic: Topic) -> None:
    """A cancelled measurement leaves the browser working."""
    await topic.publish(*(b"%d" % n for n in range(50)))
    async with Place(topic) as place:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await place.browser.measure()
        assert (await place.browser.measure()).backlog == 50


async def test_an_unreachable_broker_is_transient() -> None:
    """A cluster that does not answer is an error that may pass."""
    browser = drivers.open_driver("kafka://127.0.0.1:1").browser("dead", "redrive")  # type: ignore[attr-defined]
    with pytest.raises(PubSubError, match="no broker answers") as raised:
        await browser.connect()
    assert raised.value.transient
    await in_time(browser.aclose())


# The command


@contextmanager
def _channel(cluster: AnyCluster, patch: pytest.MonkeyPatch) -> Iterator[None]:
    with patch.context() as inner:
        inner.setenv("GIZMO_PUBSUB_URL", f"{cluster.url}?{urlencode({'partitions': 2})}")
        yield


async def _letters(topic: Topic, *bodies: bytes, source: str) -> None:
    for body in bodies:
        headers = [
            ("gizmo-dl-source-topic", source.encode()),
            ("gizmo-dl-reason", b"exhausted" if body != b"bad" else b"rejected"),
        ]
        await topic.producer.send_and_wait(topic.name, body, partition=0, headers=headers)


async def _command(capfd: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert await asyncio.to_thread(main, ["dead-letters", *words]) == code
    return capfd.readouterr().out


async def test_the_command_takes_some_and_leaves_the_rest(
    topic: Topic,
    real_kafka: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One is dropped by its id, some are redriven by their reason, and the rest stays in place."""
    async with a_topic(real_kafka) as cats:
        await _letters(topic, b"tom", b"bad", b"kit", b"leo", source=cats.name)
        with _channel(real_kafka, monkeypatch):
            lines = await _command(capfd, "list", topic.name, "--json")
            ids = [json.loads(line)["id"] for line in lines.splitlines()]
            assert ids == [f"{topic.name}-0-{n}" for n in range(4)]

            out = await _command(capfd, "drop", topic.name, "--id", ids[2])
            assert out == "1 dropped, 3 left, 0 failed\n"
            allowed = ("--from-topic", cats.name)
            out = await _command(capfd, "redrive", topic.name, "--reason", "exhausted", *allowed)
            assert out == "2 redriven, 1 left, 0 failed\n"

            out = await _command(capfd, "show", topic.name, "--json")
            assert json.loads(out)["body"]["text"] == "bad"
        async with cats.member() as receiver:
            assert bodies(await collect(receiver, 2)) == [b"tom", b"leo"]
