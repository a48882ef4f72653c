"""Look through a topic from the first open record on, and settle records by marks.

Each look costs a read of all records between the first that is open and the end, and one more for
those that are shown: a mark is behind the records that it settles. The group's committed offset
moves to the first open record, so that what is settled from the beginning is not read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import time

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import committed_offsets, stop
from gizmopy.pubsub.brokers.kafka.cluster import Cluster
from gizmopy.pubsub.brokers.kafka.errors import describe_error, translate_errors
from gizmopy.pubsub.brokers.kafka.marks import MOST_OFFSETS, OpenRecords, mark
from gizmopy.pubsub.brokers.kafka.poller import attributes_of
from gizmopy.pubsub.brokers.kafka.sender import KafkaSender
from gizmopy.pubsub.driver import Measured, Results
from gizmopy.pubsub.message import NO_ATTRIBUTES, Message

logger = logging.getLogger(__name__)

_BATCH = 200
_FETCH_SECONDS = 1.0
"""How long one fetch waits."""
_PROGRESS_SECONDS = 20.0
"""How long nothing may arrive until the brokers count as unreachable."""
_START_SECONDS = 15.0


class KafkaBrowser:
    """Look through ``topic``; ``group`` has the offset before which all is settled.

    ``sender`` sends the marks, and is this browser's own.
    """

    def __init__(self, cluster: Cluster, topic: str, group: str, sender: KafkaSender) -> None:
        self._cluster = cluster
        self._topic = topic
        self._group = group
        self._sender = sender
        self._consumer: AIOKafkaConsumer | None = None
        self._records: dict[TopicPartition, OpenRecords] = {}
        self._published: dict[TopicPartition, tuple[int, float]] = {}
        """Of each partition the offset of its first open record, and when that was published."""

    async def connect(self) -> None:
        """Find the topic and the group's offsets, without joining the group."""
        count = await self._cluster.find(self._topic)
        tps = [TopicPartition(self._topic, number) for number in range(count)]
        await self._stop()  # of an earlier connect that has failed
        consumer = AIOKafkaConsumer(
            **self._cluster.options(),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        self._consumer = consumer
        consumer.assign(tps)
        async with self._translated():
            async with asyncio.timeout(_START_SECONDS):
                await consumer.start()
                committed = await committed_offsets(consumer, tps)
        self._records = {tp: OpenRecords(at or 0) for tp, at in committed.items()}
        self._published.clear()

    async def browse(self) -> AsyncIterator[Sequence[Message]]:
        """Yield the open records, partition by partition."""
        consumer = self._connected()
        await self._read_on(consumer)
        for tp, records in self._records.items():
            end = records.next
            if not records.count:
                continue
            async for batch in self._read(consumer, tp, records.first, end):
                if found := [_message(each) for each in batch if records.is_open(each.offset)]:
                    yield found

    async def settle(self, batch: Sequence[Message]) -> Results:
        """Write marks to the partitions of the messages, and move the group's offsets."""
        by_partition: defaultdict[TopicPartition, list[ConsumerRecord]] = defaultdict(list)
        for message in batch:
            record = message.raw
            if not isinstance(record, ConsumerRecord) or record.topic != self._topic:
                raise UsageError(f"{message!r} was not found here")
            by_partition[TopicPartition(self._topic, record.partition)].append(record)
        failures: dict[tuple[int, int], Exception] = {}
        for tp, records in by_partition.items():
            for at in range(0, len(records), MOST_OFFSETS):
                offsets = [record.offset for record in records[at : at + MOST_OFFSETS]]
                if failure := await self._mark(tp, offsets):
                    failures |= {(tp.partition, offset): failure for offset in offsets}
        await self._commit(self._connected(), by_partition)
        places = [
            (m.raw.partition, m.raw.offset) for m in batch if isinstance(m.raw, ConsumerRecord)
        ]
        return [failures.get(place) for place in places]

    async def measure(self) -> Measured:
        """Read what is new, and return the number of open records and the age of the oldest."""
        consumer = self._connected()
        await self._read_on(consumer)
        ages = [0.0]
        for tp, records in self._records.items():
            if records.count:
                ages.append(time() - await self._published_at(consumer, tp, records.first))
        backlog = sum(records.count for records in self._records.values())
        return Measured(backlog=backlog, oldest=max(ages))

    async def aclose(self) -> None:
        """Stop the consumer and the sender, in bounded time."""
        try:
            await self._stop()
        finally:
            await self._sender.aclose()

    # Reading.

    def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise UsageError("this browser is not connected")
        return self._consumer

    async def _read_on(self, consumer: AIOKafkaConsumer) -> None:
        """Read all partitions to their ends, and note what is open."""
        async with self._translated():
            starts = await consumer.beginning_offsets(list(self._records))
            ends = await consumer.end_offsets(list(self._records))
        for tp, end in ends.items():
            if end < self._records[tp].next:  # the topic was made anew
                self._records[tp] = OpenRecords(starts[tp])
                self._published.pop(tp, None)
            records = self._records[tp]
            records.forget_before(starts[tp])
            async for batch in self._read(consumer, tp, records.next, end):
                self._note(records, batch)
            records.skip_to(end)
            records.forget_before(records.first)

    def _note(self, records: OpenRecords, batch: Sequence[ConsumerRecord]) -> None:
        for record in batch:
            if not records.has_room_for(record.offset):
                raise PubSubError(
                    f"partition {record.partition} of {self._topic!r} has too many records behind "
                    f"{records.start}, the first that is open; redrive or drop from the beginning",
                    transient=False,
                )
            records.read(record)

    async def _read(
        self, consumer: AIOKafkaConsumer, tp: TopicPartition, start: int, end: int
    ) -> AsyncIterator[Sequence[ConsumerRecord]]:
        """Yield the records of a partition from ``start`` to before ``end``."""
        if start >= end:
            return
        loop = asyncio.get_running_loop()
        consumer.seek(tp, start)
        position, idle_since = start, loop.time()
        while position < end:
            async with self._translated():
                found = await consumer.getmany(
                    tp, timeout_ms=round(_FETCH_SECONDS * 1000), max_records=_BATCH
                )
                position = await consumer.position(tp)
            batch = [record for record in found.get(tp, ()) if record.offset < end]
            if batch:
                idle_since = loop.time()
                yield batch
            elif position < end and loop.time() - idle_since > _PROGRESS_SECONDS:
                raise PubSubError(
                    f"partition {tp.partition} of {self._topic!r} cannot be read at {position}: "
                    "no broker answers",
                    transient=True,
                )

    async def _published_at(
        self, consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int
    ) -> float:
        """Return when a record was published, in seconds since 1970."""
        if (known := self._published.get(tp)) is None or known[0] != offset:
            async for batch in self._read(consumer, tp, offset, offset + 1):
                known = (offset, batch[0].timestamp / 1000)
                self._published[tp] = known
        return time() if known is None else known[1]

    # Settling.

    async def _mark(self, tp: TopicPartition, offsets: Sequence[int]) -> Exception | None:
        """Write one mark; return why that failed, or None."""
        try:
            (failure,) = await self._sender.send([mark(self._topic, offsets)], number=tp.partition)
        except PubSubError as error:
            return error
        if failure is None:
            for offset in offsets:
                self._records[tp].settle(offset)
        return failure

    async def _commit(
        self, consumer: AIOKafkaConsumer, changed: Mapping[TopicPartition, object]
    ) -> None:
        """Commit the first open offset of partitions: only a short cut, since the marks count."""
        firsts = {tp: self._records[tp].first for tp in changed}
        try:
            async with asyncio.timeout(_START_SECONDS):
                await consumer.commit(firsts)
        except (KafkaError, TimeoutError) as error:
            # Such as: an older version of gizmopy is a member of the group at present.
            logger.debug("group %s was not committed: %s", self._group, describe_error(error))

    # The client.

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            with translate_errors(f"topic {self._topic!r} cannot be looked through"):
                yield
        except ValueError as error:  # a header name that is not UTF-8
            reason = f"topic {self._topic!r} cannot be looked through: {describe_error(error)}"
            raise PubSubError(reason, transient=False) from error

    async def _stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop(consumer, None)


def _message(record: ConsumerRecord) -> Message:
    key = record.key
    return Message.received(
        record.topic,
        record.value,
        None if key is None else key.decode("utf-8", "surrogateescape"),
        attributes_of(record.headers) if record.headers else NO_ATTRIBUTES,
        f"{record.topic}-{record.partition}-{record.offset}",
        record.timestamp / 1000,
        record.partition,
        record,
    )
