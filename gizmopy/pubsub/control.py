"""Pause and resume a subscription while it runs, for a limited time.

A pause that nobody ends is easily forgotten, so every change ends by itself, as those of log levels
do: then the declared state returns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from gizmopy.errors import UsageError
from gizmopy.pubsub.supervisor import Supervisor
from gizmopy.untrusted.text import cut

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseChange:
    """A change of a subscription at run time, and its origin."""

    paused: bool
    by: str
    """The address of the client."""
    reason: str = ""
    until: datetime | None = None
    """When the declared state returns; None: when the daemon ends."""


class SubscriptionControl:
    """Pause and resume the subscription of ``supervisor``, on the event loop; close it at last."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.change: PauseChange | None = None
        """The change in effect; None if the declared state is."""
        self._supervisor = supervisor
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def set_paused(
        self, paused: bool, ttl: timedelta | None, *, by: str, reason: str = ""
    ) -> PauseChange:
        """Pause or resume for ``ttl``; None keeps that until the daemon ends.

        A second change replaces the first one. Raises UsageError once the daemon drains.
        """
        if self._is_closed:
            raise UsageError("the daemon is stopping, so its subscriptions cannot be changed")
        self._cancel_timer()
        until = None
        if ttl is not None:
            until = datetime.now(UTC) + ttl
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(ttl.total_seconds(), self._expire)
        self.change = PauseChange(paused=paused, by=by, reason=reason, until=until)
        self._supervisor.set_paused(paused)
        return self.change

    def close(self) -> None:
        """Change nothing any more: the subscription drains."""
        self._is_closed = True
        self._cancel_timer()

    def describe(self) -> Mapping[str, Any]:
        """Return the state of the subscription, and the change in effect."""
        change = self.change
        return {
            "paused": self._supervisor.paused,
            "start_paused": self._supervisor.subscription.start_paused,
            "until": None if change is None else change.until,
            "by": None if change is None else change.by,
            "reason": None if change is None else change.reason,
        }

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        """Return to the declared state."""
        change, self.change, self._timer = self.change, None, None
        subscription = self._supervisor.subscription
        self._supervisor.set_paused(subscription.start_paused)
        assert change is not None
        logger.warning(
            "%s/%s is %s again, as declared: the change by %s has ended (reason: %s)",
            subscription.channel,
            subscription.subscription,
            "paused" if subscription.start_paused else "running",
            change.by,
            cut(change.reason) or "none given",
        )
