"""Count and log the connections that were closed for new ones."""

from __future__ import annotations

import logging
from time import monotonic

from gizmopy.observe.metrics import Metrics

logger = logging.getLogger("gizmopy.server.shedding")

_LINE_SECONDS = 60.0
"""How long the log says nothing more after each line."""


class Shedding:
    """Count connections that were closed or refused, and log it once a minute at most."""

    def __init__(self, metrics: Metrics) -> None:
        help_text = "Connections that were closed for new ones, or refused, at the limit."
        counter = metrics.counter("gizmo_connections_shed", help_text, ("reason",))
        self._children = {name: counter.child(name) for name in ("silent", "idle", "refused")}
        self._told = dict.fromkeys(self._children, 0.0)
        self._next_line = 0.0

    def add(self, reason: str, cause: str) -> None:
        """Count one connection: ``silent`` or ``idle``, which was closed, or ``refused``."""
        self._children[reason].value += 1
        self.warn(cause)

    def warn(self, cause: str) -> None:
        """Log ``cause`` and the numbers of connections, unless that was done a short time ago."""
        now = monotonic()
        if now < self._next_line:
            return
        self._next_line = now + _LINE_SECONDS
        totals = {name: child.value for name, child in self._children.items()}
        counts = [int(total - self._told[name]) for name, total in totals.items()]
        self._told = totals
        logger.warning(
            "%s: since the last such line, %d connections that had sent no request and %d idle "
            "ones were closed for new ones, and %d new ones were refused",
            cause,
            *counts,
        )
