"""Detect an event loop that is blocked, and log the stack that blocks it."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable

from gizmopy.observe.metrics import Metrics

logger = logging.getLogger("gizmopy.server.stalls")

_CHECKS_PER_STALL = 4
"""The thread checks the heartbeat this often within ``seconds``."""
_SHORTEST_PAUSE = 0.01


class StallDetector:
    """Count and log each time that the event loop has not run for ``seconds``.

    It does not end the process: the liveness probe decides about a restart.
    ``seconds_since_heartbeat`` returns the time since the loop last ran, and is called in another
    thread. Use it as a context manager, in the loop's thread.
    """

    def __init__(
        self, seconds_since_heartbeat: Callable[[], float], seconds: float, metrics: Metrics
    ) -> None:
        self._seconds_since_heartbeat = seconds_since_heartbeat
        self._seconds = seconds
        self._ended = threading.Event()
        self._stalls = metrics.counter(
            "gizmo_event_loop_stalls", "Times that the event loop did not run for too long."
        ).child()

    def __enter__(self) -> StallDetector:
        loop_thread = threading.get_ident()
        self._thread = threading.Thread(
            target=self._run, args=(loop_thread,), name="gizmopy-stalls", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join(1)

    def _run(self, loop_thread: int) -> None:
        is_stalled = False
        while not self._ended.wait(max(self._seconds / _CHECKS_PER_STALL, _SHORTEST_PAUSE)):
            age = self._seconds_since_heartbeat()
            if age > self._seconds and not is_stalled:
                self._stalls.value += 1
                self._log_stack(loop_thread, age)
            is_stalled = age > self._seconds

    def _log_stack(self, loop_thread: int, age: float) -> None:
        # Not faulthandler.dump_traceback: it holds the GIL while it writes, so a reader of standard
        # error that stalls would stop the whole process.
        stack = "".join(traceback.format_stack(sys._current_frames().get(loop_thread)))
        logger.error("the event loop has not run for %.1f s; its stack:\n%s", age, stack)
