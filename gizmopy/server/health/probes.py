"""Answer those who ask for the daemon's health: Kubernetes, load balancers, people.

``/livez`` never looks at what the daemon depends on: restarting a process does not mend its
database. ``/readyz`` and Gizmo's ``/status.txt`` are red while the daemon starts or drains, and
while a critical check fails. The other paths are for platforms that keep paths ending in z to
themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime

from aiohttp import web

from gizmopy.config import Settings
from gizmopy.server.health.checks import Health, Result
from gizmopy.web import Handler, Problem

CONTENT_TYPE = "application/health+json"
"""The content type of health as JSON (draft-inadarei-api-health-check)."""

OnStatus = Callable[[str, bool], object]
"""Called with the address that asked whether the daemon is ready, and what it is told."""

_JSON = {CONTENT_TYPE, "application/json"}
_HEADERS = {"Cache-Control": "no-store"}


def probe_endpoints(
    name: str,
    version: str,
    settings: Settings,
    health: Health,
    beat_age: Callable[[], float],
    on_status: OnStatus | None = None,
) -> Iterator[tuple[str, Handler]]:
    """Yield the path and handler of each probe; all of them answer GET.

    ``beat_age`` returns the seconds since the event loop was last seen running. ``on_status`` is
    told each answer about readiness as a whole, but for requests with the query ``?deployer``. With
    the ``custom`` type, the path of the health check is left to the service.
    """
    stall = settings.liveness_stall.total_seconds()
    probes = _Probes(name, version, health, beat_age, stall, on_status)
    handlers: dict[str, Handler] = {
        "/livez": probes.livez,
        "/readyz": probes.readyz,
        "/readyz/{name:.*}": probes.one_check,
        "/healthz": probes.status,
        "/health": probes.readyz,
        "/health/ready": probes.readyz,
        "/health/live": probes.livez,
        settings.health_check_path: probes.status,  # one of the above, it may be
    }
    if settings.health_check_type == "custom":
        del handlers[settings.health_check_path]
    yield from handlers.items()


class _Probes:
    """What the probes have in common."""

    def __init__(
        self,
        name: str,
        version: str,
        health: Health,
        beat_age: Callable[[], float],
        stall: float,
        on_status: OnStatus | None,
    ) -> None:
        self._service = {"serviceId": name, "version": version}
        self._name = name
        self._health = health
        self._beat_age = beat_age
        self._stall = stall
        self._on_status = on_status

    async def livez(self, request: web.Request) -> web.Response:
        """Say whether the event loop runs."""
        age = self._beat_age()
        problems = [f"the event loop stood still for {age:.0f} s"] if age > self._stall else []
        text = "".join(problems) or "ok"
        return self._answer(request, f"{text}\n", problems)

    async def readyz(self, request: web.Request) -> web.Response:
        """Say whether the daemon wants work; checks named by ``exclude`` do not count."""
        excluded = request.query.getall("exclude", [])
        results = await self._health.results()
        counted = [result for result in results if result.name not in excluded]
        problems = self._health.reasons(counted)
        self._tell(request, not problems)
        text = f"not ready: {', '.join(problems)}\n" if problems else "ok\n"
        if "verbose" in request.query:
            verdict = text if problems else "readyz check passed\n"
            text = _verbose(results, excluded) + verdict
        return self._answer(request, text, problems, counted)

    async def one_check(self, request: web.Request) -> web.Response:
        """Say how one check is, critical or not."""
        name = request.match_info["name"]
        results = [each for each in await self._health.results() if each.name == name]
        if not results:
            detail = f"There is no health check {name!r}; /readyz?verbose lists them."
            raise Problem(404, detail, headers=_HEADERS)
        failures = [result.failure for result in results if result.failure]
        return self._answer(request, f"{', '.join(failures) or 'ok'}\n", failures, results)

    async def status(self, request: web.Request) -> web.Response:
        """Say whether the daemon wants work, in Gizmo's words."""
        results = await self._health.results()
        problems = self._health.reasons(results)
        self._tell(request, not problems)
        text = "service unavailable" if problems else f"ok-{self._name}"
        return self._answer(request, text, problems, results)

    def _tell(self, request: web.Request, healthy: bool) -> None:
        if self._on_status is not None and "deployer" not in request.query:
            self._on_status(request.remote or "", healthy)

    def _answer(
        self,
        request: web.Request,
        text: str,
        problems: Sequence[str],
        results: Sequence[Result] = (),
    ) -> web.Response:
        """Return ``text``, or the same as JSON where that is asked for."""
        status = 503 if problems else 200
        if not _asks_for_json(request):
            return web.Response(status=status, text=text, headers=_HEADERS)
        headers = {**_HEADERS, "Content-Type": CONTENT_TYPE}
        body = json.dumps(self._members(problems, results)).encode()
        return web.Response(status=status, body=body, headers=headers)

    def _members(self, problems: Sequence[str], results: Sequence[Result]) -> dict[str, object]:
        """Return the members of health as JSON, without those that would be empty."""
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


def _check(result: Result) -> dict[str, str]:
    """Return the members of one check."""
    ill = "fail" if result.critical else "warn"
    members = {
        "status": ill if result.failure else "pass",
        "time": datetime.fromtimestamp(result.time, UTC).isoformat(timespec="milliseconds"),
    }
    return {**members, "output": result.failure} if result.failure else members


def _verbose(results: Sequence[Result], excluded: Collection[str]) -> str:
    """Return a line for each check, as Kubernetes' API server writes them."""
    lines = [_line(result, result.name in excluded) for result in results]
    names = {result.name for result in results}
    if unknown := [json.dumps(name) for name in excluded if name not in names]:
        problem = "warn: some health checks cannot be excluded: no matches for"
        lines.append(f"{problem} {','.join(unknown)}\n")
    return "".join(lines)


def _line(result: Result, excluded: bool) -> str:
    if excluded:
        return f"[+]{result.name} excluded: ok\n"
    if not result.failure:
        return f"[+]{result.name} ok\n"
    return f"[-]{result.name} {result.failure}{'' if result.critical else ' (not critical)'}\n"


def _asks_for_json(request: web.Request) -> bool:
    accepted = ",".join(request.headers.getall("Accept", []))
    return any(each.split(";")[0].strip().lower() in _JSON for each in accepted.split(","))
