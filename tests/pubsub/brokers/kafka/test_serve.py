"""serve(broker=…) on a real Kafka: topics of its own, which are gone afterwards."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.admin import AIOKafkaAdminClient

import pubsubtest
from gizmopy import Message, Reject, Service, Settings, subscribe
from tests.pubsub.brokers.kafka.cluster import Cluster


class Cats(Service):
    name = "serve-cats-service"  # the groups of other tests begin with "cats-"

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.kittens: list[tuple[str, int]] = []

    @subscribe("serve-cats", order="key", dead_letter="serve-dead")
    async def on_cat(self, name: str, message: Message) -> None:
        if name == "bad":
            raise Reject("a bad cat")
        for number in range(3):
            await self.publish("serve-kittens", number, key=name)
        await self.publish("serve-news", name)

    @subscribe("serve-kittens")
    async def on_kitten(self, number: int, message: Message) -> None:
        self.kittens.append((message.topic, number))


async def _names(cluster: Cluster) -> tuple[set[str], set[str]]:
    """Return the topics of these tests at the broker, and their consumer groups."""
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    await admin.start()
    try:
        topics = {name for name in await admin.list_topics() if name.startswith("serve-")}
        groups = {group[0] for group in await admin.list_consumer_groups()}
        return topics, {group for group in groups if group.startswith("serve-cats-service")}
    finally:
        await admin.close()


async def _no_topic_is_left(cluster: Cluster) -> None:
    """Wait until the broker lists none: it confirms a removal a moment earlier."""
    async with asyncio.timeout(30):
        while (await _names(cluster))[0]:
            pass


async def test_a_service_runs_on_kafka(real_kafka: Cluster) -> None:
    """Channels have their own names; at the broker, topics and groups are those of the run."""
    async with pubsubtest.serve(Cats, broker=f"{real_kafka.url}?partitions=2") as cats:
        topics, _ = await _names(real_kafka)
        names = sorted(topic.rpartition("-")[0] for topic in topics)
        assert names == ["serve-cats", "serve-dead", "serve-kittens"]
        assert await cats.deliver("serve-cats", "Tom", key="t", timeout=60) == "ack"
        assert await cats.deliver("serve-cats", "bad", timeout=60) == "dead_letter"
        await cats.idle()
        assert sorted(cats.service.kittens) == [("serve-kittens", n) for n in range(3)]
        (dead,) = cats.published("serve-dead")
        assert dead.attributes["gizmo-dl-source-topic"] == "serve-cats"
        assert [each.value(str) for each in cats.published("serve-news")] == ["Tom"]
        topics, groups = await _names(real_kafka)
        assert len(topics) == 4
        assert len(groups) == 1
    await _no_topic_is_left(real_kafka)


async def test_nothing_is_left_after_a_test_that_fails(real_kafka: Cluster) -> None:
    """Also if it fails before a message was handled."""
    with pytest.raises(ValueError, match="a test"):
        async with pubsubtest.serve(Cats, broker=real_kafka.url):
            raise ValueError("a test")
    await _no_topic_is_left(real_kafka)
