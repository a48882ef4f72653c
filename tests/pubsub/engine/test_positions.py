"""Low-water marks: in whatever order items complete, no unfinished item is below a mark."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from gizmopy.pubsub.engine.positions import LowWaterMark, Positions


def test_the_mark_is_the_last_item_completed_without_a_gap() -> None:
    """It moves when the first unfinished item completes, over all items completed behind it."""
    low_water: LowWaterMark[int] = LowWaterMark()
    for offset in (5, 6, 9, 10):
        low_water.received(offset)
    assert low_water.mark is None
    assert not low_water.completed(6)
    assert not low_water.completed(9)
    assert low_water.mark is None
    assert low_water.above_mark == 2
    assert low_water.completed(5)
    assert low_water.mark == 9
    assert low_water.above_mark == 0


def test_an_item_that_was_never_received_is_not_a_gap() -> None:
    """Offsets that the broker skips do not stop the mark."""
    low_water: LowWaterMark[int] = LowWaterMark()
    for offset in (1, 1_000_000):
        low_water.received(offset)
        assert low_water.completed(offset)
    assert low_water.mark == 1_000_000


def test_an_item_completes_once() -> None:
    """To complete it again, or one that was not received, has no effect."""
    positions: Positions[str] = Positions()
    positions.received("p", "a")
    positions.completed("p", "a")
    assert positions.take_moved() == [("p", "a")]
    for partition, item in (("p", "a"), ("p", "b"), ("q", "a")):
        positions.completed(partition, item)
    assert positions.take_moved() == []


def test_a_mark_is_handed_out_once() -> None:
    """Only partitions whose mark has moved since are handed out again."""
    positions: Positions[str] = Positions()
    for partition in ("p", "q"):
        positions.received(partition, f"{partition}1")
        positions.received(partition, f"{partition}2")
        positions.completed(partition, f"{partition}1")
    assert positions.take_moved() == [("p", "p1"), ("q", "q1")]
    assert positions.take_moved() == []
    positions.completed("q", "q2")
    assert positions.take_moved() == [("q", "q2")]


def test_a_mark_that_is_put_back_does_not_hide_a_later_one() -> None:
    """The newest mark is handed out next, or the old one if there is no newer."""
    positions: Positions[str] = Positions()
    for item in ("a", "b"):
        positions.received("p", item)
    positions.completed("p", "a")
    failed = positions.take_moved()
    positions.put_back(failed)
    assert positions.take_moved() == failed
    positions.completed("p", "b")
    positions.put_back(failed)
    assert positions.take_moved() == [("p", "b")]


def test_a_mark_of_an_assignment_that_is_over_is_not_put_back() -> None:
    """A commit that failed because the partition was revoked is not retried later."""
    positions: Positions[str] = Positions()
    positions.received("p", "old")
    positions.completed("p", "old")
    failed = positions.take_moved()
    positions.revoke(["p", "never assigned"])
    positions.put_back(failed)
    assert positions.take_moved() == []
    positions.received("p", "new")
    positions.put_back(failed)
    assert positions.take_moved() == []


def test_an_item_that_completes_after_its_assignment_is_stale() -> None:
    """It moves no mark, also if the partition was assigned again since."""
    positions: Positions[object] = Positions()
    old, new = object(), object()
    positions.received("p", old)
    positions.revoke(["p"])
    positions.completed("p", old)
    positions.received("p", new)
    positions.completed("p", old)
    assert positions.take_moved() == []
    positions.completed("p", new)
    assert positions.take_moved() == [("p", new)]


def test_items_completed_above_the_mark_are_counted() -> None:
    """They are handled, and a crash would repeat them."""
    positions: Positions[int] = Positions()
    for number in range(6):
        positions.received(number % 2, number)
    for number in (2, 3, 4):
        positions.completed(number % 2, number)
    assert positions.above_mark == 3
    positions.completed(0, 0)
    assert positions.above_mark == 1
    positions.revoke([1])
    assert positions.above_mark == 0


class _Large:
    """Takes the place of a message with a large body."""


@pytest.mark.parametrize("order", [list, reversed, lambda n: [*n[::2], *n[1::2]]])
def test_items_completed_behind_a_slow_one_are_not_kept(
    order: Callable[[range], list[int]],
) -> None:
    """Of a thousand items in a row, only the last one is kept, as the mark can reach only that."""
    low_water: LowWaterMark[_Large] = LowWaterMark()
    items = [_Large() for _ in range(1001)]
    alive = weakref.WeakSet(items)
    for item in items:
        low_water.received(item)
    for number in order(range(1, 1001)):
        low_water.completed(items[number])
    slow, last = items[0], items[-1]
    items.clear()
    del item
    gc.collect()
    assert set(alive) == {slow, last}
    low_water.completed(slow)
    assert low_water.mark is last


@dataclass(frozen=True)
class _Item:
    partition: int
    epoch: int
    offset: int


class _Partition:
    """The state of one partition at the broker and in the test."""

    def __init__(self) -> None:
        self.epoch = 0
        self.next_offset = 0
        self.committed = -1
        """The last offset that is committed, in this epoch or before."""
        self.received: list[_Item] = []
        """In this epoch."""
        self.done: set[_Item] = set()

    @property
    def mark(self) -> int:
        """The offset that can be committed."""
        mark = self.committed_before
        for item in self.received:
            if item not in self.done:
                break
            mark = item.offset
        return mark

    committed_before = -1
    """The commit at the start of this epoch."""

    def revoke(self) -> None:
        """Begin the next epoch, which receives again from the commit on."""
        self.epoch += 1
        self.received, self.done = [], set()
        self.committed_before = self.committed
        self.next_offset = self.committed + 1


_PARTITIONS = st.integers(0, 2)
_Marks = list[tuple[int, _Item]]


class PositionsMachine(RuleBasedStateMachine):
    """Receive, complete, commit, fail and revoke in any order."""

    items: Bundle[_Item] = Bundle("items")
    commits: Bundle[_Marks] = Bundle("commits")

    def __init__(self) -> None:
        super().__init__()
        self.positions: Positions[_Item] = Positions()
        self.partitions = [_Partition() for _ in range(3)]
        self.calling = 0

    @rule(target=items, number=_PARTITIONS, holes=st.lists(st.integers(0, 3), max_size=8))
    def receive(self, number: int, holes: list[int]) -> MultipleResults[_Item]:
        """Receive some messages, with offsets left out between them."""
        partition = self.partitions[number]
        received = []
        for hole in holes:
            item = _Item(number, partition.epoch, partition.next_offset + hole)
            partition.next_offset = item.offset + 1
            partition.received.append(item)
            self.positions.received(number, item)
            received.append(item)
        return multiple(*received)

    @rule(item=items)
    def complete(self, item: _Item) -> None:
        """Complete any item ever received: unfinished, completed before, or of an old epoch."""
        partition = self.partitions[item.partition]
        fresh = item.epoch == partition.epoch and item not in partition.done
        self.positions.completed(item.partition, item)
        if fresh:
            partition.done.add(item)

    @rule(target=commits)
    def begin_commit(self) -> _Marks:
        """Take the marks; a later rule decides the result of the call."""
        self.calling += 1
        return [(item.partition, item) for _, item in self.positions.take_moved()]

    @rule(marks=consumes(commits))
    def commit(self, marks: _Marks) -> None:
        """Let a commit succeed, for the partitions that are still assigned."""
        self.calling -= 1
        for number, item in marks:
            partition = self.partitions[number]
            if item.epoch == partition.epoch:
                # Commits may overtake one another here; the broker takes the newest.
                partition.committed = max(partition.committed, item.offset)

    @rule(marks=consumes(commits))
    def fail(self, marks: _Marks) -> None:
        """Let a commit fail."""
        self.calling -= 1
        self.positions.put_back(marks)

    @rule(number=_PARTITIONS)
    def revoke(self, number: int) -> None:
        """Take a partition away; it may be assigned again."""
        self.positions.revoke([number])
        self.partitions[number].revoke()

    @rule()
    @precondition(lambda self: not self.calling)
    def commit_all(self) -> None:
        """All items completed without a gap can be committed, and no others."""
        for number, item in self.positions.take_moved():
            partition = self.partitions[item.partition]
            assert (number, item.epoch) == (item.partition, partition.epoch)
            assert item.offset >= partition.committed, "the mark has moved back"
            partition.committed = item.offset
        assert [p.committed for p in self.partitions] == [p.mark for p in self.partitions]

    @invariant()
    def nothing_unfinished_is_committed(self) -> None:
        """All committed items are below the first unfinished one of their partition."""
        for partition in self.partitions:
            unfinished = [i.offset for i in partition.received if i not in partition.done]
            assert partition.committed < min(unfinished, default=partition.next_offset)

    @invariant()
    def items_above_the_mark_are_counted(self) -> None:
        """The count is that of the completed items above the marks."""
        above = [item for p in self.partitions for item in p.done if item.offset > p.mark]
        assert self.positions.above_mark == len(above)


TestPositions = PositionsMachine.TestCase
TestPositions.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
