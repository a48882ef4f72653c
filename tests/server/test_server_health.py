"""Whether the daemon lives and is ready."""

import asyncio

import pytest

import pubsubtest
from gizmopy import Service, Settings, get, health_check
from gizmopy.errors import DeclarationError
from gizmopy.server import State
from gizmopy.server.health import Health, collect_health_checks


class Ill(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.failing: set[str] = set()

    def _check(self, name: str) -> None:
        if name in self.failing:
            raise ConnectionError("postgres://user:hunter2@db is away")

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


async def _get(served: pubsubtest.Served[Ill], path: str) -> tuple[int, str]:
    async with served.http.get(path) as response:
        return response.status, await response.text()


async def test_a_well_daemon_says_so() -> None:
    """All probes are green; status.txt has Gizmo's words."""
    async with pubsubtest.serve(Ill) as served:
        assert await _get(served, "/livez") == (200, "ok\n")
        assert await _get(served, "/readyz") == (200, "ok\n")
        assert await _get(served, "/status.txt") == (200, "ok-ill")


async def test_a_critical_check_makes_it_unready_but_not_dead() -> None:
    """A failing critical check is red on /readyz, by name alone, and never on /livez."""
    async with pubsubtest.serve(Ill) as served:
        served.service.failing = {"database", "slow", "cache"}

        status, text = await _get(served, "/readyz")
        assert status == 503
        assert text == "not ready: database failed, slow timed out\n"
        assert await _get(served, "/status.txt") == (503, "service unavailable")
        assert (await _get(served, "/livez"))[0] == 200


async def test_a_check_that_is_not_critical_only_reports() -> None:
    """A shared dependency that is away does not take every replica out of service."""
    async with pubsubtest.serve(Ill) as served:
        served.service.failing = {"cache"}

        assert await _get(served, "/readyz") == (200, "ok\n")
        report = "cache: cache failed\ndatabase: ok\nslow: ok\nok\n"
        assert await _get(served, "/readyz?verbose") == (200, report)


async def test_the_report_names_every_check() -> None:
    """report() tells each check's state, critical or not, without the error's text."""
    service = Ill()
    service.failing = {"cache"}
    report = await Health(collect_health_checks(service)).report()

    assert report == [("cache", "cache failed"), ("database", "ok"), ("slow", "ok")]


async def test_it_is_not_ready_before_it_accepts() -> None:
    """A daemon that starts or drains is not ready, whatever its checks say."""
    health = Health([])

    assert await health.problems() == ["starting"]
    health.accepting = True
    assert await health.problems() == []


def test_a_check_takes_no_arguments() -> None:
    """A check with an argument fails when the service is read, with its name."""

    class Wrong(Service):
        @health_check
        async def check(self, database: str) -> None: ...

    with pytest.raises(DeclarationError, match=r"Wrong\.check: a health check takes no arguments"):
        collect_health_checks(Wrong())


async def test_a_services_own_route_beats_a_built_in_one() -> None:
    """A service may answer /status.txt itself, and move the others by settings."""

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


async def test_it_is_red_while_it_drains() -> None:
    """During the drain delay, readiness is red, requests are served, and connections close."""
    settings = Settings(http_port=0, http_access_log="off", drain_delay=30)
    async with pubsubtest.serve(Ill, settings=settings) as served:

        async def look() -> tuple[tuple[int, str], tuple[int, str], str]:
            while served.server.state is not State.DRAINING:  # noqa: ASYNC110 -- no event tells
                await asyncio.sleep(0)
            ready, alive = await _get(served, "/readyz"), await _get(served, "/livez")
            async with served.http.get("/livez") as response:
                connection = response.headers["Connection"]
            served.server.stop.hurried.set()  # nobody wants to wait 30 s
            return ready, alive, connection

        looking = asyncio.create_task(look())

    assert await looking == ((503, "not ready: draining\n"), (200, "ok\n"), "close")
