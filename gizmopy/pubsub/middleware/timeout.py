"""Limit the time of a handling."""

from __future__ import annotations

import asyncio

from gizmopy.errors import UsageError, seconds_from
from gizmopy.pubsub.handlers import Handler, MessageMiddleware
from gizmopy.pubsub.message import Message
from gizmopy.untrusted.durations import DurationLike


def timeout(seconds: DurationLike) -> MessageMiddleware:
    """Cancel a handling after ``seconds``; it has then failed with a TimeoutError.

    ``seconds`` is a number, a text such as ``1m30s``, or a timedelta.

    A TimeoutError of the handler itself and a cancellation from outside are passed on unchanged. A
    handler that blocks the event loop cannot be cancelled. Raises UsageError on ``seconds`` not
    above 0.
    """
    limit_seconds = seconds_from("timeout()", seconds)
    if not limit_seconds > 0:
        raise UsageError(f"timeout({seconds}) would handle no message; use seconds above 0")

    def wrap(handler: Handler) -> Handler:
        async def handle(message: Message) -> None:
            try:
                async with asyncio.timeout(limit_seconds) as limit:
                    await handler(message)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise TimeoutError(f"handling took longer than {limit_seconds:g} s") from error

        return handle

    return wrap
