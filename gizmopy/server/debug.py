"""Let those who run a daemon see and steer it: ``/debug/``.

What is told here is not for strangers. A token guards it; without one it is meant for loopback,
where the guard keeps out what a browser or a proxy on the same machine would let in.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

import gizmopy
from gizmopy.config import Duration, Settings
from gizmopy.config.duration import format_duration
from gizmopy.config.masking import masked
from gizmopy.config.settings import LogLevel
from gizmopy.observe.levels import Levels
from gizmopy.observe.tasks import as_data, as_text, snapshot
from gizmopy.pubsub.channels import ChannelRow
from gizmopy.server.exposure import on_loopback
from gizmopy.server.listening import is_loopback
from gizmopy.web import (
    Handler,
    Middleware,
    Problem,
    Route,
    collect_routes,
    compile_endpoint,
    get,
    put,
)

logger = logging.getLogger(__name__)

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


class Level(BaseModel):
    """A level to set; null inherits it from the logger above."""

    model_config = ConfigDict(extra="forbid")

    level: LogLevel | None
    ttl: Annotated[Duration, Field(gt=timedelta(0))] | None = timedelta(minutes=10)
    """After what time the level is what it was; null: when the daemon ends."""


class LoggerLevel(Level):
    """A level to set, and the logger to set it of."""

    logger: str


@dataclass(frozen=True, slots=True)
class Debug:
    """Hold what is told of a daemon, and tell it: its methods are the endpoints."""

    name: str
    settings: Settings
    routes: Sequence[Route]
    subscriptions: Callable[[], Sequence[ChannelRow]]
    """Gives what is consumed now; ``Channels.describe`` does."""
    levels: Levels
    started: datetime
    """When the daemon started; aware of its time zone."""

    @get("/debug/")
    async def index(self) -> web.Response:
        """Tell what there is to see: this page."""
        lines = (
            f"{route.method:<4} {route.path:<24} {_summary(route)}"
            for route in collect_routes(self)
        )
        return web.Response(text="\n".join((f"{self.name}: /debug", "", *lines, "")))

    @get("/debug/config")
    async def config(self) -> Mapping[str, Any]:
        """Tell the value of every setting, secrets masked."""
        values: Mapping[str, Any] = masked(self.settings)
        return values

    @get("/debug/routes")
    async def served(self) -> Mapping[str, Any]:
        """Tell what answers each endpoint and handles each subscription."""
        rows = self.subscriptions()
        return {
            "routes": [_route(route) for route in self.routes],
            "subscriptions": [row._asdict() for row in rows],
        }

    @get("/debug/info")
    async def info(self) -> Mapping[str, Any]:
        """Tell versions, the process and how long it runs."""
        loop = type(asyncio.get_running_loop())
        return {
            "name": self.name,
            "version": self.settings.service_version,
            "gizmopy": gizmopy.__version__,
            "python": platform.python_version(),
            "libraries": await asyncio.to_thread(_libraries),
            "loop": f"{loop.__module__}.{loop.__qualname__}",
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": self.started.astimezone(UTC),
            "uptime_seconds": round((datetime.now(UTC) - self.started).total_seconds(), 3),
        }

    @get("/debug/loggers")
    async def loggers(self) -> Mapping[str, Any]:
        """Tell the level of every logger."""
        return self.levels.report()

    @put("/debug/loggers")
    async def set_level(self, request: web.Request, change: LoggerLevel) -> Mapping[str, Any]:
        """Set a logger's level: {"logger": "gizmopy.pubsub", "level": "debug", "ttl": "10m"}."""
        return self._set(change.logger, change, request)

    @put("/debug/loggers/{name}")
    async def set_level_of(
        self, request: web.Request, name: str, change: Level
    ) -> Mapping[str, Any]:
        """Set the level of the logger in the path: {"level": "debug", "ttl": "10m"}."""
        return self._set(name, change, request)

    @get("/debug/tasks")
    async def tasks(self, request: web.Request) -> object:
        """Tell where every task awaits; JSON with Accept: application/json."""
        seen = await snapshot()
        if "application/json" in request.headers.get("Accept", ""):
            return as_data(seen)
        return web.Response(text=as_text(seen))

    def _set(self, name: str, change: Level, request: web.Request) -> Mapping[str, Any]:
        if not any(f"{known}.".startswith(f"{name}.") for known in self.levels.report()):
            raise Problem(404, f"There is no logger {name}; GET /debug/loggers lists them.")
        # Ahead of the change, which may be to log nothing any more.
        logger.warning(
            "%s asks for the log level of %s to be %s for %s",
            request.remote or "a local client",
            name,
            change.level or "inherited",
            "as long as it runs" if change.ttl is None else format_duration(change.ttl),
        )
        try:
            self.levels.set(name, change.level, change.ttl)
        except ValueError as error:
            raise Problem(422, str(error)) from error
        return {name: self.levels.report().get(name)}


def debug_endpoints(debug: Debug) -> Iterator[tuple[str, str, Handler]]:
    """Yield method, path and handler of each endpoint below ``/debug/``, all of them guarded."""
    guard = debug_guard(debug.settings)
    read_timeout = debug.settings.read_timeout.total_seconds()
    for route in collect_routes(debug):
        handler = compile_endpoint(route, read_timeout=read_timeout)
        yield route.method, route.path, guard(handler)


def debug_guard(settings: Settings) -> Middleware:
    """Return what keeps strangers from a handler below ``/debug/``.

    With a token set, a request has to bring it (401). Without one, what a browser sends on behalf
    of another site is refused (403), and on loopback whatever was not sent to this machine by name:
    a page whose name was rebound to 127.0.0.1, or a proxy's client. Answers are never cached.
    """
    token = settings.debug_token.get_secret_value()
    loopback = on_loopback(settings)

    def check(request: web.Request) -> None:
        if token:
            _check_token(request, token)
            return
        _check_origin(request)
        if loopback:
            _check_local(request)

    def guard(handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                check(request)
                response = await handler(request)
            except Problem as problem:
                problem.headers.update(_HEADERS)
                raise
            response.headers.update(_HEADERS)
            return response

        return guarded

    return guard


def _check_token(request: web.Request, token: str) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    same = secrets.compare_digest(_bytes(given.strip()), _bytes(token))
    if scheme.lower() != "bearer" or not same:
        detail = "Send GIZMO_DEBUG_TOKEN as Authorization: Bearer."
        raise Problem(401, detail, headers={"WWW-Authenticate": 'Bearer realm="debug"'})


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _check_origin(request: web.Request) -> None:
    """Refuse what a page of another site sends, or would read by leave of CORS.

    A link that is followed from there has no Origin, and may be: its page does not see the answer.
    """
    origin, host = request.headers.get("Origin"), request.headers.get("Host", "")
    foreign = origin is not None and origin.partition("://")[2] != host.lower()
    reads = request.method in ("GET", "HEAD")
    if foreign or (not reads and request.headers.get("Sec-Fetch-Site") == "cross-site"):
        raise Problem(403, "/debug is not for pages of other sites.")


def _check_local(request: web.Request) -> None:
    host = request.headers.get("Host", "")
    if host and not _is_local_name(host):
        detail = "Without GIZMO_DEBUG_TOKEN, /debug answers to localhost and loopback addresses."
        raise Problem(403, detail)
    if any(name in request.headers for name in _FORWARDED):
        detail = "Without GIZMO_DEBUG_TOKEN, /debug does not answer through a proxy."
        raise Problem(403, detail)


def _is_local_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name)


def _summary(route: Route) -> str:
    return (route.function.__doc__ or "").partition("\n")[0]


def _route(route: Route) -> Mapping[str, Any]:
    code = getattr(route.function, "__code__", None)
    return {
        "method": route.method,
        "path": route.path,
        "function": route.name,
        "module": getattr(route.function, "__module__", None),
        "line": None if code is None else code.co_firstlineno,
        "timeout": route.options.timeout,
        "cross_origin": route.options.cross_origin,
    }


@cache
def _libraries() -> Mapping[str, str]:
    """Return the version of each library that gizmopy uses and finds installed. Reads files."""
    from importlib import metadata  # takes longer to import than most daemons need it

    versions = {}
    for requirement in metadata.requires("gizmopy") or ():
        found = re.match(r"[\w.-]+", requirement)
        if found is None or 'extra == "dev"' in requirement or found[0] == "gizmopy":
            continue
        try:
            versions[found[0]] = metadata.version(found[0])
        except metadata.PackageNotFoundError:  # an extra's
            pass
    return versions
