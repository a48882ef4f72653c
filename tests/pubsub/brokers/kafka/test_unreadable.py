"""Records with malformed header names, and records that cannot be read at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.producer import message_accumulator
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from gizmopy import Service, Settings, SimpleServer, subscribe
from gizmopy.errors import PubSubError
from gizmopy.pubsub import Message
from gizmopy.pubsub import registry as drivers
from gizmopy.pubsub.brokers.kafka.lenient_records import LenientReader
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.support import (
    NotUtf8,
    Topic,
    a_topic,
    an_admin,
    bodies,
    in_time,
    revoke_at_once,
    short_sleep,
    until,
)


@asynccontextmanager
async def connected(receiver: Any) -> AsyncIterator[Any]:
    """Connect a receiver, and close it."""
    try:
        await receiver.connect(revoke_at_once)
        yield receiver
    finally:
        await receiver.aclose()


async def publish_unreadable(
    topic: Topic, partition: int, patch: pytest.MonkeyPatch, compression: str = "none"
) -> None:
    """Publish a record with a header name that is not UTF-8, as other clients can."""
    with patch.context() as context:
        builder = _DefaultRecordBatchBuilderPy
        context.setattr(message_accumulator, "DefaultRecordBatchBuilder", builder)
        batch = topic.producer.create_batch()
        if compression == "gzip":
            batch._builder._compression_type = _DefaultRecordBatchBuilderPy.CODEC_GZIP
        batch.append(timestamp=None, key=None, value=b"bad", headers=[(NotUtf8("name"), b"x")])
    await (await topic.producer.send_batch(batch, topic.name, partition=partition))


async def received(receiver: Any, *expected: bytes) -> set[bytes | None]:
    """Receive until all expected bodies have arrived; return all bodies."""
    found: set[bytes | None] = set()
    while not found >= set(expected):
        found.update(bodies(await receiver.receive(100, 0.1)))
    return found


async def until_refused(receiver: Any) -> None:
    """Receive until that raises the error of a header name; drop the messages before."""
    with pytest.raises(PubSubError, match="'utf-8' codec"):
        await until(lambda: False, receiver)


@pytest.fixture
def nothing_is_lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a record with a malformed header name unreadable by any means."""
    monkeypatch.setattr(LenientReader, "use", lambda self, tp: False)


async def test_a_malformed_header_name_is_marked_and_delays_nothing(
    real_kafka: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All records come in order; those with a malformed name are marked, with the name escaped."""
    async with a_topic(real_kafka, partitions=2) as topic:
        await topic.publish(b"before", partition=1)
        for number in range(3):
            await publish_unreadable(topic, 1, monkeypatch)
            await topic.publish(b"behind %d" % number, partition=1)
        await topic.publish(b"a", partition=0)
        driver = drivers.open_driver(f"{real_kafka.url}?session_timeout=6s")
        async with connected(driver.receiver(topic.name, topic.name, ordered=True)) as receiver:
            await in_time(until_refused(receiver))
        async with connected(driver.receiver(topic.name, topic.name, ordered=True)) as receiver:
            found: list[Message] = []
            while len(found) < 8:
                found += await in_time(receiver.receive(100, 0.1))
            mine = [message for message in found if str(message.partition) == "1"]
            odd = [b"bad", b"behind %d"]
            assert bodies(mine) == [
                b"before",
                *(body.replace(b"%d", b"%d" % n) for n in range(3) for body in odd),
            ]
            for message in mine:
                assert bool(message.unreadable) is (message.body == b"bad")
            assert mine[1].attributes == {r"\udcff\udcfe": "x"}
            assert mine[1].unreadable == r"the name of a header is not UTF-8: \udcff\udcfe"
            assert await receiver.ack(found) == [None] * 8
            assert receiver.status().problem == ""
            await topic.publish(b"later", partition=1)
            assert await in_time(received(receiver, b"later")) == {b"later"}
            assert not receiver._poller._quarantined


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_a_malformed_header_name_makes_a_dead_letter(
    real_kafka: Cluster, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    """The engine publishes the record as undecodable, and goes on with the next one."""
    handled: list[bytes | None] = []

    class Cats(Service):
        @subscribe("cats", dead_letter="dead", order="partition")
        async def on_cat(self, message: Message) -> None:
            handled.append(message.body)

    async with a_topic(real_kafka) as topic, a_topic(real_kafka) as dead:
        await publish_unreadable(topic, 0, monkeypatch, compression)
        await topic.publish(b"behind")
        topics = {"cats": f"kafka:///{topic.name}", "dead": f"kafka:///{dead.name}"}
        settings = Settings(
            pubsub_url=f"{real_kafka.url}?session_timeout=6s",
            topics={
                name: f"{real_kafka.url}/{url.rpartition('/')[2]}" for name, url in topics.items()
            },
            http_port=0,
            http_access_log="off",
        )
        async with SimpleServer(Cats(settings), sleep=short_sleep):
            # The engine first makes another receiver, which joins the group again.
            await in_time(_until(lambda: handled))
            assert handled == [b"behind"]
        driver = drivers.open_driver(f"{real_kafka.url}?session_timeout=6s")
        async with connected(driver.receiver(dead.name, dead.name, ordered=True)) as receiver:
            (letter,) = await in_time(receiver.receive(10, 10))
    assert letter.body == b"bad"
    assert letter.attributes[r"\udcff\udcfe"] == "x"
    assert letter.attributes["gizmo-dl-reason"] == "undecodable"


async def _until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - any condition
        await asyncio.sleep(0.02)


@pytest.mark.usefixtures("nothing_is_lenient")
async def test_the_other_partitions_go_on(
    real_kafka: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next receiver gets all but the unreadable record and the records after it."""
    async with a_topic(real_kafka, partitions=3) as topic:
        await topic.publish(b"a", b"b", partition=0)
        await topic.publish(b"before", partition=1)
        await publish_unreadable(topic, 1, monkeypatch)
        await topic.publish(b"behind", partition=1)
        await topic.publish(b"c", b"d", partition=2)
        driver = drivers.open_driver(f"{real_kafka.url}?session_timeout=6s")
        async with connected(driver.receiver(topic.name, topic.name, ordered=True)) as receiver:
            await in_time(until_refused(receiver))
        async with connected(driver.receiver(topic.name, topic.name, ordered=True)) as receiver:
            found = await in_time(received(receiver, b"a", b"b", b"before", b"c", b"d"))
            assert b"behind" not in found
            await until(lambda: receiver.status().problem, receiver)
            assert receiver.status().problem.startswith(f"{topic.name}-1 cannot be read at 1: ")
            await topic.publish(b"e", partition=0)
            assert await in_time(received(receiver, b"e")) == {b"e"}


@pytest.mark.usefixtures("nothing_is_lenient")
async def test_an_unreadable_record_is_retried(
    real_kafka: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the record is deleted, its successors come, and the status reports no problem."""
    monkeypatch.setattr("gizmopy.pubsub.brokers.kafka.receiver._RETRY_SECONDS", 0.02)
    monkeypatch.setattr("gizmopy.pubsub.brokers.kafka.receiver._CHECK_SECONDS", 0.02)
    async with a_topic(real_kafka) as topic, an_admin(real_kafka) as admin:
        await publish_unreadable(topic, 0, monkeypatch)
        await topic.publish(b"behind")
        driver = drivers.open_driver(f"{real_kafka.url}?session_timeout=6s")
        async with connected(driver.receiver(topic.name, topic.name, ordered=True)) as receiver:
            await in_time(until_refused(receiver))
        async with connected(driver.receiver(topic.name, topic.name, ordered=True)) as receiver:
            await until(lambda: receiver.status().problem, receiver)
            gone = {TopicPartition(topic.name, 0): RecordsToDelete(before_offset=1)}
            await admin.delete_records(gone)
            assert await in_time(received(receiver, b"behind")) == {b"behind"}
            assert receiver.status().problem == ""


async def test_the_start_is_before_records_that_were_dropped(
    real_kafka: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group at the latest record starts before records that aiokafka has dropped."""
    settings = "session_timeout=6s&auto_offset_reset=latest"
    async with a_topic(real_kafka, partitions=6) as topic:
        first = drivers.open_driver(f"{real_kafka.url}?{settings}")
        async with connected(first.receiver(topic.name, topic.name, ordered=True)):
            pass  # it commits its start
        good = [b"%d" % number for number in range(30)]
        await publish_unreadable(topic, 3, monkeypatch)
        for number, body in enumerate(good):
            await topic.publish(body, partition=(0, 1, 2, 4, 5)[number % 5])
        after_restart = drivers.open_driver(f"{real_kafka.url}?{settings}")
        receiver = after_restart.receiver(topic.name, topic.name, ordered=True)
        async with connected(receiver):
            await in_time(until_refused(receiver))  # the messages before are not acked
        receiver = after_restart.receiver(topic.name, topic.name, ordered=True)
        async with connected(receiver):
            assert await in_time(received(receiver, *good)) == {*good}
