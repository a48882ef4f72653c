"""The life of @background: its start, its restarts, and its end on purpose."""

import asyncio
import gc
import logging
import weakref

import pytest

import pubsubtest
from gizmopy import background
from tests.server.jobs.support import Recorder, job_of, messages, samples, turns

BOTH_LOOPS = True


class Watching(Recorder):
    waits = True

    @background
    async def watch(self) -> None:
        await self.work()


class Quick(Recorder):
    @background(backoff="100ms", max_backoff="1s")
    async def watch(self) -> None:
        await self.work()


@pytest.fixture
def clock() -> pubsubtest.Clock:
    """Return the clock of the jobs."""
    return pubsubtest.Clock()


@pytest.fixture
def watching(clock: pubsubtest.Clock) -> Watching:
    """Return a service with a job, which has not started."""
    service = Watching()
    service.clock = clock
    return service


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each wait as long as it may be."""
    monkeypatch.setattr("random.random", lambda: 1.0)


async def test_it_runs_while_the_daemon_works(clock: pubsubtest.Clock, watching: Watching) -> None:
    """It starts with the daemon, is shown as running, and is cancelled by the drain."""
    async with pubsubtest.serve(watching, clock=clock) as served:
        await turns()
        assert watching.runs == [0]
        assert job_of(served, "Watching.watch")["state"] == "running"
        await clock.advance(3600)
        assert watching.runs == [0]
    assert watching.ended == 0
    assert served.server.exit_code == 0
    assert samples(served.server, "Watching.watch") == {
        "runs_total success": 0,
        "runs_total error": 0,
        "runs_total timeout": 0,
        "runs_total cancelled": 1,
        "missed_runs_total": 0,
        "in_progress": 0,
    }


@pytest.mark.usefixtures("no_jitter")
async def test_it_is_restarted_with_backoff(
    clock: pubsubtest.Clock, watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """After each failure the wait is twice as long, up to the limit."""
    watching.errors = [ConnectionError("away") for _ in range(9)]
    async with pubsubtest.serve(watching, clock=clock) as served:
        await clock.advance(400)
        starts = [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
        assert watching.runs == starts
        assert samples(served.server, "Watching.watch")["runs_total error"] == 9
    assert messages(caplog)[0] == (
        "job Watching.watch failed: ConnectionError: away; it starts again in 1 s"
    )
    assert len(messages(caplog)) == 9
    assert all(each.exc_info for each in caplog.records if "failed: Conn" in each.getMessage())


async def test_a_restart_is_never_at_once(clock: pubsubtest.Clock, watching: Watching) -> None:
    """The wait is shortened by up to half, at random."""
    watching.errors = [ConnectionError("away")]
    async with pubsubtest.serve(watching, clock=clock):
        await clock.advance(0.49)
        assert watching.runs == [0]
        await clock.advance(0.51)
        assert len(watching.runs) == 2


@pytest.mark.usefixtures("no_jitter")
async def test_a_healthy_time_resets_the_backoff(
    clock: pubsubtest.Clock, watching: Watching
) -> None:
    """A run that lasted longer than max_backoff is followed by the first wait again."""
    watching.errors = [ConnectionError("away") for _ in range(3)]
    async with pubsubtest.serve(watching, clock=clock) as served:
        await clock.advance(7)
        assert watching.runs == [0, 1, 3, 7]
        assert job_of(served, "Watching.watch")["problem"] is not None
        await clock.advance(60)
        assert job_of(served, "Watching.watch")["problem"] is not None
        await clock.advance(1)
        assert job_of(served, "Watching.watch")["problem"] is None  # it works again
        watching.waits = False
        watching.errors = []
        watching.go_on.set()
        await turns()


@pytest.mark.usefixtures("no_jitter")
async def test_the_backoff_begins_again_after_a_long_run(clock: pubsubtest.Clock) -> None:
    """One failure after a long run is not the third in a row."""

    class Flaky(Recorder):
        @background
        async def watch(self) -> None:
            self.runs.append(self.clock.time())
            if len(self.runs) == 3:
                await self.clock.sleep(61)
            raise ConnectionError("away")

    service = Flaky()
    service.clock = clock
    async with pubsubtest.serve(service, clock=clock) as served:
        await clock.advance(64.5)
        assert service.runs == [0, 1, 3]
        assert job_of(served, "Flaky.watch")["failures_in_a_row"] == 1
        assert job_of(served, "Flaky.watch")["problem"] is None
        await clock.advance(0.5)
        assert service.runs == [0, 1, 3, 65]


class _Heavy(Exception):
    """An error whose life a test watches."""


async def test_the_error_of_a_run_is_released(
    clock: pubsubtest.Clock, watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """The next run, which may last for months, does not keep the last error and its frames."""
    caplog.set_level(logging.CRITICAL, "gizmopy.server.jobs")  # pytest keeps the records
    error = _Heavy()
    alive = weakref.ref(error)
    watching.errors = [error]
    del error
    async with pubsubtest.serve(watching, clock=clock):
        await clock.advance(1)
        assert len(watching.runs) == 2
        gc.collect()
        assert alive() is None


async def test_a_return_is_an_end_on_purpose(
    clock: pubsubtest.Clock, watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that returns is not started again, and is healthy."""
    caplog.set_level(logging.INFO, "gizmopy.server.jobs")
    watching.waits = False
    async with pubsubtest.serve(watching, clock=clock) as served:
        await clock.advance(3600)
        assert watching.runs == [0]
        assert job_of(served, "Watching.watch")["state"] == "ended"
        assert job_of(served, "Watching.watch")["problem"] is None
        assert "job Watching.watch has ended: its method returned" in messages(caplog, logging.INFO)


@pytest.mark.usefixtures("no_jitter")
async def test_the_limits_of_the_backoff_are_options(clock: pubsubtest.Clock) -> None:
    """backoff is the first wait, max_backoff the longest."""
    service = Quick()
    service.clock = clock
    service.errors = [ValueError("no") for _ in range(6)]
    async with pubsubtest.serve(service, clock=clock):
        await clock.advance(10)
    rounded = [round(at, 6) for at in service.runs]
    assert rounded == [0, 0.1, 0.3, 0.7, 1.5, 2.5, 3.5]


@pytest.mark.parametrize("critical", [False, True])
async def test_repeated_failures_are_unhealthy(clock: pubsubtest.Clock, critical: bool) -> None:
    """Two failures in a row are reported; a critical job makes the daemon unready then."""

    class Failing(Recorder):
        @background(critical=critical)
        async def watch(self) -> None:
            raise ValueError("always")

    service = Failing()
    async with pubsubtest.serve(service, clock=clock) as served:
        await turns()
        async with served.http.get("/readyz") as response:
            assert response.status == 200
        await clock.advance(1)
        async with served.http.get("/readyz") as response:
            assert response.status == (503 if critical else 200)
        async with served.http.get("/readyz/Failing.watch") as response:
            assert (response.status, await response.text()) == (503, "failed\n")


async def test_a_library_that_cancels_is_a_failure(
    clock: pubsubtest.Clock, watching: Watching
) -> None:
    """A CancelledError that the drain did not cause is an error, and the job is restarted."""
    watching.errors = [asyncio.CancelledError()]
    async with pubsubtest.serve(watching, clock=clock):
        await clock.advance(1)
        assert len(watching.runs) == 2
