"""Turn SIGTERM, SIGINT, SIGHUP and SIGQUIT into requests to stop."""

from __future__ import annotations

import asyncio
import atexit
import faulthandler
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from gizmopy.server.lifecycle.forks import around_forks
from gizmopy.server.lifecycle.standard_streams import open_stderr

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

_LEFT_IGNORED = (signal.SIGHUP, signal.SIGQUIT)
"""Signals that stay ignored if the process was started so: by nohup, or in a script's background.
"""

ECHO_SECONDS = 0.5
"""The same signal again within this time counts once: make and terminals send it twice."""


class Stop:
    """A request to stop the daemon, and its urgency.

    The first request ends ``wait()`` and the block under ``interrupts()``; the second also sets
    ``hurried``.
    """

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self._interrupted: asyncio.Task[object] | None = None
        self.hurried = asyncio.Event()
        self.reason = ""

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._requested.is_set()

    def request(self, reason: str) -> None:
        """Request that the daemon drains and stops; a second request shortens the drain."""
        if self._requested.is_set():
            self.hurried.set()
        else:
            self.reason = reason
            self._requested.set()
            if self._interrupted is not None:
                self._interrupted.cancel()

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Cancel the block when a stop is requested, and leave it without an error then."""
        task = self._interrupted = asyncio.current_task()
        assert task is not None
        if self.requested:
            task.cancel()
        try:
            yield
        except asyncio.CancelledError:
            # uncancel() takes our own request back. If others remain, a caller cancels the task.
            if not self.requested or task.uncancel():
                raise
        else:
            if self.requested:
                # The block ended in spite of its cancellation. cancelling() must not report ours
                # any more: other code reads it as a caller's request to end this task.
                task.uncancel()
        finally:
            self._interrupted = None

    async def wait(self) -> str:
        """Wait until a stop is requested, and return its reason."""
        await self._requested.wait()
        return self.reason


class Signals:
    """Catch signals for a :class:`Stop`, as soon as this is made.

    SIGQUIT also writes the stack of every thread to standard error, before anything else and even
    if the event loop is blocked.

    Make it in the main thread, before user code is imported: the first process of a container
    ignores a signal without a handler, and an import can take long. A signal that comes before
    ``attach`` is kept for it.

    The first signal drains, the second shortens the drain, the third ends the process at once with
    128 plus its number. Python's own handler counts them, not the event loop's: a blocked loop
    must not keep a third signal from ending the process.

    A forked child has the handlers that were set before: multiprocessing's ``terminate()`` ends it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stop: Stop | None = None
        self._on_first: Callable[[], None] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count = 0
        self._last: tuple[int, float] | None = None
        self._pid = os.getpid()
        self._before = {
            number: signal.signal(number, self._caught)
            for number in SIGNALS
            if number not in _LEFT_IGNORED or signal.getsignal(number) != signal.SIG_IGN
        }
        self._stderr = open_stderr()
        if signal.SIGQUIT in self._before:
            # Its handler is in C, and calls the one above afterwards.
            faulthandler.register(signal.SIGQUIT, file=self._stderr.number, chain=True)
        around_forks(in_child=self._leave_to_child)

    def attach(self, stop: Stop, on_first: Callable[[], None] = lambda: None) -> None:
        """Request ``stop``, on the running loop, for each signal from now on and an earlier one.

        ``on_first`` is called at the first signal, in the signal handler: it must not take a lock,
        because the interrupted code may hold it. It is not called for an earlier signal.
        """
        self._stop, self._loop = stop, asyncio.get_running_loop()
        self._on_first = on_first
        if self._last is not None:
            stop.request(signal.Signals(self._last[0]).name)

    def ignore_at_exit(self) -> None:
        """Ignore signals after the last exit hook: a late echo must not change the exit code.

        Until then they count. The interpreter would give a signal its default effect after it.
        """
        atexit.register(self._run_hooks_and_ignore)

    def _run_hooks_and_ignore(self) -> None:
        # atexit runs the last registered hook first, so this one runs before those of the modules
        # that were imported earlier. Each may hang, and has to be interrupted by a third signal.
        # multiprocessing calls this function of atexit in its children too.
        atexit.unregister(self._run_hooks_and_ignore)
        atexit._run_exitfuncs()
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        """Restore the handlers that were set before, except where there is another one by now."""
        before, self._before = self._before, {}
        if not before:
            return
        faulthandler.unregister(signal.SIGQUIT)
        self._stderr.close()
        for number, handler in before.items():
            if signal.getsignal(number) == self._caught:
                # None is a handler that Python did not set, and cannot set again.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _leave_to_child(self) -> None:
        self.restore()
        # The event loop's wake-up socket is shared with the parent, whose loop would get the number
        # of each signal that the child catches.
        signal.set_wakeup_fd(-1)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._pid:
            self.receive(number)
            return
        # A child that was forked a moment ago, or without os.fork.
        self.restore()
        os.kill(os.getpid(), number)

    def receive(self, number: int) -> None:
        """Count a signal, unless it is the echo of the last one, and request the stop."""
        now = self._clock()
        if self._last is not None:
            last, then = self._last
            if last == number and now - then < ECHO_SECONDS:
                return
        self._last = (number, now)
        self._count += 1
        if self._count > 2:
            os._exit(128 + number)  # nothing is logged: the log may be the part that hangs
        if self._count == 1:
            self._on_first()
        if self._stop is not None and self._loop is not None and not self._loop.is_closed():
            name = signal.Signals(number).name
            # A signal handler runs between two bytecodes of any code, and asyncio is not reentrant.
            # call_soon_threadsafe also wakes a loop that waits in its selector.
            self._loop.call_soon_threadsafe(self._stop.request, name)
