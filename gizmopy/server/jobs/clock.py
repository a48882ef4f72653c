"""The clock of background work: the event loop, or one that a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol


class Handle(Protocol):
    """A call that is scheduled."""

    def cancel(self) -> None:
        """Cancel it; no effect if it was called."""


class Clock(Protocol):
    """The time in seconds, and calls at a later time: the part of an event loop that is used."""

    def time(self) -> float:
        """Return the time, which never goes back."""

    def call_at(self, when: float, callback: Callable[[], Any], /) -> Handle:
        """Schedule ``callback`` for ``when``."""


class LoopClock:
    """The clock of the running event loop: the monotonic clock, which ``date`` does not move."""

    def time(self) -> float:
        """Return the time."""
        return asyncio.get_running_loop().time()

    def call_at(self, when: float, callback: Callable[[], Any], /) -> Handle:
        """Schedule ``callback`` for ``when``."""
        return asyncio.get_running_loop().call_at(when, callback)


def sleep_of(clock: Clock | None) -> Callable[[float], Awaitable[None]]:
    """Return the ``asyncio.sleep`` of a clock; None: that of the event loop."""
    if clock is None:
        return asyncio.sleep

    async def sleep(seconds: float) -> None:
        over = asyncio.Event()
        handle = clock.call_at(clock.time() + seconds, over.set)
        try:
            await over.wait()
        finally:
            handle.cancel()

    return sleep


class Pause:
    """Wait until a time of ``clock``, unless ``end`` comes first: it ends this wait and all later.

    One task uses it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wake = asyncio.Event()
        self.ended = False

    async def until(self, when: float) -> bool:
        """Wait until ``when``; return whether the time has come, and ``end`` has not."""
        self._wake.clear()
        if self.ended or when <= self._clock.time():
            return not self.ended
        # Not a number of seconds: a sum of rounded ones would miss the moment to which a test
        # moves its clock.
        call = self._clock.call_at(when, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            call.cancel()
        return not self.ended

    def end(self) -> None:
        """End the waits."""
        self.ended = True
        self._wake.set()
