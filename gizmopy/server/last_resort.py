"""End a process that does not end by itself.

What swallows its cancellation, and what runs in a thread, Python waits for without a limit: a
handler's blocking call that nobody waits for any more would hold a deploy until the platform kills.
"""

from __future__ import annotations

import logging
import os
import threading

logger = logging.getLogger(__name__)


class LastResort:
    """End the process with ``exit_code`` when the time is over, unless it is disarmed before.

    A thread counts the time: the event loop may be what hangs. Nothing is cleaned up then.
    """

    def __init__(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._timer: threading.Timer | None = None

    def arm(self, seconds: float) -> None:
        """Give the process ``seconds`` from now on, whatever it was given before."""
        self.disarm()
        self._timer = threading.Timer(seconds, self._leave)
        self._timer.daemon = True
        self._timer.start()

    def disarm(self) -> None:
        """Give it all the time there is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        names = ", ".join(each.name for each in threading.enumerate() if not each.daemon)
        logger.critical("the process did not end in time, and is ended; its threads: %s", names)
        os._exit(self._exit_code)
