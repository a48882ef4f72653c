"""One job: a method that the daemon calls again and again, and what is known about its runs."""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from typing import Any

from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.server.jobs.clock import Clock, Handle, Pause
from gizmopy.server.jobs.declaration import BackgroundOptions, DeclaredJob, EveryOptions
from gizmopy.server.jobs.record import JobRecord, Outcome
from gizmopy.server.jobs.run import Run
from gizmopy.untrusted.error_text import describe_error, shortened

logger = logging.getLogger("gizmopy.server.jobs")

_REPEATED = 2
"""Failures, or skipped runs, in a row that the health reports."""


class Job(ABC):
    """A job, which ``run`` runs until the drain."""

    def __init__(self, declared: DeclaredJob, record: JobRecord, clock: Clock) -> None:
        self.name = declared.name
        self.method = declared.method
        self.schedule = declared.options.schedule
        self.critical = declared.options.critical
        self.record = record
        self.current: Run | None = None
        """The run in progress."""
        self.has_ended = False
        """Whether it has ended on purpose."""
        self.clock = clock
        self.pause = Pause(clock)

    @abstractmethod
    async def run(self) -> None:
        """Run it until ``stop_beginning`` or ``cancel``. Errors of the method are logged."""

    @property
    @abstractmethod
    def problem(self) -> str:
        """Why it is unhealthy; empty if it is not."""

    @property
    def state(self) -> str:
        """``running``, ``waiting`` for its next run, or ``ended``."""
        if self.current is not None:
            return "running"
        return "ended" if self.has_ended or self.pause.ended else "waiting"

    def cancel(self) -> None:
        """Cancel the run in progress, and begin no other."""
        self.pause.end()
        if self.current is not None:
            self.current.cancel()

    async def run_once(self, timeout: float | None = None) -> tuple[Outcome, BaseException | None]:
        """Call the method, and return the outcome and the error, which the record has then."""
        self.record.begin()
        self.current = Run(self.name, self.method, self.clock, timeout)
        try:
            outcome, error = await self.current.result()
        finally:
            self.current = None
        return outcome, error

    def failures(self) -> str:
        """Return the repeated failures as a text; empty if there are none."""
        record = self.record
        if record.failures_in_a_row < _REPEATED or record.last_failure is None:
            return ""
        age = self.clock.time() - record.last_failure.at
        return (
            f"it has failed {record.failures_in_a_row} times in a row, the last time {age:.0f} s "
            f"ago: {record.last_failure.error}"
        )

    def log_failure(self, error: BaseException, consequence: str) -> None:
        """Log the error that a run has ended with, and its stack."""
        message = "job %s failed: %s; %s"
        text = describe_error(error)
        logger.error(message, self.name, text, consequence, exc_info=shortened(error))

    def as_data(self) -> dict[str, Any]:
        """Return its state and the record of its runs, ready for JSON."""
        described = {"name": self.name, "schedule": self.schedule, "critical": self.critical}
        state = {"state": self.state, "problem": self.problem or None}
        return {**described, **state, **self.record.as_data()}


class PeriodicJob(Job):
    """A job of ``@every``: one run in each interval, counted from the start of ``run``."""

    def __init__(
        self, declared: DeclaredJob, options: EveryOptions, metrics: Metrics, clock: Clock
    ) -> None:
        super().__init__(declared, JobRecord(declared.name, metrics, clock), clock)
        self._options = options
        self._started_at = 0.0
        self._turn = 0
        """The number of the interval that has the current or the next run."""
        self._skipped = 0
        """Runs that the run in progress has made be skipped."""

    async def run(self) -> None:
        """Run it once in each interval, until ``stop_beginning`` or ``cancel``."""
        self._started_at = self.clock.time()
        self._turn = 0 if self._options.immediately else 1
        while await self.pause.until(self._next_start()):
            if late := self._passed() - self._turn:
                self._skip(late)
                logger.warning(
                    "job %s: %d runs were skipped, because the event loop was late", self.name, late
                )
            await self._run_in_turn()
            self._turn += 1

    def _due(self, turn: int) -> float:
        return self._started_at + turn * self._options.interval

    def _next_start(self) -> float:
        due = self._due(self._turn)
        # Ahead of the due time: a test that moves its clock by one interval sees the run. Replicas
        # that start together do not run their jobs together.
        spread = min(self._options.jitter, max(0.0, due - self.clock.time()))
        return due - spread * random.random()

    def _passed(self) -> int:
        """Return the number of the last interval that is over, at least the current one."""
        # The monotonic clock stands still while a machine sleeps, and a loop may be blocked: the
        # runs of that time are skipped. All at once, they would be a burst after each incident.
        since = self.clock.time() - self._started_at
        return max(self._turn, int(since / self._options.interval))

    def _skip(self, number: int) -> None:
        self._turn += number
        self.record.miss(number)

    async def _run_in_turn(self) -> None:
        self._skipped = 0
        failures = self.record.failures_in_a_row
        alarm = _Alarm(self)
        try:
            outcome, error = await self.run_once(self._options.timeout)
        finally:
            alarm.cancel()
        seconds = self.record.end(outcome, error)
        self._skipped = 0
        if error is not None:
            wait = max(0.0, self._due(self._turn + 1) - self.clock.time())
            next_run = "it does not run again: the daemon drains"
            self.log_failure(
                error, next_run if self.pause.ended else f"the next run is due in {wait:.3g} s"
            )
        elif failures:
            logger.info("job %s succeeds again after %d failures", self.name, failures)
        else:
            logger.debug("job %s: %s after %.3f s", self.name, outcome.value, seconds)

    def next_is_due(self) -> float:
        """Return the time at which the next run is due."""
        return self._due(self._turn + 1)

    def skip_next(self) -> None:
        """Skip the run that is due now, because another one is in progress."""
        if not self._skipped:
            logger.warning(
                "job %s still runs when its next run is due, after %s; runs are skipped until it "
                "ends",
                self.name,
                self.schedule,
            )
        number = max(1, self._passed() - self._turn)
        self._skipped += number
        self._skip(number)

    def stop_beginning(self) -> None:
        """Begin no further run."""
        self.pause.end()

    @property
    def problem(self) -> str:
        """Why it is unhealthy; empty if it is not."""
        if problem := self.failures():
            return problem
        if self._skipped >= _REPEATED:
            seconds = self.record.in_progress_seconds or 0.0
            return f"its run has lasted for {seconds:.0f} s, and {self._skipped} runs were skipped"
        if self.critical and self._options.immediately and self.record.last_success is None:
            return "it has not succeeded yet"
        return ""


class _Alarm:
    """Call ``skip_next`` of a job each time that a run is due, until it is cancelled."""

    def __init__(self, job: PeriodicJob) -> None:
        self._job = job
        self._call = self._schedule()

    def _schedule(self) -> Handle:
        return self._job.clock.call_at(self._job.next_is_due(), self._ring)

    def _ring(self) -> None:
        if not self._job.pause.ended:
            self._job.skip_next()
            self._call = self._schedule()

    def cancel(self) -> None:
        self._call.cancel()


class BackgroundJob(Job):
    """A job of ``@background``: it runs until it returns, and is started again if it raises."""

    def __init__(
        self, declared: DeclaredJob, options: BackgroundOptions, metrics: Metrics, clock: Clock
    ) -> None:
        record = JobRecord(declared.name, metrics, clock, measures_runs=False)
        super().__init__(declared, record, clock)
        self._options = options
        self._backoff = RetryPolicy(base=options.backoff, cap=options.max_backoff)

    async def run(self) -> None:
        """Run it until it returns, or ``cancel``."""
        while (wait := await self._live()) is not None:
            if not await self.pause.until(self.clock.time() + wait):
                return
        self.has_ended = True

    async def _live(self) -> float | None:
        """Run it once; return the seconds until its restart, or None at its end.

        A function of its own, because the error of a run must not live as long as the next one.
        """
        outcome, error = await self.run_once()
        if self._is_well:
            self.record.failures_in_a_row = 0
        self.record.end(outcome, error)
        if error is None:
            if outcome is Outcome.SUCCESS and not self.pause.ended:
                logger.info("job %s has ended: its method returned", self.name)
            return None
        wait = self._wait()
        consequence = (
            "the daemon drains" if self.pause.ended else f"it starts again in {wait:.3g} s"
        )
        self.log_failure(error, consequence)
        return wait

    @property
    def _is_well(self) -> bool:
        """Whether the run in progress has lasted long enough to forget the failures before it."""
        return (self.record.in_progress_seconds or 0.0) > self._options.max_backoff

    def _wait(self) -> float:
        """Return the seconds until the next start: half of the backoff, and a random part of it."""
        # Not any part: a job that fails at once would sometimes be started again at once.
        return self._backoff.delay(self.record.failures_in_a_row, lambda: 0.5 + random.random() / 2)

    @property
    def problem(self) -> str:
        """Why it is unhealthy; empty if it is not."""
        return "" if self._is_well else self.failures()


def make_job(declared: DeclaredJob, metrics: Metrics, clock: Clock) -> Job:
    """Return the job that runs a declared method."""
    options = declared.options
    if isinstance(options, EveryOptions):
        return PeriodicJob(declared, options, metrics, clock)
    return BackgroundJob(declared, options, metrics, clock)
