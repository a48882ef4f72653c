"""Limit how many messages are handled per second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from gizmopy.errors import UsageError
from gizmopy.pubsub.handlers import Handler, MessageMiddleware
from gizmopy.pubsub.message import Message


def throttle(
    per_second: float,
    burst: int = 1,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> MessageMiddleware:
    """Start at most ``per_second`` handlings per second; after a pause, ``burst`` of them at once.

    A message that waits occupies its worker and keeps its lease. So no more is received than can be
    handled: the messages wait at the broker. They start in the order of their receipt. A retry
    counts as a handling. The rate applies to each handler and each replica of the daemon by itself.

    Raises UsageError on a rate not above 0 or a burst below 1.
    """
    if not per_second > 0 or burst < 1:
        reason = "would handle no message; use a rate above 0 and a burst of 1 or more"
        raise UsageError(f"throttle({per_second}, burst={burst}) {reason}")

    def wrap(handler: Handler) -> Handler:
        bucket = _Bucket(per_second, burst, clock)

        async def handle(message: Message) -> None:
            if (seconds := bucket.take()) > 0:
                await sleep(seconds)
            await handler(message)

        return handle

    return wrap


class _Bucket:
    """A token bucket: ``size`` tokens, refilled evenly. It lends tokens that are still to come."""

    def __init__(self, per_second: float, size: int, clock: Callable[[], float]) -> None:
        self._rate = per_second
        self._size = size
        self._clock = clock
        self._tokens = float(size)
        self._filled = clock()

    def take(self) -> float:
        """Take a token, and return the seconds until it is available."""
        now = self._clock()
        earned = (now - self._filled) * self._rate
        self._tokens = min(self._size, self._tokens + earned) - 1
        self._filled = now
        return -self._tokens / self._rate
