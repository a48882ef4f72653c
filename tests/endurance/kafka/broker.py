"""The broker's own view of a topic and a group, through a client that is not the driver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.errors import KafkaError

from tests.endurance.kafka.verdict import Commit

_SAMPLE = 0.5
"""Seconds between two requests for the commits."""


class Broker:
    """Ask a broker about one topic, and one group that consumes it."""

    def __init__(
        self, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, topic: str, group: str
    ) -> None:
        self.commits: list[Commit] = []
        """The commits that ``watch`` has recorded."""
        self._admin = admin
        self._consumer = consumer
        self._topic = topic
        self._group = group

    async def partitions(self) -> list[TopicPartition]:
        """Return the current partitions of the topic."""
        (topic,) = await self._admin.describe_topics([self._topic])
        return [TopicPartition(self._topic, each["partition"]) for each in topic["partitions"]]

    async def ends(self) -> dict[int, int]:
        """Return the end offset of each partition."""
        ends = await self._consumer.end_offsets(await self.partitions())
        return {place.partition: end for place, end in ends.items()}

    async def commit(self) -> Commit:
        """Return the committed offset of each partition; 0 without a commit."""
        offsets = dict.fromkeys((place.partition for place in await self.partitions()), 0)
        for place, committed in (
            await self._admin.list_consumer_group_offsets(self._group)
        ).items():
            if place.topic == self._topic:
                offsets[place.partition] = max(0, committed.offset)
        return Commit(monotonic(), offsets)

    async def members(self) -> dict[str, str]:
        """Return the ids of the group's members, each with the state of the group."""
        (answer,) = await self._admin.describe_consumer_groups([self._group])
        ((_, _, state, _, _, members, *_),) = answer.groups
        return {member[0]: state for member in members}

    async def add_partitions(self, total: int) -> None:
        """Increase the topic's partitions to ``total``."""
        await self._admin.create_partitions({self._topic: NewPartitions(total)})

    async def handled(self, within: float) -> dict[int, tuple[int, int]]:
        """Wait until the group has committed all messages.

        Return the commit and the end of each partition that is behind after ``within`` seconds.
        """
        deadline = monotonic() + within
        while behind := await self._behind():
            if monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        return behind

    async def _behind(self) -> dict[int, tuple[int, int]]:
        commit, ends = await self.commit(), await self.ends()
        committed = commit.offsets
        return {p: (committed[p], end) for p, end in ends.items() if committed.get(p) != end}

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """Record the commits twice a second, as far as the broker answers."""

        async def note() -> None:
            while True:
                try:
                    self.commits.append(await self.commit())
                except KafkaError:
                    pass  # the nodes are down, or elect a leader
                await asyncio.sleep(_SAMPLE)

        noting = asyncio.create_task(note())
        try:
            yield
        finally:
            noting.cancel()
            await asyncio.wait([noting])


@asynccontextmanager
async def broker(bootstrap: str, topic: str, group: str) -> AsyncIterator[Broker]:
    """Connect to the nodes at ``bootstrap``."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        await consumer.start()
        yield Broker(admin, consumer, topic, group)
    finally:
        await consumer.stop()
        await admin.close()
