"""Turn SIGTERM and SIGINT into what the server waits for.

The handlers stand before user code is imported: a container's first process ignores a signal
without a handler, and an import can take long.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)

ECHO_SECONDS = 0.5
"""The same signal again within this time counts once: make and terminals send it twice."""


class Stop:
    """Hold that the daemon was asked to stop, and how urgently.

    The first request to stop ends ``wait()``, and whatever runs in ``interrupts()``; the second
    also sets ``hurried``.
    """

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self._interrupted: asyncio.Task[object] | None = None
        self.hurried = asyncio.Event()
        self.reason = ""

    @property
    def requested(self) -> bool:
        """Whether somebody asked."""
        return self._requested.is_set()

    def request(self, reason: str) -> None:
        """Ask the daemon to drain and stop; ask a second time to have it hurry."""
        if self._requested.is_set():
            self.hurried.set()
        else:
            self.reason = reason
            self._requested.set()
            if self._interrupted is not None:
                self._interrupted.cancel()

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Cancel what runs in this context once somebody asks, and end the context quietly then."""
        task = self._interrupted = asyncio.current_task()
        assert task is not None
        if self.requested:
            task.cancel()
        try:
            yield
        except asyncio.CancelledError:
            if not self.requested or task.uncancel():
                raise  # somebody else's cancellation
        else:
            if self.requested:
                task.uncancel()  # it has ended in spite of it
        finally:
            self._interrupted = None

    async def wait(self) -> str:
        """Wait until somebody asks, and return why."""
        await self._requested.wait()
        return self.reason


class Signals:
    """Catch SIGTERM and SIGINT for a :class:`Stop`, from as early as this is made.

    Make it in the main thread. A signal that comes before ``attach`` is kept for it. The first
    drains, the second hurries, the third ends the process at once with 128 plus its number. They
    are counted by Python's own handler, not by the event loop's: a loop that is blocked must not
    keep a third signal from ending the process.

    A process that is forked inherits the handlers. A signal to it has the effect there that it had
    before: ``terminate()`` of multiprocessing ends a child.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stop: Stop | None = None
        self._on_first: Callable[[], None] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count = 0
        self._last: tuple[int, float] | None = None
        self._pid = os.getpid()
        self._before = {number: signal.signal(number, self._caught) for number in SIGNALS}

    def attach(self, stop: Stop, on_first: Callable[[], None] = lambda: None) -> None:
        """Pass signals on to ``stop``, on the running loop, from now on, and an earlier one now.

        ``on_first`` is called when the first signal comes, in the signal's handler: it must take no
        lock. It is not called for a signal that came earlier.
        """
        self._stop, self._loop = stop, asyncio.get_running_loop()
        self._on_first = on_first
        if self._last is not None:
            stop.request(signal.Signals(self._last[0]).name)

    def ignore_at_exit(self) -> None:
        """Let no late echo of a signal kill the process while the interpreter ends."""
        for number in SIGNALS:
            atexit.register(signal.signal, number, signal.SIG_IGN)

    def restore(self) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._pid:
            self.receive(number)
            return
        self.restore()
        os.kill(os.getpid(), number)

    def receive(self, number: int) -> None:
        """Count a signal, unless it is the echo of the last one, and pass it on."""
        now = self._clock()
        if self._last is not None:
            last, then = self._last
            if last == number and now - then < ECHO_SECONDS:
                return
        self._last = (number, now)
        self._count += 1
        if self._count > 2:
            os._exit(128 + number)  # without a word: the log may be what hangs
        if self._count == 1:
            self._on_first()
        if self._stop is not None and self._loop is not None and not self._loop.is_closed():
            name = signal.Signals(number).name
            self._loop.call_soon_threadsafe(self._stop.request, name)
