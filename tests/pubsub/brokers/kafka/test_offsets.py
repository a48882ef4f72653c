"""Start offsets that are easily lost, logs that start again, and the memory of fetches."""

from __future__ import annotations

from typing import Any

import pytest

from gizmopy.errors import PubSubError
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import positions
from tests.pubsub.brokers.kafka.cluster import AnyCluster
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster
from tests.pubsub.brokers.kafka.support import (
    HEARTBEAT,
    REBALANCE,
    NotUtf8,
    Revoked,
    a_topic,
    ack,
    bodies,
    collect,
    first_new,
    publish_raw,
    refused_for_good,
    until,
)

LATEST: dict[str, Any] = {"auto_offset_reset": "latest", "session_timeout": "1s"}
KIB, MIB = 1024, 1024 * 1024


# Groups that start at the latest record.


async def test_a_rebalance_does_not_move_the_start(mock: MockCluster) -> None:
    """Messages published during a rebalance are received after it, although none was before."""
    async with a_topic(mock) as topic:
        await topic.publish(b"old")
        async with topic.member(**LATEST) as receiver:
            await until_started(receiver)
            mock.fail(HEARTBEAT, REBALANCE)
            await until_rebalancing(receiver)
            await topic.publish(b"1")
            assert bodies(await receiver.receive(1, 3.0)) == [b"1"]


async def test_a_rebalance_does_not_lose_an_unhandled_message(mock: MockCluster) -> None:
    """The first message of a group that started at the latest comes again."""
    async with a_topic(mock) as topic:
        revoked = Revoked()
        async with topic.member(revoked, **LATEST) as receiver:
            first = await first_new(topic, receiver)
            mock.fail(HEARTBEAT, REBALANCE)
            await until(lambda: revoked.partitions, receiver)
            again = await receiver.receive(1, 3.0)
            assert [message.id for message in again] == [first.id]


async def test_the_start_is_committed_once_it_is_known(mock: MockCluster) -> None:
    """Also if the broker answers late."""
    async with a_topic(mock) as topic:
        await topic.publish(b"old")
        mock.delay(1, 0.1)
        async with topic.member(**LATEST, commit_interval="10ms"):
            await topic.until_committed(1)


async def until_started(receiver: Any) -> None:
    """Wait until a receiver knows the start offset of its partition."""
    consumer = receiver._membership.consumer
    await until(lambda: [at for _, at, _ in positions(consumer) if at is not None], receiver)


async def until_rebalancing(receiver: Any) -> None:
    """Wait until a receiver's group rebalances."""
    await until(
        lambda: receiver._membership.consumer._subscription.reassignment_in_progress, receiver
    )


async def test_a_log_that_starts_again_is_followed_again(mock: MockCluster) -> None:
    """Acks of its old records are refused, and offsets of the new ones committed."""
    async with a_topic(mock) as topic:
        await topic.publish(b"1", b"2", b"3")
        async with topic.member(commit_interval="10ms") as receiver:
            old = await collect(receiver, 3)
            await ack(receiver, old[-1])
            await topic.until_committed(3)
            # aiokafka does this by itself if offset 3 is out of range.
            await receiver._membership.consumer.seek_to_beginning()
            new = await collect(receiver, 3)
            assert refused_for_good(await receiver.ack([old[-1]])) == [True]
            await ack(receiver, new[0])
            await topic.until_committed(1)


# Malformed records.


async def test_a_header_name_that_is_not_utf8_ends_the_receiver(
    kafka: AnyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the topic and the reason; messages handled before are committed."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1")
        await publish_raw(topic, [(NotUtf8("name"), b"x")], monkeypatch)
        async with topic.member() as receiver:
            await ack(receiver, *await collect(receiver, 1, limit=1))
            with pytest.raises(PubSubError, match=rf"{topic.name}.*'utf-8' codec") as caught:
                await collect(receiver, 1)
            assert not caught.value.transient
        assert await topic.committed() == 1


# Memory.


@pytest.mark.parametrize(("partitions", "most"), [(1, MIB), (64, MIB), (256, 256 * KIB)])
async def test_many_partitions_fetch_less_each(
    mock: MockCluster, partitions: int, most: int
) -> None:
    """The memory of records fetched in advance does not grow with the number of partitions."""
    async with a_topic(mock, partitions) as topic, topic.member() as receiver:
        assert receiver._membership.consumer._fetcher._max_partition_fetch_bytes == most
