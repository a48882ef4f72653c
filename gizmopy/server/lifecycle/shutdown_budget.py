"""How long a shutdown may take, and how much of that time is left."""

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
"""How long a cancelled request may take to end."""
CLEANUP_SECONDS = 3.0
"""How long the service's own clean-up may take."""
_CLOSE_SECONDS = 1.5
"""What it takes besides: to say goodbye to WebSockets, to close connections, to write the log."""
HURRIED_SECONDS = 1.0
"""What a second signal leaves of the time to drain."""
_KUBERNETES_DELAY = 5.0
"""How long Kubernetes' proxies may take to hear that a pod takes no more requests."""


class Budget:
    """Divide the time between a request to stop and the end of the process.

    First the drain delay, then what requests and messages in hand may take together, which begins
    with ``begin``; once ``stop`` hurries, a second is left of either.
    """

    def __init__(self, settings: Settings, stop: Stop) -> None:
        self._settings = settings
        self._stop = stop
        self._work = settings.shutdown_timeout.total_seconds()
        self._deadline: float | None = None

    @property
    def delay(self) -> float:
        """The seconds between refusing work and closing the listener.

        Under Kubernetes a terminating pod goes on being sent requests until every proxy has heard.
        A person at the terminal does not want to wait.
        """
        if self._stop.reason == "SIGINT":
            return 0.0
        return self._longest_delay

    @property
    def _longest_delay(self) -> float:
        if self._settings.drain_delay is not None:
            return self._settings.drain_delay.total_seconds()
        return _KUBERNETES_DELAY if "KUBERNETES_SERVICE_HOST" in os.environ else 0.0

    @property
    def total(self) -> float:
        """The seconds that a shutdown takes at most."""
        return self._longest_delay + self._work + CANCEL_SECONDS + CLEANUP_SECONDS + _CLOSE_SECONDS

    def announce(self) -> None:
        """Log how long a shutdown may take, and warn where the platform kills before that."""
        grace = self._settings.termination_grace.total_seconds()
        parts = {
            "drain_delay": self._longest_delay,
            "shutdown_timeout": self._work,
            "cancel": CANCEL_SECONDS,
            "cleanup": CLEANUP_SECONDS,
            "close": _CLOSE_SECONDS,
        }
        logger.info("a shutdown takes at most %g s", self.total, extra={"seconds": parts})
        if self.total > grace:
            logger.warning(
                "a shutdown may take %g s, but the platform kills after GIZMO_TERMINATION_GRACE="
                "%s; lower GIZMO_SHUTDOWN_TIMEOUT or GIZMO_DRAIN_DELAY, or raise both graces",
                self.total,
                format_duration(self._settings.termination_grace),
            )

    def begin(self) -> None:
        """Begin to count the time for requests and messages in hand."""
        self._deadline = asyncio.get_running_loop().time() + self._work

    def remaining(self) -> float:
        """Return the seconds left to finish what is in hand."""
        now = asyncio.get_running_loop().time()
        left = self._work
        if self._deadline is not None:  # by rounding, the difference may be more than the whole
            left = min(left, max(0.0, self._deadline - now))
        return min(left, HURRIED_SECONDS) if self._stop.hurried.is_set() else left

    async def within(self, seconds: float, condition: Coroutine[Any, Any, object]) -> bool:
        """Wait for ``condition`` at most ``seconds``, less once hurried; return whether it held."""
        async with background(condition) as waiting, background(self._stop.hurried.wait()) as hurry:
            await asyncio.wait(
                (waiting, hurry), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if hurry.done() and not waiting.done():
                await asyncio.wait((waiting,), timeout=min(seconds, HURRIED_SECONDS))
            return waiting.done()
