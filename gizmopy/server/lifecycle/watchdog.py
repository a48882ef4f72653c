"""End a process that does not end by itself.

Python waits without a limit for a task that ignores its cancellation, and for a thread. One
blocking call in an abandoned handler would delay a deploy until the platform kills the process. The
same holds for all code that runs after the event loop: hooks of atexit, executors, child processes
that multiprocessing joins.

There are two stages. First a thread ends the process with an exit code of ours. The thread needs
the GIL, which a regular expression or another call in C may hold for hours. So two seconds later
faulthandler, whose timer thread runs without Python, writes the stack of every thread to standard
error and ends the process with 1. It also ends the process if it hangs while the interpreter is
finalized, when no Python thread can run.

A process has one faulthandler timer, and this module uses it. Another program that sets it, such as
pytest with ``faulthandler_timeout``, replaces ours, and ours replaces theirs.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import threading
from math import inf
from time import monotonic

from gizmopy.server.lifecycle.forks import around_forks
from gizmopy.server.lifecycle.standard_streams import open_stderr
from gizmopy.server.lifecycle.unfinished import describe_unfinished, terminate_children

logger = logging.getLogger("gizmopy.server.last_resort")

_SECOND_STAGE_SECONDS = 2.0
"""The time for the first stage to get the GIL and to write its log line."""


class Watchdog:
    """End the process with ``exit_code`` when its time is over, unless ``disarm`` comes first.

    A thread counts the time, because the event loop itself may hang. Nothing is cleaned up. Use it
    as a context manager, leaving which disarms it, or keep it until the process ends. ``log`` is
    kept as long as the thread runs: the last line needs a log.
    """

    def __init__(self, exit_code: int, log: object = None) -> None:
        self.exit_code = exit_code
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop whose tasks the last line names."""
        self._log = log
        self._timer: threading.Timer | None = None
        self._ends_at = inf
        self._is_second_stage_armed = False
        self._second_stage_at = inf
        self._stderr = open_stderr()
        # A child has the state of faulthandler's timer, but not its thread. It would wait for that
        # thread for ever when it ends, or when it sets a timer itself.
        around_forks(before=self._pause_second_stage, in_parent=self._resume_second_stage)

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.disarm()
        self._stderr.close()

    def arm(self, seconds: float) -> None:
        """Give the process ``seconds`` from now on, in place of any earlier limit."""
        self.disarm()
        self._ends_at = monotonic() + seconds
        self.arm_second_stage(seconds)
        timer = threading.Timer(seconds, self._end_process)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # too many threads: the second stage ends the process
            return
        self._timer = timer

    def arm_at_most(self, seconds: float) -> None:
        """Give the process ``seconds`` from now on, unless an earlier limit ends before that."""
        if monotonic() + seconds < self._ends_at:
            self.arm(seconds)

    def arm_second_stage(self, seconds: float) -> None:
        """Arm only the second stage, which is safe in a signal handler: it starts no thread.

        Starting a thread takes locks that the interrupted code may hold.
        """
        self._second_stage_at = monotonic() + seconds + _SECOND_STAGE_SECONDS
        self._start_second_stage(seconds + _SECOND_STAGE_SECONDS)

    def _start_second_stage(self, seconds: float) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._stderr.number)
        self._is_second_stage_armed = True

    def _pause_second_stage(self) -> None:
        if self._is_second_stage_armed:  # else the timer may be a test runner's
            faulthandler.cancel_dump_traceback_later()
            self._is_second_stage_armed = False

    def _resume_second_stage(self) -> None:
        if self._second_stage_at < inf:
            self._start_second_stage(max(0.001, self._second_stage_at - monotonic()))

    def disarm(self) -> None:
        """Remove the limit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ends_at = inf
        self._second_stage_at = inf
        self._pause_second_stage()

    def _end_process(self) -> None:
        message = "the process did not end in time and is killed; still running: %s"
        logger.critical(message, describe_unfinished(self.loop))
        terminate_children()
        os._exit(self.exit_code)
