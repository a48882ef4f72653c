"""Liveness, readiness, and the health checks behind them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import pubsubtest
from gizmopy import Service, Settings, get, health_check
from gizmopy.errors import DeclarationError
from gizmopy.server import Phase
from gizmopy.server.health import checks as health_module
from gizmopy.server.health.checks import Health, HealthCheck, collect_health_checks
from tests.server.health.support import problems, report


class Check:
    """A check that fails, waits and ignores cancellation as a test wants, and counts its runs."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.held: asyncio.Event | None = None
        self.stubborn = False
        self.runs = 0
        self.ended = asyncio.Event()

    async def __call__(self) -> None:
        self.runs += 1
        try:
            await self._wait()
            if self.error is not None:
                raise self.error
        finally:
            self.ended.set()

    async def _wait(self) -> None:
        while self.held is not None and not self.held.is_set():
            try:
                await self.held.wait()
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise


def named(name: str, function: Callable[[], Awaitable[None]], **options: Any) -> HealthCheck:
    """Return a critical check with a long timeout, unless ``options`` differ."""
    return HealthCheck(name, function, **{"critical": True, "timeout": 30.0, **options})


@asynccontextmanager
async def entered(
    *checks: HealthCheck, clock: pubsubtest.Clock | None = None
) -> AsyncIterator[Health]:
    """Enter the health of a daemon that accepts work; advancing the clock refreshes it."""
    clock = clock or pubsubtest.Clock()
    async with Health(checks, clock=clock.time, sleep=clock.sleep) as health:
        health.accepting = True
        yield health


class Unhealthy(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.failing: set[str] = set()

    def _check(self, name: str) -> None:
        if name in self.failing:
            raise ConnectionError("postgres://user:hunter2@db is down")

    @health_check(critical=True)
    async def database(self) -> None:
        self._check("database")

    @health_check
    async def cache(self) -> None:
        self._check("cache")

    @health_check(critical=True, timeout=0.01)
    async def slow(self) -> None:
        if "slow" in self.failing:
            await asyncio.Event().wait()


async def _get(served: pubsubtest.Served[Unhealthy], path: str) -> tuple[int, str]:
    async with served.http.get(path) as response:
        return response.status, await response.text()


async def _until(served: pubsubtest.Served[Unhealthy], path: str, text: str) -> int:
    """Send requests until the response contains ``text``, and return its status."""
    async with asyncio.timeout(10):
        while True:
            status, answer = await _get(served, path)
            if text in answer:
                return status


SETTINGS = Settings(http_port=0, http_access_log="off", health_interval=0.01)


async def test_a_healthy_daemon_passes_every_probe() -> None:
    """All probes answer 200; status.txt has the text of Gizmo."""
    async with pubsubtest.serve(Unhealthy) as served:
        assert await _get(served, "/livez") == (200, "ok\n")
        assert await _get(served, "/readyz") == (200, "ok\n")
        assert await _get(served, "/status.txt") == (200, "ok-unhealthy")


async def test_a_failing_critical_check_fails_readiness_only() -> None:
    """/readyz answers 503 with the check's name; /livez does not change."""
    async with pubsubtest.serve(Unhealthy, settings=SETTINGS) as served:
        served.service.failing = {"database", "slow", "cache"}

        expected = "not ready: database failed, slow timed out\n"
        assert await _until(served, "/readyz", expected) == 503
        assert await _get(served, "/status.txt") == (503, "service unavailable")
        assert (await _get(served, "/livez"))[0] == 200


async def test_a_check_that_is_not_critical_is_only_reported() -> None:
    """An outage of a shared dependency does not take every replica out of service."""
    async with pubsubtest.serve(Unhealthy, settings=SETTINGS) as served:
        served.service.failing = {"cache"}

        assert await _until(served, "/readyz?verbose", "cache failed") == 200
        assert await _get(served, "/readyz") == (200, "ok\n")


async def test_a_daemon_that_does_not_accept_work_is_not_ready() -> None:
    """A daemon that starts or drains is not ready, whatever its checks return."""
    health = Health([])

    assert await problems(health) == ["starting"]
    health.accepting = True
    assert await problems(health) == []


def test_a_check_takes_no_arguments() -> None:
    """The error names a check with an argument, when the service is read."""

    class Wrong(Service):
        @health_check
        async def check(self, database: str) -> None: ...

    with pytest.raises(DeclarationError, match=r"Wrong\.check: a health check takes no arguments"):
        collect_health_checks(Wrong())


def test_a_timeout_of_zero_is_refused() -> None:
    """With timeout=0 every run would time out."""

    class Wrong(Service):
        @health_check(timeout=0)
        async def check(self) -> None: ...

    with pytest.raises(DeclarationError, match=r"Wrong\.check: timeout=0 lets no check pass"):
        collect_health_checks(Wrong())


def test_an_unknown_group_is_refused() -> None:
    """A misspelt group would count always, or never."""

    class Wrong(Service):
        @health_check(group="start")  # type: ignore[call-overload,untyped-decorator]  # the mistake
        async def check(self) -> None: ...

    with pytest.raises(
        DeclarationError, match=r"group='start' is unknown; use 'ready' or 'startup'"
    ):
        collect_health_checks(Wrong())


def test_the_options_of_the_decorator_are_kept() -> None:
    """Criticality, timeout and group have defaults."""

    class Right(Service):
        @health_check(critical=True, timeout=5.0, group="startup")
        async def a(self) -> None: ...

        @health_check
        async def b(self) -> None: ...

    found = [(c.name, c.critical, c.timeout, c.group) for c in collect_health_checks(Right())]
    assert found == [("a", True, 5.0, "startup"), ("b", False, 2.0, "ready")]


async def test_a_probe_is_answered_from_the_last_results() -> None:
    """Checks run once for each interval, independent of the number of probes."""
    clock, check = pubsubtest.Clock(), Check()
    async with entered(named("database", check), clock=clock) as health:
        assert await problems(health) == []
        check.error = ConnectionError()
        await clock.advance(9)
        assert (check.runs, await problems(health)) == (1, [])
        await clock.advance(1)
        assert (check.runs, await problems(health)) == (2, ["database failed"])


async def test_the_first_probe_waits_for_the_first_run() -> None:
    """There is no result of a check before it has run."""
    check = Check()
    check.held = asyncio.Event()
    async with entered(named("database", check)) as health:
        probe = asyncio.create_task(problems(health))
        await pubsubtest.Clock().advance(0)
        assert not probe.done()
        check.held.set()
        assert await probe == []


async def test_a_probe_does_not_wait_while_the_daemon_refuses_work() -> None:
    """While it starts or drains, the answer does not depend on the checks."""
    check = Check()
    check.held = asyncio.Event()
    async with entered(named("database", check)) as health:
        health.accepting, health.reason = False, "draining"
        assert await problems(health) == ["draining"]
        assert await report(health) == [("database", "database not run yet")]


async def test_a_check_that_ignores_its_cancellation_delays_no_other() -> None:
    """It times out and is not started again, and the others are refreshed as before."""
    clock, stubborn, other = pubsubtest.Clock(), Check(), Check()
    stubborn.held, stubborn.stubborn = asyncio.Event(), True
    checks = named("stubborn", stubborn, timeout=0.01), named("other", other)
    async with entered(*checks, clock=clock) as health:
        assert await problems(health) == ["stubborn timed out"]
        await clock.advance(20)
        assert (stubborn.runs, other.runs) == (1, 3)
        stubborn.held.set()
        await stubborn.ended.wait()
        await clock.advance(10)
        assert (stubborn.runs, await problems(health)) == (2, [])


async def test_a_check_that_survives_the_end_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the daemon does not wait for it for long."""
    monkeypatch.setattr(health_module, "_END_SECONDS", 0.01)
    stubborn = Check()
    stubborn.held, stubborn.stubborn = asyncio.Event(), True
    async with entered(named("stubborn", stubborn, timeout=0.01)) as health:
        await problems(health)
    assert "health check stubborn ignores its cancellation and still runs" in caplog.messages
    stubborn.held.set()
    await stubborn.ended.wait()


async def test_the_end_cancels_running_checks() -> None:
    """A check that runs does not delay the end of the daemon."""
    check, clock = Check(), pubsubtest.Clock()
    check.held = asyncio.Event()
    async with entered(named("database", check), clock=clock):
        await clock.advance(0)
        assert not check.ended.is_set()
    assert check.ended.is_set()


async def test_a_startup_check_counts_until_it_has_passed() -> None:
    """It runs each second, and not again after it has passed."""
    clock, warm = pubsubtest.Clock(), Check()
    warm.error = ConnectionError()
    async with entered(named("warm", warm, group="startup"), clock=clock) as health:
        assert await problems(health) == ["warm failed"]
        warm.error = None
        await clock.advance(1)
        assert (warm.runs, await problems(health)) == (2, [])
        warm.error = ConnectionError()
        await clock.advance(30)
        assert (warm.runs, await problems(health)) == (2, [])


async def test_a_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A check that still fails, or still passes, logs nothing more."""
    caplog.set_level(logging.INFO)
    clock, check = pubsubtest.Clock(), Check()
    async with entered(named("database", check), clock=clock):
        for check.error in (None, OSError("down"), TimeoutError("late"), OSError("down"), None):
            await clock.advance(10)
        await clock.advance(20)
    assert caplog.messages == [
        "health check database failed: OSError: down",
        "health check database passes again",
    ]


async def test_a_check_on_demand_runs_for_each_probe() -> None:
    """Its result is never out of date."""
    check = Check()
    async with entered(named("brokers", check, on_demand=True)) as health:
        assert await problems(health) == []
        check.error = ConnectionError()
        assert await problems(health) == ["brokers failed"]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (TimeoutError(), "timed out"),
        (ValueError(), "failed"),
        (asyncio.CancelledError(), "failed"),
    ],
)
async def test_any_exception_fails_a_check(error: BaseException, failure: str) -> None:
    """A CancelledError of a library ends neither the check nor the others."""
    clock, check = pubsubtest.Clock(), Check()
    async with entered(named("database", check), clock=clock) as health:
        check.error = error
        await clock.advance(10)
        assert await problems(health) == [f"database {failure}"]
        check.error = None
        await clock.advance(10)
        assert await problems(health) == []


async def test_two_checks_of_one_name_both_count() -> None:
    """A service's check may have the name of a subscription's; neither hides the other."""
    ill, well = Check(), Check()
    ill.error = ConnectionError()
    async with entered(named("brokers", ill), named("brokers", well)) as health:
        assert await problems(health) == ["brokers failed"]
        assert await report(health) == [("brokers", "brokers failed"), ("brokers", "ok")]


async def test_no_check_runs_before_the_daemon_is_started() -> None:
    """A probe during the start neither runs a check nor waits for one."""
    check = Check()
    health = Health([named("database", check)])
    assert await problems(health) == ["starting"]
    assert await report(health) == [("database", "database not run yet")]
    assert check.runs == 0


async def test_a_route_of_the_service_overrides_a_built_in_one() -> None:
    """A service may answer /status.txt itself, and move other built-in paths by settings."""

    class Own(Service):
        @get("/status.txt")
        async def status(self) -> str:
            return "mine"

    settings = Settings(http_port=0, http_access_log="off", metrics_path="/own/metrics")
    async with pubsubtest.serve(Own, settings=settings) as served:
        async with served.http.get("/status.txt") as response:
            assert await response.json() == "mine"
        async with served.http.get("/own/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        async with served.http.get("/metrics") as response:
            assert response.status == 404


async def test_readiness_fails_during_the_drain() -> None:
    """During the drain delay requests are served, and connections are closed."""
    settings = Settings(http_port=0, http_access_log="off", drain_delay=30)
    async with pubsubtest.serve(Unhealthy, settings=settings) as served:

        async def look() -> tuple[tuple[int, str], tuple[int, str], str]:
            while served.server.phase is not Phase.DRAINING:  # noqa: ASYNC110 -- there is no event
                await asyncio.sleep(0)
            ready, alive = await _get(served, "/readyz"), await _get(served, "/livez")
            async with served.http.get("/livez") as response:
                connection = response.headers["Connection"]
            served.server.stop.hurried.set()  # not to wait for 30 s
            return ready, alive, connection

        looking = asyncio.create_task(look())

    assert await looking == ((503, "not ready: draining\n"), (200, "ok\n"), "close")
