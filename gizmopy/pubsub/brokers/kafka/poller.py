"""Take records from the partitions that have room, and quarantine partitions with corrupt ones."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import BrokerResponseError, CorruptRecordException, KafkaError

from gizmopy._aio import first_of
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import (
    fetch_ready,
    fetched_partitions,
    positions,
    raise_group_error,
)
from gizmopy.pubsub.brokers.kafka.errors import describe_error
from gizmopy.pubsub.brokers.kafka.lenient_records import LenientReader, mark_unreadable
from gizmopy.pubsub.brokers.kafka.marks import KEY_PREFIX, is_mark
from gizmopy.pubsub.brokers.kafka.offsets import Offsets
from gizmopy.pubsub.message import NO_ATTRIBUTES, NULL, Message, RepeatedAttributes


class Poller:
    """Receive a topic's records as messages, as far as ``offsets`` has room.

    aiokafka raises the same error for a corrupt record at each poll, and drops the records of other
    partitions that it took in the same poll. So a topic that has had one is in ``corrupt_topics``,
    which all receivers of a driver share, and its partitions are polled one at a time: a partition
    that cannot be read stops, and the others go on.
    """

    def __init__(self, topic: str, offsets: Offsets, corrupt_topics: set[str]) -> None:
        self._topic = topic
        self._offsets = offsets
        self._corrupt_topics = corrupt_topics
        self._lenient: LenientReader | None = None
        self._quarantined: set[TopicPartition] = set()
        """Partitions that are read leniently, one record at a time."""
        self._stopped: dict[TopicPartition, str] = {}
        """Partitions that cannot be read leniently either, with the reason."""
        self._stopped_to_retry: set[TopicPartition] = set()
        """Those of them to try again at the next poll."""
        self._end_offsets: dict[TopicPartition, int] = {}
        """The end offsets of partitions that are held back: no fetch returns the current ones."""
        self._polls_again = False
        """Whether the next ``wait`` returns at once."""
        self._woken: asyncio.Future[None] | None = None
        """Ends the wait of a pending ``wait``."""

    # Poll.

    async def poll(self, consumer: AIOKafkaConsumer, limit: int) -> list[Message]:
        """Return at most ``limit`` messages that are fetched already, if any.

        Nothing is awaited between taking records and returning them, because their assignment could
        end meanwhile. With a time-out of 0 ``getmany`` waits only for a rebalance; the caller has
        checked that there is none.
        """
        if self._offsets.all_paused:
            return []
        allowed: Collection[TopicPartition] = ()
        if held_back := self._offsets.held_back:
            allowed = consumer.assignment() - held_back
            if not allowed:  # getmany() without partitions would ask for all of them
                return []
        if self._topic in self._corrupt_topics:
            return await self._poll_each_partition(consumer, limit)
        return self._take(await consumer.getmany(*allowed, max_records=limit))

    async def _poll_each_partition(self, consumer: AIOKafkaConsumer, limit: int) -> list[Message]:
        """Poll one partition after the other, so that one that fails stops no other."""
        batch: list[Message] = []
        raise_group_error(consumer)
        fetched = fetched_partitions(consumer)
        for tp in list(fetched):
            if tp in self._offsets.held_back or not self._may_read(tp):
                continue
            if (left := limit - len(batch)) <= 0:
                break
            try:
                batch += await self._poll_partition(consumer, tp, left)
            except (KafkaError, ValueError) as error:
                if tp in fetched:
                    self._quarantine(consumer, tp, error)
                elif not batch:  # not a record, but a broker's error, which it repeats
                    raise
        return batch

    def _may_read(self, tp: TopicPartition) -> bool:
        return tp not in self._stopped or tp in self._stopped_to_retry

    async def _poll_partition(
        self, consumer: AIOKafkaConsumer, tp: TopicPartition, limit: int
    ) -> list[Message]:
        self._stopped_to_retry.discard(tp)
        lenient = self._reader(consumer)
        is_quarantined = tp in self._quarantined
        is_lenient = is_quarantined and lenient.use(tp)
        most = 1 if is_quarantined else limit
        messages = self._take(await consumer.getmany(tp, max_records=most))
        if is_lenient and messages:
            mark_unreadable(messages)
        elif is_lenient:  # all records that were fetched with the malformed one are consumed
            lenient.drop(tp)
            self._quarantined.discard(tp)
        self._stopped.pop(tp, None)
        return messages

    def _reader(self, consumer: AIOKafkaConsumer) -> LenientReader:
        if self._lenient is None or self._lenient.consumer is not consumer:
            self._lenient = LenientReader(consumer)
        return self._lenient

    def _quarantine(self, consumer: AIOKafkaConsumer, tp: TopicPartition, error: Exception) -> None:
        """Read a partition leniently from now on; stop it if that has failed, too."""
        self._reader(consumer).keep(tp)
        if tp in self._quarantined:
            at = next((at for each, at, _ in positions(consumer) if each == tp), None)
            reason = f"{tp.topic}-{tp.partition} cannot be read at {at}: {describe_error(error)}"
            self._stopped[tp] = reason
        else:
            # The failed fetch stays in aiokafka until a poll finds it empty, and only then is the
            # partition fetched again: by the next poll, so it must not wait, which takes 10 s.
            self._polls_again = True
        self._quarantined.add(tp)

    def _take(self, fetched: Mapping[TopicPartition, Sequence[ConsumerRecord]]) -> list[Message]:
        """Return records as messages, and note how far their partitions are received."""
        batch: list[Message] = []
        topic, received, append = self._topic, Message.received, batch.append
        for tp, records in fetched.items():
            partition = self._offsets.at(tp, records[0].offset)
            prefix, offset = partition.id_prefix, 0
            for record in records:
                key, headers, offset = record.key, record.headers, record.offset
                if key is not None and key.startswith(KEY_PREFIX) and is_mark(record):
                    self._offsets.skip(partition, offset)
                    continue
                append(
                    received(
                        topic,
                        record.value,
                        None if key is None else key.decode("utf-8", "surrogateescape"),
                        attributes_of(headers) if headers else NO_ATTRIBUTES,
                        f"{prefix}{offset}",
                        record.timestamp / 1000,
                        partition,
                        record,
                    )
                )
            self._offsets.received(partition, offset)
        return batch

    def note_error(self, error: Exception) -> None:
        """Poll the partitions one at a time from the next receiver on, if a record was corrupt."""
        is_from_broker = isinstance(error, BrokerResponseError)
        if not is_from_broker or isinstance(error, CorruptRecordException):
            self._corrupt_topics.add(self._topic)

    # Wait.

    async def wait(self, consumer: AIOKafkaConsumer, seconds: float) -> None:
        """Wait for records, for an error, or for ``wake``."""
        if self._polls_again:
            self._polls_again = False
            return
        self._woken = asyncio.get_running_loop().create_future()
        if self._offsets.all_paused:
            # Not for records: those that were fetched before the pause are there already, and the
            # wait would return at once, again and again.
            await asyncio.wait((self._woken,), timeout=seconds)
            return
        fetched, _ = await first_of(fetch_ready(consumer), self._woken, timeout=seconds)
        if not fetched.cancelled():
            fetched.result()

    def wake(self) -> None:
        """End a pending ``wait``: a partition has room again, or a rebalance has ended."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    # Watch.

    @property
    def problem(self) -> str:
        """Why partitions are stopped; empty if none is."""
        return "; ".join(self._stopped.values())

    def retry_stopped(self) -> None:
        """Try stopped partitions again at the next poll: the record may have been deleted."""
        self._stopped_to_retry.update(self._stopped)
        self.wake()

    def forget_stopped(self) -> None:
        """Forget which partitions are stopped: the assignment is over."""
        self._stopped.clear()

    def end_offset(self, tp: TopicPartition, fetched: int) -> int:
        """Return the end offset of a partition, at least that of the last fetch, ``fetched``."""
        return max(fetched, self._end_offsets.get(tp, 0))

    async def refresh_end_offsets(self, consumer: AIOKafkaConsumer | None, seconds: float) -> None:
        """Ask for the end offsets of partitions that are held back: their lag may grow."""
        end_offsets: dict[TopicPartition, int] = {}
        held_back = list(self._offsets.held_back)
        if held_back and consumer is not None:
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(seconds):
                    end_offsets = await consumer.end_offsets(held_back)
        self._end_offsets = end_offsets


def attributes_of(headers: Sequence[tuple[str, bytes | None]]) -> Mapping[str, str]:
    """Return headers as text.

    Bytes that are not UTF-8 become surrogates, and a null an empty text. Of several headers with
    one name the last counts, and all of them are kept.
    """
    pairs = [
        (name, NULL if value is None else value.decode("utf-8", "surrogateescape"))
        for name, value in headers
    ]
    attributes = dict(pairs)
    return attributes if len(attributes) == len(pairs) else RepeatedAttributes(pairs)
