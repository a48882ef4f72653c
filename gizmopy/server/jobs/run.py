"""Run a job's method once, as a task of its own, and say how the run has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gizmopy._aio import is_being_cancelled
from gizmopy.observe.context import job_name, new_id, request_id
from gizmopy.server.jobs.clock import Clock
from gizmopy.server.jobs.record import Outcome


class Run:
    """One call of ``method``, in a copy of the current context, for ``timeout`` seconds at most.

    Log records of the run have the job's name and an id of their own. ``await`` it to its end.
    """

    def __init__(
        self,
        name: str,
        method: Callable[[], Awaitable[object]],
        clock: Clock,
        timeout: float | None = None,
    ) -> None:
        self._reason: Outcome | None = None
        """Why it was cancelled here, if it was."""
        self._timeout = timeout
        self.task = asyncio.create_task(_attempt(name, method), name=f"job {name}")
        self._limit = None
        if timeout is not None:
            self._limit = clock.call_at(clock.time() + timeout, self._time_out)

    def _time_out(self) -> None:
        self._cancel(Outcome.TIMEOUT)

    def cancel(self) -> None:
        """Cancel it because the daemon drains."""
        self._cancel(Outcome.CANCELLED)

    def _cancel(self, reason: Outcome) -> None:
        if not self.task.done():
            self._reason = self._reason or reason
            self.task.cancel()

    async def result(self) -> tuple[Outcome, BaseException | None]:
        """Wait for its end; return the outcome, and the error of one that is a failure."""
        try:
            await asyncio.wait((self.task,))
        finally:
            self.task.cancel()  # has no effect, unless the wait itself was cancelled
            if self._limit is not None:
                self._limit.cancel()
        if self.task.cancelled():
            return self._outcome_of_cancellation()
        error = self.task.result()
        if self._reason is Outcome.TIMEOUT and error is not None:
            return Outcome.TIMEOUT, error
        return (Outcome.SUCCESS, None) if error is None else (Outcome.ERROR, error)

    def _outcome_of_cancellation(self) -> tuple[Outcome, BaseException | None]:
        if self._reason is Outcome.CANCELLED:
            return Outcome.CANCELLED, None
        if self._reason is Outcome.TIMEOUT:
            return Outcome.TIMEOUT, TimeoutError(f"it took longer than timeout={self._timeout:g} s")
        return Outcome.ERROR, asyncio.CancelledError("it has cancelled its own task")


async def _attempt(name: str, method: Callable[[], Awaitable[object]]) -> BaseException | None:
    """Call ``method``, and return its error."""
    job_name.set(name)
    request_id.set(new_id())
    try:
        await method()
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        return error  # a library has cancelled something that the method awaits
    except KeyboardInterrupt:
        raise  # a person ends the process
    # A SystemExit too: it would end the event loop in the middle of requests and messages.
    except BaseException as error:  # noqa: BLE001 - a job may raise anything
        return error
    return None
