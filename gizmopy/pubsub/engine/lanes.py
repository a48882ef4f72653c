"""Keep order: of the items with one key, one is let through at a time, and the others wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Lanes(Generic[ItemT]):
    """Let one item of each key through at a time.

    The items of one key form a lane: the one in front was let through, the others wait behind it.
    A lane exists only while it has an item.
    """

    def __init__(self) -> None:
        self._lanes: dict[Hashable, deque[ItemT] | None] = {}
        """The waiting items of each lane; None instead of an empty deque, which takes 760 bytes."""
        self.waiting = 0
        """How many items wait for their turn."""

    def enter(self, key: Hashable, item: ItemT) -> bool:
        """Return whether ``item`` may go now; if not, it waits for its turn."""
        if key not in self._lanes:
            self._lanes[key] = None
            return True
        lane = self._lanes[key]
        if lane is None:
            lane = self._lanes[key] = deque()
        lane.append(item)
        self.waiting += 1
        return False

    def finish(self, key: Hashable) -> ItemT | None:
        """End the turn of the item in front, and return the one that may go now."""
        lane = self._lanes[key]
        if lane:
            self.waiting -= 1
            return lane.popleft()
        del self._lanes[key]
        return None

    def take_behind(self, key: Hashable, item: ItemT) -> list[ItemT]:
        """Remove and return the items that wait behind ``item``; remove it too if it waits."""
        waiting = list(self._lanes.get(key) or ())
        place = waiting.index(item) if item in waiting else 0  # else it is the one in front
        behind = [other for other in waiting[place:] if other is not item]
        if waiting:
            self._lanes[key] = deque(waiting[:place]) if place else None
            self.waiting -= len(waiting) - place
        return behind

    def remove(self, key: Hashable, item: ItemT) -> bool:
        """Remove an item if it waits; return whether it did."""
        lane = self._lanes.get(key)
        # The search is linear, and short: the oldest items are removed first, as a rule.
        if not lane or item not in lane:
            return False
        lane.remove(item)
        self.waiting -= 1
        return True

    def take_waiting(self) -> list[ItemT]:
        """Remove and return all waiting items, those of each lane in their order."""
        waiting = [item for lane in self._lanes.values() for item in lane or ()]
        self._lanes = dict.fromkeys(self._lanes)
        self.waiting = 0
        return waiting
