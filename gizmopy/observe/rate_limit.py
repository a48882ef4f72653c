"""Limit how often a library logs the same line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from time import monotonic

_LIBRARIES = frozenset({"aiokafka"})
"""aiokafka logs each attempt to reach a broker that is down, 150 times a second."""
_SECONDS = 10.0


class RateLimitFilter(logging.Filter):
    """Let each line of source in ``libraries`` log once in ``seconds``, and count the others.

    Records below ``INFO`` always pass: a user who turns on debug logging wants all of them.
    """

    def __init__(
        self,
        libraries: Collection[str] = _LIBRARIES,
        *,
        seconds: float = _SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__()
        self._libraries = libraries
        self._seconds = seconds
        self._clock = clock
        self._last_passed: dict[tuple[str, int], float] = {}
        """When a record of each line of source passed last."""
        self._suppressed: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether ``record`` passes; add the number of those suppressed before it."""
        if record.name.partition(".")[0] not in self._libraries or record.levelno < logging.INFO:
            return True
        # By line of source, not by text: the text has the name of a broker or a number of retries.
        line, now = (record.pathname, record.lineno), self._clock()
        if now - self._last_passed.get(line, -self._seconds) < self._seconds:
            self._suppressed[line] = self._suppressed.get(line, 0) + 1
            return False
        self._last_passed[line] = now
        if suppressed := self._suppressed.pop(line, 0):
            record.msg = f"{record.getMessage()} (and {suppressed} similar records before)"
            record.args = None
        return True
