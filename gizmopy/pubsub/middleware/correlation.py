"""Give all that belongs to one piece of work one id, from message to message."""

from __future__ import annotations

from gizmopy.observe.context import propagated_attributes
from gizmopy.pubsub.handlers import Handler, MessageMiddleware
from gizmopy.pubsub.message import Message

_LONGEST = 256


def correlation(attribute: str = "correlation-id") -> MessageMiddleware:
    """Let all that a handler publishes carry the ``attribute`` of the message that it handles.

    A message without it begins a piece of work: its own id is carried. So does a message whose
    attribute is longer than 256 characters or not printable: every message that is published
    because of it would have a megabyte, or lines of its sender, in the logs of other services.
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
