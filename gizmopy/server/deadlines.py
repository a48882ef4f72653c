"""Tell when the time of a request is over, at the cost of a dict entry for each.

A timer for each request would cost several microseconds, and nearly all are cancelled. One timer
stands for all: when it fires, whatever is overdue is told, and it is set to the earliest that is
left. Requests with the same timeout come in the order of their deadlines, so it is seldom set.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Call ``expire`` with each item whose deadline passes before it is forgotten."""

    def __init__(self, expire: Callable[[T], None]) -> None:
        self._expire = expire
        self._deadlines: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = math.inf

    def watch(self, item: T, deadline: float) -> None:
        """Expect ``item`` to be forgotten by ``deadline``, in the event loop's time."""
        self._deadlines[item] = deadline
        if deadline < self._next:
            self._set_timer(deadline)

    def forget(self, item: T) -> None:
        """Expect nothing of ``item`` any more."""
        self._deadlines.pop(item, None)

    def close(self) -> None:
        """Tell nothing more."""
        self._deadlines.clear()
        self._set_timer(math.inf)

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = deadline
        loop = asyncio.get_running_loop()
        self._timer = None if deadline == math.inf else loop.call_at(deadline, self._fire)

    def _fire(self) -> None:
        now = max(self._next, asyncio.get_running_loop().time())  # timers may fire a little early
        overdue = [item for item, deadline in self._deadlines.items() if deadline <= now]
        for item in overdue:
            del self._deadlines[item]
        self._timer = None
        self._set_timer(min(self._deadlines.values(), default=math.inf))
        for item in overdue:
            self._expire(item)
