"""Decide which error of a group counts: the one with the gravest outcome for the message."""

from __future__ import annotations

import asyncio

from gizmopy.errors import Reject, Retry, UndecodableMessage
from gizmopy.untrusted.error_groups import leaves


def gravest(error: BaseException) -> BaseException:
    """Return the gravest error in ``error`` if it is a group, else ``error`` itself.

    From grave to light: Reject and UndecodableMessage, which dead-letter the message; any other
    error; Retry, the latest first; Retry that is not counted; a cancellation. Of equal ones the
    first counts.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    return max(leaves(error), key=_gravity)


def _gravity(error: BaseException) -> tuple[int, float]:
    match error:
        case Reject() | UndecodableMessage():
            return 4, 0.0
        case Retry():
            # A subclass may set any value: a wrong one is found where the decision is made.
            after = error.after if isinstance(error.after, int | float) else 0.0
            return (2 if error.counted else 1), after
        case asyncio.CancelledError():
            return 0, 0.0
    return 3, 0.0
