"""Log the stack of an event loop that has stood still for too long."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable

from gizmopy.observe.metrics import Metrics

logger = logging.getLogger("gizmopy.server.stalls")

_LOOKS = 4
"""How often the loop is looked at within the time that it may stand still."""


class StallWatch:
    """Count and log each time that the loop has not run for ``seconds``; end nothing.

    Whether the process is restarted is for the liveness probe to decide. ``beat_age`` returns the
    seconds since the loop has run. Use it as a context manager, in the loop's thread. The stack is
    not written by faulthandler: that holds the GIL, and would stop the process for as long as the
    reader of standard error stalls.
    """

    def __init__(self, beat_age: Callable[[], float], seconds: float, metrics: Metrics) -> None:
        self._beat_age = beat_age
        self._seconds = seconds
        self._ended = threading.Event()
        self._stalls = metrics.counter(
            "gizmo_event_loop_stalls", "Times that the event loop stood still for too long."
        ).child()

    def __enter__(self) -> StallWatch:
        watched = threading.get_ident()
        self._thread = threading.Thread(
            target=self._run, args=(watched,), name="gizmopy-stalls", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join(1)

    def _run(self, watched: int) -> None:
        is_stalled = False
        while not self._ended.wait(max(self._seconds / _LOOKS, 0.01)):
            age = self._beat_age()
            if age > self._seconds and not is_stalled:
                self._stalls.value += 1
                stack = "".join(traceback.format_stack(sys._current_frames().get(watched)))
                logger.error("the event loop has not run for %.1f s; its stack:\n%s", age, stack)
            is_stalled = age > self._seconds
