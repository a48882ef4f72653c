"""End a process that does not end by itself.

Python waits without a limit for a task that swallows its cancellation, and for a thread: a blocking
call of a handler that was given up would hold a deploy until the platform kills.

There are two stages. A thread ends the process with an exit code of ours. It needs the GIL, which
a regular expression or another call in C may hold for hours: then the watchdog of faulthandler, a
thread without Python in it, writes the stack of every thread to standard error, and ends the
process with 1.

This module owns the timer of faulthandler. There is one for each process: another program that sets
it, such as pytest with ``faulthandler_timeout``, would take it away from us, and we from it.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading

logger = logging.getLogger("gizmopy.server.last_resort")

_SECOND_STAGE_SECONDS = 2.0
"""How long the first stage may take: to get the GIL, and to write its line to the log."""


class LastResort:
    """End the process with ``exit_code`` when the time is over, unless it is disarmed before.

    A thread counts the time: the event loop itself may hang. Two seconds later faulthandler ends
    the process with 1. Nothing is cleaned up in either case. Use it as a context manager; leaving
    it disarms it.
    """

    def __init__(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._timer: threading.Timer | None = None
        self._is_second_armed = False
        self._stderr, self._is_ours = _open_stderr()

    def __enter__(self) -> LastResort:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.disarm()
        if self._is_ours:
            os.close(self._stderr)

    def arm(self, seconds: float) -> None:
        """Give the process ``seconds`` from now on, whatever it was given before."""
        self.disarm()
        self._timer = threading.Timer(seconds, self._leave)
        self._timer.daemon = True
        self._timer.start()
        self.arm_second(seconds)

    def arm_second(self, seconds: float) -> None:
        """Do so with the second stage only, which a signal's handler may: it starts no thread.

        Python's threads share locks, which the code that the signal has interrupted may hold.
        """
        faulthandler.dump_traceback_later(
            seconds + _SECOND_STAGE_SECONDS, exit=True, file=self._stderr
        )
        self._is_second_armed = True

    def disarm(self) -> None:
        """Give it all the time there is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_second_armed:  # else the timer may be a test runner's
            faulthandler.cancel_dump_traceback_later()
            self._is_second_armed = False

    def _leave(self) -> None:
        names = ", ".join(each.name for each in threading.enumerate() if not each.daemon)
        logger.critical("the process did not end in time, and is ended; its threads: %s", names)
        os._exit(self._exit_code)


def _open_stderr() -> tuple[int, bool]:
    """Return a descriptor of standard error, and whether it was opened here.

    It is opened again, so that it can be O_NONBLOCK by itself: faulthandler writes before it ends
    the process, and a pipe whose reader stalls would hold it for ever. A socket, or the pipe of
    another user, cannot be opened again, and is used as it is: there such a reader does hold it.
    """
    try:
        number = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # there is none, or it is no file
        return os.open(os.devnull, os.O_WRONLY), True
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(f"/dev/fd/{number}", flags), True
    except OSError:
        return number, False
