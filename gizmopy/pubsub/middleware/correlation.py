"""Pass a correlation id from a message to all messages that its handler publishes."""

from __future__ import annotations

from gizmopy.observe.context import propagated_attributes
from gizmopy.pubsub.handlers import Handler, MessageMiddleware
from gizmopy.pubsub.message import Message

_LONGEST = 256


def correlation(attribute: str = "correlation-id") -> MessageMiddleware:
    """Add the ``attribute`` of the handled message to all messages that the handler publishes.

    A message without the attribute begins a new correlation: its id is used. So does a message
    whose attribute is longer than 256 characters or not printable. Otherwise its sender could put a
    megabyte, or forged lines, into the logs of other services.
    """

    def wrap(handler: Handler) -> Handler:
        async def handle(message: Message) -> None:
            work = message.attributes.get(attribute, "")
            if not (0 < len(work) <= _LONGEST and work.isprintable()):
                work = message.id
            # The context is this message's own: the next message does not see the change.
            propagated_attributes.set({**propagated_attributes.get(), attribute: work})
            await handler(message)

        return handle

    return wrap
