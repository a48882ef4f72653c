"""The health checks of background work."""

from __future__ import annotations

from functools import partial

from gizmopy.errors import GizmoError
from gizmopy.server.health.checks import HealthCheck
from gizmopy.server.jobs.job import Job
from gizmopy.server.jobs.runner import Jobs


class JobFails(GizmoError):
    """A job has failed repeatedly, or does not end."""


def job_checks(jobs: Jobs) -> list[HealthCheck]:
    """Return the health check of each job, with the job's name."""

    async def works(job: Job) -> None:
        if problem := job.problem:
            raise JobFails(problem)

    return [
        HealthCheck(
            job.name, partial(works, job), critical=job.critical, timeout=1.0, on_demand=True
        )
        for job in jobs.all
    ]
