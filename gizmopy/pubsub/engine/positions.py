"""Follow how far each partition is handled without a gap, for brokers that keep a position.

Such a broker accepts one statement: "all messages up to this one are handled". Handlers end in any
order, so the position to commit is the low-water mark: the last message before the first that is
not handled. Only received messages count, so offsets that a broker skips (compacted records,
transaction markers) are not gaps.

This module is pure: no input or output, no clock, no event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class LowWaterMark(Generic[T]):
    """Follow one partition in one assignment, in amortised O(1) for each item.

    Two deliveries of one message are two items, unequal to each other, as two Messages are.
    """

    __slots__ = ("_above", "_low", "_next", "_unfinished", "mark")

    def __init__(self) -> None:
        self.mark: T | None = None
        """The last item before the first unfinished one; None if there is none yet."""
        self._next = 0
        """The number of the next item that is received."""
        self._low = 0
        """The number of the first item that is not completed."""
        self._unfinished: dict[T, int] = {}
        # Behind a slow item, thousands may be completed, and each may be large. The mark moves over
        # a whole run of completed items at once, so only the last item of each run is kept.
        self._above: dict[int, T | None] = {}
        """The completed items above ``_low``, by number; None for all but the last of a run."""

    @property
    def above_mark(self) -> int:
        """How many items are completed after an unfinished one."""
        return len(self._above)

    def received(self, *items: T) -> None:
        """Add items that were received, in their order."""
        first, self._next = self._next, self._next + len(items)
        self._unfinished.update(zip(items, range(first, self._next), strict=True))

    def completed(self, *items: T) -> bool:
        """Complete items, and return whether the mark has moved.

        Items that were never received, or were completed before, are ignored.
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
    """Follow all assigned partitions, and hand out the marks that have moved.

    An item that completes after its partition was revoked is stale, also if the partition was
    assigned again since: the new assignment never received it.
    """

    def __init__(self) -> None:
        self._partitions: dict[Hashable, LowWaterMark[T]] = {}
        self._moved: dict[Hashable, T] = {}

    @property
    def above_mark(self) -> int:
        """How many items are completed after an unfinished one: a crash would repeat them."""
        return sum(low_water.above_mark for low_water in self._partitions.values())

    def received(self, partition: Hashable, *items: T) -> None:
        """Add items that were received from a partition, in their order."""
        low_water = self._partitions.get(partition)
        if low_water is None:
            low_water = self._partitions[partition] = LowWaterMark()
        low_water.received(*items)

    def completed(self, partition: Hashable, *items: T) -> None:
        """Complete items; those that are stale or were completed before are ignored."""
        low_water = self._partitions.get(partition)
        if low_water is not None and low_water.completed(*items):
            assert low_water.mark is not None
            self._moved[partition] = low_water.mark

    def take_moved(self) -> list[tuple[Hashable, T]]:
        """Return each partition whose mark has moved since the last call, with its mark."""
        moved, self._moved = self._moved, {}
        return list(moved.items())

    def put_back(self, marks: Iterable[tuple[Hashable, T]]) -> None:
        """Hand out marks again that could not be committed, unless their assignment is over."""
        for partition, mark in marks:
            low_water = self._partitions.get(partition)
            if low_water is not None and low_water.mark == mark:  # else it has moved since
                self._moved[partition] = mark

    def revoke(self, partitions: Collection[Hashable]) -> None:
        """Forget partitions whose assignment is over."""
        for partition in partitions:
            self._partitions.pop(partition, None)
            self._moved.pop(partition, None)
