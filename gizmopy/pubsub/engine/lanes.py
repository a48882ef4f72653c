"""Keep order where it matters: one at a time for each key, the others wait in line."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Lanes(Generic[ItemT]):
    """Let one item of each key through at a time; a lane exists only while it is busy."""

    def __init__(self) -> None:
        self._lanes: dict[Hashable, deque[ItemT] | None] = {}
        """What waits in each busy lane; mostly nothing does, and a deque is large."""
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

    def leave(self, key: Hashable) -> ItemT | None:
        """End the turn of the item in front, and return the one that may go now."""
        lane = self._lanes[key]
        if lane:
            self.waiting -= 1
            return lane.popleft()
        del self._lanes[key]
        return None

    def cut(self, key: Hashable, item: ItemT) -> list[ItemT]:
        """Take out what waits behind ``item``, and return it; ``item`` too, if it waits itself."""
        waiting = list(self._lanes.get(key) or ())
        place = waiting.index(item) if item in waiting else 0  # else it is the one in front
        behind = [other for other in waiting[place:] if other is not item]
        if waiting:
            self._lanes[key] = deque(waiting[:place]) if place else None
            self.waiting -= len(waiting) - place
        return behind

    def remove(self, key: Hashable, item: ItemT) -> bool:
        """Take out an item if it waits; return whether it did."""
        lane = self._lanes.get(key)
        if not lane or item not in lane:  # where it is found soon: the oldest go first, as a rule
            return False
        lane.remove(item)
        self.waiting -= 1
        return True

    def all_waiting(self) -> list[ItemT]:
        """Return all that wait, each lane in its order."""
        return [item for lane in self._lanes.values() for item in lane or ()]

    def clear_waiting(self) -> list[ItemT]:
        """Remove and return all that wait, each lane in its order."""
        waiting = self.all_waiting()
        self._lanes = dict.fromkeys(self._lanes)
        self.waiting = 0
        return waiting
