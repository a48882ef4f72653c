"""Libraries that say the same thing over and over: once in a while is enough."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from time import monotonic

_LIBRARIES = frozenset({"aiokafka"})
"""Who tells of each attempt to reach a broker that is away, 150 times a second."""
_SECONDS = 10.0


class Repeats(logging.Filter):
    """Let each line of ``libraries`` log once in ``seconds``, and count what is held back.

    What is below ``INFO`` passes: who turns that on wants to see all of it.
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
        self._said: dict[tuple[str, int], float] = {}
        """When each line of source was last heard."""
        self._held_back: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is to be heard."""
        if record.name.partition(".")[0] not in self._libraries or record.levelno < logging.INFO:
            return True
        line, now = (record.pathname, record.lineno), self._clock()
        if now - self._said.get(line, -self._seconds) < self._seconds:
            self._held_back[line] = self._held_back.get(line, 0) + 1
            return False
        self._said[line] = now
        if times := self._held_back.pop(line, 0):
            record.msg = f"{record.getMessage()} (and {times} times like it before)"
            record.args = None
        return True
