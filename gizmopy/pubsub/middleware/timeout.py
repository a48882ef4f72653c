"""Limit the time of a handling."""

from __future__ import annotations

import asyncio

from gizmopy.errors import UsageError
from gizmopy.pubsub.handlers import Handler, MessageMiddleware
from gizmopy.pubsub.message import Message


def timeout(seconds: float) -> MessageMiddleware:
    """Cancel a handling after ``seconds``; it has then failed with a TimeoutError.

    A TimeoutError of the handler itself and a cancellation from outside are passed on unchanged. A
    handler that blocks the event loop cannot be cancelled. Raises UsageError on ``seconds`` not
    above 0.
    """
    if not seconds > 0:
        raise UsageError(f"timeout({seconds}) would handle no message; use seconds above 0")

    def wrap(handler: Handler) -> Handler:
        async def handle(message: Message) -> None:
            try:
                async with asyncio.timeout(seconds) as limit:
                    await handler(message)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise TimeoutError(f"handling took longer than {seconds:g} s") from error

        return handle

    return wrap
