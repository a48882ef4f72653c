"""Bound how many messages are handled in a second."""

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
    """Begin at most ``per_second`` handlings a second, ``burst`` of them at once after a pause.

    A message that has to wait keeps its worker and its lease, so that nothing more is received
    than fits: backpressure reaches the broker. Messages begin in the order in which they came. A
    retry counts like any handling. Every handler that this wraps has the rate for itself, and so
    has every replica of the daemon.

    Raises UsageError on a rate not above 0 and on a burst below 1.
    """
    if not per_second > 0 or burst < 1:
        reason = "would handle nothing; use a rate above 0 and a burst of 1 or more"
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
    """A bucket of ``size`` tokens, filled evenly, that lends what it does not hold yet."""

    def __init__(self, per_second: float, size: int, clock: Callable[[], float]) -> None:
        self._rate = per_second
        self._size = size
        self._clock = clock
        self._tokens = float(size)
        self._filled = clock()

    def take(self) -> float:
        """Take a token, and return the seconds until it is there."""
        now = self._clock()
        earned = (now - self._filled) * self._rate
        self._tokens = min(self._size, self._tokens + earned) - 1
        self._filled = now
        return -self._tokens / self._rate
