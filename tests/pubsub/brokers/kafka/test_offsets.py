"""Where a group on Kafka begins and how far it is, where that is easily lost or misread."""

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
    Tells,
    a_topic,
    ack,
    bodies,
    collect,
    first_new,
    publish_raw,
    refusals,
    until,
)

LATEST: dict[str, Any] = {"auto_offset_reset": "latest", "session_timeout": "1s"}
KIB, MIB = 1024, 1024 * 1024


# The latest is where the first member began.


async def test_a_rebalance_does_not_move_the_beginning(mock: MockCluster) -> None:
    """What comes meanwhile is received after it, though nothing was before."""
    async with a_topic(mock) as topic:
        await topic.publish(b"old")
        async with topic.member(**LATEST) as receiver:
            await until_begun(receiver)
            mock.fail(HEARTBEAT, REBALANCE)
            await until_rebalancing(receiver)
            await topic.publish(b"1")
            assert bodies(await receiver.receive(1, 3.0)) == [b"1"]


async def test_a_rebalance_does_not_lose_what_was_not_handled(mock: MockCluster) -> None:
    """The first message of a group that began with the latest comes again."""
    async with a_topic(mock) as topic:
        told = Tells()
        async with topic.member(told, **LATEST) as receiver:
            first = await first_new(topic, receiver)
            mock.fail(HEARTBEAT, REBALANCE)
            await until(lambda: told.revoked, receiver)
            again = await receiver.receive(1, 3.0)
            assert [message.id for message in again] == [first.id]


async def test_where_it_begins_is_committed_once_it_is_known(mock: MockCluster) -> None:
    """However long the broker takes to tell."""
    async with a_topic(mock) as topic:
        await topic.publish(b"old")
        mock.delay(1, 0.1)
        async with topic.member(**LATEST, commit_interval="10ms"):
            await topic.until_committed(1)


async def until_begun(receiver: Any) -> None:
    """Wait until a receiver knows where its partition begins."""
    consumer = receiver._membership.consumer
    await until(lambda: [at for _, at, _ in positions(consumer) if at is not None], receiver)


async def until_rebalancing(receiver: Any) -> None:
    """Wait until a receiver has no assignment any more."""
    await until(
        lambda: receiver._membership.consumer._subscription.reassignment_in_progress, receiver
    )


async def test_a_log_that_begins_anew_is_followed_anew(mock: MockCluster) -> None:
    """What was received of the old one is acked in vain; the new one's offsets are committed."""
    async with a_topic(mock) as topic:
        await topic.publish(b"1", b"2", b"3")
        async with topic.member(commit_interval="10ms") as receiver:
            old = await collect(receiver, 3)
            await ack(receiver, old[-1])
            await topic.until_committed(3)
            await (
                receiver._membership.consumer.seek_to_beginning()
            )  # as it does where 3 is out of range
            new = await collect(receiver, 3)
            assert refusals(await receiver.ack([old[-1]])) == [True]
            await ack(receiver, new[0])
            await topic.until_committed(1)


# What cannot be read.


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


# What is held.


@pytest.mark.parametrize(("partitions", "most"), [(1, MIB), (64, MIB), (256, 256 * KIB)])
async def test_many_partitions_fetch_less_each(
    mock: MockCluster, partitions: int, most: int
) -> None:
    """What lies in memory before anybody asks for it does not grow with their number."""
    async with a_topic(mock, partitions) as topic, topic.member() as receiver:
        assert receiver._membership.consumer._fetcher._max_partition_fetch_bytes == most
