"""The runs of @every: when they start, what an error or a late end does, and what is reported."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from pydantic import SecretStr

import pubsubtest
from gizmopy import Service, Settings, every, subscribe
from gizmopy.observe.context import job_name, request_id
from gizmopy.observe.logs import ContextFilter
from pubsubtest.serve import Served
from tests.server.jobs.support import Recorder, job_of, messages, samples, turns

BOTH_LOOPS = True


class Periodic(Recorder):
    @every("30s")
    async def refresh(self) -> None:
        await self.work()


class Exact(Recorder):
    @every("30s", jitter=0)
    async def refresh(self) -> None:
        await self.work()


class Eager(Recorder):
    @every("30s", jitter=0, immediately=True)
    async def refresh(self) -> None:
        await self.work()


@asynccontextmanager
async def _serving(
    kind: type[Recorder],
) -> AsyncIterator[tuple[Served[Recorder], Recorder, pubsubtest.Clock]]:
    clock = pubsubtest.Clock()
    service = kind()
    service.clock = clock
    async with pubsubtest.serve(service, clock=clock) as served:
        yield served, service, clock
        service.go_on.set()


async def test_each_interval_has_one_run() -> None:
    """A run starts in the last tenth of each interval, at random."""
    async with _serving(Periodic) as (_, service, clock):
        await clock.advance(27)
        assert service.runs == []
        for number in range(1, 101):
            await clock.advance(30 * number - clock.time())
            assert len(service.runs) == number
    for number, at in enumerate(service.runs, 1):
        assert 30 * number - 3 <= at <= 30 * number
    assert len({round(at % 30, 6) for at in service.runs}) > 50


async def test_without_jitter_the_rate_is_exact() -> None:
    """Runs start at whole multiples of the interval, however long they take."""

    class Slow(Exact):
        @every("0.1s", jitter=0)
        async def refresh(self) -> None:
            await self.work()
            await self.clock.sleep(0.07)

    async with _serving(Slow) as (_, service, clock):
        await clock.advance(3)
        assert len(service.runs) == 30
        assert all(abs(at - 0.1 * number) < 1e-9 for number, at in enumerate(service.runs, 1))


async def test_a_run_at_the_start() -> None:
    """With immediately, a run starts when the daemon is ready, and the next after one interval."""
    async with _serving(Eager) as (served, service, clock):
        await served.idle()
        assert service.runs == [0]
        await clock.advance(30)
        assert service.runs == [0, 30]


async def test_runs_do_not_overlap(caplog: pytest.LogCaptureFixture) -> None:
    """A run that is due while another is in progress is skipped and counted, with one warning."""
    async with _serving(Exact) as (served, service, clock):
        service.waits = True
        await clock.advance(120)
        assert service.runs == [30]
        assert job_of(served, "Exact.refresh")["missed"] == 3
        assert job_of(served, "Exact.refresh")["in_progress_seconds"] == 90
        assert messages(caplog) == [
            "job Exact.refresh still runs when its next run is due, after every 30s; "
            "runs are skipped until it ends"
        ]
        service.waits = False
        service.go_on.set()
        await clock.advance(29)
        assert service.runs == [30]  # skipped runs do not come in a burst
        await clock.advance(31)
        assert service.runs == [30, 150, 180]
        assert samples(served.server, "Exact.refresh")["missed_runs_total"] == 3


async def test_runs_missed_by_a_blocked_loop_are_skipped(caplog: pytest.LogCaptureFixture) -> None:
    """If the loop did not run for several intervals, there is one run, and the rest is counted."""
    async with _serving(Exact) as (served, service, clock):
        await turns()
        clock._now = 95.0  # the clock goes on, and no call is made
        await clock.advance(0)
        assert service.runs == [95]
        assert job_of(served, "Exact.refresh")["missed"] == 2
        await clock.advance(25)
        assert service.runs == [95, 120]
        message = "job Exact.refresh: 2 runs were skipped, because the event loop was late"
        assert messages(caplog) == [message]


async def test_an_error_is_logged_once_and_the_next_run_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An exception is logged with its stack and counted; the schedule goes on."""
    async with _serving(Exact) as (served, service, clock):
        service.errors = [ValueError("no rates"), SystemExit(3), asyncio.CancelledError()]
        await clock.advance(90)
        assert len(service.runs) == 3
        texts = messages(caplog)
        assert (
            texts[0]
            == "job Exact.refresh failed: ValueError: no rates; the next run is due in 30 s"
        )
        assert texts[1].startswith("job Exact.refresh failed: SystemExit: 3; ")
        assert texts[2].startswith("job Exact.refresh failed: CancelledError; ")
        assert len(texts) == 3
        assert all(record.exc_info for record in caplog.records if "failed" in record.getMessage())
        caplog.set_level(logging.INFO, "gizmopy.server.jobs")
        await clock.advance(30)
        assert messages(caplog, logging.INFO)[-1] == (
            "job Exact.refresh succeeds again after 3 failures"
        )
        found = samples(served.server, "Exact.refresh")
        assert found["runs_total error"] == 3
        assert found["runs_total success"] == 1


async def test_a_job_that_cancels_itself_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    """A run that cancels its own task fails, and the schedule goes on."""

    class Odd(Exact):
        @every("30s", jitter=0)
        async def refresh(self) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    async with _serving(Odd) as (served, _, clock):
        await clock.advance(60)
        assert job_of(served, "Odd.refresh")["runs"]["error"] == 2
        assert "CancelledError: it has cancelled its own task" in messages(caplog)[0]


async def test_a_run_has_a_time_limit(caplog: pytest.LogCaptureFixture) -> None:
    """A run that takes longer than its timeout is cancelled, counted and logged."""

    class Limited(Recorder):
        waits = True
        cancelled = 0

        @every("30s", jitter=0, timeout="10s")
        async def refresh(self) -> None:
            try:
                await self.work()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

    async with _serving(Limited) as (served, service, clock):
        await clock.advance(39)
        assert job_of(served, "Limited.refresh")["state"] == "running"
        await clock.advance(1)
        assert service.cancelled == 1  # type: ignore[attr-defined]
        assert job_of(served, "Limited.refresh")["runs"]["timeout"] == 1
        assert messages(caplog) == [
            "job Limited.refresh failed: TimeoutError: it took longer than timeout=10 s; "
            "the next run is due in 20 s"
        ]
        assert samples(served.server, "Limited.refresh")["runs_total timeout"] == 1


async def test_a_run_that_ignores_its_time_limit_is_not_overlapped() -> None:
    """While a cancelled run has not ended, no other begins."""

    class Stubborn(Recorder):
        @every("30s", jitter=0, timeout="10s")
        async def refresh(self) -> None:
            self.runs.append(self.clock.time())
            while not self.go_on.is_set():
                try:
                    await self.go_on.wait()
                except asyncio.CancelledError:
                    pass

    async with _serving(Stubborn) as (served, service, clock):
        await clock.advance(95)
        assert service.runs == [30]
        assert job_of(served, "Stubborn.refresh")["missed"] == 2
        service.go_on.set()
        await clock.advance(25)
        assert service.runs == [30, 120]


async def test_the_metrics_of_a_job() -> None:
    """Runs by outcome, their durations, those in progress, and the last success are metrics."""
    async with _serving(Exact) as (served, service, clock):
        before = samples(served.server, "Exact.refresh")
        assert before["runs_total success"] == before["runs_total error"] == 0
        assert "last_success_timestamp_seconds" not in before
        await clock.advance(30)
        service.waits = True
        await clock.advance(30)
        found = samples(served.server, "Exact.refresh")
        assert found["in_progress"] == 1
        assert found["duration_seconds_count"] == 1
        assert found["last_success_timestamp_seconds"] > 1.7e9
        await clock.advance(2)
        service.go_on.set()
        await served.idle()
        found = samples(served.server, "Exact.refresh")
        assert found["in_progress"] == 0
        assert found["duration_seconds_sum"] == 2


async def test_repeated_failures_are_unhealthy(caplog: pytest.LogCaptureFixture) -> None:
    """Two failures in a row are shown, with the last error and its age; a success ends that."""
    async with _serving(Exact) as (served, service, clock):

        async def verbose() -> str:
            async with served.http.get("/readyz?verbose") as response:
                assert response.status == 200
                return await response.text()

        service.errors = [ValueError("first"), ValueError("second"), ValueError("third")]
        await clock.advance(30)
        assert "[+]Exact.refresh ok" in await verbose()
        await clock.advance(45)
        assert "[-]Exact.refresh failed (not critical)" in await verbose()
        assert (
            "health check Exact.refresh failed: JobFails: it has failed 2 times in a row, the last "
            "time 15 s ago: ValueError: second"
        ) in [record.getMessage() for record in caplog.records]
        job = job_of(served, "Exact.refresh")
        assert job["last_error"] == "ValueError: second"
        assert job["last_error_age_seconds"] == 15
        assert job["failures_in_a_row"] == 2
        await clock.advance(45)
        assert "[+]Exact.refresh ok" in await verbose()


async def test_a_run_that_hangs_is_unhealthy() -> None:
    """A run that has made two others be skipped is shown."""
    async with _serving(Exact) as (served, service, clock):
        service.waits = True
        await clock.advance(60)
        assert job_of(served, "Exact.refresh")["problem"] is None
        await clock.advance(30)
        problem = "its run has lasted for 60 s, and 2 runs were skipped"
        assert job_of(served, "Exact.refresh")["problem"] == problem
        service.go_on.set()
        await served.idle()
        assert job_of(served, "Exact.refresh")["problem"] is None


async def test_a_critical_job_is_awaited() -> None:
    """A critical job with a run at the start makes the daemon ready by its first success."""

    class Warm(Recorder):
        @every("30s", jitter=0, immediately=True, critical=True)
        async def refresh(self) -> None:
            await self.work()

    async with _serving(Warm) as (served, service, clock):

        async def status() -> int:
            async with served.http.get("/readyz") as response:
                return response.status

        service.waits = True
        await turns()
        assert await status() == 503
        service.go_on.set()
        await served.idle()
        assert await status() == 200
        service.errors = [ValueError("no"), ValueError("no")]
        await clock.advance(30)
        assert await status() == 200
        await clock.advance(30)
        assert await status() == 503


async def test_a_failing_job_does_not_hold_up_the_start() -> None:
    """A job that fails at once leaves the daemon ready, unless it is critical."""
    failing = Eager()
    failing.clock = pubsubtest.Clock()
    failing.errors = [ValueError("at once")]
    async with pubsubtest.serve(failing, clock=failing.clock) as served:
        await served.idle()
        async with served.http.get("/readyz") as response:
            assert response.status == 200


_tenant: ContextVar[str] = ContextVar("tenant", default="")


async def test_the_context_of_a_run(caplog: pytest.LogCaptureFixture) -> None:
    """A run sees the variables of lifespan, and has a name and an id of its own in the log."""
    seen: list[Any] = []

    class Contextual(Exact):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            _tenant.set("acme")
            yield

        @every("30s", jitter=0)
        async def refresh(self) -> None:
            logging.getLogger("shop").warning("refreshing")
            seen.append((_tenant.get(), job_name.get(), request_id.get()))
            _tenant.set("changed")

    caplog.handler.addFilter(only_context := ContextFilter())
    async with _serving(Contextual) as (_, _, clock):
        await clock.advance(60)
    caplog.handler.removeFilter(only_context)
    (one, other) = seen
    assert one[:2] == other[:2] == ("acme", "Contextual.refresh")
    assert len(one[2]) == 32
    assert one[2] != other[2]
    record: Any = next(each for each in caplog.records if each.name == "shop")
    assert (record.job, record.request_id) == ("Contextual.refresh", one[2])


async def test_idle_waits_for_runs_and_their_messages() -> None:
    """served.idle() waits for a run in progress, and for the messages that it publishes."""

    class Publishing(Service):
        def __init__(self, settings: Any = None) -> None:
            super().__init__(settings)
            self.handled: list[str] = []

        @every("1h", immediately=True)
        async def announce(self) -> None:
            await turns()
            await self.publish("news", "hello")

        @subscribe("news")
        async def on_news(self, text: str) -> None:
            self.handled.append(text)

    async with pubsubtest.serve(Publishing) as served:
        await served.idle()
        assert served.service.handled == ["hello"]


async def test_without_a_clock_jobs_run_in_real_time() -> None:
    """The clock of a daemon is the event loop."""

    class Fast(Service):
        def __init__(self, settings: Any = None) -> None:
            super().__init__(settings)
            self.twice = asyncio.Event()
            self.runs = 0

        @every("5ms")
        async def refresh(self) -> None:
            self.runs += 1
            if self.runs == 2:
                self.twice.set()

    async with pubsubtest.serve(Fast) as served, asyncio.timeout(10):
        await served.service.twice.wait()


async def test_debug_lists_the_jobs() -> None:
    """/debug/jobs shows each job, its runs and its last error."""
    clock = pubsubtest.Clock()
    service = Exact(Settings(debug_token=SecretStr("x" * 32)))
    service.clock = clock
    service.errors = [ValueError("no rates")]
    headers = {"Authorization": f"Bearer {'x' * 32}"}
    async with pubsubtest.serve(service, clock=clock) as served:
        await clock.advance(30)
        async with served.http.get("/debug/jobs", headers=headers) as response:
            (job,) = await response.json()
        assert job["name"] == "Exact.refresh"
        assert job["schedule"] == "every 30s"
        assert job["state"] == "waiting"
        assert job["runs"] == {"success": 0, "error": 1, "timeout": 0, "cancelled": 0}
        assert job["last_error"] == "ValueError: no rates"


async def test_no_label_is_one_of_prometheus() -> None:
    """Prometheus adds the labels job and instance itself, and would rename ours."""
    async with _serving(Exact) as (served, _, clock):
        await clock.advance(30)
        for family in served.server.metrics.instruments():
            assert not {"job", "instance"}.intersection(family.labels), family.name
