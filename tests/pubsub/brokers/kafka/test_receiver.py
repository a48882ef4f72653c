"""Which messages a receiver returns, in which form, and where a group starts."""

from __future__ import annotations

import asyncio
from time import time
from typing import Any
from uuid import uuid4

import pytest

from gizmopy.errors import PubSubError, TopicNotFound, UsageError
from gizmopy.pubsub import Message
from gizmopy.pubsub import registry as drivers
from tests.pubsub.brokers.kafka.cluster import AnyCluster
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster
from tests.pubsub.brokers.kafka.support import (
    BOUND,
    a_topic,
    ack,
    bodies,
    collect,
    first_new,
    in_time,
    revoke_at_once,
    until,
)

# Partitions without room.


async def test_a_full_partition_delays_no_other(kafka: AnyCluster) -> None:
    """It is received up to its limit, the others go on, and so does it after an ack."""
    async with a_topic(kafka, partitions=2) as topic:
        await topic.publish(*[b"%d" % number for number in range(6)], partition=0)
        await topic.publish(*[b"%d" % number for number in range(20)], partition=1)
        async with topic.member(partition_ahead=2) as receiver:
            stuck: list[Message] = []
            free: list[Message] = []
            while len(free) < 20:
                for message in await collect(receiver, 1, limit=1):
                    (stuck if str(message.partition) == "0" else free).append(message)
                if free:
                    await ack(receiver, free[-1])
            while len(stuck) < 2:
                stuck += await collect(receiver, 1, limit=1)
            assert await receiver.receive(1, 0.1) == []
            await ack(receiver, stuck[0])
            stuck += await collect(receiver, 1, limit=1)
            assert bodies(stuck) == [b"0", b"1", b"2"]


async def test_a_receive_with_full_partitions_waits_for_an_ack(kafka: AnyCluster) -> None:
    """It returns nothing after its wait, and continues as in_time as a partition has room."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2", b"3")
        async with topic.member(partition_ahead=1) as receiver:
            (first,) = await collect(receiver, 1, limit=1)
            assert await in_time(receiver.receive(1, 0.05)) == []
            waiting = asyncio.create_task(receiver.receive(1, 2 * BOUND))
            await asyncio.sleep(0)
            await ack(receiver, first)
            assert bodies(await in_time(waiting)) == [b"2"]


async def test_nack_is_a_usage_error(kafka: AnyCluster) -> None:
    """Kafka cannot redeliver a message; the receiver continues in order."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member() as receiver:
            (first,) = await collect(receiver, 1, limit=1)
            with pytest.raises(UsageError, match="cannot redeliver"):
                await receiver.nack([first], 0.0)
            assert bodies(await collect(receiver, 1)) == [b"2"]


async def test_no_fetch_is_left_pending(kafka: AnyCluster) -> None:
    """However a receive ends, aiokafka does not count a fetch as pending for ever."""
    async with a_topic(kafka) as topic:
        async with topic.member() as receiver:
            subscription = receiver._membership.consumer._subscription
            assert await receiver.receive(1, 0.05) == []
            waiting = asyncio.create_task(receiver.receive(1, 2 * BOUND))
            await asyncio.sleep(0.05)
            await topic.publish(b"1")
            await in_time(waiting)
            waiting = asyncio.create_task(receiver.receive(1, 2 * BOUND))
            await asyncio.sleep(0.05)
            await receiver.aclose()
            assert await in_time(waiting) == []
            assert subscription._fetch_count == 0


# Messages, and where a group starts.


async def test_records_of_other_clients_are_received_unchanged(kafka: AnyCluster) -> None:
    """Keys, headers and values that are not UTF-8, and nulls, are not an error."""
    async with a_topic(kafka) as topic:
        await topic.producer.send_and_wait(
            topic.name,
            b"\xff\x00",
            key=b"\xfe\x00",
            headers=[("h", b"\xfd"), ("none", None), ("twice", b"1"), ("twice", b"2")],
            timestamp_ms=1_000,
        )
        await topic.producer.send_and_wait(topic.name, None, key=b"")
        async with topic.member() as receiver:
            first, second = await collect(receiver, 2)
        assert first.body == b"\xff\x00"
        assert first.key is not None
        assert first.key.encode("utf-8", "surrogateescape") == b"\xfe\x00"
        attributes = {"h": "\udcfd", "none": "", "twice": "2"}
        assert first.attributes == attributes
        assert first.published_at.timestamp() == 1
        assert first.id == f"{topic.name}-0-0"
        assert (second.body, second.key, second.attributes) == (None, "", {})


async def test_a_group_starts_at_the_earliest_record(kafka: AnyCluster) -> None:
    """By default a new group loses nothing."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"old")
        async with topic.member() as receiver:
            assert bodies(await collect(receiver, 1)) == [b"old"]


async def test_a_group_can_start_at_the_latest_record(kafka: AnyCluster) -> None:
    """It then gets no older record."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"old")
        async with topic.member(auto_offset_reset="latest") as receiver:
            assert (await first_new(topic, receiver)).body == b"new"


async def test_the_start_at_the_latest_record_is_committed(kafka: AnyCluster) -> None:
    """Messages published while the group is away are not lost, although it never acked any."""
    settings: dict[str, Any] = {"auto_offset_reset": "latest", "commit_interval": "1s"}
    async with a_topic(kafka) as topic:
        await topic.publish(b"old")
        async with topic.member(**settings):
            await topic.until_committed(1)
        await topic.publish(b"new")
        async with topic.member(**settings) as receiver:
            assert bodies(await collect(receiver, 1)) == [b"new"]


async def test_an_unacked_first_message_comes_again(mock: MockCluster) -> None:
    """The committed start of a group at the latest record is before its first message."""
    async with a_topic(mock) as topic:
        await topic.publish(b"old")
        async with topic.member(auto_offset_reset="latest") as receiver:
            first = await first_new(topic, receiver)
        async with topic.member(auto_offset_reset="latest") as receiver:
            again = await receiver.receive(1, 1.0)
            assert [message.id for message in again] == [first.id]


async def test_a_group_may_require_an_offset(kafka: AnyCluster) -> None:
    """With auto_offset_reset=none, a group without an offset is an error with a remedy."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member(auto_offset_reset="none") as receiver:
            with pytest.raises(PubSubError, match=f"{topic.name}.*to earliest or latest") as caught:
                await collect(receiver, 1)
            assert not caught.value.transient
        async with topic.member() as receiver:
            await ack(receiver, (await collect(receiver, 2))[0])
        async with topic.member(auto_offset_reset="none") as receiver:
            assert bodies(await collect(receiver, 1)) == [b"2"]


async def test_the_status_has_the_lag(kafka: AnyCluster) -> None:
    """After a fetch it has for each partition the number of messages not received yet."""
    async with a_topic(kafka, partitions=2) as topic:
        await topic.publish(*[b"x"] * 5, partition=1)
        async with topic.member() as receiver:
            await collect(receiver, 2, limit=2)
            status = receiver.status()
            assert (status.backlog, status.lag, status.stalled) == (3, {"0": 0, "1": 3}, "")


async def test_the_status_has_the_lag_of_a_full_partition(
    kafka: AnyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New messages are counted although the partition is not fetched."""
    monkeypatch.setattr("gizmopy.pubsub.brokers.kafka.receiver._RETRY_SECONDS", 0.02)
    monkeypatch.setattr("gizmopy.pubsub.brokers.kafka.receiver._CHECK_SECONDS", 0.02)
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member(partition_ahead=1) as receiver:
            await collect(receiver, 1, limit=1)
            await topic.publish(*[b"x"] * 9)
            await until(lambda: receiver.status().lag == {"0": 10}, receiver)


@pytest.mark.parametrize("end", ["receiver", "sender"])
async def test_an_unknown_topic_is_an_error_and_not_created(kafka: AnyCluster, end: str) -> None:
    """Connecting fails within seconds, and again the second time."""
    driver = drivers.open_driver(kafka.url)
    unknown = f"unknown-{uuid4().hex[:8]}"
    for _ in range(2):
        receiver = driver.receiver(unknown, "friends", ordered=True)
        sender = driver.sender(unknown)
        with pytest.raises(TopicNotFound, match=f"topic '{unknown}' does not exist on kafka://"):
            await in_time(
                receiver.connect(revoke_at_once) if end == "receiver" else sender.connect()
            )
        await receiver.aclose()
        await sender.aclose()


# What waits.


async def test_the_backlog_of_the_whole_group_is_measured(real_kafka: AnyCluster) -> None:
    """It counts what is not committed, and the oldest of it has its age."""
    now = int(time() * 1000)
    async with a_topic(real_kafka, partitions=2) as topic:
        for partition, ages in enumerate([(3000, 2000, 1000), (500, 500)]):
            for age in ages:
                await topic.producer.send_and_wait(
                    topic.name, b"x", partition=partition, timestamp_ms=now - age * 1000
                )
        async with topic.member(commit_every=1) as receiver:
            assert await _measured(receiver) == (5, 3000)
            messages = await collect(receiver, 5)
            first, second, last = [m for m in messages if str(m.partition) == "0"]
            assert await _measured(receiver) == (5, 3000)  # in flight
            for message, expected in [(first, (4, 2000)), (second, (3, 1000))]:
                await ack(receiver, message)
                await topic.until_committed(5 - expected[0])
                assert await _measured(receiver) == expected
            other = [m for m in messages if str(m.partition) == "1"]
            await ack(receiver, last)
            await topic.until_committed(3)
            assert await _measured(receiver) == (2, 500)
            await ack(receiver, other[-1])
            await topic.until_committed(2, partition=1)
            assert await _measured(receiver) == (0, 0)


async def _measured(receiver: Any) -> tuple[int | None, int | None]:
    measured = await in_time(receiver.measure())
    return measured.backlog, measured.oldest and round(measured.oldest, -2)
