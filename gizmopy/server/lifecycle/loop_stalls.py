"""Detect an event loop that is blocked, and log the stack that blocks it.

A thread looks at the loop's heartbeat and at the stack of the loop's thread. One look would often
blame the wrong code: a hundred short calls in one turn of the loop delay it too, and one of them
runs at that moment. So a call is blamed only if it is in the stack at two looks.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from itertools import takewhile
from time import monotonic, process_time
from types import FrameType

from gizmopy.observe.metrics import Metrics
from gizmopy.observe.places import frame_at, own_place

logger = logging.getLogger("gizmopy.server.stalls")

_CHECKS_PER_STALL = 4
"""The thread checks the heartbeat this often within the shorter of the two limits."""
_SHORTEST_PAUSE = 0.01
_LATE_FACTOR = 2
"""A check that is later than this many pauses was held up, by the GIL or by the machine."""
_WORKING_SHARE = 0.1
"""The share of the time that a process uses the CPU if code of its own holds the GIL."""
_REPEAT_SECONDS = 60.0
_PLACES = 1000
"""The limit on the places that are remembered."""
_UNNAMED = "Task-"
"""The start of the name that asyncio gives to a task without one."""
_LOOP_FILES = ("asyncio/base_events.py", "asyncio/events.py", "asyncio/runners.py")


class StallDetector:
    """Log calls that block the event loop for ``warning`` seconds, and count long stalls.

    A call that blocks for ``warning`` is a warning, once a minute for each place; 0 turns it off.
    Each time that the loop has not run for ``stall`` seconds is counted and logged as an error. It
    does not end the process: the liveness probe decides about a restart.
    ``seconds_since_heartbeat`` returns the time since the loop last ran, and is called in another
    thread. Use it as a context manager, in the loop's thread.
    """

    def __init__(
        self,
        seconds_since_heartbeat: Callable[[], float],
        *,
        stall: float,
        warning: float,
        metrics: Metrics,
    ) -> None:
        self._seconds_since_heartbeat = seconds_since_heartbeat
        self._stall = stall
        self._blocking = BlockingCalls(warning) if warning else None
        self._pause = max(min(stall, warning or stall) / _CHECKS_PER_STALL, _SHORTEST_PAUSE)
        self._ended = threading.Event()
        self._stalls = metrics.counter(
            "gizmo_event_loop_stalls", "Times that the event loop did not run for too long."
        ).child()

    def __enter__(self) -> StallDetector:
        arguments = threading.get_ident(), asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._run, args=arguments, name="gizmopy-stalls", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join(1)

    def _run(self, loop_thread: int, loop: asyncio.AbstractEventLoop) -> None:
        is_stalled = False
        checked_at, used = monotonic(), process_time()
        while not self._ended.wait(self._pause):
            age = self._seconds_since_heartbeat()
            passed, worked = monotonic() - checked_at, process_time() - used
            checked_at, used = checked_at + passed, used + worked
            if self._blocking is not None:
                is_late = passed > _LATE_FACTOR * self._pause
                holds_gil = is_late and worked > _WORKING_SHARE * passed
                frame = sys._current_frames().get(loop_thread)
                task = asyncio.current_task(loop)
                name = "" if task is None else task.get_name()
                self._blocking.look(frame, age, holds_gil=holds_gil, task=name)
                del frame, task  # they hold the local variables of the call
            if age > self._stall and not is_stalled:
                self._stalls.value += 1
                self._log_stack(loop_thread, age)
            is_stalled = age > self._stall

    def _log_stack(self, loop_thread: int, age: float) -> None:
        # Not faulthandler.dump_traceback: it holds the GIL while it writes, so a reader of standard
        # error that stalls would stop the whole process.
        stack = "".join(traceback.format_stack(sys._current_frames().get(loop_thread)))
        logger.error("the event loop has not run for %.1f s; its stack:\n%s", age, stack)


class BlockingCalls:
    """Find the calls that block the event loop for ``seconds``, and log each place once a minute.

    ``clock`` returns seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._earlier: list[FrameType] = []
        """The calls at the first look of this blockage, the innermost first."""
        self._is_reported = False
        self._reported_at: dict[tuple[str, int], float] = {}

    def look(self, frame: FrameType | None, age: float, *, holds_gil: bool, task: str = "") -> None:
        """Look at the stack of the loop's thread, ``age`` seconds after the loop last ran.

        ``task`` is the name of the task that runs, which names a job or a subscription.

        If ``holds_gil``, this look was held up by code that kept the GIL: the thread of the loop
        has gone on for a moment at most, so this look alone is enough.
        """
        if age <= self._seconds / 2:
            self._earlier, self._is_reported = [], False
            return
        calls = _calls_in_loop(frame)
        earlier = calls if holds_gil else self._earlier
        if not self._earlier:
            self._earlier = calls
        if age > self._seconds and earlier and not self._is_reported:
            blocking = [each for each in calls if any(each is other for other in earlier)]
            if blocking:
                self._report(blocking, task)
                self._is_reported = True

    def _report(self, blocking: list[FrameType], task: str) -> None:
        place = own_place(frame_at(each) for each in blocking)
        assert place is not None
        now, key = self._clock(), (place.file, place.line)
        if now - self._reported_at.get(key, -_REPEAT_SECONDS) < _REPEAT_SECONDS:
            return
        if len(self._reported_at) >= _PLACES:
            self._reported_at.clear()
        self._reported_at[key] = now
        logger.warning(
            "a call blocks the event loop for more than %g s: %s%s; run it in a thread, with "
            "asyncio.to_thread. Its stack:\n%s",
            self._seconds,
            place,
            "" if not task or task.startswith(_UNNAMED) else f", in the task {task!r}",
            "".join(traceback.format_list(_summary(blocking))),
        )


def _calls_in_loop(frame: FrameType | None) -> list[FrameType]:
    """Return the calls that the event loop has made, the innermost first."""
    calls = (each for each, _ in traceback.walk_stack(frame)) if frame is not None else ()
    return list(takewhile(lambda each: not each.f_code.co_filename.endswith(_LOOP_FILES), calls))


def _summary(innermost_first: list[FrameType]) -> traceback.StackSummary:
    return traceback.StackSummary.extract(
        (each, each.f_lineno) for each in reversed(innermost_first)
    )
