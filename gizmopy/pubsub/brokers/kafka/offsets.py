"""How far each assigned partition is received, acked and committed. No input, output or clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from aiokafka import TopicPartition

from gizmopy.observe.context import new_id

Commit = Sequence[tuple["Partition", int]]
"""Partitions, each with the offset to commit."""


class Partition:
    """One partition in one assignment. Each offset is that of the next message."""

    __slots__ = (
        "acked",
        "committed",
        "id_prefix",
        "is_over",
        "is_start_committed",
        "next",
        "origin",
        "skipped",
        "tp",
    )

    def __init__(
        self, tp: TopicPartition, start: int, origin: str, *, is_start_committed: bool
    ) -> None:
        self.tp = tp
        self.origin = origin
        """The cluster and the topic that the messages are from; see ``Message.origin``."""
        self.id_prefix = f"{tp.topic}-{tp.partition}-"
        """The ids of its messages are this and their offset."""
        self.next = start
        """The next offset to receive."""
        self.acked = start
        self.committed = start
        self.is_start_committed = is_start_committed
        """Whether the group would start here again; else the start has to be committed."""
        self.is_over = False
        """Whether the assignment has ended, so that acks come too late."""
        self.skipped: set[int] = set()
        """Offsets behind the last ack that are no messages: nobody acks them."""

    def __str__(self) -> str:
        return str(self.tp.partition)


class Offsets:
    """The partitions that a receiver has received from in the current assignment.

    ``ahead``: how many messages a partition may be received beyond its first unacked one. With
    ``commit_start`` the offset that a partition starts with is committed, too.
    """

    def __init__(self, ahead: int, *, commit_start: bool) -> None:
        self.commit_start = commit_start
        self.partitions: dict[TopicPartition, Partition] = {}
        self.full: set[TopicPartition] = set()
        """Partitions that are ``ahead`` messages ahead: nothing is fetched of them."""
        self.paused: set[TopicPartition] = set()
        """Partitions that the engine has paused: nothing is received of them."""
        self.all_paused = False
        """Whether the engine has paused all partitions, those that come later too."""
        self.uncommitted = 0
        """The number of offsets that are acked and not committed."""
        self.origin = ""
        """The ids of the cluster and of the topic; empty if they are not known."""
        self.is_origin_old = False
        """Whether the topic may be another one by now, so that its id has to be asked for."""
        self._ahead = ahead

    @property
    def held_back(self) -> Collection[TopicPartition]:
        """The partitions of which nothing is received now: those that are full or paused."""
        return self.full | self.paused if self.paused else self.full

    def start(self, tp: TopicPartition, offset: int) -> Partition:
        """Follow a partition from ``offset`` on."""
        partition = Partition(tp, offset, self.origin, is_start_committed=not self.commit_start)
        self.partitions[tp] = partition
        return partition

    def at(self, tp: TopicPartition, offset: int) -> Partition:
        """Return the partition of a record that is received now.

        An offset below the next one starts the partition again: the topic was deleted and created
        anew, or its log truncated. Acks of older records then come too late.
        """
        partition = self.partitions.get(tp)
        if partition is not None and offset < partition.next:
            self.end(partition)
            partition = None
            # Until the broker tells the id of the topic, its messages have an origin of their own:
            # they may be handled twice, but none is taken for one of the old topic.
            self.origin, self.is_origin_old = new_id(), True
        return self.start(tp, offset) if partition is None else partition

    def set_origin(self, origin: str) -> None:
        """Note the ids of the cluster and of the topic."""
        self.origin, self.is_origin_old = origin, False
        for partition in self.partitions.values():
            partition.origin = origin

    def received(self, partition: Partition, offset: int) -> None:
        """Note that a partition is received up to and including ``offset``."""
        partition.next = offset + 1
        if not self._has_room(partition):
            self.full.add(partition.tp)

    def skip(self, partition: Partition, offset: int) -> None:
        """Note that ``offset``, which is received next, is no message: it counts as handled."""
        partition.skipped.add(offset)
        if offset == partition.acked:
            self.ack(partition, offset)

    def ack(self, partition: Partition, offset: int) -> bool:
        """Note that all up to and including ``offset`` is handled.

        Return whether a full partition has room again.
        """
        acked = offset + 1
        if partition.skipped:
            while acked in partition.skipped:
                acked += 1
            partition.skipped = {each for each in partition.skipped if each >= acked}
        if acked <= partition.acked:
            return False
        self.uncommitted += acked - partition.acked
        partition.acked = acked
        if partition.tp not in self.full or not self._has_room(partition):
            return False
        self.full.discard(partition.tp)
        return True

    def to_commit(self) -> Commit:
        """Return the partitions with something to commit."""
        return [
            (partition, partition.acked)
            for partition in self.partitions.values()
            if partition.acked > partition.committed or not partition.is_start_committed
        ]

    def committed(self, commit: Commit) -> None:
        """Note that the broker has confirmed ``commit``."""
        for partition, acked in commit:
            # ``end`` has subtracted the rest of a partition whose assignment is over.
            if not partition.is_over:
                self.uncommitted -= acked - partition.committed
            partition.committed = acked
            partition.is_start_committed = True

    def among(self, tps: Collection[TopicPartition]) -> list[Partition]:
        """Return the partitions that are followed among ``tps``."""
        return [self.partitions[tp] for tp in tps if tp in self.partitions]

    def end(self, partition: Partition) -> None:
        """Follow a partition no more: its assignment is over."""
        partition.is_over = True
        self.uncommitted -= partition.acked - partition.committed
        self.partitions.pop(partition.tp, None)
        self.full.discard(partition.tp)
        self.paused.discard(partition.tp)

    def _has_room(self, partition: Partition) -> bool:
        return partition.next - partition.acked < self._ahead
