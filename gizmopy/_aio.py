"""Small pieces of structured concurrency that asyncio leaves to its users, written once.

Every function here waits for the tasks that it cancels. A task that is cancelled and not awaited
still runs: it may use a connection that its owner has closed meanwhile, and Python logs "Task was
destroyed but it is pending" if the loop ends first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any, TypeVar

T = TypeVar("T")
FutureT = TypeVar("FutureT", bound=asyncio.Future[Any])


@asynccontextmanager
async def background(
    coroutine: Coroutine[Any, Any, T], *, name: str | None = None
) -> AsyncIterator[asyncio.Task[T]]:
    """Run ``coroutine`` as a task while the context lasts, then cancel it and wait for its end.

    Yields the task. An error of the task is not raised here: await the task to get it. If no code
    does, asyncio logs the error.
    """
    task = asyncio.create_task(coroutine, name=name)
    try:
        yield task
    finally:
        task.cancel()
        # Not `await task`: its error would replace an error of the body.
        await asyncio.wait((task,))


async def first_of(
    one: Awaitable[T], other: Awaitable[object], *, timeout: float | None = None
) -> tuple[asyncio.Future[T], asyncio.Future[object]]:
    """Wait until one of two awaitables has ended, cancel the other, and wait for that too.

    Returns both as futures that are done: ``cancelled()`` is true for each that did not end by
    itself, also for both if ``timeout`` seconds passed first. Errors are not raised here: call
    ``result()``. A caller that is cancelled cancels both.
    """
    futures = asyncio.ensure_future(one), asyncio.ensure_future(other)
    try:
        await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in futures:
            future.cancel()  # has no effect on a future that is done
        await asyncio.wait(futures)
    return futures


async def cancel_and_wait(
    futures: Collection[FutureT], timeout: float | None = None
) -> set[FutureT]:
    """Cancel tasks and wait at most ``timeout`` seconds; return those that are still running.

    A task may ignore its cancellation, so a caller with a deadline needs the ``timeout``. Errors of
    the tasks are dropped: the caller has given them up.
    """
    for future in futures:
        future.cancel()
    if not futures:
        return set()
    done, running = await asyncio.wait(futures, timeout=timeout)
    for future in done:
        if not future.cancelled():
            future.exception()  # else asyncio logs "exception was never retrieved"
    return running


def is_being_cancelled() -> bool:
    """Return whether the current task is being cancelled.

    A CancelledError has two sources: a caller cancels the current task, which has to end then, or a
    library cancels something that the task awaits, which is a failure like any other.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Deadline:
    """A point in time on the running loop's clock, which ``shorten`` can only bring closer.

    Without ``seconds`` there is no limit until ``shorten`` sets one.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._at = inf
        self._timeouts: set[asyncio.Timeout] = set()
        if seconds is not None:
            self.shorten(seconds)

    def shorten(self, seconds: float) -> None:
        """Move the deadline to ``seconds`` from now if that is earlier, for running waits too."""
        self._at = min(self._at, asyncio.get_running_loop().time() + seconds)
        for timeout in self._timeouts:
            if not timeout.expired():  # it raises RuntimeError otherwise
                timeout.reschedule(self._at)

    def remaining(self) -> float:
        """Return the seconds that are left: 0 if the deadline has passed, ``inf`` without one."""
        return max(0.0, self._at - asyncio.get_running_loop().time())

    async def wait_for(self, awaitable: Awaitable[T]) -> T:
        """Await ``awaitable`` and return its result; cancel it at the deadline.

        Raises TimeoutError at the deadline.
        """
        async with asyncio.timeout_at(None if self._at == inf else self._at) as timeout:
            self._timeouts.add(timeout)
            try:
                return await awaitable
            finally:
                self._timeouts.discard(timeout)


def batched(items: list[T], size: int) -> Iterator[list[T]]:
    """Yield ``items`` in lists of ``size``, the last one shorter (itertools.batched of 3.12)."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
