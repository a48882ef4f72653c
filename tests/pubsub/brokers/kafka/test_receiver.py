"""Which messages a receiver returns, in which form, and where a group starts."""

from __future__ import annotations

import asyncio
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
    let_go,
    soon,
    until,
)

# Partitions without room.


async def test_a_partition_without_room_holds_up_no_other(kafka: AnyCluster) -> None:
    """It is received no further than it may be ahead; the others go on, and it, once acked."""
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


async def test_a_receive_without_room_anywhere_waits_for_an_ack(kafka: AnyCluster) -> None:
    """It gets nothing, returns nothing after its wait, and goes on as soon as there is room."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2", b"3")
        async with topic.member(partition_ahead=1) as receiver:
            (first,) = await collect(receiver, 1, limit=1)
            assert await soon(receiver.receive(1, 0.05)) == []
            waiting = asyncio.create_task(receiver.receive(1, 2 * BOUND))
            await asyncio.sleep(0)
            await ack(receiver, first)
            assert bodies(await soon(waiting)) == [b"2"]


async def test_nothing_can_be_given_back(kafka: AnyCluster) -> None:
    """There is no seeking back: who would nack is refused, and what follows goes on in order."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member() as receiver:
            (first,) = await collect(receiver, 1, limit=1)
            with pytest.raises(UsageError, match="cannot redeliver"):
                await receiver.nack([first], 0.0)
            assert bodies(await collect(receiver, 1)) == [b"2"]


async def test_no_fetch_is_ever_cancelled(kafka: AnyCluster) -> None:
    """However a receive ends, aiokafka does not believe that one is pending for ever."""
    async with a_topic(kafka) as topic:
        async with topic.member() as receiver:
            subscription = receiver._membership.consumer._subscription
            assert await receiver.receive(1, 0.05) == []
            waiting = asyncio.create_task(receiver.receive(1, 2 * BOUND))
            await asyncio.sleep(0.05)
            await topic.publish(b"1")
            await soon(waiting)
            waiting = asyncio.create_task(receiver.receive(1, 2 * BOUND))
            await asyncio.sleep(0.05)
            await receiver.aclose()
            assert await soon(waiting) == []
            assert subscription._fetch_count == 0


# Messages, and where a group starts.


async def test_what_others_have_written_is_taken_as_it_is(kafka: AnyCluster) -> None:
    """Bytes that are no text, keys and headers among them, and nulls are no reason to fail."""
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


async def test_a_group_begins_with_the_earliest(kafka: AnyCluster) -> None:
    """Unless told otherwise nothing is lost to a group that is new."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"old")
        async with topic.member() as receiver:
            assert bodies(await collect(receiver, 1)) == [b"old"]


async def test_a_group_can_begin_with_the_latest(kafka: AnyCluster) -> None:
    """It then gets nothing that is older than itself."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"old")
        async with topic.member(auto_offset_reset="latest") as receiver:
            assert (await first_new(topic, receiver)).body == b"new"


async def test_a_group_that_began_with_the_latest_has_begun(kafka: AnyCluster) -> None:
    """What is published while it is away is not lost, though it has never acked anything."""
    settings: dict[str, Any] = {"auto_offset_reset": "latest", "commit_interval": "1s"}
    async with a_topic(kafka) as topic:
        await topic.publish(b"old")
        async with topic.member(**settings):
            await topic.until_committed(1)
        await topic.publish(b"new")
        async with topic.member(**settings) as receiver:
            assert bodies(await collect(receiver, 1)) == [b"new"]


async def test_the_first_of_the_latest_comes_again_unless_acked(mock: MockCluster) -> None:
    """A group that began with the latest has begun before its first message."""
    async with a_topic(mock) as topic:
        await topic.publish(b"old")
        async with topic.member(auto_offset_reset="latest") as receiver:
            first = await first_new(topic, receiver)
        async with topic.member(auto_offset_reset="latest") as receiver:
            again = await receiver.receive(1, 1.0)
            assert [message.id for message in again] == [first.id]


async def test_a_group_may_have_to_have_begun(kafka: AnyCluster) -> None:
    """With none, a group without an offset is an error that says what to do; with one, it isn't."""
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


async def test_the_lag_is_known_without_asking(kafka: AnyCluster) -> None:
    """After a fetch the status tells for each partition how much is not received yet."""
    async with a_topic(kafka, partitions=2) as topic:
        await topic.publish(*[b"x"] * 5, partition=1)
        async with topic.member() as receiver:
            await collect(receiver, 2, limit=2)
            status = receiver.status()
            assert (status.backlog, status.lag, status.stalled) == (3, {"0": 0, "1": 3}, "")


async def test_the_lag_of_a_partition_without_room_is_known(
    kafka: AnyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes to a partition that is not fetched from is counted before long."""
    monkeypatch.setattr("gizmopy.pubsub.brokers.kafka.receiver._RETRY_SECONDS", 0.02)
    monkeypatch.setattr("gizmopy.pubsub.brokers.kafka.receiver._CHECK_SECONDS", 0.02)
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member(partition_ahead=1) as receiver:
            await collect(receiver, 1, limit=1)
            await topic.publish(*[b"x"] * 9)
            await until(lambda: receiver.status().lag == {"0": 10}, receiver)


@pytest.mark.parametrize("end", ["receiver", "sender"])
async def test_an_unknown_topic_is_refused_and_not_made(kafka: AnyCluster, end: str) -> None:
    """Connecting to it says within seconds that it does not exist; also later it does not."""
    driver = drivers.open_driver(kafka.url)
    unknown = f"unknown-{uuid4().hex[:8]}"
    for _ in range(2):
        receiver = driver.receiver(unknown, "friends", ordered=True)
        sender = driver.sender(unknown)
        with pytest.raises(TopicNotFound, match=f"topic '{unknown}' does not exist on kafka://"):
            await soon(receiver.connect(let_go) if end == "receiver" else sender.connect())
        await receiver.aclose()
        await sender.aclose()
