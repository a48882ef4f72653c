"""Decide what becomes of a message whose handling failed: a pure function, without a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from gizmopy.errors import Reject, Retry, UndecodableMessage
from gizmopy.pubsub.driver import Capabilities
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.subscription import Subscription

_LONG = 30.0
"""Seconds that a message may wait in place where its broker has no leases."""


class Action(Enum):
    """What is done with a message that is not handled."""

    POSTPONE = "postpone"
    """Wait in place, uncounted: nothing has failed."""
    RETRY = "retry"
    """Wait in place, with its lease and its lane, and be handled again."""
    REDELIVER = "redeliver"
    """Go back to the broker, which delivers it again; in place where it cannot."""
    DEAD_LETTER = "dead_letter"


class Verdict(NamedTuple):
    """What is done, after how many seconds, and why it is given up where it is."""

    action: Action
    delay: float
    reason: str = ""


def stays(subscription: Subscription, can: Capabilities) -> bool:
    """Return whether a failed message is tried again here rather than by the broker."""
    return not (subscription.order == "none" and can.can_nack and can.delivery_count)


def judge(
    message: Message,
    error: BaseException,
    subscription: Subscription,
    can: Capabilities,
    random: Callable[[], float],
) -> Verdict:
    """Return what becomes of ``message``, whose handling ended with ``error``.

    It is tried in place first, then given back, and given up after ``max_deliveries``. Where it
    cannot be given back, each ``retry.attempts`` handlings count as one delivery. A cancellation
    never gives up: nobody has said that the message is at fault.
    """
    delay = _delay(message, error, subscription, random)
    if isinstance(error, Retry) and not error.counted:
        return Verdict(Action.POSTPONE, delay)
    if isinstance(error, Reject):
        return Verdict(Action.DEAD_LETTER, delay, "rejected")
    if isinstance(error, UndecodableMessage):
        return Verdict(Action.DEAD_LETTER, delay, "undecodable")
    rounds, more = divmod(message.attempt, subscription.retry.attempts)
    too_long = delay > (can.lease or _LONG) and not stays(subscription, can)
    if more and not too_long:
        return Verdict(Action.RETRY, delay)
    deliveries = message.delivery - 1 + max(1, rounds)
    if deliveries >= subscription.max_deliveries and not isinstance(error, asyncio.CancelledError):
        return Verdict(Action.DEAD_LETTER, delay, "exhausted")
    return Verdict(Action.REDELIVER, delay)


def _delay(
    message: Message,
    error: BaseException,
    subscription: Subscription,
    random: Callable[[], float],
) -> float:
    if isinstance(error, Retry) and error.after is not None:
        return max(0.0, error.after)
    tries = message.attempt + message.delivery - 1
    return subscription.retry.delay(max(1, tries), random)
