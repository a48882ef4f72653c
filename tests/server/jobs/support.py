"""Services whose background work a test controls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gizmopy import Service
from gizmopy.server import SimpleServer
from pubsubtest.serve import Served


def job_of(served: Served[Any], name: str) -> dict[str, Any]:
    """Return the state of a job."""
    server: SimpleServer = served.server
    return next(each for each in server.application.jobs.describe() if each["name"] == name)


def samples(server: SimpleServer, job: str) -> dict[str, float]:
    """Return the metrics of a job: ``runs success`` for the name and the outcome."""
    return dict(_samples(server.metrics.render().decode(), job))


def _samples(text: str, job: str) -> Iterator[tuple[str, float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("job_name") != job or "le" in sample.labels:
                continue
            name = sample.name.removeprefix("gizmo_job_")
            yield " ".join((name, *filter(None, [sample.labels.get("outcome")]))), sample.value


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Return the messages about jobs, of this level or above."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "gizmopy.server.jobs" and record.levelno >= level
    ]


async def turns(number: int = 20) -> None:
    """Let tasks run that are ready."""
    for _ in range(number):
        await asyncio.sleep(0)


class Recorder(Service):
    """A service that records its runs; each waits for ``go_on`` if ``waits``."""

    waits = False

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings)
        self.runs: list[float] = []
        self.clock: Any = None
        self.errors: list[BaseException] = []
        """The next runs raise these."""
        self.go_on = asyncio.Event()
        self.ended = 0

    async def work(self) -> None:
        """Record a run."""
        self.runs.append(self.clock.time())
        if self.errors:
            raise self.errors.pop(0)
        if self.waits:
            await self.go_on.wait()
        self.ended += 1
