"""A cluster of three nodes that die and come back."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import NewTopic

from tests.endurance.kafka import broker_outage
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.life_support import require_no_problem
from tests.pubsub.brokers.kafka.support import an_admin

pytestmark = pytest.mark.peers


async def test_a_topic_survives_the_death_of_its_leader(three_nodes: Cluster) -> None:
    """Records written to three nodes stay while the leader is dead, and after its return."""
    async with an_admin(three_nodes) as admin:
        await admin.create_topics([NewTopic("cats", num_partitions=1, replication_factor=3)])
        leader = await leader_of(admin, "cats")
    await publish(three_nodes, b"before")
    three_nodes.kill(leader)
    await publish(three_nodes, b"meanwhile")
    three_nodes.start(leader)
    await publish(three_nodes, b"after")
    assert await read(three_nodes, 3) == [b"before", b"meanwhile", b"after"]


async def leader_of(admin: Any, topic: str) -> int:
    """Ask until a node answers that knows the topic: nodes learn of a topic at different times."""
    partitions: list[dict[str, int]] = []
    while not partitions:
        [described] = await admin.describe_topics([topic])
        partitions = described["partitions"]
    return partitions[0]["leader"]


async def publish(cluster: Cluster, value: bytes) -> None:
    """Write to all replicas in sync."""
    async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, acks="all") as producer:
        await producer.send_and_wait("cats", value)


async def read(cluster: Cluster, count: int) -> list[bytes]:
    """Return the first ``count`` values."""
    consumer = AIOKafkaConsumer(
        "cats", bootstrap_servers=cluster.bootstrap, auto_offset_reset="earliest"
    )
    async with consumer:
        return [(await consumer.getone()).value for _ in range(count)]


@pytest.mark.timeout(120)
async def test_all_nodes_down(three_nodes: Cluster) -> None:
    """Daemons recover once their cluster is back."""
    await require_no_problem(broker_outage.all_nodes_down, three_nodes, 2)


@pytest.mark.timeout(120)
async def test_a_node_dies(three_nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of three is killed and started again under load: nothing is lost, all is in order."""
    monkeypatch.setattr(broker_outage, "DOWN", 2.0)
    monkeypatch.setattr(broker_outage, "UP", 1.0)
    await require_no_problem(broker_outage.nodes_die, three_nodes, 1)
