"""Answer health probes of Kubernetes, load balancers and people.

``/livez`` reports only whether the event loop runs, and no dependency: a restart of the process
does not repair its database. ``/readyz`` and Gizmo's ``/status.txt`` answer 503 while the daemon
starts or drains, and while a critical check fails. The other paths are for platforms that reserve
paths ending in z, such as Cloud Run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime

from aiohttp import web

from gizmopy.config import Settings
from gizmopy.server.health.checks import CheckResult, Health
from gizmopy.web import Handler, Problem

CONTENT_TYPE = "application/health+json"
"""The content type of health as JSON (draft-inadarei-api-health-check)."""

OnPoll = Callable[[str, bool], object]
"""Called with the address of a client that polls readiness, and whether the response is healthy."""

_JSON = {CONTENT_TYPE, "application/json"}
_HEADERS = {"Cache-Control": "no-store"}


def probe_endpoints(
    name: str,
    version: str,
    settings: Settings,
    health: Health,
    seconds_since_heartbeat: Callable[[], float],
    on_poll: OnPoll | None = None,
) -> Iterator[tuple[str, Handler]]:
    """Yield the path and handler of each probe; all of them answer GET.

    ``seconds_since_heartbeat`` returns the time since the event loop last ran. ``on_poll`` is
    called with each response about readiness as a whole, except for requests with the query
    ``?deployer``. With the ``custom`` type, the service itself serves the health check's path.
    """
    stall = settings.liveness_stall.total_seconds()
    probes = _Probes(name, version, health, seconds_since_heartbeat, stall, on_poll)
    handlers: dict[str, Handler] = {
        "/livez": probes.livez,
        "/readyz": probes.readyz,
        "/readyz/{name:.*}": probes.one_check,
        "/healthz": probes.status,
        "/health": probes.readyz,
        "/health/ready": probes.readyz,
        "/health/live": probes.livez,
        settings.health_check_path: probes.status,  # it may replace one of the above
    }
    if settings.health_check_type == "custom":
        del handlers[settings.health_check_path]
    yield from handlers.items()


class _Probes:
    """The handlers of the probes."""

    def __init__(
        self,
        name: str,
        version: str,
        health: Health,
        seconds_since_heartbeat: Callable[[], float],
        stall: float,
        on_poll: OnPoll | None,
    ) -> None:
        self._service = {"serviceId": name, "version": version}
        self._name = name
        self._health = health
        self._seconds_since_heartbeat = seconds_since_heartbeat
        self._stall = stall
        self._on_poll = on_poll

    async def livez(self, request: web.Request) -> web.Response:
        """Answer whether the event loop runs."""
        # The loop runs now, or there would be no response. It was blocked if its heartbeat, which
        # has not had its turn yet, is old.
        age = self._seconds_since_heartbeat()
        problems = [f"the event loop has not run for {age:.0f} s"] if age > self._stall else []
        text = "".join(problems) or "ok"
        return self._answer(request, f"{text}\n", problems)

    async def readyz(self, request: web.Request) -> web.Response:
        """Answer whether the daemon is ready; checks named by ``exclude`` do not count."""
        excluded = request.query.getall("exclude", [])
        results = await self._health.results()
        counted = [result for result in results if result.name not in excluded]
        problems = self._health.reasons(counted)
        self._report_poll(request, not problems)
        text = f"not ready: {', '.join(problems)}\n" if problems else "ok\n"
        if "verbose" in request.query:
            summary = text if problems else "readyz check passed\n"
            text = _verbose(results, excluded) + summary
        return self._answer(request, text, problems, counted)

    async def one_check(self, request: web.Request) -> web.Response:
        """Answer the result of one check, critical or not."""
        name = request.match_info["name"]
        results = [each for each in await self._health.results() if each.name == name]
        if not results:
            detail = f"Health check {name!r} does not exist; /readyz?verbose lists them all."
            raise Problem(404, detail, headers=_HEADERS)
        failures = [result.failure for result in results if result.failure]
        return self._answer(request, f"{', '.join(failures) or 'ok'}\n", failures, results)

    async def status(self, request: web.Request) -> web.Response:
        """Answer whether the daemon is ready, with the texts of Gizmo."""
        results = await self._health.results()
        problems = self._health.reasons(results)
        self._report_poll(request, not problems)
        text = "service unavailable" if problems else f"ok-{self._name}"
        return self._answer(request, text, problems, results)

    def _report_poll(self, request: web.Request, healthy: bool) -> None:
        if self._on_poll is not None and "deployer" not in request.query:
            self._on_poll(request.remote or "", healthy)

    def _answer(
        self,
        request: web.Request,
        text: str,
        problems: Sequence[str],
        results: Sequence[CheckResult] = (),
    ) -> web.Response:
        """Return ``text``, or health as JSON if the request accepts that."""
        status = 503 if problems else 200
        if not _accepts_json(request):
            return web.Response(status=status, text=text, headers=_HEADERS)
        headers = {**_HEADERS, "Content-Type": CONTENT_TYPE}
        body = json.dumps(self._members(problems, results)).encode()
        return web.Response(status=status, body=body, headers=headers)

    def _members(
        self, problems: Sequence[str], results: Sequence[CheckResult]
    ) -> dict[str, object]:
        """Return the members of health as JSON, without empty ones."""
        checks: dict[str, list[dict[str, str]]] = {}
        for result in results:
            checks.setdefault(result.name, []).append(_check(result))
        warn = any(result.failure for result in results)
        members = {
            "status": "fail" if problems else "warn" if warn else "pass",
            **self._service,
            "output": ", ".join(problems),
            "checks": checks,
        }
        return {name: value for name, value in members.items() if value}


def _check(result: CheckResult) -> dict[str, str]:
    """Return the members of one check."""
    failed = "fail" if result.critical else "warn"
    members = {
        "status": failed if result.failure else "pass",
        "time": datetime.fromtimestamp(result.time, UTC).isoformat(timespec="milliseconds"),
    }
    return {**members, "output": result.failure} if result.failure else members


def _verbose(results: Sequence[CheckResult], excluded: Collection[str]) -> str:
    """Return a line for each check, in the format of the API server of Kubernetes."""
    lines = [_line(result, result.name in excluded) for result in results]
    names = {result.name for result in results}
    if unknown := [json.dumps(name) for name in excluded if name not in names]:
        problem = "warn: some health checks cannot be excluded: no matches for"
        lines.append(f"{problem} {','.join(unknown)}\n")
    return "".join(lines)


def _line(result: CheckResult, excluded: bool) -> str:
    if excluded:
        return f"[+]{result.name} excluded: ok\n"
    if not result.failure:
        return f"[+]{result.name} ok\n"
    return f"[-]{result.name} {result.failure}{'' if result.critical else ' (not critical)'}\n"


def _accepts_json(request: web.Request) -> bool:
    accepted = ",".join(request.headers.getall("Accept", []))
    return any(each.split(";")[0].strip().lower() in _JSON for each in accepted.split(","))
