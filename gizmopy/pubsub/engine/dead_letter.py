"""Make a dead letter: the message as it arrived, with the failure in its attributes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from gizmopy.errors import Reject
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.error_text import text_of
from gizmopy.untrusted.text import quoted

DeadLetter = Callable[[Message], Awaitable[None]]
"""Publish a dead letter, and return once the broker has confirmed it."""


def as_dead_letter(
    message: Message,
    reason: str,
    error: BaseException,
    subscription: Subscription,
    first_failed_at: datetime,
) -> Message:
    """Return ``message`` with ``dl-*`` attributes about its failure.

    ``dl-attempts`` counts the attempts in all deliveries, as far as the broker counts deliveries;
    ``dl-first-failed-at`` is the first failure in the last delivery. Each attribute is cut to 1,024
    characters, because brokers limit them, and unprintable characters are escaped, because an error
    may quote the message.
    """
    earlier = (message.delivery - 1) * subscription.retry.attempts
    headers = {
        "dl-reason": error.reason if isinstance(error, Reject) else reason,
        "dl-exception": f"{type(error).__module__}.{type(error).__qualname__}: {text_of(error)}",
        "dl-source-topic": message.topic,
        "dl-source-subscription": subscription.subscription,
        "dl-message-id": message.id,
        "dl-deliveries": str(message.delivery),
        "dl-attempts": str(earlier + message.attempt),
        "dl-first-failed-at": first_failed_at.isoformat(),
        "dl-handler": subscription.name,
    }
    if message.partition is not None:
        headers["dl-source-partition"] = str(message.partition)
    attributes = {name: quoted(text) for name, text in headers.items()}
    return Message(
        message.topic,
        message.body,
        key=message.key,
        attributes={**message.attributes, **attributes},
        id=message.id,
        published_at=message.published_at,
    )
