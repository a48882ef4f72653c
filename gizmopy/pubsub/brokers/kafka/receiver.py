"""``kafka://host:port,host:port?group=…``: publish to, and consume from, Apache Kafka.

The engine decides what becomes of a message; here stands what Kafka needs for that:

- A partition's offset is committed when all before it is handled: by interval, by count, before the
  partition goes to another member, and at the close. No position of aiokafka's is committed, but
  where ``latest`` begins, ahead of any record.
- A record belongs to an assignment. When that ends, what is still handled of it is acked in vain.
- A consumer is never left: however long handlers take, heartbeats go on, as the engine sees to it
  that they end or are told of.

How it is published stands in kafka_sender, how the brokers are reached in kafka_cluster. What is
used beyond the documented methods of aiokafka's classes, for want of others:

- ``AIOKafkaConsumer._subscription``: whether a rebalance is under way, as ``getmany`` waits for
  its end without a time-out; what else waits for it; how far a partition is received.
- ``AIOKafkaConsumer._fetcher._create_fetch_waiter``: to wait for records, in place of ``getmany``.
- ``AIOKafkaConsumer._coordinator``, ``_fetcher`` and ``_client``, and their tasks: whether they
  live (aiokafka#1154), and whether the group knows them; ``_fetcher._records``: what was fetched.

kafka_client has more of that.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from aiokafka import (
    AIOKafkaConsumer,
    ConsumerRebalanceListener,
    ConsumerRecord,
    TopicPartition,
)
from aiokafka.errors import (
    BrokerResponseError,
    CommitFailedError,
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalStateError,
    InconsistentGroupProtocolError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.config.urls import redacted_url
from gizmopy.errors import PubSubError, StartError, UsageError
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import (
    PATIENCE_MS,
    cancel,
    stop_consumer,
    wait_for_others,
)
from gizmopy.pubsub.brokers.kafka.cluster import Cluster, milliseconds, said, translated
from gizmopy.pubsub.brokers.kafka.lenient_records import LenientReader, mark_unreadable
from gizmopy.pubsub.brokers.kafka.sender import KafkaSender
from gizmopy.pubsub.driver import Capabilities, Results, Revoke, Status
from gizmopy.pubsub.message import NO_ATTRIBUTES, Message

_BATCH_MESSAGES = 1000
_BATCH_BYTES = 16 * 1024 * 1024
"""What one send holds; brokers cut the connection of who sends more than 100 MiB in a request."""
_FETCHED_BYTES = 64 * 1024 * 1024
"""How much a receiver holds that nobody has asked for yet, over all partitions of a topic."""
_START_SECONDS = 10.0
"""How long a new member is waited for to join its group, until that goes on in receive."""
_UNREACHED_SECONDS = 2.0
"""How long a group's coordinator is away until that is told."""
_COMMIT_SECONDS = 5.0
"""What a commit may take; the next one tries again."""
_LAST_COMMIT_SECONDS = 1.2
"""What the commit at the close may take; the engine waits 2 s for all of the close."""
_LOOK_SECONDS = 1.0
"""How often it is looked whether the coordinator is there."""
_LOOK_AGAIN = 10.0
"""Seconds after which it is asked again where partitions without room end."""
_NEVER_MS = 2**31 - 1


def open_driver(url: str) -> KafkaDriver:
    """Return a driver for the cluster that ``url`` names; it does not connect yet.

    Raises UsageError on a parameter that is unknown or cannot be, and on files that cannot be read.
    """
    return KafkaDriver(KafkaSettings.from_url(url), redacted_url(url, with_path=True))


class KafkaDriver:
    """Be one cluster, reached by ``settings``. Each sender and receiver has its own connections."""

    def __init__(self, settings: KafkaSettings, url: str) -> None:
        self.capabilities = Capabilities(
            ordering=True,
            can_nack=False,
            native_delay=False,
            lease=None,
            positions=True,
            delivery_count=False,
            process_local=False,
            batch_messages=_BATCH_MESSAGES,
            batch_bytes=_BATCH_BYTES,
            message_bytes=settings.max_message_bytes,
            ordered_batches=True,
            client_retries=True,
        )
        self._cluster = Cluster(settings, url)
        self._settings = settings
        self._subscriptions: dict[str, str] = {}
        self._careful: set[str] = set()

    def sender(self, topic: str) -> KafkaSender:
        """Return a sender to ``topic``."""
        return KafkaSender(self._cluster, self._settings, topic)

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> KafkaReceiver:
        """Return a member of the group ``subscription``, or of the ``group`` that the URL names.

        Raises StartError where two subscriptions to a topic would be that one group.
        """
        group = self._settings.group
        first = self._subscriptions.setdefault(topic, subscription)
        if group and first != subscription:
            raise StartError(
                f"group={group} would be both subscriptions to {topic!r}, {first!r} and "
                f"{subscription!r}, and each would get a part; leave group out of the URL"
            )
        group = group or subscription
        return KafkaReceiver(self._cluster, self._settings, topic, group, self._careful)

    async def aclose(self) -> None:
        """Do nothing: senders and receivers share no connection."""


class _Partition:
    """Follow one partition in one assignment; offsets are those of the next message."""

    __slots__ = ("acked", "begun", "committed", "ended", "next", "prefix", "tp")

    def __init__(self, tp: TopicPartition, start: int, *, begun: bool) -> None:
        self.tp = tp
        self.begun = begun
        """Whether the group will begin here again, or what is committed says so."""
        self.prefix = f"{tp.topic}-{tp.partition}-"
        """What the ids of its messages begin with."""
        self.next = start
        """To be received."""
        self.acked = start
        self.committed = start
        self.ended = False

    def __str__(self) -> str:
        return str(self.tp.partition)


class KafkaReceiver(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Consume a topic as a member of a group."""

    def __init__(
        self,
        cluster: Cluster,
        settings: KafkaSettings,
        topic: str,
        group: str,
        careful: set[str],
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._topic = topic
        self._group = group
        self._revoke: Revoke | None = None
        self._partitions = 0
        """How many partitions the topic had when this one joined."""
        self._consumer: AIOKafkaConsumer | None = None
        self._starting: asyncio.Task[None] | None = None
        self._committer: asyncio.Task[None] | None = None
        self._held: dict[TopicPartition, _Partition] = {}
        self._begins_late = settings.auto_offset_reset == "latest"
        self._unfinished = asyncio.Event()
        """Something is acked and not committed."""
        self._is_due = asyncio.Event()
        """So much is that it is not waited with."""
        self._full: set[TopicPartition] = set()
        """The partitions that are far enough ahead of their first message that is not handled."""
        self._uncommitted = 0
        """How many messages, about, are acked and not committed."""
        self._commit_task: asyncio.Task[bool] | None = None
        """The commit that is under way."""
        self._careful = careful
        """The topics that a record could not be read of."""
        self._lenient: LenientReader | None = None
        self._suspect: set[TopicPartition] = set()
        self._unreadable: dict[TopicPartition, str] = {}
        """What stands still because of such a record, and why."""
        self._again: set[TopicPartition] = set()
        """What of that is to be tried again."""
        self._ends: dict[TopicPartition, int] = {}
        """Where partitions without room end, as nothing is fetched of them that tells."""
        self._stirred: asyncio.Future[None] | None = None
        """What a receive waits for that waits for room, or for the end of a rebalance."""
        self._failure: PubSubError | None = None
        """What the next receive raises."""
        self._without_since: float | None = None
        """Since when it is without partitions, by the event loop's clock."""
        self._unreached_since: float | None = None
        """Since when the group's coordinator is not reached."""
        self._lost_at = -math.inf
        """When the group was seen to know this member no more."""
        self._is_disputed = False
        """Whether it had just been so before."""
        self._dispute_seconds = 2 * settings.session_timeout.total_seconds()
        self._why = ""
        """What a broker says when it is asked why."""
        self._closing = asyncio.Event()
        rebalance = settings.rebalance_timeout.total_seconds()
        self._commit_seconds = min(_COMMIT_SECONDS, rebalance / 10)
        heartbeat = settings.session_timeout.total_seconds() / 10
        self._revoke_seconds = max(rebalance / 2, rebalance - heartbeat - 2 * self._commit_seconds)
        self._stall_seconds = 2 * rebalance + settings.session_timeout.total_seconds()

    # Join: connect, and take partitions.

    async def connect(self, revoke: Revoke) -> None:
        """Find the topic, and join the group. Joining that takes longer goes on in ``receive``."""
        self._revoke = revoke
        self._partitions = await self._cluster.find(self._topic)
        await self._end_consumer()
        if self._closing.is_set():
            raise UsageError("this receiver is closed; connect before aclose")
        self._consumer = self._new_consumer()
        wait_for_others(self._consumer, self._settings.rebalance_timeout.total_seconds())
        self._consumer.subscribe([self._topic], listener=self)
        self._starting = asyncio.create_task(self._consumer.start(), name=f"join {self._group}")
        if self._committer is None:
            self._committer = asyncio.create_task(self._keep_committing())
        await asyncio.wait((self._starting,), timeout=_START_SECONDS)
        if self._starting.done() or self._consumer is None or self._consumer._coordinator is None:
            self._check_started()
        if self._begins_late and self._starting.done():
            await self._find_beginnings(self._consumer)

    async def _find_beginnings(self, consumer: AIOKafkaConsumer) -> None:
        """Wait until it is known where partitions begin: what is published from now on is after."""
        with suppress(IllegalStateError, TimeoutError):  # it is asked for again
            async with asyncio.timeout(_START_SECONDS):
                for tp in consumer.assignment():
                    await consumer.position(tp)

    def _new_consumer(self) -> AIOKafkaConsumer:
        settings = self._settings
        instance = settings.group_instance_id
        return AIOKafkaConsumer(
            **self._cluster.options(),
            group_id=self._group,
            group_instance_id=f"{instance}-{self._topic}" if instance else None,
            enable_auto_commit=False,
            auto_offset_reset=settings.auto_offset_reset,
            isolation_level=settings.isolation_level,
            session_timeout_ms=milliseconds(settings.session_timeout),
            heartbeat_interval_ms=milliseconds(settings.session_timeout / 10),
            rebalance_timeout_ms=milliseconds(settings.rebalance_timeout),
            max_poll_interval_ms=_NEVER_MS,  # handlers are the engine's to watch
            request_timeout_ms=PATIENCE_MS,
            max_partition_fetch_bytes=min(2**20, _FETCHED_BYTES // max(1, self._partitions)),
        )

    def _check_started(self, *, forever: bool = False) -> None:
        """Raise what joining the group has failed of; ``forever``: only a new consumer can help."""
        assert self._starting is not None
        try:
            with translated(f"group {self._group!r} cannot be joined"):
                if self._starting.cancelled():
                    raise TimeoutError("it was closed meanwhile")
                if not self._starting.done():
                    raise TimeoutError("neither its coordinator nor its members let us in yet")
                self._starting.result()
        except PubSubError as error:
            if isinstance(error.__cause__, InconsistentGroupProtocolError):
                raise PubSubError(
                    f"group {self._group!r} has members that deal its partitions in another way "
                    "than roundrobin; stop them first, or have them offer that too",
                    transient=False,
                ) from error
            raise PubSubError(str(error), transient=error.transient and not forever) from error

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Note that the rebalance has ended."""
        assert self._consumer is not None
        self._without_since = None
        self._partitions = len(self._consumer.partitions_for_topic(self._topic) or ())
        self._stir()
        self._unfinished.set()  # where it begins may have to be committed

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Let go of partitions: the engine first, then the last commit.

        Neither the group nor ``getmany`` go on before this returns.
        """
        self._without_since = asyncio.get_running_loop().time()
        if self._is_lost:
            await self._end_commit()
            self._see_loss()
        else:
            self._hold_beginnings()
        held = [self._held[tp] for tp in revoked if tp in self._held]
        assert self._revoke is not None
        try:
            if held:
                seconds = 0.0 if self._is_lost else self._revoke_seconds
                await self._revoke(held, seconds)
                await self._commit(self._commit_seconds)
        finally:
            for partition in held:
                self._forget(partition)
            self._unreadable.clear()
            await self._end_commit()

    def _see_loss(self) -> None:
        now = asyncio.get_running_loop().time()
        self._is_disputed = now - self._lost_at < self._dispute_seconds
        self._lost_at = now

    def _rival(self) -> str:
        """Return who seems to claim this member's place, as it is lost again and again."""
        instance, now = self._settings.group_instance_id, asyncio.get_running_loop().time()
        if not (instance and self._is_disputed and now - self._lost_at < self._dispute_seconds):
            return ""
        return f"group_instance_id={instance} is used by another process, too"

    @property
    def _is_lost(self) -> bool:
        """Whether the group knows this member no more: what it had is with others by now.

        aiokafka would commit all the same, as one that is in no group, which Kafka takes whenever
        the group is empty.
        """
        coordinator = None if self._consumer is None else self._consumer._coordinator
        return coordinator is None or coordinator.generation < 0

    def _forget(self, partition: _Partition) -> None:
        partition.ended = True
        self._uncommitted -= partition.acked - partition.committed
        self._held.pop(partition.tp, None)
        self._full.discard(partition.tp)

    # Receive: from the partitions that have room.

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Return messages, in order within each partition."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        if self._closing.is_set():
            raise UsageError("this receiver is closed; receive before aclose")
        assert self._starting is not None
        if not self._starting.done():
            await asyncio.wait((self._starting,), timeout=wait)
        if not self._closing.is_set():
            self._check_started(forever=self._starting.done())
        while (left := deadline - loop.time()) >= 0 and not self._closing.is_set():
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            with self._translated_receive():
                if batch := await self._poll(limit):
                    return batch
                await self._wait(left)
        return []

    async def _poll(self, limit: int) -> list[Message]:
        """Return what is there, if anything.

        Nothing is awaited between taking records and returning them: their assignment may have
        ended meanwhile. With a time-out of 0 ``getmany`` never waits, but for a rebalance.
        """
        assert self._consumer is not None
        allowed: Collection[TopicPartition] = ()
        self._see_growth(self._consumer)
        if self._consumer._subscription.reassignment_in_progress:
            self._consumer._coordinator.check_errors()
            return []
        self._hold_beginnings()  # before any is taken: aiokafka moves on from records that it drops
        if self._full:
            allowed = self._consumer.assignment() - self._full
            if not allowed:  # and to ask for no partition is to ask for all of them
                return []
        if self._topic in self._careful:
            return await self._poll_apart(self._consumer, limit)
        return self._take(await self._consumer.getmany(*allowed, max_records=limit))

    async def _poll_apart(self, consumer: AIOKafkaConsumer, limit: int) -> list[Message]:
        """Ask for each partition by itself: one that cannot be read holds up no other."""
        batch: list[Message] = []
        lenient = self._lenient
        if lenient is None or lenient.consumer is not consumer:
            lenient = self._lenient = LenientReader(consumer)
        fetched = consumer._fetcher._records
        consumer._coordinator.check_errors()
        for tp in list(fetched):
            if tp in self._full or (tp in self._unreadable and tp not in self._again):
                continue
            if (left := limit - len(batch)) <= 0:
                break
            self._again.discard(tp)
            try:
                is_lenient = tp in self._suspect and lenient.use(tp)
                most = 1 if tp in self._suspect else left
                taken = self._take(await consumer.getmany(tp, max_records=most))
                if is_lenient and taken:
                    mark_unreadable(taken)
                elif is_lenient:  # all that was fetched with it is read
                    lenient.leave(tp)
                    self._suspect.discard(tp)
                batch += taken
                self._unreadable.pop(tp, None)
            except (KafkaError, ValueError) as error:
                if tp in fetched:
                    lenient.want(tp)
                    self._distrust(tp, error)
                elif not batch:  # no record, but a broker's answer, which it repeats
                    raise
        return batch

    def _distrust(self, tp: TopicPartition, error: Exception) -> None:
        """Read a partition leniently and one by one, or if that fails no further for a while."""
        if tp in self._suspect:
            at = dict(self._states())[tp].position
            self._unreadable[tp] = (
                f"{tp.topic}-{tp.partition} cannot be read at {at}: {said(error)}"
            )
        self._suspect.add(tp)

    def _see_growth(self, consumer: AIOKafkaConsumer) -> None:
        """Join again where partitions were added; nobody else sees to that for static members.

        A static member that returns is given what it had without a rebalance, after which no member
        watches the topic (KAFKA-13435).
        """
        if self._settings.group_instance_id and consumer.assignment():
            known = consumer.partitions_for_topic(self._topic) or ()
            if len(known) > self._partitions:
                self._partitions = len(known)
                consumer._coordinator.request_rejoin()

    async def _wait(self, seconds: float) -> None:
        """Wait until something comes, there is room again, or a rebalance is over."""
        assert self._consumer is not None
        fetched = self._consumer._fetcher._create_fetch_waiter()
        self._stirred = asyncio.get_running_loop().create_future()
        both = (fetched, self._stirred)
        try:
            await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in both:
                future.cancel()  # does nothing to what is done
        if not fetched.cancelled():
            fetched.result()

    def _stir(self) -> None:
        """Have a receive that waits look again."""
        if self._stirred is not None and not self._stirred.done():
            self._stirred.set_result(None)

    def _take(self, fetched: Mapping[TopicPartition, Sequence[ConsumerRecord]]) -> list[Message]:
        """Return records as messages."""
        batch: list[Message] = []
        topic, received, append = self._topic, Message.received, batch.append
        for tp, records in fetched.items():
            partition = self._held.get(tp)
            if partition is not None and records[0].offset < partition.next:
                self._forget(partition)  # the topic was deleted and made anew, or truncated
                partition = None
            if partition is None:
                partition = self._hold(tp, records[0].offset)
            prefix, offset = partition.prefix, 0
            for record in records:
                key, headers, offset = record.key, record.headers, record.offset
                append(
                    received(
                        topic,
                        record.value,
                        None if key is None else key.decode("utf-8", "surrogateescape"),
                        _attributes(headers) if headers else NO_ATTRIBUTES,
                        f"{prefix}{offset}",
                        record.timestamp / 1000,
                        partition,
                        record,
                    )
                )
            partition.next = offset + 1
            if not self._has_room(partition):
                self._full.add(tp)
        return batch

    @contextmanager
    def _translated_receive(self) -> Iterator[None]:
        """Let a consumer that has raised be the last of this receiver: the engine makes another.

        Where one partition's records cannot be read, aiokafka drops what it has taken of others;
        the next receiver asks for each by itself.
        """
        try:
            yield
        except ConsumerStoppedError:
            if not self._closing.is_set():
                raise
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as error:
            raise PubSubError(
                f"group {self._group!r} has no offset to begin with in {self._topic!r}, and "
                "auto_offset_reset=none; commit one, or say earliest or latest",
                transient=False,
            ) from error
        except (KafkaError, ValueError) as error:  # such as a header's name that is not UTF-8
            if not self._closing.is_set():
                if _is_of_a_record(error):
                    self._careful.add(self._topic)
                reason = f"topic {self._topic!r} cannot be received from: {said(error)}"
                raise PubSubError(reason, transient=False) from error

    # Settle: remember, and commit.

    async def ack(self, batch: Sequence[Message]) -> Results:
        """Remember that partitions are handled up to these messages; they are committed soon."""
        results = [self._advance(message) for message in batch]
        if self._uncommitted >= self._settings.commit_every:
            self._is_due.set()
        self._unfinished.set()
        return results

    def _advance(self, message: Message) -> PubSubError | None:
        partition, record = message.partition, message.raw
        if not isinstance(partition, _Partition) or not isinstance(record, ConsumerRecord):
            raise UsageError(f"{message!r} was not received here")
        if partition.ended:
            reason = f"partition {partition} of {self._topic!r} has gone to another member"
            return PubSubError(reason, transient=False)
        if (acked := record.offset + 1) > partition.acked:
            self._uncommitted += acked - partition.acked
            partition.acked = acked
            if partition.tp in self._full and self._has_room(partition):
                self._full.discard(partition.tp)
                self._stir()
        return None

    def _has_room(self, partition: _Partition) -> bool:
        return partition.next - partition.acked < self._settings.partition_ahead

    async def _keep_committing(self) -> None:
        """Commit as often as the settings say, and look after the rest meanwhile."""
        interval = self._settings.commit_interval.total_seconds()
        loop = asyncio.get_running_loop()
        commit_at, ask_at, look_at = math.inf, loop.time(), loop.time()
        while True:
            awaited = self._unfinished if commit_at == math.inf else self._is_due
            is_set = await _is_set(awaited, min(_LOOK_SECONDS, commit_at - loop.time()))
            if commit_at == math.inf:
                commit_at = loop.time() + interval if is_set else math.inf
            elif is_set or loop.time() >= commit_at:
                commit_at = math.inf
                self._unfinished.clear()
                self._is_due.clear()
                await self._commit(self._commit_seconds)
            if loop.time() >= ask_at:
                await self._ask_why()
                ask_at = loop.time() + _LOOK_SECONDS
            if loop.time() >= look_at:
                await self._look_at_ends()
                self._again.update(self._unreadable)  # the record may be gone
                self._stir()
                look_at = loop.time() + _LOOK_AGAIN

    async def _commit(self, seconds: float) -> None:
        """Commit what is acked, one call at a time, in ``seconds``; what fails now is tried later.

        A call that takes longer is left to itself: to cancel it leaves a request that nobody hears
        the answer of.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            # Who waits for the call of another makes one more: its own acks may be later.
            if is_ours := self._commit_task is None:
                if self._consumer is None or self._is_lost or not (marks := self._marks()):
                    return
                self._commit_task = asyncio.create_task(self._call_commit(marks))
            task = self._commit_task
            assert task is not None
            await asyncio.wait((task,), timeout=left)
            if not task.done():
                break
            if self._commit_task is task:
                self._commit_task = None
            if task.cancelled() or not task.result():
                break
            if is_ours:
                return
        self._unfinished.set()

    def _marks(self) -> list[tuple[_Partition, int]]:
        """Return up to where each partition is to be committed."""
        assert self._consumer is not None
        if not self._consumer._subscription.reassignment_in_progress:
            self._hold_beginnings()
        held = self._held.values()
        return [(p, p.acked) for p in held if p.acked > p.committed or not p.begun]

    def _hold_beginnings(self) -> None:
        """Hold the partitions that nothing was received of, as they stand.

        Where a group without offsets begins with the latest record, it would begin elsewhere the
        next time, unless that is committed.
        """
        for tp, state in self._states() if self._begins_late else ():
            if tp not in self._held:
                if state.has_valid_position:
                    self._hold(tp, state.position)
                else:
                    self._unfinished.set()

    def _hold(self, tp: TopicPartition, start: int) -> _Partition:
        partition = self._held[tp] = _Partition(tp, start, begun=not self._begins_late)
        return partition

    async def _call_commit(self, marks: Sequence[tuple[_Partition, int]]) -> bool:
        """Commit, and return whether that was done."""
        assert self._consumer is not None
        try:
            await self._consumer.commit({p.tp: acked for p, acked in marks})
        except (CommitFailedError, IllegalStateError):
            return False  # the assignment is over, or is about to be dealt anew
        except KafkaError as error:
            reason = f"group {self._group!r} cannot commit: {said(error)}"
            self._failure = PubSubError(reason, transient=True)
            return False
        for partition, acked in marks:
            if not partition.ended:
                self._uncommitted -= acked - partition.committed
            partition.committed = acked
            partition.begun = True
        return True

    async def _end_commit(self) -> None:
        """End a call that hangs: aiokafka would repeat it in the next assignment (aiokafka#933)."""
        task, self._commit_task = self._commit_task, None
        if task is not None:
            await cancel((task,))

    async def _look_at_ends(self) -> None:
        """Ask where the partitions end that have no room: their lag would seem to stand still."""
        ends = {}
        if self._full and self._consumer is not None:
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(self._commit_seconds):
                    ends = await self._consumer.end_offsets(list(self._full))
        self._ends = ends

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        """Refuse: a log gives nothing back."""
        raise UsageError("Kafka keeps positions: nothing can be given back")

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Refuse: there are no leases."""
        raise UsageError("Kafka has no leases")

    # Look, and end.

    def status(self) -> Status:
        """Tell the lag of each partition that is assigned, as of the last fetch."""
        lag = dict(self._lag())
        return Status(
            backlog=sum(lag.values()),
            lag=lag,
            assigned=len(lag),
            problem=self._problem(),
            stalled=self._stall(),
        )

    def _problem(self) -> str:
        """Return why nothing is received now; aiokafka tries again, and raises nothing."""
        coordinator = None if self._consumer is None else self._consumer._coordinator
        if coordinator is None or coordinator.coordinator_id is not None:
            self._unreached_since, self._why = None, ""
            return self._rival() or "; ".join(self._unreadable.values())
        now = asyncio.get_running_loop().time()
        if self._unreached_since is None:
            self._unreached_since = now
        if now - self._unreached_since < _UNREACHED_SECONDS:
            return ""  # a coordinator that moves, or a login that is renewed
        return self._why or f"the coordinator of group {self._group!r} is not reached"

    async def _ask_why(self) -> None:
        """Find out why the coordinator is not reached: aiokafka tells its log alone."""
        if self._problem() and self._unreached_since is not None:
            try:
                await self._cluster.find_again(self._topic)
            except PubSubError as error:
                self._why = str(error)
            else:
                self._why = ""

    def _lag(self) -> Iterator[tuple[str, int]]:
        for tp, state in self._states():
            end = max(state.highwater or 0, self._ends.get(tp, 0))
            behind = end - state.position if state.has_valid_position else 0
            yield str(tp.partition), max(0, behind)

    def _states(self) -> Iterator[tuple[TopicPartition, Any]]:
        """Yield what aiokafka knows of each partition that is assigned."""
        consumer = self._consumer
        subscription = None if consumer is None else consumer._subscription.subscription
        if subscription is not None and subscription.assignment is not None:
            for tp in subscription.assignment.tps:
                yield tp, subscription.assignment.state_value(tp)

    def _stall(self) -> str:
        """Return why nothing will be received any more, though aiokafka says nothing of it."""
        consumer = self._consumer
        if consumer is None or consumer._fetcher is None or self._closing.is_set():
            return ""
        coordinator = consumer._coordinator
        tasks = [coordinator._coordination_task, consumer._fetcher._fetch_task]
        tasks += [consumer._client._sync_task, self._committer]
        if any(task is None or task.done() for task in tasks):
            return "the Kafka client has ended by itself"
        if coordinator._rejoin_needed_fut.done():
            reason = f"group {self._group!r} has not been joined again"
        elif consumer.partitions_for_topic(self._topic) is None:
            reason = f"topic {self._topic!r} does not exist any more"
        else:
            if not consumer._subscription.reassignment_in_progress:
                self._without_since = None
            return ""
        now = asyncio.get_running_loop().time()
        if self._without_since is None:
            self._without_since = now
        seconds = now - self._without_since
        return f"{reason}, for {seconds:.0f} s" if seconds > self._stall_seconds else ""

    async def aclose(self) -> None:
        """Commit, leave the group, and end a pending receive; all of it in bounded time."""
        self._closing.set()
        self._stir()
        committer, self._committer = self._committer, None
        if committer is not None:
            await cancel((committer,))
        try:
            await self._commit(_LAST_COMMIT_SECONDS)
        finally:
            for partition in list(self._held.values()):
                self._forget(partition)
            await self._end_consumer()

    async def _end_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        committing, self._commit_task = self._commit_task, None
        if self._starting is not None:
            await cancel((self._starting,))
        if consumer is not None:
            await stop_consumer(consumer, committing)


def _is_of_a_record(error: Exception) -> bool:
    """Return whether a record cannot be read; else it is something that a broker has said."""
    said_by_broker = isinstance(error, BrokerResponseError)
    return not said_by_broker or isinstance(error, CorruptRecordException)


def _attributes(headers: Sequence[tuple[str, bytes | None]]) -> Mapping[str, str]:
    """Return headers as text; bytes that are not UTF-8 survive, of those of a name the last."""
    return {name: (value or b"").decode("utf-8", "surrogateescape") for name, value in headers}


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event at most so long, and return whether it is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
