"""How handling ended: what a settle is called, who is told of it, and what a drain reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gizmopy.pubsub.message import Message

OnSettle = Callable[[Message, str, BaseException | None], None]
"""Called when the broker has confirmed what became of a message: ``"ack"``, ``"nack"``,
``"dead_letter"`` or ``"released"`` (given back unhandled), with the error that led to it; and for a
message that the broker has given to others meanwhile: ``"lost"``. It comes again, here or there."""


class DrainReport(NamedTuple):
    """Count what became of the messages that were held when a drain began, or came during it."""

    finished: int = 0
    """Handled: acked, dead-lettered, or given back after a failure."""
    released: int = 0
    """Given back unhandled; for a broker in this process also what was left in its queues."""
    cancelled: int = 0
    """Cancelled at the deadline and given back."""
    failed_to_settle: int = 0
    """Handled, but the broker did not confirm the settling: these come again."""
