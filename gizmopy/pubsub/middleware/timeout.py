"""Bound the time that handling a message may take."""

from __future__ import annotations

import asyncio

from gizmopy.errors import UsageError
from gizmopy.pubsub.handlers import Handler, MessageMiddleware
from gizmopy.pubsub.message import Message


def timeout(seconds: float) -> MessageMiddleware:
    """Cancel a handling after ``seconds``: it has failed then, with a TimeoutError that says so.

    A TimeoutError of the handler's own and a cancellation from outside pass through as they are.
    What blocks the event loop cannot be cancelled. Raises UsageError on seconds not above 0.
    """
    if not seconds > 0:
        raise UsageError(f"timeout({seconds}) would handle nothing; use seconds above 0")

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
