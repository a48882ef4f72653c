"""A clock that a test moves, for timers and sleeps without real waiting."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

from gizmopy.errors import UsageError

_TURNS = 50
"""Turns of the event loop after each step, so that woken tasks can run."""


class Clock:
    """A clock that starts at 0 seconds and stands still until ``advance`` moves it.

    Use it as the ``clock`` of :class:`~gizmopy.pubsub.brokers.memory.MemoryDriver` and of
    :func:`pubsubtest.serve`, and its ``sleep`` as the ``sleep`` of publishers, subscribers and
    channels::

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
        """Return the time in seconds."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], Any]) -> Call:
        """Schedule ``callback`` for ``when``."""
        call = Call(callback)
        heapq.heappush(self._calls, (when, next(self._numbers), call))
        return call

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has moved by ``seconds``; for 0, wait one turn of the event loop.

        It is a replacement for ``asyncio.sleep``.
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
        """Move the time by ``seconds``, and run the scheduled calls that are due, in order.

        Before each call and after the last one, the event loop turns so that woken tasks run.
        Calls that they schedule are run too, if they are due. Tasks that wait for sockets or
        threads may not have ended yet. Raises UsageError on ``seconds`` below 0.
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
    """A scheduled call."""

    def __init__(self, callback: Callable[[], Any]) -> None:
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        """Cancel the call."""
        self.is_cancelled = True


async def _turn() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
