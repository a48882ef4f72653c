"""Keep the outcomes of a job's runs, for metrics, health and people."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from gizmopy.observe.metrics import Metrics
from gizmopy.server.jobs.clock import Clock
from gizmopy.untrusted.error_text import describe_error

_BOUNDS = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Bucket bounds in seconds: a job may take as long as a request, or an hour."""


class Outcome(Enum):
    """The end of a run."""

    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    """The drain cancelled it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failure of a job: its error as text, and its time on the job's clock."""

    error: str
    at: float


class JobRecord:
    """The runs of the job ``name`` so far, counted in ``metrics``.

    ``measures_runs`` is false for a job with one run: a histogram of it would say nothing.
    """

    def __init__(
        self, name: str, metrics: Metrics, clock: Clock, *, measures_runs: bool = True
    ) -> None:
        self.failures_in_a_row = 0
        self.last_failure: Failure | None = None
        self.last_success: float | None = None
        """The end of the last successful run, in seconds since 1970."""
        self.started_at: float | None = None
        """The start of the run in progress, on the job's clock."""
        self.runs = dict.fromkeys(Outcome, 0)
        self.missed = 0
        self._name = name
        self._clock = clock
        # Not "job": Prometheus adds that label to each series, with the name of the scrape, and
        # would rename this one to exported_job.
        self._runs = metrics.counter(
            "gizmo_job_runs", "Runs of background work that have ended.", ("job_name", "outcome")
        )
        self._missed = metrics.counter(
            "gizmo_job_missed_runs",
            "Runs that were skipped: another one was in progress, or the event loop was late.",
            ("job_name",),
        ).child(name)
        self._in_progress = metrics.gauge(
            "gizmo_job_in_progress", "Runs of background work in progress.", ("job_name",)
        ).child(name)
        self._last_success = metrics.gauge(
            "gizmo_job_last_success_timestamp_seconds",
            "When a run last succeeded, in seconds since 1970.",
            ("job_name",),
        )
        for outcome in Outcome:  # a rate needs the value before the first failure, which is 0
            self._runs.child(name, outcome.value)
        self._duration = None
        if measures_runs:
            help_text = "Seconds that a run of background work took."
            self._duration = metrics.histogram(
                "gizmo_job_duration_seconds", help_text, ("job_name",), _BOUNDS
            ).child(name)

    @property
    def in_progress_seconds(self) -> float | None:
        """How long the run in progress has lasted; None without one."""
        return None if self.started_at is None else self._clock.time() - self.started_at

    def begin(self) -> None:
        """Record the start of a run."""
        self.started_at = self._clock.time()
        self._in_progress.value = 1.0

    def end(self, outcome: Outcome, error: BaseException | None) -> float:
        """Record the end of a run, and return how long it lasted."""
        seconds = self.in_progress_seconds or 0.0
        self.started_at = None
        self._in_progress.value = 0.0
        self.runs[outcome] += 1
        self._runs.child(self._name, outcome.value).value += 1
        if self._duration is not None and outcome is not Outcome.CANCELLED:
            self._duration.observe(seconds)
        if outcome is Outcome.SUCCESS:
            self.failures_in_a_row = 0
            self.last_success = time.time()
            self._last_success.child(self._name).value = self.last_success
        elif error is not None:
            self.failures_in_a_row += 1
            self.last_failure = Failure(describe_error(error), self._clock.time())
        return seconds

    def miss(self, number: int) -> None:
        """Count runs that are skipped."""
        self.missed += number
        self._missed.value += number

    def as_data(self) -> dict[str, Any]:
        """Return the record as a dict, ready for JSON; ages are in seconds."""
        failure, now = self.last_failure, self._clock.time()
        success = self.last_success
        return {
            "in_progress_seconds": _rounded(self.in_progress_seconds),
            "runs": {outcome.value: number for outcome, number in self.runs.items()},
            "missed": self.missed,
            "failures_in_a_row": self.failures_in_a_row,
            "last_success": None if success is None else datetime.fromtimestamp(success, UTC),
            "last_error": None if failure is None else failure.error,
            "last_error_age_seconds": None if failure is None else _rounded(now - failure.at),
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
