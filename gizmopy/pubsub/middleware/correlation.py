"""Give all that belongs to one piece of work one id, from message to message."""

from __future__ import annotations

from gizmopy.observe.context import carried
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.subscription import Handler, MessageMiddleware


def correlation(attribute: str = "correlation-id") -> MessageMiddleware:
    """Let all that a handler publishes carry the ``attribute`` of the message that it handles.

    A message without it begins a piece of work: its own id is carried.
    """

    def wrap(handler: Handler) -> Handler:
        async def handle(message: Message) -> None:
            work = message.attributes.get(attribute) or message.id
            carried.set({**carried.get(), attribute: work})  # the next message does not see it
            await handler(message)

        return handle

    return wrap
