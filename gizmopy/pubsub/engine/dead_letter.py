"""Make and publish a dead letter: the message as it arrived, with the failure in its attributes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from gizmopy.errors import PubSubError, Reject, TopicNotFound
from gizmopy.pubsub.gravity import gravest
from gizmopy.pubsub.message import Message, merged, removed
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.error_groups import leaves
from gizmopy.untrusted.error_text import text_of
from gizmopy.untrusted.text import cut, escape, quoted

DeadLetter = Callable[[Message], Awaitable[None]]
"""Publish a dead letter, and return once the broker has confirmed it."""

PREFIX = "gizmo-dl-"
"""The beginning of all attributes of dead letters: a prefix that belongs to no user."""
HOPS = f"{PREFIX}hops"
"""The attribute that counts how often the message was dead-lettered and not redriven."""
_MAX_HOPS = 16
"""A message that was dead-lettered so often goes round in a cycle of several services."""
DESCRIPTIONS: Mapping[str, str] = {
    "gizmo-dl-reason": "The reason of Reject, or undecodable, or exhausted.",
    "gizmo-dl-exception": "Type and text of the error; of a group, those of its members.",
    "gizmo-dl-source-topic": "The topic that the message came from.",
    "gizmo-dl-source-subscription": "The subscription that received it.",
    "gizmo-dl-source-partition": "The partition that it came from, if the broker has partitions.",
    "gizmo-dl-message-id": "The id of the message.",
    "gizmo-dl-deliveries": "How often it was delivered.",
    "gizmo-dl-attempts": "How often it was tried.",
    "gizmo-dl-first-failed-at": "When it failed first.",
    "gizmo-dl-handler": "The name of the handler.",
}
"""The attributes of a dead letter, and what they say."""
_LEVEL = frozenset(DESCRIPTIONS)
"""The attributes of the last failure. Those of an earlier one have its number: gizmo-dl-1-reason.
"""
_EARLIER = {
    name.removeprefix("gizmo-"): name
    for name in (*_LEVEL, f"{PREFIX}redriven", f"{PREFIX}redriven-at")
}
"""The names that earlier versions gave these attributes, and their names of today."""
_LISTED = 9
"""How many more members of a group are named."""
_SHORT = 64
"""The characters of an attribute if there is no room for more."""
_ESSENTIAL = ("gizmo-dl-reason", "gizmo-dl-source-subscription")
_SOURCE = "-source-topic"
"""A redrive needs the source topics, which are never cut."""


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
    _, own = failure.message.as_received()
    if hops_of(own) >= _MAX_HOPS:
        raise PubSubError(
            f"the message was dead-lettered {_MAX_HOPS} times without an end: the dead letters of "
            "several services form a cycle; end it by another dead_letter= of one of them",
            transient=False,
        )
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
    """Return the message of a failure with all ``gizmo-dl-*`` attributes."""
    return _with(failure.message, as_attributes(failure))


def will_not_pass(failure: BaseException) -> bool:
    """Return whether a dead letter that failed with ``failure`` will fail again."""
    if isinstance(failure, PubSubError):
        return not failure.transient
    return not isinstance(failure, (asyncio.CancelledError, OSError))  # TimeoutError is an OSError


def _versions(failure: Failure) -> Iterator[Mapping[str, str]]:
    """Yield the ``gizmo-dl-*`` attributes of a dead letter, then fewer and shorter ones."""
    attributes = as_attributes(failure)
    yield attributes
    sources = {n: text for n, text in attributes.items() if n == HOPS or n.endswith(_SOURCE)}
    short = {name: cut(text, _SHORT) for name, text in attributes.items()} | sources
    yield short
    yield {name: short[name] for name in _ESSENTIAL} | sources
    yield sources
    yield {}


def as_attributes(failure: Failure) -> dict[str, str]:
    """Return the ``gizmo-dl-*`` attributes of a dead letter.

    ``gizmo-dl-attempts`` counts the attempts in all deliveries, as far as the broker counts them;
    ``gizmo-dl-first-failed-at`` is the first failure in the last delivery. Each attribute is cut to
    1,024 characters, because brokers limit them, and unprintable characters are escaped, because an
    error may quote the message.

    A message that is a dead letter already keeps the attributes of its earlier failures, under the
    number of the failure: the first source is gizmo-dl-1-source-topic.
    """
    message, reason, error, subscription, first_failed_at = failure
    cause = gravest(error)
    earlier = (message.delivery - 1) * subscription.retry.attempts
    headers = {
        "gizmo-dl-reason": cause.reason or reason if isinstance(cause, Reject) else reason,
        "gizmo-dl-exception": _exception(error),
        "gizmo-dl-source-topic": message.topic,
        "gizmo-dl-source-subscription": subscription.subscription,
        "gizmo-dl-message-id": message.id,
        "gizmo-dl-deliveries": message.delivery,
        "gizmo-dl-attempts": earlier + message.attempt,
        "gizmo-dl-first-failed-at": first_failed_at.isoformat(),
        "gizmo-dl-handler": subscription.name,
    }
    if message.partition is not None:
        headers["gizmo-dl-source-partition"] = message.partition
    _, own = message.as_received()
    hops = hops_of(own)
    earlier_failure = {
        f"{PREFIX}{hops}-{name.removeprefix(PREFIX)}": text
        for name, text in own.items()
        if name in _LEVEL
    }
    return {name: _text(value) for name, value in headers.items()} | {
        **earlier_failure,
        HOPS: str(hops + 1),
    }


def _exception(error: BaseException) -> str:
    """Return the type and the text of an error; of a group, those of its members.

    The gravest is the first. The text of a group says only how many they are.
    """
    first = gravest(error)
    others = (each for each in leaves(error) if each is not first)
    texts = (_typed(each) for each in itertools.chain((first,), itertools.islice(others, _LISTED)))
    return "; ".join(texts)


def _typed(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}: {text_of(error)}"


def _text(value: object) -> str:
    """Return any value as the text of an attribute."""
    try:
        return quoted(str(value))
    except Exception:  # noqa: BLE001 - the value is the user's: no text may keep the dead letter
        return escape(f"({type(value).__name__})")


def hops_of(attributes: Mapping[str, str]) -> int:
    """Return how often a message was dead-lettered; 0 if it is no dead letter.

    The sender may choose the attribute: any text but a number from 1 to 99 counts as the first.
    """
    text = attributes.get(HOPS, "")
    if text.isascii() and text.isdecimal() and len(text) <= 2 and int(text):
        return int(text)
    return int(not _LEVEL.isdisjoint(attributes))


def with_current_names(attributes: Mapping[str, str]) -> Mapping[str, str]:
    """Return the attributes of a dead letter of an earlier version by their names of today.

    Until the prefix of our own, the names began with ``dl-``. Such dead letters may wait in a topic
    for months, and a user may have attributes of such names: only a message that has a source, and
    none of the names of today, is a dead letter of an earlier version.
    """
    if "dl-source-topic" not in attributes or not _LEVEL.isdisjoint(attributes):
        return attributes
    pairs = [(_EARLIER.get(name, name), text) for name, text in attributes.items()]
    renamed = {name: text for name, text in pairs if name in _EARLIER.values()}
    return merged(removed(attributes, lambda name: name in _EARLIER), renamed)


def without_last_failure(attributes: Mapping[str, str]) -> Mapping[str, str]:
    """Return the attributes that a message had before it was dead-lettered the last time."""
    earlier = hops_of(attributes) - 1
    restored = removed(attributes, lambda name: name in _LEVEL or name == HOPS)
    if earlier < 1:
        return restored
    numbered = {name: f"{PREFIX}{earlier}-{name.removeprefix(PREFIX)}" for name in _LEVEL}
    found = {name: restored[old] for name, old in numbered.items() if old in restored}
    restored = removed(restored, lambda name: name in numbered.values())
    return merged(restored, found | {HOPS: str(earlier)})


def _with(message: Message, attributes: Mapping[str, str]) -> Message:
    body, own = message.as_received()
    kept = removed(own, lambda name: name in _LEVEL)
    return Message(
        message.topic,
        body,
        key=message.key,
        attributes=merged(kept, attributes),
        id=message.id,
        published_at=message.published_at,
    )
