"""How far each partition is handled without a gap, for brokers that keep a position.

Such a broker can only be told "all up to here is handled", and messages end in any order. What may
be told is the low-water mark: the last message before the first that is not handled. Only what was
received counts, so offsets that a broker skips (compacted, transaction markers) are no gaps.

Pure: no input or output, no clock, no event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class LowWater(Generic[T]):
    """Follow one partition in one assignment, in amortised O(1) for each item.

    Two deliveries of one message are two items, unequal to each other, as two Messages are. Items
    completed behind a slow one may be large: they are let go of, but for those the mark can reach.
    """

    __slots__ = ("_above", "_low", "_next", "_unfinished", "mark")

    def __init__(self) -> None:
        self.mark: T | None = None
        """The last item before the first unfinished one; None where there is none yet."""
        self._next = 0
        """The number of the next item that is received."""
        self._low = 0
        """The number of the first item that is not completed."""
        self._unfinished: dict[T, int] = {}
        self._above: dict[int, T | None] = {}
        """What is completed above ``_low``, by number; of those in a row the last keeps its item.
        """

    @property
    def pending(self) -> int:
        """How many items are not completed."""
        return len(self._unfinished)

    @property
    def above_mark(self) -> int:
        """How many items are completed after one that is not."""
        return len(self._above)

    def received(self, *items: T) -> None:
        """Put items at the end of the line."""
        first, self._next = self._next, self._next + len(items)
        self._unfinished.update(zip(items, range(first, self._next), strict=True))

    def completed(self, *items: T) -> bool:
        """Complete items, and return whether the mark has moved.

        Ignores items that are not in the line, or completed already.
        """
        pop, above, low = self._unfinished.pop, self._above, self._low
        for item in items:
            number = pop(item, None)
            if number == low:
                low += 1
                self.mark = item
                while low in above:
                    self.mark = above.pop(low)
                    low += 1
            elif number is not None:
                above[number] = None if number + 1 in above else item
                if number - 1 in above:
                    above[number - 1] = None
        moved = low != self._low
        self._low = low
        return moved


class Positions(Generic[T]):
    """Follow all partitions that are assigned, and hand out the marks that have moved.

    What completes after its partition was revoked is stale, even where that partition has been
    assigned again since: its item is not one of the new assignment.
    """

    def __init__(self) -> None:
        self._partitions: dict[Hashable, LowWater[T]] = {}
        self._moved: dict[Hashable, T] = {}

    @property
    def above_mark(self) -> int:
        """How many items are completed after one that is not: they come again after a crash."""
        return sum(low_water.above_mark for low_water in self._partitions.values())

    def received(self, partition: Hashable, *items: T) -> None:
        """Put items at the end of their partition."""
        low_water = self._partitions.get(partition)
        if low_water is None:
            low_water = self._partitions[partition] = LowWater()
        low_water.received(*items)

    def completed(self, partition: Hashable, *items: T) -> bool:
        """Complete items; return False where some are stale, or were completed before."""
        low_water = self._partitions.get(partition)
        if low_water is None:
            return False
        pending = low_water.pending
        if low_water.completed(*items):
            assert low_water.mark is not None
            self._moved[partition] = low_water.mark
        return pending - low_water.pending == len(items)

    def take_marks(self) -> list[tuple[Hashable, T]]:
        """Return each partition whose mark has moved since the last call, with its mark."""
        moved, self._moved = self._moved, {}
        return list(moved.items())

    def put_back(self, marks: Iterable[tuple[Hashable, T]]) -> None:
        """Have marks handed out again; those of an assignment that is over are dropped."""
        for partition, mark in marks:
            low_water = self._partitions.get(partition)
            if low_water is not None and low_water.mark == mark:  # else it has moved on by itself
                self._moved[partition] = mark

    def revoke(self, partitions: Collection[Hashable]) -> None:
        """Forget partitions: their assignment is over."""
        for partition in partitions:
            self._partitions.pop(partition, None)
            self._moved.pop(partition, None)
