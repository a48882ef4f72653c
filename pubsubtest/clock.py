"""Time that a test moves: what waits for it waits no longer, and no shorter, than it is told."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

from gizmopy.errors import UsageError

_TURNS = 50
"""How often the event loop turns for what a step of time has set going."""


class Clock:
    """Stand still until ``advance`` moves the time, which begins at 0 seconds.

    It serves as the ``clock`` of :class:`~gizmopy.pubsub.brokers.memory.MemoryDriver` and of
    :func:`pubsubtest.serve`, and its ``sleep`` as that of publishers, subscribers and channels::

        clock = Clock()
        async with pubsubtest.serve(Cats, clock=clock) as cats:
            assert await cats.deliver("cats", Cat(name="shy")) == "nack"
            await clock.advance(30)
            await cats.idle()
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._calls: list[tuple[float, int, Call]] = []
        self._numbers = count()

    def time(self) -> float:
        """Return the seconds that the clock was moved."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], Any]) -> Call:
        """Call ``callback`` when the clock is moved to ``when``, or past it."""
        call = Call(callback)
        heapq.heappush(self._calls, (when, next(self._numbers), call))
        return call

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved by ``seconds``; for 0, only for a turn of the loop.

        It can be used wherever ``asyncio.sleep`` can.
        """
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        over = asyncio.Event()
        call = self.call_at(self._now + seconds, over.set)
        try:
            await over.wait()
        finally:
            call.cancel()

    async def advance(self, seconds: float) -> None:
        """Move the time by ``seconds``, from one thing that is due to the next, in their order.

        Before each of them, and after the last, the event loop turns until what waits for nothing
        but the loop is done. What is set going on the way and due by then is done, too. What waits
        for the world outside (a socket, a thread) is not waited for. Raises UsageError on seconds
        below 0.
        """
        if seconds < 0:
            raise UsageError(f"advance({seconds:g}) would turn time back; use 0 or more seconds")
        until = self._now + seconds
        await _turn()
        while self._calls and self._calls[0][0] <= until:
            when, _, call = heapq.heappop(self._calls)
            if not call.is_cancelled:
                self._now = max(self._now, when)
                call.callback()
                await _turn()
        self._now = until


class Call:
    """A call that is due later."""

    def __init__(self, callback: Callable[[], Any]) -> None:
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        """Take the call back."""
        self.is_cancelled = True


async def _turn() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
