"""Topics to publish to for tests of the Kafka sender."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Message
from gizmopy.pubsub import registry as drivers
from gizmopy.pubsub.driver import Results
from tests.pubsub.brokers.kafka.cluster import AnyCluster
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster
from tests.pubsub.brokers.kafka.support import an_admin

PRODUCE = 0
NOT_LEADER, TIMED_OUT, TOO_LARGE, NOT_ENOUGH_REPLICAS = 6, 7, 10, 19
BOUND = 8.0
"""Seconds after which a bounded operation has taken far too long."""
KIB = 1024

HASHES = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}
"""The murmur2 hashes of keys, from the tests of Kafka's own ``Utils``."""


@dataclass
class Topic:
    """A topic, senders to it, and a client that reads it."""

    cluster: AnyCluster
    name: str
    partitions: int

    @asynccontextmanager
    async def sender(self, **settings: Any) -> AsyncIterator[Any]:
        """Provide a connected sender of the driver."""
        url = f"{self.cluster.url}?{urlencode(settings)}"
        sender = drivers.open_driver(url).sender(self.name)
        try:
            await sender.connect()
            yield sender
        finally:
            await sender.aclose()

    def message(self, body: bytes | None, key: str | None = None, **fields: Any) -> Message:
        """Return a message to this topic."""
        return Message(self.name, body, key=key, **fields)

    async def records(self, count: int) -> list[Any]:
        """Return the first ``count`` records, in order within each partition."""
        return await self._read(lambda records: len(records) >= count)

    async def values(self, count: int) -> list[bytes | None]:
        """Return the values of the first ``count`` records."""
        return [record.value for record in await self.records(count)]

    async def values_to(self, last: bytes) -> list[bytes | None]:
        """Return the values of the records up to the one with the value ``last``."""
        records = await self._read(lambda some: last in [record.value for record in some])
        return [record.value for record in records]

    async def _read(self, is_enough: Callable[[list[Any]], bool]) -> list[Any]:
        servers = self.cluster.bootstrap
        consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
        records: list[Any] = []
        async with asyncio.timeout(20), consumer:
            consumer.assign([TopicPartition(self.name, each) for each in range(self.partitions)])
            while not is_enough(records):
                for some in (await consumer.getmany(timeout_ms=200)).values():
                    records += some
        return records


@asynccontextmanager
async def a_topic(
    cluster: AnyCluster, partitions: int = 1, settings: dict[str, str] | None = None
) -> AsyncIterator[Topic]:
    """Create a topic with a new name; only a real cluster has settings for it."""
    topic = Topic(cluster, f"cats-{uuid4().hex[:8]}", partitions)
    if isinstance(cluster, MockCluster):
        cluster.create_topic(topic.name, partitions)
        yield topic
        return
    async with an_admin(cluster) as admin:
        new = NewTopic(topic.name, partitions, 1, topic_configs=settings or {})
        await admin.create_topics([new])
        while not (await admin.describe_topics([topic.name]))[0]["partitions"]:
            pass  # the broker answers with the topic a little later
        yield topic
        await admin.delete_topics([topic.name])


async def sent(sender: Any, *messages: Message) -> None:
    """Send messages, and require that each is confirmed."""
    assert list(await sender.send(messages)) == [None] * len(messages)


def transience(results: Results) -> list[bool | None]:
    """Return for each item None if it is confirmed, else whether its error is transient."""
    return [each.transient if isinstance(each, PubSubError) else each for each in results]  # type: ignore[misc]  # an error of another kind fails the comparison


async def in_time(awaitable: Any) -> Any:
    """Await something that has to end within ``BOUND``."""
    async with asyncio.timeout(BOUND):
        return await awaitable


def key_of(partition: int, partitions: int) -> str:
    """Return a key whose messages go to a partition."""
    known = {(hash_ & 0x7FFFFFFF) % partitions: key for key, hash_ in HASHES.items()}
    return known[partition]


async def cancelled(awaitable: Any) -> None:
    """Start something, cancel it midway, and wait for its end."""
    running = asyncio.ensure_future(awaitable)
    await asyncio.wait((running,), timeout=0.05)
    running.cancel()
    await asyncio.wait((running,))
    assert running.cancelled()
