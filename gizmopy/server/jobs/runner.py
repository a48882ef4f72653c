"""Run the background work of a daemon while it lives, and end it in the drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from gizmopy._aio import cancel_and_wait
from gizmopy.observe.metrics import Metrics
from gizmopy.server.jobs.clock import Clock, LoopClock
from gizmopy.server.jobs.declaration import DeclaredJob
from gizmopy.server.jobs.job import Job, PeriodicJob, make_job
from gizmopy.server.lifecycle.shutdown_budget import CANCEL_SECONDS, ShutdownBudget

logger = logging.getLogger("gizmopy.server.jobs")


class Jobs:
    """The jobs of a daemon. ``clock`` is the event loop by default.

    ``start`` them when the daemon is ready. ``drain`` ends them, also those that never started.
    """

    def __init__(
        self, declared: Iterable[DeclaredJob], metrics: Metrics, clock: Clock | None = None
    ) -> None:
        clock = clock or LoopClock()
        self.all: Sequence[Job] = tuple(make_job(each, metrics, clock) for each in declared)
        self._tasks: dict[Job, asyncio.Task[None]] = {}

    @property
    def _in_progress(self) -> list[PeriodicJob]:
        """The jobs of ``@every`` that have a run in progress."""
        return [each for each in self.all if isinstance(each, PeriodicJob) and each.current]

    def describe(self) -> list[dict[str, Any]]:
        """Return the state of each job, ready for JSON."""
        return [job.as_data() for job in self.all]

    def start(self) -> None:
        """Run them from now on, in copies of the current context."""
        for job in self.all:
            self._tasks[job] = asyncio.create_task(job.run(), name=f"gizmopy-job {job.name}")

    async def idle(self) -> bool:
        """Wait until no run of ``@every`` is in progress; return whether there was one."""
        has_waited = False
        while True:
            # A run that is due now begins, and one that has just ended is no longer in progress.
            await asyncio.sleep(0)
            runs = [each.current.task for each in self._in_progress if each.current]
            if not runs:
                return has_waited
            has_waited = True
            await asyncio.wait(runs)

    def stop_beginning(self) -> None:
        """Begin no further run of ``@every``: the first step of a drain."""
        for job in self.all:
            if isinstance(job, PeriodicJob):
                job.stop_beginning()

    async def drain(self, budget: ShutdownBudget) -> int:
        """Finish the runs of ``@every``, cancel the others, and return how many were cut off.

        A run of ``@every`` is cancelled when the time for requests and messages is over. Jobs of
        ``@background`` are cancelled after it, and may use the time that is left to end.
        """
        if not self._tasks:
            return 0
        self.stop_beginning()
        finite = self._tasks_of(job for job in self.all if isinstance(job, PeriodicJob))
        await budget.within(budget.remaining(), _all_done(finite))
        late = self._in_progress
        for each in late:
            logger.error("job %s did not end before the deadline, and is cancelled", each.name)
        for job in self.all:
            job.cancel()
        time_left = max(budget.remaining(), CANCEL_SECONDS)
        await budget.within(time_left, _all_done(self._tasks_of(self.all)))
        stuck = [job for job, task in self._tasks.items() if not task.done()]
        for job in stuck:
            logger.error("job %s ignores its cancellation and still runs", job.name)
        # Only the tasks around their methods, which do not end: the process ends with them.
        await cancel_and_wait([self._tasks[job] for job in stuck])
        for task in self._tasks_of(job for job in self.all if job not in stuck):
            task.result()  # raises an error of this package
        cut_off = {*late, *stuck}
        counts = {"jobs": len(self.all), "cut_off": len(cut_off)}
        logger.info("the background work has ended", extra=counts)
        return len(cut_off)

    def _tasks_of(self, jobs: Iterable[Job]) -> list[asyncio.Task[None]]:
        return [self._tasks[job] for job in jobs]


async def _all_done(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until all tasks are done, without cancelling them if this wait is cancelled."""
    if tasks:
        await asyncio.wait(tasks)
