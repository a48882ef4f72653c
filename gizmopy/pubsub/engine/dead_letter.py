"""Make and publish a dead letter: the message as it arrived, with the failure in its attributes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from gizmopy.errors import PubSubError, Reject, TopicNotFound
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.error_text import text_of
from gizmopy.untrusted.text import cut, escape, quoted

DeadLetter = Callable[[Message], Awaitable[None]]
"""Publish a dead letter, and return once the broker has confirmed it."""

_SHORT = 64
"""The characters of an attribute if there is no room for more."""
_ESSENTIAL = ("dl-reason", "dl-source-topic", "dl-source-subscription")
_SOURCE = ("dl-source-topic",)
"""A redrive needs this one."""


class Failure(NamedTuple):
    """A message that failed for good, and all that its dead letter says about it."""

    message: Message
    reason: str
    """``"rejected"``, ``"undecodable"`` or ``"exhausted"``."""
    error: BaseException
    subscription: Subscription
    first_failed_at: datetime


async def publish_dead_letter(publish: DeadLetter, failure: Failure) -> None:
    """Publish the dead letter of a message, with fewer attributes if the broker refuses it.

    A message may be as large as the broker allows. Its dead letter is larger, and no retry makes it
    smaller: the message would block its lane for ever. Raises the last refusal.
    """
    *versions, last = _versions(failure)
    for attributes in versions:
        try:
            await publish(_with(failure.message, attributes))
        except TopicNotFound:
            raise
        except PubSubError as error:
            if error.transient:
                raise
        else:
            return
    await publish(_with(failure.message, last))


def as_dead_letter(failure: Failure) -> Message:
    """Return the message of a failure with all ``dl-*`` attributes."""
    return _with(failure.message, as_attributes(failure))


def will_not_pass(failure: BaseException) -> bool:
    """Return whether a dead letter that failed with ``failure`` will fail again."""
    if isinstance(failure, PubSubError):
        return not failure.transient
    return not isinstance(failure, (asyncio.CancelledError, OSError))  # TimeoutError is an OSError


def _versions(failure: Failure) -> Iterator[Mapping[str, str]]:
    """Yield the ``dl-*`` attributes of a dead letter, then fewer and shorter ones."""
    attributes = as_attributes(failure)
    yield attributes
    short = {name: cut(text, _SHORT) for name, text in attributes.items()}
    yield short
    for names in (_ESSENTIAL, _SOURCE):
        yield {name: short[name] for name in names if name != "dl-source-topic"} | {
            "dl-source-topic": attributes["dl-source-topic"]
        }
    yield {}


def as_attributes(failure: Failure) -> dict[str, str]:
    """Return the ``dl-*`` attributes of a dead letter.

    ``dl-attempts`` counts the attempts in all deliveries, as far as the broker counts deliveries;
    ``dl-first-failed-at`` is the first failure in the last delivery. Each attribute is cut to 1,024
    characters, because brokers limit them, and unprintable characters are escaped, because an error
    may quote the message.
    """
    message, reason, error, subscription, first_failed_at = failure
    earlier = (message.delivery - 1) * subscription.retry.attempts
    headers = {
        "dl-reason": error.reason or reason if isinstance(error, Reject) else reason,
        "dl-exception": f"{type(error).__module__}.{type(error).__qualname__}: {text_of(error)}",
        "dl-source-topic": message.topic,
        "dl-source-subscription": subscription.subscription,
        "dl-message-id": message.id,
        "dl-deliveries": message.delivery,
        "dl-attempts": earlier + message.attempt,
        "dl-first-failed-at": first_failed_at.isoformat(),
        "dl-handler": subscription.name,
    }
    if message.partition is not None:
        headers["dl-source-partition"] = message.partition
    return {name: _text(value) for name, value in headers.items()}


def _text(value: object) -> str:
    """Return any value as the text of an attribute."""
    try:
        return quoted(str(value))
    except Exception:  # noqa: BLE001 - the value is the user's: no text may keep the dead letter
        return escape(f"({type(value).__name__})")


def _with(message: Message, attributes: Mapping[str, str]) -> Message:
    return Message(
        message.topic,
        message.body,
        key=message.key,
        attributes={**message.attributes, **attributes},
        id=message.id,
        published_at=message.published_at,
    )
