"""A broker in this process that keeps positions, as Kafka does, for tests.

A topic is partitions, each a log; a key stays in its partition, and offsets may have holes. A group
commits one offset for each partition. Its members share the partitions, which are assigned again,
eagerly, whenever a member joins, leaves or dies: each member gives up all its partitions first
(``revoke``, then the last commit), for at most ``rebalance_seconds``. A new group begins at the
start. Acks are committed after ``commit_every`` of them, when partitions are revoked, and on close:
the later acks of a member that dies are lost, and their messages are delivered again.

Tests can cause: an outage, failing commits, a rebalance, and the death of a member.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from typing import NamedTuple
from zlib import crc32

from gizmopy.errors import PubSubError, TopicNotFound, UsageError
from gizmopy.pubsub.driver import Capabilities, Measured, Results, Revoke, Status
from gizmopy.pubsub.message import Message


class Record(NamedTuple):
    """The place of a message in its log, and the assignment in which it was delivered."""

    partition: int
    offset: int
    generation: int


class LogBroker:
    """Hold topics and groups; a driver, and the faults that tests cause in the broker behind it.

    ``ahead`` messages of a partition are delivered beyond its last ack at most. With
    ``hole_every=3`` an offset is left out after every third message.
    """

    def __init__(
        self,
        *,
        partitions: int = 4,
        ahead: int = 1000,
        commit_every: int = 1,
        rebalance_seconds: float = 5.0,
        hole_every: int = 0,
        can_browse: bool = False,
    ) -> None:
        self.partitions = partitions
        self.ahead = ahead
        self.commit_every = commit_every
        self.rebalance_seconds = rebalance_seconds
        self.hole_every = hole_every
        self.missing: set[str] = set()
        """Topics that do not exist; any other one is made when it is first used."""
        self.commit_errors: list[PubSubError] = []
        """Raised by the next commits."""
        self.repeated = 0
        """Messages that were handed out and not committed when their assignment ended."""
        self._down = False
        self._topics: dict[str, list[_Log]] = {}
        self._groups: dict[tuple[str, str], _Group] = {}
        self._keyless = count()
        self.capabilities = Capabilities(
            ordering=True,
            can_nack=False,
            native_delay=False,
            lease=None,
            positions=True,
            delivery_count=False,
            process_local=False,
            batch_messages=1000,
            batch_bytes=None,
            message_bytes=None,
            ordered_batches=True,
            can_pause=True,
            can_pause_all=True,
            can_browse=can_browse,
        )
        self.settled: dict[tuple[str, str], set[tuple[int, int]]] = {}
        """What browsers have settled: partitions and offsets, by topic and subscription."""

    # The driver.

    def sender(self, topic: str) -> LogSender:
        """Return a sender to ``topic``."""
        return LogSender(self, topic)

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> LogReceiver:
        """Return a receiver, which joins the group ``subscription`` when it connects."""
        key = (topic, subscription)
        if key not in self._groups:
            self._groups[key] = _Group(self, topic)
        return LogReceiver(self, self._groups[key])

    def browser(self, topic: str, subscription: str) -> LogBrowser:
        """Return a browser."""
        return LogBrowser(self, topic, subscription)

    async def aclose(self) -> None:
        """End rebalances that are under way; the messages and the commits stay."""
        for group in self._groups.values():
            await group.aclose()

    # What tests do and see.

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Let every call fail for now, while the context lasts; assignments stay."""
        self._down = True
        self._wake()
        try:
            yield
        finally:
            self._down = False

    async def rebalance(self, topic: str, subscription: str) -> None:
        """Deal a group's partitions anew, and wait for that."""
        await self._groups[topic, subscription].rebalance()

    def kill(self, receiver: LogReceiver) -> None:
        """Let a member die without notice; its partitions go to the others."""
        receiver.die()
        receiver.group.leave(receiver)

    def committed(self, topic: str, subscription: str) -> dict[int, int]:
        """Return for each partition the offset from which the group's next owner reads."""
        return dict(self._groups[topic, subscription].committed)

    def is_consumed(self, topic: str, subscription: str) -> bool:
        """Return whether a group has committed all that a topic holds."""
        committed = self._groups[topic, subscription].committed
        logs = enumerate(self.logs(topic))
        return not any(log.behind(committed.get(number, 0)) for number, log in logs)

    def truncate(self, topic: str) -> None:
        """Forget the messages that every group has committed."""
        groups = [group for (name, _), group in self._groups.items() if name == topic]
        for number, log in enumerate(self.logs(topic)):
            log.truncate(min((g.committed.get(number, 0) for g in groups), default=0))

    # The topics and the groups.

    def check(self, topic: str) -> None:
        """Raise a transient error during an outage, TopicNotFound if a topic does not exist."""
        if self._down:
            raise PubSubError("the brokers cannot be reached", transient=True)
        if topic in self.missing:
            raise TopicNotFound(f"topic {topic!r} does not exist; create it")

    def logs(self, topic: str) -> list[_Log]:
        """Return the partitions of a topic, which is created if necessary."""
        if topic not in self._topics:
            self._topics[topic] = [_Log(self.hole_every) for _ in range(self.partitions)]
        return self._topics[topic]

    def append(self, message: Message) -> None:
        """Put a message into its key's partition, or the next one in turn."""
        key = message.key
        number = next(self._keyless) % self.partitions if key is None else self.place(key)
        self.logs(message.topic)[number].append(message)
        self._wake()

    def place(self, key: str) -> int:
        """Return the partition of a key."""
        return crc32(_bytes(key)) % self.partitions

    def _wake(self) -> None:
        for group in self._groups.values():
            group.wake()


class _Log:
    """The messages of one partition."""

    def __init__(self, hole_every: int) -> None:
        self.messages: list[Message] = []
        self.offsets: list[int] = []
        self._appended = 0
        self._hole_every = hole_every

    def append(self, message: Message) -> None:
        holes = self._appended // self._hole_every if self._hole_every else 0
        self.offsets.append(self._appended + holes)
        self.messages.append(message)
        self._appended += 1

    def truncate(self, start: int) -> None:
        """Forget the messages before the offset ``start``."""
        first = bisect_left(self.offsets, start)
        del self.offsets[:first], self.messages[:first]

    def read(self, start: int, limit: int) -> list[tuple[int, Message]]:
        """Return up to ``limit`` messages from the offset ``start`` on, each with its offset."""
        first = bisect_left(self.offsets, start)
        chosen = slice(first, first + limit)
        return list(zip(self.offsets[chosen], self.messages[chosen], strict=True))

    def behind(self, offset: int) -> int:
        """Return how many messages there are from ``offset`` on."""
        return len(self.offsets) - bisect_left(self.offsets, offset)


class _Assigned:
    """The position of a member in a partition, as the offset of the next message."""

    def __init__(self, committed: int) -> None:
        self.next = committed
        """To be handed out."""
        self.acked = committed
        self.committed = committed


class _Group:
    """Share the partitions of a topic among members, and keep their commits."""

    def __init__(self, broker: LogBroker, topic: str) -> None:
        self.broker = broker
        self.topic = topic
        self.committed: dict[int, int] = {}
        self.generation = 0
        self._dealing: asyncio.Task[None] | None = None
        self._members: list[LogReceiver] = []
        self._wanted = False

    async def join(self, member: LogReceiver) -> None:
        self._members.append(member)
        await self.rebalance()

    def leave(self, member: LogReceiver) -> None:
        """Remove a member; its partitions are assigned to the others."""
        if member in self._members:
            self._members.remove(member)
            self._begin_rebalance()

    async def rebalance(self) -> None:
        """Assign the partitions again; a caller that is cancelled does not stop it."""
        self._begin_rebalance()
        assert self._dealing is not None
        await asyncio.shield(self._dealing)

    def _begin_rebalance(self) -> None:
        self._wanted = True
        if self._dealing is None or self._dealing.done():
            self._dealing = asyncio.create_task(self._assign())

    async def _assign(self) -> None:
        """Have all members give up their partitions, then assign them, unless members changed."""
        while self._wanted:
            self._wanted = False
            await asyncio.gather(*(member.give_up() for member in self._members))
        self.generation += 1
        members, logs = self._members, self.broker.logs(self.topic)
        for number in range(len(logs) if members else 0):
            position = _Assigned(self.committed.get(number, 0))
            members[number % len(members)].assigned[number] = position
        self.wake()

    def commit(self, offsets: dict[int, int]) -> None:
        """Keep the offsets of partitions. Raises PubSubError if that fails."""
        self.broker.check(self.topic)
        if self.broker.commit_errors:
            raise self.broker.commit_errors.pop(0)
        self.committed |= offsets

    def wake(self) -> None:
        for member in self._members:
            member.changed.set()

    async def aclose(self) -> None:
        if self._dealing is not None:
            self._dealing.cancel()
            with suppress(asyncio.CancelledError):
                await self._dealing


class LogSender:
    """Publish to one topic."""

    def __init__(self, broker: LogBroker, topic: str) -> None:
        self._broker = broker
        self._topic = topic
        self._closed = False

    async def connect(self) -> None:
        """Find the topic."""
        self._broker.check(self._topic)

    async def send(self, batch: Sequence[Message]) -> Results:
        """Append to the logs."""
        if self._closed:
            raise UsageError("this sender is closed")
        self._broker.check(self._topic)
        for message in batch:
            self._broker.append(message)
        return [None] * len(batch)

    async def aclose(self) -> None:
        """Refuse messages from now on."""
        self._closed = True


class LogBrowser:
    """Look through a topic, and settle single messages."""

    def __init__(self, broker: LogBroker, topic: str, subscription: str) -> None:
        self._broker = broker
        self._topic = topic
        self._group = (topic, subscription)

    async def connect(self) -> None:
        """Find the topic."""
        self._broker.check(self._topic)

    def _open(self) -> list[Message]:
        self._broker.check(self._topic)
        group = self._broker._groups.get(self._group)
        committed = {} if group is None else group.committed
        settled = self._broker.settled.get(self._group, set())
        return [
            _delivered(message, Record(number, offset, 0))
            for number, log in enumerate(self._broker.logs(self._topic))
            for offset, message in log.read(committed.get(number, 0), len(log.messages))
            if (number, offset) not in settled
        ]

    async def browse(self) -> AsyncIterator[Sequence[Message]]:
        """Yield what is open, two messages at a time."""
        found = self._open()
        for at in range(0, len(found), 2):
            yield found[at : at + 2]

    async def settle(self, batch: Sequence[Message]) -> Results:
        """Remember the places of messages."""
        self._broker.check(self._topic)
        places = [_record(message)[:2] for message in batch]
        self._broker.settled.setdefault(self._group, set()).update(places)
        return [None] * len(batch)

    async def measure(self) -> Measured:
        """Count what is open."""
        found = self._open()
        ages = [(datetime.now(UTC) - each.published_at).total_seconds() for each in found]
        return Measured(backlog=len(found), oldest=max(ages, default=0.0))

    async def aclose(self) -> None:
        """Do nothing."""


class LogReceiver:
    """Consume as a member of a group."""

    def __init__(self, broker: LogBroker, group: _Group) -> None:
        self.group = group
        self.assigned: dict[int, _Assigned] = {}
        self.changed = asyncio.Event()
        self._broker = broker
        self._revoke: Revoke | None = None
        self._letting_go = False
        self._acks = 0
        self.paused: set[Hashable] = set()
        self.all_paused = False
        self._dead = False
        self._closed = False

    async def connect(self, revoke: Revoke) -> None:
        """Join the group, and wait until its partitions are assigned."""
        self._broker.check(self.group.topic)
        self._revoke = revoke
        await self.group.join(self)

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Return messages of the partitions that have room."""
        if self._closed:
            raise UsageError("this receiver is closed")
        deadline = asyncio.get_running_loop().time() + wait
        while not self._closed:
            self._broker.check(self.group.topic)
            if batch := self._take(limit):
                return batch
            self.changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self.changed.wait()
            except TimeoutError:
                break
        return []

    def _take(self, limit: int) -> list[Message]:
        """Deliver up to ``limit`` messages; the partition that was first is last the next time."""
        batch: list[Message] = []
        for number, position in list(self.assigned.items()):
            if self.all_paused or self._letting_go or len(batch) == limit:
                break
            if number in self.paused:
                continue
            room = self._broker.ahead - (position.next - position.acked)
            log = self._broker.logs(self.group.topic)[number]
            for offset, message in log.read(position.next, max(0, min(room, limit - len(batch)))):
                position.next = offset + 1
                record = Record(number, offset, self.group.generation)
                batch.append(_delivered(message, record))
            self.assigned[number] = self.assigned.pop(number)
        return batch

    async def ack(self, batch: Sequence[Message]) -> Results:
        """Remember that partitions are handled up to these messages, and commit at intervals."""
        self._broker.check(self.group.topic)
        partitions = [message.partition for message in batch]
        if len({*partitions}) < len(partitions):
            raise UsageError(f"an ack holds one message for each partition, not {partitions}")
        refused = [self._advance(message) for message in batch]
        self.changed.set()  # there is room
        self._acks += 1
        if self._acks < self._broker.commit_every:
            return refused
        try:
            self._commit()
        except PubSubError as error:
            return [refusal or error for refusal in refused]
        return refused

    def _advance(self, message: Message) -> PubSubError | None:
        """Remember an ack; return an error if its assignment is over."""
        number, offset, generation = _record(message)
        position = self.assigned.get(number)
        if position is None or generation != self.group.generation:
            return PubSubError(f"partition {number} is not assigned any more", transient=False)
        position.acked = max(position.acked, offset + 1)
        return None

    def _commit(self) -> None:
        """Commit the acks since the last commit. Raises PubSubError if that fails."""
        behind = [(n, p) for n, p in self.assigned.items() if p.acked > p.committed]
        if behind:
            self.group.commit({number: position.acked for number, position in behind})
        for _, position in behind:
            position.committed = position.acked
        self._acks = 0

    def pause(self, partitions: Collection[Hashable]) -> None:
        """Deliver nothing more of partitions."""
        self.paused.update(partitions)

    def resume(self, partitions: Collection[Hashable]) -> None:
        """Deliver messages of partitions again."""
        self.paused.difference_update(partitions)
        self.changed.set()

    def pause_all(self) -> None:
        """Deliver nothing."""
        self.all_paused = True

    def resume_all(self) -> None:
        """Deliver again, except of paused partitions."""
        self.all_paused = False
        self.changed.set()

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        """Refuse: a log takes no message back."""
        raise UsageError("this broker keeps positions: nothing can be given back")

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Refuse: there are no leases."""
        raise UsageError("this broker has no leases")

    def status(self) -> Status:
        """Return how many messages of the assigned partitions were not delivered yet."""
        logs = self._broker.logs(self.group.topic)
        lag = {str(n): logs[n].behind(p.next) for n, p in self.assigned.items()}
        stalled = "the group has lost this member" if self._dead else ""
        return Status(backlog=sum(lag.values()), lag=lag, stalled=stalled)

    async def give_up(self) -> None:
        """Give up all partitions in time: the engine first, then the last commit."""
        if self.assigned:
            assert self._revoke is not None
            seconds = self._broker.rebalance_seconds
            self._letting_go = True
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._revoke(list(self.assigned), seconds)
            self._letting_go = False
            self._let_go()

    def _let_go(self) -> None:
        with suppress(PubSubError):  # uncommitted messages are delivered again
            self._commit()
        self._end_assignment()

    def _end_assignment(self) -> None:
        logs = self._broker.logs(self.group.topic)
        for number, position in self.assigned.items():
            log = logs[number]
            self._broker.repeated += log.behind(position.committed) - log.behind(position.next)
        self.assigned.clear()
        self.paused.clear()

    def die(self) -> None:
        """Forget everything and receive nothing any more."""
        self._dead = True
        self._end_assignment()

    async def aclose(self) -> None:
        """Commit, leave the group without waiting for the others, and end a pending receive."""
        self._closed = True
        self._let_go()
        self.changed.set()
        self.group.leave(self)


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _record(message: Message) -> Record:
    assert isinstance(message.raw, Record)
    return message.raw


def _delivered(message: Message, record: Record) -> Message:
    return Message(
        message.topic,
        message.body,
        key=message.key,
        attributes=message.attributes,
        id=message.id,
        published_at=message.published_at,
        partition=record.partition,
        raw=record,
    )
