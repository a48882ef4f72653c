"""The outcome of a message, the callback that receives it, and the report of a drain."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gizmopy.pubsub.message import Message

OnSettle = Callable[[Message, str, BaseException | None], None]
"""Called with the outcome of a message and the error that led to it.

Once the broker has confirmed it: ``"ack"``, ``"nack"``, ``"dead_letter"``, or ``"released"`` (given
back without an ack and without a counted failure). If the broker has taken the message back before:
``"lost"``; it delivers the message again, here or elsewhere. Called on the event loop; it must not
block and must not raise."""


class DrainReport(NamedTuple):
    """Count the outcomes of messages that were in flight when a drain began, or arrived later."""

    finished: int = 0
    """Handled: acked, dead-lettered, or given back after a failure."""
    released: int = 0
    """Given back without an ack and without a counted failure.

    For a broker in this process also the messages left in its queues."""
    cancelled: int = 0
    """Cancelled at the deadline and given back."""
    failed_to_settle: int = 0
    """Handled, but the broker did not confirm the settle, so it delivers them again."""
