"""The faults of the mock cluster, as aiokafka sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance
from aiokafka.errors import (
    CommitFailedError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from tests.pubsub.brokers.kafka.mock_cluster import MockCluster, mock_cluster

PRODUCE, FETCH, OFFSET_COMMIT = 0, 1, 8
NOT_LEADER, MESSAGE_TOO_LARGE, COORDINATOR_NOT_AVAILABLE = 6, 10, 15
ILLEGAL_GENERATION, REBALANCE, TOPIC_FORBIDDEN = 22, 27, 29


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[MockCluster]:
    """Two nodes; the first leads partitions 0 and 1 of "cats", the second 2 and 3 and the group."""
    with mock_cluster(tmp_path, nodes=2) as running:
        running.create_topic("cats", 4)
        for partition in range(4):
            running.move_leader("cats", partition, 1 + partition // 2)
        running.move_coordinator("friends", 2)
        yield running


@asynccontextmanager
async def a_producer(cluster: MockCluster) -> AsyncIterator[Any]:
    """Run an idempotent producer."""
    producer = AIOKafkaProducer(
        bootstrap_servers=cluster.bootstrap, enable_idempotence=True, retry_backoff_ms=20
    )
    try:
        await producer.start()
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def a_member(cluster: MockCluster, topic: str = "cats") -> AsyncIterator[Any]:
    """Join the group "friends", which starts at the earliest record and commits only explicitly."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=cluster.bootstrap,
        group_id="friends",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=2000,
        heartbeat_interval_ms=200,
        retry_backoff_ms=20,
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()


async def read(consumer: Any, count: int) -> list[bytes]:
    """Return the next ``count`` values, sorted; hang if there are fewer."""
    values: list[bytes] = []
    while len(values) < count:
        for records in (await consumer.getmany(timeout_ms=200)).values():
            values += [record.value for record in records]
    return sorted(values)


async def test_a_group_continues_at_its_commit(cluster: MockCluster) -> None:
    """A member reads the published records, and its successor the uncommitted ones."""
    async with a_producer(cluster) as producer:
        await producer.send_and_wait("cats", b"a", partition=0)
        await producer.send_and_wait("cats", b"b", partition=3)
        async with a_member(cluster) as member:
            assert await read(member, 2) == [b"a", b"b"]
            await member.commit()
        await producer.send_and_wait("cats", b"c", partition=0)
        async with a_member(cluster) as member:
            assert await read(member, 1) == [b"c"]


async def test_members_that_join_at_once_share_the_partitions(cluster: MockCluster) -> None:
    """Two members get two of four partitions each, and read them."""
    async with a_producer(cluster) as producer, AsyncExitStack() as stack:
        joining = (stack.enter_async_context(a_member(cluster)) for _ in range(2))
        first, second = await asyncio.gather(*joining)
        while [len(first.assignment()), len(second.assignment())] != [2, 2]:
            await first.getmany(timeout_ms=50)
        for partition in range(4):
            await producer.send_and_wait("cats", b"%d" % partition, partition=partition)
        for member in (first, second):
            own = sorted(b"%d" % assigned.partition for assigned in member.assignment())
            assert await read(member, 2) == own


async def test_a_restarted_node_has_lost_nothing(cluster: MockCluster) -> None:
    """A send waits for a node that is down, and earlier records are still there."""
    async with a_producer(cluster) as producer:
        await producer.send_and_wait("cats", b"before", partition=0)
        cluster.kill(1)
        waiting = await producer.send("cats", b"during", partition=0)
        await producer.send_and_wait("cats", b"elsewhere", partition=3)
        assert not waiting.done()
        cluster.start(1)
        await waiting
    async with a_member(cluster) as member:
        assert await read(member, 3) == [b"before", b"during", b"elsewhere"]


async def test_partitions_of_a_dead_node_can_be_moved(cluster: MockCluster) -> None:
    """The other node serves the partitions and the group of a node that is down."""
    async with a_producer(cluster) as producer:
        await producer.send_and_wait("cats", b"before", partition=3)
        cluster.kill(2)
        for partition in (2, 3):
            cluster.move_leader("cats", partition, 1)
        cluster.move_coordinator("friends", 1)
        await producer.send_and_wait("cats", b"after", partition=3)
        async with a_member(cluster) as member:
            assert await read(member, 2) == [b"after", b"before"]


async def test_a_delayed_node_answers_after_the_other(cluster: MockCluster) -> None:
    """A send to a delayed node is unconfirmed when a later one to the other node is confirmed."""
    async with a_producer(cluster) as producer:
        cluster.delay(1, 0.3)
        slow = await producer.send("cats", b"slow", partition=0)
        await producer.send_and_wait("cats", b"fast", partition=3)
        assert not slow.done()
        await slow


async def test_produce_returns_the_errors_in_turn(cluster: MockCluster) -> None:
    """The producer retries after the first error, raises the second, and works then."""
    async with a_producer(cluster) as producer:
        cluster.fail(PRODUCE, NOT_LEADER, MESSAGE_TOO_LARGE)
        with pytest.raises(MessageSizeTooLargeError):
            await producer.send_and_wait("cats", b"a")
        await producer.send_and_wait("cats", b"b")


async def test_commit_returns_the_errors_in_turn(cluster: MockCluster) -> None:
    """The consumer retries after the first error, raises the second, and works then."""
    partition = TopicPartition("cats", 0)
    async with a_member(cluster) as member:
        cluster.fail(OFFSET_COMMIT, COORDINATOR_NOT_AVAILABLE, TOPIC_FORBIDDEN)
        with pytest.raises(TopicAuthorizationFailedError):
            await member.commit({partition: 1})
        await member.commit({partition: 2})
        assert await member.committed(partition) == 2


@pytest.mark.parametrize("error", [ILLEGAL_GENERATION, REBALANCE])
async def test_a_commit_can_come_too_late(cluster: MockCluster, error: int) -> None:
    """A member gets the error of a group that has rebalanced without it."""
    async with a_member(cluster) as member:
        cluster.fail(OFFSET_COMMIT, error)
        with pytest.raises(CommitFailedError):
            await member.commit({TopicPartition("cats", 0): 1})


async def test_an_error_of_fetch_is_raised_once(cluster: MockCluster) -> None:
    """The next read returns the records."""
    cluster.create_topic("dogs", 1)
    async with a_producer(cluster) as producer:
        await producer.send_and_wait("dogs", b"a")
    cluster.fail(FETCH, TOPIC_FORBIDDEN)
    async with a_member(cluster, "dogs") as member:
        with pytest.raises(TopicAuthorizationFailedError):
            await read(member, 1)
        assert await read(member, 1) == [b"a"]


async def test_a_topic_can_be_forbidden(cluster: MockCluster) -> None:
    """A topic with an error in its metadata cannot be sent to until the error is removed."""
    async with a_producer(cluster) as producer:
        cluster.fail_topic("cats", TOPIC_FORBIDDEN)
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait("cats", b"a")
        cluster.fail_topic("cats", 0)
        await producer.send_and_wait("cats", b"a")


async def test_an_unknown_node_is_an_error(cluster: MockCluster) -> None:
    """The error names the call that librdkafka refuses."""
    with pytest.raises(OSError, match=r"broker_set_down\(3,\)"):
        cluster.kill(3)


async def test_two_clusters_are_independent(cluster: MockCluster, tmp_path: Path) -> None:
    """Each cluster has its own nodes and faults."""
    with mock_cluster(tmp_path) as other:
        other.kill(1)
        async with a_producer(cluster) as producer:
            await producer.send_and_wait("cats", b"a")
        assert not set(other.bootstrap.split(",")) & set(cluster.bootstrap.split(","))


async def test_a_cluster_cleans_up(tmp_path: Path) -> None:
    """When the cluster ends, its port is closed and aiokafka is unchanged."""
    before = vars(CoordinatorGroupRebalance)["_on_join_leader"]
    with mock_cluster(tmp_path) as running:
        host, port = running.bootstrap.split(":")
        assert vars(CoordinatorGroupRebalance)["_on_join_leader"] is not before
    assert vars(CoordinatorGroupRebalance)["_on_join_leader"] is before
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))
