"""Count and log the connections that are closed at the limit."""

from __future__ import annotations

import logging
from time import monotonic

from gizmopy.observe.metrics import Metrics

logger = logging.getLogger("gizmopy.server.shedding")

_LINE_SECONDS = 60.0
"""The least time between two log lines."""


class Shedding:
    """Count connections that are closed or refused at the limit, and log it once a minute."""

    def __init__(self, metrics: Metrics) -> None:
        help_text = "Connections that were closed for new ones, or refused, at the limit."
        counter = metrics.counter("gizmo_connections_shed", help_text, ("reason",))
        self._children = {name: counter.child(name) for name in ("silent", "idle", "refused")}
        self._logged = dict.fromkeys(self._children, 0.0)
        self._next_line = 0.0

    def add(self, reason: str, cause: str) -> None:
        """Count a connection: a ``silent`` or ``idle`` one was closed, or a new one ``refused``."""
        self._children[reason].value += 1
        self.warn(cause)

    def warn(self, cause: str) -> None:
        """Log ``cause`` and the numbers of connections, at most once a minute."""
        now = monotonic()
        if now < self._next_line:
            return
        self._next_line = now + _LINE_SECONDS
        totals = {name: child.value for name, child in self._children.items()}
        counts = [int(total - self._logged[name]) for name, total in totals.items()]
        self._logged = totals
        logger.warning(
            "%s: %d connections without a request and %d idle ones were closed for new ones, and "
            "%d new ones were refused, since the last such line",
            cause,
            *counts,
        )
