"""Where a group on Kafka begins and how far it is, where that is easily lost or misread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.producer import message_accumulator
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from gizmopy.errors import PubSubError
from tests.pubsub.brokers.kafka.cluster import AnyCluster
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster, mock_cluster
from tests.pubsub.brokers.kafka.test_receiver import (
    HEARTBEAT,
    REBALANCE,
    Tells,
    Topic,
    a_topic,
    ack,
    bodies,
    collect,
    first_new,
    refusals,
    soon,
    until,
)

LATEST: dict[str, Any] = {"auto_offset_reset": "latest", "session_timeout": "1s"}
KIB, MIB = 1024, 1024 * 1024


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MockCluster]:
    """Give a broker that fails on demand."""
    with mock_cluster(tmp_path) as cluster:
        yield cluster


# The latest is where the first member began.


async def test_a_rebalance_does_not_move_the_beginning(broker: MockCluster) -> None:
    """What comes meanwhile is received after it, though nothing was before."""
    async with a_topic(broker) as topic:
        await topic.publish(b"old")
        async with topic.member(**LATEST) as receiver:
            await until_begun(receiver)
            broker.fail(HEARTBEAT, REBALANCE)
            await until_rebalancing(receiver)
            await topic.publish(b"1")
            assert bodies(await receiver.receive(1, 3.0)) == [b"1"]


async def test_a_rebalance_does_not_lose_what_was_not_handled(broker: MockCluster) -> None:
    """The first message of a group that began with the latest comes again."""
    async with a_topic(broker) as topic:
        told = Tells()
        async with topic.member(told, **LATEST) as receiver:
            first = await first_new(topic, receiver)
            broker.fail(HEARTBEAT, REBALANCE)
            await until(lambda: told.revoked, receiver)
            again = await receiver.receive(1, 3.0)
            assert [message.id for message in again] == [first.id]


async def test_where_it_begins_is_committed_once_it_is_known(broker: MockCluster) -> None:
    """However long the broker takes to tell."""
    async with a_topic(broker) as topic:
        await topic.publish(b"old")
        broker.delay(1, 0.1)
        async with topic.member(**LATEST, commit_interval="10ms"):
            await topic.until_committed(1)


async def until_begun(receiver: Any) -> None:
    """Wait until a receiver knows where its partition begins."""
    (state,) = [state for _, state in receiver._states()]
    await soon(state.wait_for_position())


async def until_rebalancing(receiver: Any) -> None:
    """Wait until a receiver has no assignment any more."""
    await until(lambda: receiver._consumer._subscription.reassignment_in_progress, receiver)


async def test_a_log_that_begins_anew_is_followed_anew(broker: MockCluster) -> None:
    """What was received of the old one is acked in vain; the new one's offsets are committed."""
    async with a_topic(broker) as topic:
        await topic.publish(b"1", b"2", b"3")
        async with topic.member(commit_interval="10ms") as receiver:
            old = await collect(receiver, 3)
            await ack(receiver, old[-1])
            await topic.until_committed(3)
            await receiver._consumer.seek_to_beginning()  # as it does where 3 is out of range
            new = await collect(receiver, 3)
            assert refusals(await receiver.ack([old[-1]])) == [True]
            await ack(receiver, new[0])
            await topic.until_committed(1)


# What cannot be read.


class NotUtf8(str):
    """A header's name as bytes that are no text."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return b"\xff\xfe"


async def test_a_header_whose_name_is_no_text_ends_the_receiver(
    kafka: AnyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says where and what; what was handled before it is committed."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1")
        await publish_raw(topic, [(NotUtf8("name"), b"x")], monkeypatch)
        async with topic.member() as receiver:
            await ack(receiver, *await collect(receiver, 1, limit=1))
            with pytest.raises(PubSubError, match=rf"{topic.name}.*'utf-8' codec") as caught:
                await collect(receiver, 1)
            assert not caught.value.transient
        assert await topic.committed() == 1


async def publish_raw(topic: Topic, headers: Any, patch: pytest.MonkeyPatch) -> None:
    """Publish headers as they are, which only aiokafka's batches in Python let pass."""
    name = "DefaultRecordBatchBuilder"
    patch.setattr(message_accumulator, name, _DefaultRecordBatchBuilderPy)
    batch = topic.producer.create_batch()
    batch.append(timestamp=None, key=None, value=b"2", headers=headers)
    await (await topic.producer.send_batch(batch, topic.name, partition=0))


# What is held.


@pytest.mark.parametrize(("partitions", "most"), [(1, MIB), (64, MIB), (256, 256 * KIB)])
async def test_many_partitions_fetch_less_each(
    broker: MockCluster, partitions: int, most: int
) -> None:
    """What lies in memory before anybody asks for it does not grow with their number."""
    async with a_topic(broker, partitions) as topic, topic.member() as receiver:
        assert receiver._consumer._fetcher._max_partition_fetch_bytes == most
