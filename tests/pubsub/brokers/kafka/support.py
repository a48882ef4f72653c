"""Topics and group members for tests of the Kafka receiver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.producer import message_accumulator
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Message
from gizmopy.pubsub import registry as drivers
from gizmopy.pubsub.driver import Results, Revoke
from tests.pubsub.brokers.kafka.cluster import AnyCluster
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster

OFFSET_COMMIT, JOIN_GROUP, HEARTBEAT = 8, 11, 12
LOADING, NO_COORDINATOR, NOT_COORDINATOR, GROUP_FORBIDDEN = 14, 15, 16, 30
ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCE = 22, 25, 27
BOUND = 8.0
"""Seconds after which a bounded operation has taken far too long."""
NEVER = "1h"
DAY = 86_400.0


async def revoke_at_once(partitions: Collection[Hashable], seconds: float) -> None:
    """Give up partitions at once."""


class Revoked:
    """Give up partitions at once, and record them."""

    def __init__(self) -> None:
        self.partitions: list[str] = []

    async def __call__(self, partitions: Collection[Hashable], seconds: float) -> None:
        self.partitions += map(str, partitions)


class BlockedRevoke:
    """Give up partitions only when a test allows it."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, partitions: Collection[Hashable], seconds: float) -> None:
        self.started.set()
        await self.release.wait()


@dataclass
class Topic:
    """A topic, clients that write to it and read its offsets, and the group of the same name."""

    cluster: AnyCluster
    name: str
    producer: Any
    observer: Any

    async def publish(self, *bodies: bytes, partition: int = 0) -> None:
        """Write messages to one partition."""
        for body in bodies:
            await self.producer.send_and_wait(self.name, body, partition=partition)

    async def committed(self, partition: int = 0) -> int | None:
        """Return the offset that the group has committed, as the broker knows it."""
        offset: int | None = await self.observer.committed(TopicPartition(self.name, partition))
        return offset

    async def until_committed(self, offset: int, partition: int = 0) -> None:
        """Wait until the group has committed an offset."""
        async with asyncio.timeout(BOUND):
            while await self.committed(partition) != offset:  # noqa: ASYNC110 - Kafka sends no notification
                await asyncio.sleep(0.02)

    def receiver(self, **settings: Any) -> Any:
        """Return a receiver that commits only when it gives up partitions, by default."""
        session = "6s" if self.cluster.is_real else "1s"  # a rebalance of the mock lasts as long
        quick = {"session_timeout": session, "rebalance_timeout": "10s", "commit_interval": NEVER}
        url = f"{self.cluster.url}?{urlencode(quick | settings)}"
        return drivers.open_driver(url).receiver(self.name, self.name, ordered=True)

    @asynccontextmanager
    async def unconnected(self, **settings: Any) -> AsyncIterator[Any]:
        """Provide a receiver that has not joined the group yet."""
        receiver = self.receiver(**settings)
        try:
            yield receiver
        finally:
            await receiver.aclose()

    @asynccontextmanager
    async def member(self, revoke: Revoke = revoke_at_once, **settings: Any) -> AsyncIterator[Any]:
        """Provide a receiver that is a member of the group."""
        async with self.unconnected(**settings) as receiver:
            await receiver.connect(revoke)
            yield receiver


@asynccontextmanager
async def a_topic(cluster: AnyCluster, partitions: int = 1) -> AsyncIterator[Topic]:
    """Create a topic with a new name."""
    name = f"cats-{uuid4().hex[:8]}"
    servers = cluster.bootstrap
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
    observer = AIOKafkaConsumer(
        bootstrap_servers=servers, group_id=name, enable_auto_commit=False, retry_backoff_ms=20
    )
    async with created(cluster, name, partitions), producer, observer:
        yield Topic(cluster, name, producer, observer)


@asynccontextmanager
async def created(cluster: AnyCluster, topic: str, partitions: int) -> AsyncIterator[None]:
    """Create a topic, as far as the cluster needs that."""
    if isinstance(cluster, MockCluster):
        cluster.create_topic(topic, partitions)
        yield
    else:
        async with drivers.provision(f"{cluster.url}?partitions={partitions}", topic):
            yield


@asynccontextmanager
async def an_admin(cluster: AnyCluster) -> AsyncIterator[Any]:
    """Provide a client that changes topics."""
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def collect(receiver: Any, count: int, limit: int = 100) -> list[Message]:
    """Return the next messages, at least ``count``."""
    messages: list[Message] = []
    async with asyncio.timeout(20):
        while len(messages) < count:
            messages += await receiver.receive(limit, 1.0)
    return messages


async def ack(receiver: Any, *messages: Message) -> None:
    """Ack messages, and require that this succeeds."""
    assert set(await receiver.ack(messages)) == {None}


async def short_sleep(seconds: float) -> None:
    """Sleep 0.2 s at most, in place of the engine's waits before it retries."""
    await asyncio.sleep(min(seconds, 0.2))


async def in_time(awaitable: Awaitable[Any]) -> Any:
    """Await something that has to end within ``BOUND``."""
    async with asyncio.timeout(BOUND):
        return await awaitable


def bodies(messages: Sequence[Message]) -> list[bytes | None]:
    """Return the bodies of messages."""
    return [message.body for message in messages]


def assigned(receiver: Any) -> list[str]:
    """Return the partitions of a receiver."""
    return sorted(receiver.status().lag)


def share_partitions(first: Any, second: Any) -> bool:
    """Return whether two members have one of two partitions each."""
    mine, yours = assigned(first), assigned(second)
    return len(mine) == 1 and sorted(mine + yours) == ["0", "1"]


async def until(condition: Callable[[], object], *receivers: Any) -> None:
    """Let receivers work until a condition is true; drop the messages."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.gather(*(receiver.receive(100, 0.02) for receiver in receivers))
            await asyncio.sleep(0.005)


def refused_for_good(results: Results) -> list[bool]:
    """Return for each item whether it has an error that is not transient."""
    return [isinstance(each, PubSubError) and not each.transient for each in results]


async def handle_until(receiver: Any, last: bytes) -> list[bytes | None]:
    """Receive and ack until the ack of a body succeeds; return all received bodies."""
    handled: list[bytes | None] = []
    async with asyncio.timeout(20):
        while True:
            messages = await receiver.receive(100, 0.1)
            handled += bodies(messages)
            for message in messages:
                (result,) = await receiver.ack([message])
                if result is None and message.body == last:
                    return handled


async def first_new(topic: Topic, receiver: Any) -> Message:
    """Publish until something is received, because a receiver asks for its first offset late."""
    got: list[Message] = []
    async with asyncio.timeout(BOUND):
        while not got:
            await topic.publish(b"new")
            got += await receiver.receive(100, 0.05)
    return got[0]


class NotUtf8(str):
    """A header name whose bytes are not UTF-8."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return b"\xff\xfe"


async def publish_raw(topic: Topic, headers: Any, patch: pytest.MonkeyPatch) -> None:
    """Publish headers unchanged, which only aiokafka's pure Python batches allow."""
    name = "DefaultRecordBatchBuilder"
    patch.setattr(message_accumulator, name, _DefaultRecordBatchBuilderPy)
    batch = topic.producer.create_batch()
    batch.append(timestamp=None, key=None, value=b"2", headers=headers)
    await (await topic.producer.send_batch(batch, topic.name, partition=0))
