"""Divide the time that a shutdown may take, and count how much is left."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import Any

from gizmopy._aio import background
from gizmopy.config import Settings
from gizmopy.config.duration import format_duration
from gizmopy.server.lifecycle.signals import Stop

logger = logging.getLogger("gizmopy.server.budget")

CANCEL_SECONDS = 1.0
"""The time for a cancelled request, and for cancelled background work, to end."""
CLEANUP_SECONDS = 3.0
"""The time for the clean-up of the service's own lifespan."""
HURRIED_SECONDS = 1.0
"""The time to drain that is left after a second signal."""
_CLOSE_SECONDS = 1.5
"""The time to close WebSockets and connections, and to write the last log lines."""
_KUBERNETES_DELAY = 5.0
"""The time until every proxy of Kubernetes has removed a terminating pod from its list."""


class ShutdownBudget:
    """The time between a request to stop and the end of the process.

    First comes the drain delay, then SHUTDOWN_TIMEOUT for all work together, counted
    from ``begin``. Once ``stop`` is hurried, at most ``HURRIED_SECONDS`` of each are left. Brokers
    that do not answer, and message handlers that ignore their cancellation, take longer. A daemon
    that ``has_jobs`` takes longer too, because background work ends after messages.
    """

    def __init__(self, settings: Settings, stop: Stop, *, has_jobs: bool = False) -> None:
        self._settings = settings
        self._stop = stop
        self._has_jobs = has_jobs
        self._work_seconds = settings.shutdown_timeout.total_seconds()
        self._deadline: float | None = None

    @property
    def delay(self) -> float:
        """The seconds between reporting unready and closing the listener; 0 after Ctrl-C."""
        # Kubernetes sends SIGTERM and removes the pod's endpoint at the same time. Requests still
        # arrive until every proxy has the new list; a failing readiness probe does not speed it up.
        # A person who presses Ctrl-C does not want to wait.
        return 0.0 if self._stop.reason == "SIGINT" else self._longest_delay

    @property
    def _longest_delay(self) -> float:
        if self._settings.drain_delay is not None:
            return self._settings.drain_delay.total_seconds()
        return _KUBERNETES_DELAY if "KUBERNETES_SERVICE_HOST" in os.environ else 0.0

    @property
    def total(self) -> float:
        """The seconds that a shutdown takes at most if its brokers answer."""
        return sum(self._parts().values())

    def _parts(self) -> dict[str, float]:
        return {
            "drain_delay": self._longest_delay,
            "shutdown_timeout": self._work_seconds,
            "cancel": CANCEL_SECONDS,
            **({"jobs": CANCEL_SECONDS} if self._has_jobs else {}),
            "cleanup": CLEANUP_SECONDS,
            "close": _CLOSE_SECONDS,
        }

    def log(self) -> None:
        """Log the longest shutdown, and warn if the platform kills the process before its end."""
        message = "a shutdown takes at most %g s if its brokers answer"
        logger.info(message, self.total, extra={"seconds": self._parts()})
        if self.total > self._settings.termination_grace.total_seconds():
            logger.warning(
                "a shutdown may take %g s, but the platform kills after GIZMO_TERMINATION_GRACE="
                "%s; lower GIZMO_SHUTDOWN_TIMEOUT or GIZMO_DRAIN_DELAY, or raise the grace period "
                "of the platform and GIZMO_TERMINATION_GRACE",
                self.total,
                format_duration(self._settings.termination_grace),
            )

    def begin(self) -> None:
        """Start the time for requests and messages."""
        self._deadline = asyncio.get_running_loop().time() + self._work_seconds

    def remaining(self) -> float:
        """Return the seconds left for requests and messages; all of them before ``begin``."""
        remaining = self._work_seconds
        if self._deadline is not None:
            # min: rounding may make the difference larger than SHUTDOWN_TIMEOUT itself.
            now = asyncio.get_running_loop().time()
            remaining = min(remaining, max(0.0, self._deadline - now))
        return min(remaining, HURRIED_SECONDS) if self._stop.hurried.is_set() else remaining

    async def within(self, seconds: float, condition: Coroutine[Any, Any, object]) -> bool:
        """Wait for ``condition`` at most ``seconds``, and return whether it ended in time.

        If ``stop`` is hurried meanwhile, it gets at most ``HURRIED_SECONDS`` more. A condition that
        did not end in time is cancelled.
        """
        async with (
            background(condition) as waiting,
            background(self._stop.hurried.wait()) as hurried,
        ):
            await asyncio.wait(
                (waiting, hurried), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if hurried.done() and not waiting.done():
                await asyncio.wait((waiting,), timeout=min(seconds, HURRIED_SECONDS))
            return waiting.done()
