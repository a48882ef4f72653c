"""Decide how a failed message is retried or dead-lettered: a pure function, without a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from gizmopy.errors import Reject, Retry, UndecodableMessage, seconds_of
from gizmopy.pubsub.driver import Capabilities
from gizmopy.pubsub.gravity import gravest
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.subscription import Subscription

_MAX_WAIT_WITHOUT_LEASE = 30.0
"""Seconds that a message may wait in place if its broker has no leases."""


class Action(Enum):
    """The ways to continue with a message that was not handled."""

    POSTPONE = "postpone"
    """Wait in place and be handled again, without counting the attempt: nothing has failed."""
    RETRY = "retry"
    """Wait in place, with its lease and its lane, and be handled again."""
    REDELIVER = "redeliver"
    """Go back to the broker, which delivers it again; wait in place if the broker cannot."""
    DEAD_LETTER = "dead_letter"


class RetryDecision(NamedTuple):
    """The action, the seconds to wait before it, and the reason for a dead letter."""

    action: Action
    delay: float
    reason: str = ""


def retries_in_place(subscription: Subscription, capabilities: Capabilities) -> bool:
    """Return whether all retries run here, rather than going back to the broker at some point."""
    redelivers = capabilities.can_nack and capabilities.delivery_count
    return subscription.order != "none" or not redelivers


def decide(
    message: Message,
    error: BaseException,
    subscription: Subscription,
    capabilities: Capabilities,
    random: Callable[[], float],
) -> RetryDecision:
    """Decide how to continue with ``message``, whose handler raised ``error``.

    It is retried in place first, then redelivered, and dead-lettered after ``max_deliveries``. If
    it cannot be redelivered, each ``retry.attempts`` handlings count as one delivery.

    A cancellation never leads to a dead letter: it is not a fault of the message. Of a group of
    errors, as a task group raises it, the gravest counts.
    """
    error = gravest(error)
    delay = _delay(message, error, subscription, random)
    if isinstance(error, Retry) and not error.counted:
        return RetryDecision(Action.POSTPONE, delay)
    if isinstance(error, Reject):
        return RetryDecision(Action.DEAD_LETTER, delay, "rejected")
    if isinstance(error, UndecodableMessage):
        return RetryDecision(Action.DEAD_LETTER, delay, "undecodable")
    rounds, attempts_left = divmod(message.attempt, subscription.retry.attempts)
    # A long wait belongs to the broker if that can delay: here it would take up room in flight.
    too_long = delay > (capabilities.lease or _MAX_WAIT_WITHOUT_LEASE)
    if attempts_left and (not too_long or retries_in_place(subscription, capabilities)):
        return RetryDecision(Action.RETRY, delay)
    deliveries = message.delivery - 1 + max(1, rounds)
    if deliveries >= subscription.max_deliveries and not isinstance(error, asyncio.CancelledError):
        return RetryDecision(Action.DEAD_LETTER, delay, "exhausted")
    return RetryDecision(Action.REDELIVER, delay)


def _delay(
    message: Message,
    error: BaseException,
    subscription: Subscription,
    random: Callable[[], float],
) -> float:
    # Checked again: a subclass of Retry may set any value.
    if isinstance(error, Retry) and (after := seconds_of(error.after)) is not None:
        return max(0.0, after)
    tries = message.attempt + message.delivery - 1
    return subscription.retry.delay(max(1, tries), random)
