"""Messages that wait stop no other partition: the engine on Kafka, and its pauses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gizmopy.errors import Reject, Retry
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Message, Subscriber
from gizmopy.pubsub import registry as drivers
from tests.pubsub.brokers.kafka.cluster import AnyCluster
from tests.pubsub.brokers.kafka.support import Topic, a_topic, ack, bodies, collect, in_time
from tests.pubsub.support import subscription_of, until


async def test_a_paused_partition_is_not_received_until_it_is_resumed(kafka: AnyCluster) -> None:
    """Its records that are fetched already wait, too, and a pending receive returns them then."""
    async with a_topic(kafka, partitions=2) as topic:
        await topic.publish(b"0", b"1", b"2", partition=0)
        async with topic.member() as receiver:
            (first,) = await collect(receiver, 1, limit=1)
            await ack(receiver, first)
            receiver.pause((first.partition,))
            await topic.publish(b"a", b"b", partition=1)
            assert bodies(await collect(receiver, 2)) == [b"a", b"b"]
            assert await in_time(receiver.receive(10, 0.2)) == []
            assert receiver.status().lag["0"] == 2
            pending = asyncio.create_task(receiver.receive(10, 10))
            await asyncio.sleep(0)
            receiver.resume((first.partition,))
            assert bodies(await in_time(pending)) == [b"1", b"2"]


async def test_a_paused_receiver_keeps_its_membership(kafka: AnyCluster) -> None:
    """Of all partitions nothing is received, acks are committed, and no partition moves."""
    async with a_topic(kafka, partitions=2) as topic:
        await topic.publish(b"0", b"1", partition=0)
        async with topic.member() as receiver:
            (first,) = await collect(receiver, 1, limit=1)
            receiver.pause_all()
            await topic.publish(b"a", partition=1)
            assert await in_time(receiver.receive(10, 0.2)) == []
            assert receiver.status().assigned == 2
            assert receiver.status().problem == receiver.status().stalled == ""
            await ack(receiver, first)
            pending = asyncio.create_task(receiver.receive(10, 10))
            await asyncio.sleep(0)
            receiver.resume_all()
            got = bodies(await in_time(pending))
            got += bodies(await collect(receiver, 2 - len(got))) if len(got) < 2 else []
            assert sorted(got, key=str) == sorted([b"1", b"a"], key=str)


async def test_a_pause_ends_with_the_assignment(kafka: AnyCluster) -> None:
    """The next assignment of the partition begins without it, whatever the engine says later."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"0")
        async with topic.member() as receiver:
            (first,) = await collect(receiver, 1)
            receiver.pause((first.partition,))
            offsets = receiver._offsets
            offsets.end(first.partition)
            assert not offsets.held_back
            receiver.pause((first.partition,))  # the assignment is over
            assert not offsets.held_back


async def _publish(topic: Topic, body: bytes, count: int, partition: int) -> None:
    """Write messages with distinct keys to one partition."""
    for number in range(count):
        key = b"%s-%d" % (body, number)
        await topic.producer.send(topic.name, body, key=key, partition=partition)
    await topic.producer.flush()


async def _hang(dead: Message) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("error", "dead_letter"),
    [
        (ValueError("bad"), None),
        (Retry(after=60, counted=False), None),
        (Reject("bad"), _hang),
    ],
    ids=["fails", "postponed", "slow dead letters"],
)
async def test_a_partition_that_fails_stops_no_other(
    kafka: AnyCluster, error: Exception, dead_letter: Any
) -> None:
    """150 messages that fail still wait in one partition when 10 of the other are handled."""
    good = 0

    async def handle(message: Message) -> None:
        nonlocal good
        if message.body == b"bad":
            raise error
        good += 1

    async with a_topic(kafka, partitions=2) as topic:
        driver = drivers.open_driver(f"{kafka.url}?rebalance_timeout=10s")
        subscription = subscription_of(
            handle, order="key", concurrency=10, subscription=topic.name, channel=topic.name
        )
        subscriber = Subscriber(
            driver.receiver(topic.name, topic.name, ordered=True),
            subscription,
            topic=topic.name,
            capabilities=driver.capabilities,
            metrics=Metrics(),
            dead_letter=dead_letter,
        )
        await _publish(topic, b"bad", 150, 0)
        async with subscriber:
            running = asyncio.create_task(subscriber.run())
            pipeline = subscriber._pipeline
            await until(lambda: len(pipeline.failures.first_failed_at) == 150)
            await _publish(topic, b"good", 10, 1)
            await until(lambda: good == 10)
            assert len(pipeline.failures.first_failed_at) == 150
            assert subscriber.problem == subscriber.waiting_problem == ""
            await subscriber.drain(0)
            await running
