"""The answers to health probes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, web

from gizmopy import Settings
from gizmopy.server.health.checks import Health, HealthCheck
from gizmopy.server.health.probes import OnPoll, probe_endpoints
from gizmopy.web import Handler, Problem, Request
from gizmopy.web.problems import problem_response
from gizmopy.web.router import RouteNotFound, Router
from tests.support import request_factory

READINESS = ("/readyz", "/status.txt", "/healthz", "/health", "/health/ready")
LIVENESS = ("/livez", "/health/live")


async def passing() -> None:
    """Pass."""


async def failing() -> None:
    """Fail, with a secret in the error's text."""
    raise ConnectionError("postgres://user:hunter2@db is down")


async def late() -> None:
    """Time out, with a secret in the error's text."""
    raise TimeoutError("postgres://user:hunter2@db is down")


def check(name: str, function: Callable[[], Awaitable[None]], critical: bool = True) -> HealthCheck:
    """Return a check that runs for each probe."""
    return HealthCheck(name, function, critical, timeout=1.0, on_demand=True)


class Answer:
    """A response and its body."""

    def __init__(self, response: Any, body: bytes) -> None:
        self.status: int = response.status
        self.headers = response.headers
        self.text = body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Probed:
    """Probes on a test server, and a client for them."""

    def __init__(self, *checks: HealthCheck) -> None:
        self.health = Health(checks)
        self.health.accepting = True
        self.seconds_since_heartbeat = 0.0
        self.http: ClientSession

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        async with self.http.request(method, path, headers=headers) as response:
            return Answer(response, await response.read())

    async def json(self, path: str) -> Any:
        answer = await self.ask(path, Accept="application/json")
        return answer.json

    def endpoints(self, settings: Settings, on_poll: OnPoll | None = None) -> dict[str, Handler]:
        endpoints = probe_endpoints(
            "cats", "1.2.3", settings, self.health, lambda: self.seconds_since_heartbeat, on_poll
        )
        return dict(endpoints)


@asynccontextmanager
async def serving(
    probed: Probed, *, settings: Settings | None = None, on_poll: OnPoll | None = None
) -> AsyncIterator[Probed]:
    """Serve probes on loopback."""
    router: Router[Handler] = Router()
    for path, handler in probed.endpoints(settings or Settings(), on_poll).items():
        router.add("GET", path, handler)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, Request)
        try:
            handler, values = router.match(request.method, request.rel_url.raw_path)
            request.path_parameters = values
            return await handler(request)
        except RouteNotFound:
            return web.Response(status=404)
        except Problem as problem:
            return problem_response(problem)

    server = web.Server(handle, request_factory=request_factory(0))
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with probed.health, ClientSession(f"http://{host}:{port}") as probed.http:
            yield probed
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("path", LIVENESS)
async def test_liveness_does_not_depend_on_checks(path: str) -> None:
    """Liveness passes while a critical check fails, and during the drain."""
    async with serving(Probed(check("database", failing))) as probed:
        probed.health.accepting, probed.health.reason = False, "draining"
        answer = await probed.ask(path)
        assert (answer.status, answer.text) == (200, "ok\n")


@pytest.mark.parametrize("path", LIVENESS)
async def test_liveness_fails_while_the_loop_is_blocked(path: str) -> None:
    """It fails if the last heartbeat is older than the setting allows."""
    async with serving(Probed(), settings=Settings(liveness_stall=5)) as probed:
        probed.seconds_since_heartbeat = 5.0
        assert (await probed.ask(path)).status == 200
        probed.seconds_since_heartbeat = 5.1
        answer = await probed.ask(path)
        assert (answer.status, answer.text) == (503, "the event loop has not run for 5 s\n")


@pytest.mark.parametrize("path", READINESS)
async def test_readiness_counts_only_critical_checks(path: str) -> None:
    """A failing check that is not critical does not count."""
    async with serving(
        Probed(check("database", passing), check("cache", failing, False))
    ) as probed:
        assert (await probed.ask(path)).status == 200
        probed.health.accepting = False
        assert (await probed.ask(path)).status == 503
    async with serving(Probed(check("database", failing))) as probed:
        assert (await probed.ask(path)).status == 503


@pytest.mark.parametrize("path", ["/status.txt", "/healthz"])
async def test_status_has_the_texts_of_gizmo(path: str) -> None:
    """A program that parses Gizmo's answers can parse ours."""
    async with serving(Probed()) as probed:
        assert (await probed.ask(path)).text == "ok-cats"
        probed.health.accepting = False
        assert (await probed.ask(path)).text == "service unavailable"


@pytest.mark.parametrize("reason", ["starting", "draining"])
async def test_readyz_says_why_the_daemon_is_not_ready(reason: str) -> None:
    """It names the phase, or the checks that fail, without their errors."""
    async with serving(Probed(check("database", failing), check("disk", late))) as probed:
        assert (await probed.ask("/readyz")).text == "not ready: database failed, disk timed out\n"
        probed.health.accepting, probed.health.reason = False, reason
        assert (await probed.ask("/readyz")).text == f"not ready: {reason}\n"


async def test_verbose_has_a_line_for_each_check() -> None:
    """The format is that of the API server of Kubernetes, with the summary last."""
    checks = check("database", passing), check("cats/mine", failing, False), check("disk", late)
    async with serving(Probed(*checks)) as probed:
        assert (await probed.ask("/readyz?verbose")).text == (
            "[+]database ok\n"
            "[-]cats/mine failed (not critical)\n"
            "[-]disk timed out\n"
            "not ready: disk timed out\n"
        )
    async with serving(Probed(check("database", passing))) as probed:
        answer = await probed.ask("/readyz?verbose")
        assert answer.text == "[+]database ok\nreadyz check passed\n"


async def test_excluded_checks_do_not_count() -> None:
    """exclude= is repeatable; an unknown name is reported, in JSON form."""
    async with serving(Probed(check("database", failing), check("disk", late))) as probed:
        assert (await probed.ask("/readyz?exclude=disk")).status == 503
        both = "/readyz?exclude=disk&exclude=database"
        assert (await probed.ask(both)).text == "ok\n"
        answer = await probed.ask(f"{both}&exclude=x&exclude=%0Ay&verbose")
        assert (answer.status, answer.text) == (
            200,
            "[+]database excluded: ok\n"
            "[+]disk excluded: ok\n"
            'warn: some health checks cannot be excluded: no matches for "x","\\ny"\n'
            "readyz check passed\n",
        )
        probed.health.accepting = False
        assert (await probed.ask(both)).status == 503


async def test_one_check_has_a_path_of_its_own() -> None:
    """It may be critical or not; its name may contain slashes and spaces."""
    checks = (
        check("database", passing),
        check("cats/mine order", failing, False),
        check("disk", late),
    )
    async with serving(Probed(*checks)) as probed:
        for name, status, text in (
            ("database", 200, "ok\n"),
            ("cats/mine%20order", 503, "failed\n"),
            ("cats%2Fmine%20order", 503, "failed\n"),
            ("disk", 503, "timed out\n"),
        ):
            answer = await probed.ask(f"/readyz/{name}")
            assert (answer.status, answer.text) == (status, text)


async def test_a_check_that_does_not_exist_is_not_found() -> None:
    """The problem names the check, and the path that lists all names."""
    async with serving(Probed()) as probed:
        answer = await probed.ask("/readyz/databse")
        assert answer.status == 404
        assert answer.json["detail"] == (
            "Health check 'databse' does not exist; /readyz?verbose lists them all."
        )


@pytest.mark.parametrize("accept", ["application/health+json", "text/plain, Application/JSON;q=1"])
async def test_health_is_json_if_the_client_accepts_it(accept: str) -> None:
    """It has the members of the IETF's draft, and no text of an error."""
    checks = check("database", passing), check("cache", failing, False)
    probed = Probed(*checks)
    probed.health = Health(checks, clock=lambda: 86400.25)
    probed.health.accepting = True
    async with serving(probed):
        answer = await probed.ask("/readyz", Accept=accept)
        assert answer.headers["Content-Type"] == "application/health+json"
        time = "1970-01-02T00:00:00.250+00:00"
        assert answer.json == {
            "status": "warn",
            "serviceId": "cats",
            "version": "1.2.3",
            "checks": {
                "database": [{"status": "pass", "time": time}],
                "cache": [{"status": "warn", "time": time, "output": "failed"}],
            },
        }


async def test_health_as_json_has_the_same_results() -> None:
    """The status is pass, warn or fail; two checks with one name are both shown."""
    async with serving(Probed(check("a", failing), check("a", passing))) as probed:
        answer = await probed.ask("/health", Accept="application/json")
        assert (answer.status, answer.json["status"]) == (503, "fail")
        assert [each["status"] for each in answer.json["checks"]["a"]] == ["fail", "pass"]
        assert answer.json["output"] == "a failed"
        assert (await probed.json("/livez"))["status"] == "pass"
        assert (await probed.json("/status.txt"))["status"] == "fail"
        assert (await probed.json("/health?exclude=a"))["status"] == "pass"


@pytest.mark.parametrize("path", [*READINESS, *LIVENESS, "/readyz/database", "/readyz/none"])
async def test_no_answer_is_cached_or_contains_an_error(path: str) -> None:
    """A cache would hide that the daemon is down; the text of an error may contain a password."""
    async with serving(Probed(check("database", failing))) as probed:
        for accept in ("*/*", "application/json"):
            answer = await probed.ask(f"{path}?verbose", Accept=accept)
            assert answer.headers["Cache-Control"] == "no-store"
            assert "hunter2" not in answer.text


async def test_head_is_answered_as_get_without_a_body() -> None:
    """Some load balancers send HEAD."""
    async with serving(Probed(check("database", failing))) as probed:
        answer = await probed.ask("/readyz", "HEAD")
        assert (answer.status, answer.text) == (503, "")
        assert (await probed.ask("/livez", "HEAD")).status == 200


async def test_each_poll_of_readiness_is_reported() -> None:
    """on_poll gets the client's address; not for ?deployer, and not for other probes."""
    polls: list[tuple[str, bool]] = []
    probed = Probed(check("database", passing))
    async with serving(probed, on_poll=lambda *each: polls.append(each)):
        for path in READINESS:
            await probed.ask(path)
            await probed.ask(f"{path}?deployer")
        assert polls == [("127.0.0.1", True)] * len(READINESS)
        for path in (*LIVENESS, "/readyz/database"):
            await probed.ask(path)
        probed.health.accepting = False
        await probed.ask("/status.txt")
        assert polls[len(READINESS) :] == [("127.0.0.1", False)]


async def test_the_health_check_may_have_the_path_of_another_probe() -> None:
    """The configured one wins, and no path exists twice."""
    settings = Settings(health_check_path="/healthz")
    endpoints = [path for path, _ in probe_endpoints("cats", "", settings, Health([]), float)]
    assert sorted(set(endpoints)) == sorted(endpoints)
    async with serving(Probed(), settings=Settings(health_check_path="/health")) as probed:
        assert (await probed.ask("/health")).text == "ok-cats"
        assert (await probed.ask("/status.txt")).status == 404


@pytest.mark.parametrize("path", ["/status.txt", "/healthz"])
async def test_a_service_may_serve_the_health_check_itself(path: str) -> None:
    """With the custom type that path is the service's; the other probes stay."""
    settings = Settings(health_check_path=path, health_check_type="custom")
    async with serving(Probed(), settings=settings) as probed:
        assert (await probed.ask(path)).status == 404
        assert (await probed.ask("/readyz")).status == 200
