"""Consume a topic of Kafka as a member of a group.

The engine handles, retries and dead-letters messages. This module implements the driver's contract,
and leaves the work to the membership (join, rebalance), the poller (receive) and the committer.

- Offsets are committed up to the first message that is not handled: by interval, by count, before
  a partition moves, and at the close.
- A record belongs to one assignment of its partition. Once that has ended, acks of the record are
  refused, even if the same member gets the partition again.
- Slow handlers never cost the group membership. Heartbeats run independently, and the engine
  detects and reports handlers that hang.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import time

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import (
    cancel,
    committed_offsets,
    is_rebalancing,
    is_started,
    positions,
    raise_group_error,
)
from gizmopy.pubsub.brokers.kafka.cluster import Cluster
from gizmopy.pubsub.brokers.kafka.committer import Committer
from gizmopy.pubsub.brokers.kafka.diagnosis import Diagnosis
from gizmopy.pubsub.brokers.kafka.errors import describe_error, translate_errors
from gizmopy.pubsub.brokers.kafka.membership import Membership
from gizmopy.pubsub.brokers.kafka.offsets import Offsets, Partition
from gizmopy.pubsub.brokers.kafka.poller import Poller
from gizmopy.pubsub.driver import Measured, Results, Revoke, Status
from gizmopy.pubsub.message import Message

_LAST_COMMIT_SECONDS = 1.2
"""How long the commit at the close may take; the engine waits 2 s for the whole close."""
_CHECK_SECONDS = 1.0
"""How often an unreachable coordinator is asked about."""
_RETRY_SECONDS = 10.0
"""How often stopped partitions are tried again, and end offsets of held back ones asked for."""


class KafkaReceiver:
    """Consume ``topic`` in ``group``.

    The receivers of a driver share ``corrupt_topics``, the topics that had a corrupt record.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: KafkaSettings,
        topic: str,
        group: str,
        corrupt_topics: set[str],
    ) -> None:
        self._cluster = cluster
        self._topic = topic
        self._group = group
        self._reads_all = settings.auto_offset_reset == "earliest"
        commit_start = settings.auto_offset_reset == "latest"
        self._offsets = Offsets(settings.partition_ahead, commit_start=commit_start)
        self._poller = Poller(topic, self._offsets, corrupt_topics)
        self._committer = Committer(self._offsets, settings, group)
        self._membership = Membership(
            cluster, settings, topic, group, self._committer, self._poller
        )
        self._diagnosis = Diagnosis(self._membership, cluster, settings)
        self._handled_at: dict[TopicPartition, int] = {}
        """When the last record of each partition that was handled here was written, in ms."""
        self._tasks: list[asyncio.Task[None]] = []
        """The committing and the checks; empty before ``connect`` and after ``aclose``."""
        self._is_closed = False

    async def connect(self, revoke: Revoke) -> None:
        """Find the topic, and join the group.

        A rebalance that takes longer than 10 s goes on in ``receive``. Raises TopicNotFound,
        PubSubError if the group cannot be joined, and UsageError after ``aclose``.
        """
        partition_count = await self._cluster.find(self._topic)
        await self._membership.leave()  # of an earlier connect that has failed
        if self._is_closed:
            raise UsageError("this receiver is closed; connect before aclose")
        self._membership.start(revoke, partition_count)
        if not self._tasks:
            jobs = (self._committer.run(), self._keep_checking())
            self._tasks = [asyncio.create_task(job) for job in jobs]
        await self._membership.join()

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Return messages, in order within each partition."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        if self._is_closed:
            raise UsageError("this receiver is closed; receive before aclose")
        has_joined = await self._membership.wait_joined(wait)
        if not self._is_closed:
            self._membership.check_joined(forever=has_joined)
        while (left := deadline - loop.time()) >= 0 and not self._is_closed:
            consumer = self._membership.consumer
            assert consumer is not None
            self._committer.raise_failure()
            with self._translate_receive_errors():
                if batch := await self._poll(consumer, limit):
                    return batch
                if not self._is_closed:  # aclose may have run during the poll
                    await self._poller.wait(consumer, left)
        return []

    async def _poll(self, consumer: AIOKafkaConsumer, limit: int) -> Sequence[Message]:
        self._membership.rejoin_if_partitions_added()
        if is_rebalancing(consumer):
            raise_group_error(consumer)
            return []
        # Before any record is taken: aiokafka also moves past records that it drops.
        self._committer.record_start_offsets()
        return await self._poller.poll(consumer, limit)

    @contextmanager
    def _translate_receive_errors(self) -> Iterator[None]:
        """Raise PubSubError for an error of the consumer, unless the receiver is closed.

        The error is not transient: the consumer may have dropped records, so the engine makes a new
        receiver, which starts at the committed offsets.
        """
        try:
            yield
        except ConsumerStoppedError:
            if not self._is_closed:
                raise
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as error:
            raise PubSubError(
                f"group {self._group!r} has no valid offset in {self._topic!r}, and "
                "auto_offset_reset=none; commit one, or set auto_offset_reset to earliest or "
                "latest",
                transient=False,
            ) from error
        except (KafkaError, ValueError) as error:  # ValueError: a header name that is not UTF-8
            if not self._is_closed:
                self._poller.note_error(error)
                reason = f"cannot receive from topic {self._topic!r}: {describe_error(error)}"
                raise PubSubError(reason, transient=False) from error

    async def ack(self, batch: Sequence[Message]) -> Results:
        """Note that partitions are handled up to these messages; the committer commits that."""
        results = [self._ack(message) for message in batch]
        self._committer.request()
        return results

    def _ack(self, message: Message) -> PubSubError | None:
        partition, record = message.partition, message.raw
        if not isinstance(partition, Partition) or not isinstance(record, ConsumerRecord):
            raise UsageError(f"{message!r} was not received here")
        if partition.is_over:
            reason = f"the assignment of partition {partition} of {self._topic!r} has ended"
            return PubSubError(reason, transient=False)
        self._handled_at[partition.tp] = record.timestamp
        if self._offsets.ack(partition, record.offset):
            self._poller.wake()
        return None

    def pause(self, partitions: Collection[Hashable]) -> None:
        """Receive no more of ``partitions``; their records that are fetched already are kept."""
        self._offsets.paused.update(p.tp for p in _assigned(partitions))

    def resume(self, partitions: Collection[Hashable]) -> None:
        """Receive from ``partitions`` again."""
        self._offsets.paused.difference_update(p.tp for p in _assigned(partitions))
        self._poller.wake()

    def pause_all(self) -> None:
        """Receive nothing; the group membership and the commits go on."""
        self._offsets.all_paused = True
        self._poller.wake()

    def resume_all(self) -> None:
        """Receive again."""
        self._offsets.all_paused = False
        self._poller.wake()

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        """Raise UsageError: Kafka has no nack."""
        raise UsageError("Kafka keeps a position for each partition: it cannot redeliver a message")

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Raise UsageError: Kafka has no leases."""
        raise UsageError("Kafka has no leases")

    async def _keep_checking(self) -> None:
        """Ask brokers why nothing comes, and retry stopped partitions, until cancelled."""
        loop = asyncio.get_running_loop()
        retry_at = loop.time()
        while True:
            await self._diagnosis.ask_brokers()
            if self._offsets.is_origin_old:
                await self._membership.refresh_origin()
            if loop.time() >= retry_at:
                timeout = self._committer.timeout
                await self._poller.refresh_end_offsets(self._membership.consumer, timeout)
                self._poller.retry_stopped()
                retry_at = loop.time() + _RETRY_SECONDS
            await asyncio.sleep(_CHECK_SECONDS)

    def status(self) -> Status:
        """Return the lag of each assigned partition as of the last fetch, and any problem."""
        lag = self._lag()
        return Status(
            backlog=sum(lag.values()),
            lag=lag,
            assigned=len(lag),
            problem=self._diagnosis.problem() or self._poller.problem,
            stalled="" if self._is_closed else self._diagnosis.stall(tasks_run=self._tasks_run()),
        )

    async def measure(self) -> Measured:
        """Return the messages of all partitions that the group has not committed.

        They include those that members have in flight: Kafka knows only what is committed. The
        oldest one is that of the partitions of this member.
        """
        consumer = self._membership.consumer
        if consumer is None or not is_started(consumer):
            raise PubSubError(f"group {self._group!r} is not joined yet", transient=True)
        numbers = consumer.partitions_for_topic(self._topic) or ()
        tps = [TopicPartition(self._topic, number) for number in numbers]
        with translate_errors(f"the backlog of topic {self._topic!r} is unknown"):
            committed = await committed_offsets(consumer, tps)
            begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            # A group that has committed nothing begins where auto_offset_reset says.
            starts = begins if self._reads_all else ends
            # The oldest records may be deleted: then the group continues behind them.
            next_offsets = {
                tp: starts[tp] if at is None else max(at, begins[tp])
                for tp, at in committed.items()
            }
            behind = {tp: at for tp, at in next_offsets.items() if at < ends[tp]}
            oldest = await self._oldest_age(consumer, behind, begins)
        return Measured(backlog=sum(ends[tp] - at for tp, at in behind.items()), oldest=oldest)

    async def _oldest_age(
        self,
        consumer: AIOKafkaConsumer,
        behind: Mapping[TopicPartition, int],
        begins: Mapping[TopicPartition, int],
    ) -> float | None:
        """Return the seconds since the oldest record was written that is not committed.

        ``behind`` has the offset of the next record of each partition that has one. Kafka finds
        records by their time only: the first of all, or the first one after the last that was
        handled here, where those of one millisecond count as one. None if neither is the next
        record of any partition.
        """
        if not behind:
            return 0.0
        assigned = consumer.assignment()
        after = {
            tp: self._handled_at[tp] + 1 if tp in self._handled_at else 0
            for tp, at in behind.items()
            if tp in assigned and (tp in self._handled_at or at == begins[tp])
        }
        found = await consumer.offsets_for_times(dict(after)) if after else {}
        times = [
            self._handled_at.get(tp) if record is None else record.timestamp
            for tp, record in found.items()
            # An earlier record: another member has handled this partition in the meantime.
            if record is None or record.offset >= behind[tp]
        ]
        known = [each for each in times if each is not None]
        return max(0.0, time() - min(known) / 1000) if known else None

    def _lag(self) -> dict[str, int]:
        consumer = self._membership.consumer
        lag = {}
        for tp, position, fetched in positions(consumer) if consumer is not None else ():
            end = self._poller.end_offset(tp, fetched)
            lag[str(tp.partition)] = 0 if position is None else max(0, end - position)
        return lag

    def _tasks_run(self) -> bool:
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def aclose(self) -> None:
        """Commit, leave the group, and end a pending receive; all of it in bounded time."""
        self._is_closed = True
        self._poller.wake()
        # The committer ends first. It leaves a call in progress to the last commit, which waits.
        tasks, self._tasks = self._tasks, []
        await cancel(tasks)
        try:
            await self._committer.commit(_LAST_COMMIT_SECONDS)
        finally:
            for partition in list(self._offsets.partitions.values()):
                self._offsets.end(partition)
            await self._membership.leave()


def _assigned(partitions: Collection[Hashable]) -> Iterator[Partition]:
    """Yield those of ``partitions`` whose assignment lasts.

    The same partition may be assigned again by now: what the engine says of the assignment that has
    ended does not concern the new one.
    """
    for partition in partitions:
        if isinstance(partition, Partition) and not partition.is_over:
            yield partition
