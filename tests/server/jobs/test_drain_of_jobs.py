"""The end of background work: after requests and messages, before the exit of lifespan."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import ClientSession

from gizmopy import Service, Settings, SimpleServer, background, every, get, subscribe
from gizmopy.observe.metrics import Metrics
from gizmopy.server import Phase, Stop
from gizmopy.server.jobs.declaration import collect_jobs
from gizmopy.server.jobs.record import Outcome
from gizmopy.server.jobs.run import Run
from gizmopy.server.jobs.runner import Jobs
from gizmopy.server.lifecycle.shutdown_budget import ShutdownBudget
from pubsubtest import Clock
from tests.server.jobs.support import messages, samples, turns
from tests.support import until

BOTH_LOOPS = True


class Pond(Service):
    """A service that records events; its job waits for ``go_on``."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.events: list[str] = []
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.queue: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.events.append("opened")
        yield
        self.events.append("closed")

    @background
    async def answer(self) -> None:
        self.events.append("answering")
        try:
            while True:
                (await self.queue.get()).set_result("answered")
        finally:
            await asyncio.sleep(0)
            self.events.append("flushed")

    @get("/ask")
    async def ask(self) -> str:
        self.started.set()
        await self.go_on.wait()
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self.queue.put(future)
        text = await future
        await self.publish("asked", text)
        return text

    @subscribe("asked")
    async def on_asked(self, text: str) -> None:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self.queue.put(future)
        self.events.append(f"handled {await future}")


def _settings(seconds: float = 18) -> Settings:
    timeout = timedelta(seconds=seconds)
    return Settings(http_port=0, http_access_log="off", shutdown_timeout=timeout)


async def test_background_work_outlives_requests_and_messages() -> None:
    """Requests and messages may need a job until they end; it ends before the resources close."""
    pond = Pond(_settings())
    async with ClientSession() as http:
        async with SimpleServer(pond) as server:
            asking = asyncio.create_task(http.get(f"{server.url}/ask"))
            await pond.started.wait()
            asyncio.get_running_loop().call_soon(pond.go_on.set)
        response = await asking
        assert await response.json() == "answered"
    assert pond.events == ["opened", "answering", "handled answered", "flushed", "closed"]
    assert server.exit_code == 0


class Periodic(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.events: list[str] = []
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.is_stubborn = False

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield
        self.events.append("closed")

    @every("20s", immediately=True)
    async def refresh(self) -> None:
        self.started.set()
        self.events.append("started")
        while not self.go_on.is_set():
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.events.append("cancelled")
                if not self.is_stubborn:
                    raise
        self.events.append("ended")


async def _stopping(
    service: Service, clock: Clock | None = None
) -> tuple[SimpleServer, asyncio.Task[int]]:
    """Serve, request the stop, and return when the daemon drains."""
    server = SimpleServer(service, clock=clock)
    serving = asyncio.create_task(server.serve(Stop()))
    await until(lambda: server.phase is Phase.READY)
    await turns()
    server.stop.request("test")
    await until(lambda: server.phase is Phase.STOPPING)
    return server, serving


async def test_a_run_in_progress_is_finished_and_no_other_begins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The drain waits for a run of @every, and begins none, whatever is due."""
    caplog.set_level(logging.INFO, "gizmopy.server.jobs")
    service = Periodic(_settings())
    clock = Clock()
    server, serving = await _stopping(service, clock)
    await clock.advance(90)
    service.go_on.set()
    assert await serving == 0
    assert service.events == ["started", "ended", "closed"]
    assert samples(server, "Periodic.refresh")["missed_runs_total"] == 0
    assert messages(caplog, logging.INFO)[-1] == "the background work has ended"


async def test_a_run_that_is_late_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """At the deadline a run is cancelled and counted, and the exit code is 70."""
    service = Periodic(_settings(0.02))
    server, serving = await _stopping(service)
    assert await serving == 70
    assert service.events == ["started", "cancelled", "closed"]
    assert "job Periodic.refresh did not end before the deadline, and is cancelled" in messages(
        caplog
    )
    assert server.application.jobs.describe()[0]["runs"]["cancelled"] == 1
    dropped = server.metrics.counter("gizmo_shutdown_dropped", "").child("jobs")
    assert dropped.value == 1


class Waiting(Service):
    """A job that takes a moment to end."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.go_on = asyncio.Event()
        self.events: list[str] = []

    @background
    async def watch(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.events.append("drains")
            await self.go_on.wait()
            self.events.append("ended")


async def test_a_job_may_use_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled job of @background may finish within the shutdown's time."""
    monkeypatch.setattr("gizmopy.server.jobs.runner.CANCEL_SECONDS", 0.001)
    service = Waiting(_settings())
    _, serving = await _stopping(service)
    await until(lambda: service.events == ["drains"])
    asyncio.get_running_loop().call_later(0.05, service.go_on.set)
    assert await serving == 0
    assert service.events == ["drains", "ended"]


async def test_a_second_signal_shortens_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hurried daemon waits for a job for the hurried time only, and exits with 70."""
    monkeypatch.setattr("gizmopy.server.jobs.runner.CANCEL_SECONDS", 0.01)
    monkeypatch.setattr("gizmopy.server.lifecycle.shutdown_budget.HURRIED_SECONDS", 0.01)
    service = Waiting(_settings())
    server, serving = await _stopping(service)
    await until(lambda: service.events == ["drains"])
    server.stop.request("test")
    await until(lambda: server.exit_code == 70)
    service.go_on.set()
    assert await serving == 70


async def test_a_job_that_ignores_its_cancellation_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not hold up the exit: the log names it, and the exit code is 70."""
    monkeypatch.setattr("gizmopy.server.jobs.runner.CANCEL_SECONDS", 0.01)
    service = Periodic(_settings(0.02))
    service.is_stubborn = True
    server, serving = await _stopping(service)
    assert await serving == 70
    assert service.events[-1] == "closed"
    assert messages(caplog)[-1] == "job Periodic.refresh ignores its cancellation and still runs"
    dropped = server.metrics.counter("gizmo_shutdown_dropped", "").child("jobs")
    assert dropped.value == 1
    service.go_on.set()
    await until(lambda: service.events[-1] == "ended")


async def test_an_error_in_the_drain_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A job that raises while it ends has failed, and is not started again."""

    class Failing(Service):
        @background
        async def watch(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("cannot flush")

    _, serving = await _stopping(Failing(_settings()))
    assert await serving == 0
    assert messages(caplog) == [
        "job Failing.watch failed: ValueError: cannot flush; the daemon drains"
    ]


async def test_a_job_in_its_backoff_does_not_hold_up_the_drain() -> None:
    """A drain ends the wait before a restart."""
    starts = []

    class Failing(Service):
        @background(backoff="1h", max_backoff="1h")
        async def watch(self) -> None:
            starts.append(1)
            raise ValueError("no")

    _, serving = await _stopping(Failing(_settings()))
    async with asyncio.timeout(5):
        assert await serving == 0
    assert starts == [1]


async def test_a_start_that_fails_runs_no_job() -> None:
    """Jobs begin as the last step of the start."""
    runs: list[Any] = []

    class Wrong(Service):
        @every("1h", immediately=True)
        async def refresh(self) -> None:
            runs.append(1)

        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            raise ConnectionError("no database")
            yield

    with pytest.raises(ConnectionError):
        async with SimpleServer(Wrong(_settings())):
            pass
    assert not runs


async def test_the_budget_has_a_part_for_jobs(caplog: pytest.LogCaptureFixture) -> None:
    """A daemon with jobs may take a second longer, and says so at its start."""
    caplog.set_level(logging.INFO, "gizmopy.server")
    for kind, seconds in ((Waiting, 24.5), (Service, 23.5)):
        caplog.clear()
        service = kind(_settings())
        async with SimpleServer(service):
            if isinstance(service, Waiting):
                service.go_on.set()
        texts = [record.getMessage() for record in caplog.records]
        assert f"a shutdown takes at most {seconds} s if its brokers answer" in texts
        assert ("job Waiting.watch runs in the background" in texts) == (kind is Waiting)


async def test_jobs_can_be_drained_at_once() -> None:
    """A drain ends jobs that nothing has stopped before, such as after a start that fails."""
    service = Periodic()
    jobs = Jobs(collect_jobs(service), Metrics(), Clock())
    jobs.start()
    await service.started.wait()
    service.go_on.set()
    async with asyncio.timeout(5):
        assert await jobs.drain(ShutdownBudget(_settings(), Stop())) == 0
    assert service.events == ["started", "ended"]


async def test_jobs_that_never_started_are_drained() -> None:
    """A start that fails before its last step has nothing to end."""
    jobs = Jobs(collect_jobs(Periodic()), Metrics(), Clock())
    assert await jobs.drain(ShutdownBudget(_settings(), Stop())) == 0


async def test_a_time_limit_is_no_drain() -> None:
    """A run that is cancelled by its time limit has timed out, also if the drain comes next."""
    clock = Clock()
    run = Run("job", asyncio.Event().wait, clock, timeout=5)
    await turns()
    clock.call_at(5, run.cancel)
    await clock.advance(5)
    outcome, error = await run.result()
    assert outcome is Outcome.TIMEOUT
    assert str(error) == "it took longer than timeout=5 s"
