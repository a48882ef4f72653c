"""End a process that does not end by itself.

Python waits without a limit for a task that ignores its cancellation, and for a thread. One
blocking call in an abandoned handler would delay a deploy until the platform kills the process.

There are two stages. First a thread ends the process with an exit code of ours. The thread needs
the GIL, which a regular expression or another call in C may hold for hours. So two seconds later
faulthandler, whose timer thread runs without Python, writes the stack of every thread to standard
error and ends the process with 1.

A process has one faulthandler timer, and this module uses it. Another program that sets it, such as
pytest with ``faulthandler_timeout``, replaces ours, and ours replaces theirs.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading

logger = logging.getLogger("gizmopy.server.last_resort")

_SECOND_STAGE_SECONDS = 2.0
"""The time for the first stage to get the GIL and to write its log line."""


class Watchdog:
    """End the process with ``exit_code`` when its time is over, unless ``disarm`` comes first.

    A thread counts the time, because the event loop itself may hang. Nothing is cleaned up. Use it
    as a context manager; leaving it disarms it.
    """

    def __init__(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._timer: threading.Timer | None = None
        self._is_second_stage_armed = False
        self._stderr, self._owns_stderr = _open_stderr()

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.disarm()
        if self._owns_stderr:
            os.close(self._stderr)

    def arm(self, seconds: float) -> None:
        """Give the process ``seconds`` from now on, in place of any earlier limit."""
        self.disarm()
        self._timer = threading.Timer(seconds, self._end_process)
        self._timer.daemon = True
        self._timer.start()
        self.arm_second_stage(seconds)

    def arm_second_stage(self, seconds: float) -> None:
        """Arm only the second stage, which is safe in a signal handler: it starts no thread.

        Starting a thread takes locks that the interrupted code may hold.
        """
        faulthandler.dump_traceback_later(
            seconds + _SECOND_STAGE_SECONDS, exit=True, file=self._stderr
        )
        self._is_second_stage_armed = True

    def disarm(self) -> None:
        """Remove the limit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_second_stage_armed:  # else the timer may be a test runner's
            faulthandler.cancel_dump_traceback_later()
            self._is_second_stage_armed = False

    def _end_process(self) -> None:
        names = ", ".join(each.name for each in threading.enumerate() if not each.daemon)
        logger.critical("the process did not end in time and is killed; its threads: %s", names)
        os._exit(self._exit_code)


def _open_stderr() -> tuple[int, bool]:
    """Return a descriptor of standard error, and whether it was opened here.

    faulthandler writes before it ends the process, so a pipe whose reader stalls would block it.
    Opening the pipe a second time gives a descriptor that alone can be O_NONBLOCK. A socket, or the
    pipe of another user, cannot be opened again and is used as it is: there a stalled reader does
    block the end of the process.
    """
    try:
        number = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # no standard error, or not a file
        return os.open(os.devnull, os.O_WRONLY), True
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(f"/dev/fd/{number}", flags), True
    except OSError:
        return number, False
