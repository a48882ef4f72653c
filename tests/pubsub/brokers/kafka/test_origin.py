"""The origin of a message: it tells a topic made anew, and another cluster, from the first one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from gizmopy import Message
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Subscriber, Subscription
from gizmopy.pubsub import registry as drivers
from gizmopy.pubsub.brokers.kafka.offsets import Offsets
from gizmopy.pubsub.middleware import MemoryStore, Store, idempotent
from tests.pubsub.brokers.kafka.cluster import AnyCluster, Cluster
from tests.pubsub.brokers.kafka.mock_cluster import mock_cluster
from tests.pubsub.brokers.kafka.support import an_admin, created
from tests.pubsub.support import subscription_of

SAME_TIME = 1_700_000_000_000
"""The timestamp of all records: without the origin they would have the same identity."""
GROUP = "cats"


class Handler:
    """Count messages, and record their origins."""

    def __init__(self) -> None:
        self.bodies: list[bytes | None] = []
        self.origins: list[str] = []

    async def __call__(self, message: Message) -> None:
        self.bodies.append(message.body)
        self.origins.append(message.origin)


@asynccontextmanager
async def consuming(
    cluster: AnyCluster, topic: str, store: Store, group: str, **options: Any
) -> AsyncIterator[tuple[Handler, list[Any]]]:
    """Handle a topic's messages with marks in ``store``; give the handler and what is settled."""
    settled: list[Any] = []
    handler = Handler()
    subscription: Subscription = subscription_of(
        idempotent(store, **options)(handler), subscription=GROUP
    )
    driver = drivers.open_driver(f"{cluster.url}?group={group}")
    async with Subscriber(
        driver.receiver(topic, GROUP, ordered=False),
        subscription,
        topic=topic,
        capabilities=driver.capabilities,
        metrics=Metrics(),
        on_settle=lambda message, outcome, _: settled.append((message.body, outcome)),
    ) as subscriber:
        running = asyncio.create_task(subscriber.run())
        yield handler, settled
        await subscriber.drain(5)
        await running


async def until(condition: Any) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - Kafka sends no notification
            await asyncio.sleep(0.02)


async def publish(cluster: AnyCluster, topic: str, *bodies: bytes) -> None:
    """Write records that all have the same timestamp."""
    async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, acks="all") as producer:
        for body in bodies:
            await producer.send_and_wait(topic, body, partition=0, timestamp_ms=SAME_TIME)


async def make(admin: Any, topic: str) -> None:
    """Create a topic once the broker has deleted its namesake."""
    new = NewTopic(topic, 1, 1)
    async with asyncio.timeout(20):
        while True:
            answer = await admin.create_topics([new])
            error = for_code(answer.topic_errors[0][1])
            if error is not TopicAlreadyExistsError:
                break
        while not (await admin.describe_topics([topic]))[0]["partitions"]:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)


async def test_a_topic_that_is_made_anew_is_handled(real_kafka: Cluster) -> None:
    """Its messages have the old places and dates, and the redelivered ones are told apart."""
    topic, store = f"cats-{uuid4().hex[:8]}", MemoryStore()
    async with an_admin(real_kafka) as admin:
        await make(admin, topic)
        await publish(real_kafka, topic, b"1", b"2", b"3")
        async with consuming(real_kafka, topic, store, "first") as (first, settled):
            await until(lambda: len(settled) == 3)
        async with consuming(real_kafka, topic, store, "again") as (again, settled):
            await until(lambda: len(settled) == 3)
        await admin.delete_topics([topic])
        await make(admin, topic)
        await publish(real_kafka, topic, b"4", b"5", b"6")
        async with consuming(real_kafka, topic, store, "first") as (anew, settled):
            await until(lambda: len(settled) == 3)
        await admin.delete_topics([topic])
    assert first.bodies == [b"1", b"2", b"3"]
    assert again.bodies == []
    assert anew.bodies == [b"4", b"5", b"6"]
    assert len({*first.origins, *anew.origins}) == 2


async def test_a_topic_that_is_made_anew_while_it_is_consumed_is_handled(
    real_kafka: Cluster,
) -> None:
    """The running member asks for the id of the topic again."""
    topic, store = f"cats-{uuid4().hex[:8]}", MemoryStore()
    async with an_admin(real_kafka) as admin:
        await make(admin, topic)
        await publish(real_kafka, topic, b"1", b"2", b"3")
        async with consuming(real_kafka, topic, store, "first") as (handler, settled):
            await until(lambda: len(settled) == 3)
            await admin.delete_topics([topic])
            await make(admin, topic)
            await publish(real_kafka, topic, b"4", b"5")
            await until(lambda: len(settled) == 5)
        await admin.delete_topics([topic])
    assert handler.bodies == [b"1", b"2", b"3", b"4", b"5"]
    assert len(set(handler.origins)) >= 2


async def test_two_clusters_with_one_store_skip_nothing(kafka: AnyCluster, tmp_path: Path) -> None:
    """The same topic name, offsets and dates on another cluster are other messages."""
    topic, store = f"cats-{uuid4().hex[:8]}", MemoryStore()
    with mock_cluster(tmp_path) as other:
        for cluster in (kafka, other):
            async with created(cluster, topic, 1):
                await publish(cluster, topic, b"1", b"2")
                async with consuming(cluster, topic, store, topic) as (handler, settled):
                    await until(lambda settled=settled: len(settled) == 2)
                assert handler.bodies == [b"1", b"2"]
                assert all(handler.origins)


async def test_a_replay_on_purpose_is_handled_once(kafka: AnyCluster) -> None:
    """With a name of the replay each message is handled again, and only once."""
    topic, store = f"cats-{uuid4().hex[:8]}", MemoryStore()
    handled = []
    async with created(kafka, topic, 1):
        await publish(kafka, topic, b"1")
        for replay in ("", "", "december", "december"):
            group = f"{topic}-{uuid4().hex[:4]}"
            async with consuming(kafka, topic, store, group, replay=replay) as (handler, settled):
                await until(lambda settled=settled: settled)
            handled.append(len(handler.bodies))
    assert handled == [1, 0, 1, 0]


def test_a_topic_made_anew_while_it_is_consumed_has_another_origin() -> None:
    """An offset that goes back ends the origin, until the broker tells the new one."""
    offsets = Offsets(10, commit_start=False)
    tp = TopicPartition("cats", 0)
    offsets.set_origin("cluster/old")
    old = offsets.at(tp, 5)
    offsets.received(old, 7)
    new = offsets.at(tp, 0)
    assert old.origin == "cluster/old"
    assert new.origin not in ("", "cluster/old")
    assert offsets.is_origin_old
    offsets.set_origin("cluster/new")
    assert (old.origin, new.origin) == ("cluster/old", "cluster/new")
    assert not offsets.is_origin_old
