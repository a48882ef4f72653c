"""Show and control a running daemon: the endpoints below ``/debug/``.

They are served behind a ``DebugGuard``, which checks the token of each request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

import gizmopy
from gizmopy.config import Duration, Settings
from gizmopy.config.duration import format_duration
from gizmopy.config.origin import Origin
from gizmopy.config.secrets.redaction import redacted_model
from gizmopy.config.sections.logs import LogLevel
from gizmopy.errors import UsageError
from gizmopy.observe.levels import LogLevels
from gizmopy.observe.tasks import as_data, as_text, snapshot
from gizmopy.pubsub.channels import ChannelRow
from gizmopy.pubsub.control import SubscriptionControl
from gizmopy.server.admin.access import PROFILES
from gizmopy.web import Handler, Problem, Request, get, put
from gizmopy.web.binding import compile_endpoint
from gizmopy.web.decorators import Route, collect_routes

logger = logging.getLogger("gizmopy.server.debug")


class LevelChange(BaseModel):
    """A log level to set; null makes the logger inherit its parent's."""

    model_config = ConfigDict(extra="forbid")

    level: LogLevel | None
    ttl: Annotated[Duration, Field(gt=timedelta(0))] | None = timedelta(minutes=10)
    """The time after which the level is reset; null resets it when the daemon ends."""


class NamedLevelChange(LevelChange):
    """A log level to set, and the name of its logger."""

    logger: str


class SubscriptionChange(BaseModel):
    """A subscription to pause or to resume."""

    model_config = ConfigDict(extra="forbid")

    channel: str
    subscription: str | None = None
    """Its name; needed if several subscriptions consume the channel."""
    paused: bool
    ttl: Annotated[Duration, Field(gt=timedelta(0))] | None = timedelta(minutes=10)
    """The time after which the declared state returns; null: when the daemon ends."""
    reason: Annotated[str, Field(max_length=200)] = ""


@dataclass(frozen=True, slots=True)
class Debug:
    """The endpoints, as methods, and the parts of the daemon that they show."""

    name: str
    settings: Settings
    routes: Sequence[Route]
    subscriptions: Callable[[], Sequence[ChannelRow]]
    """Returns the current subscriptions, as ``Channels.describe`` does."""
    levels: LogLevels
    started: datetime
    """When the daemon started, with a time zone."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """The source of each setting, as ``load`` returns it."""
    jobs: Callable[[], Sequence[Mapping[str, Any]]] = tuple
    """Returns the state of the background work, as ``Jobs.describe`` does."""

    controls: Callable[[], Sequence[tuple[ChannelRow, SubscriptionControl]]] = tuple
    """Returns the control of each subscription, as ``Channels.controls`` does."""

    @get("/debug/")
    async def index(self, request: web.Request) -> web.Response:
        """List the endpoints: this page."""
        prefix = request.forwarded_prefix if isinstance(request, Request) else ""
        lines = (
            f"{route.method:<4} {prefix + route.path:<24} {_summary(route)}"
            for route in collect_routes(self)
        )
        return web.Response(text="\n".join((f"{self.name}: {prefix}/debug", "", *lines, "")))

    @get("/debug/config")
    async def config(self) -> Mapping[str, Any]:
        """Show the value of every setting, with secrets masked."""
        return redacted_model(self.settings, self.origins)

    @get("/debug/routes")
    async def served(self) -> Mapping[str, Any]:
        """Show the function of each endpoint and the handler of each subscription."""
        rows = self.subscriptions()
        return {
            "routes": [_route(route) for route in self.routes],
            "subscriptions": [row._asdict() for row in rows],
        }

    @get("/debug/jobs")
    async def background_work(self) -> Sequence[Mapping[str, Any]]:
        """Show the state of each job: its runs, its last error, and its age."""
        return self.jobs()

    @get("/debug/info")
    async def info(self) -> Mapping[str, Any]:
        """Show versions, the process and its uptime."""
        loop = type(asyncio.get_running_loop())
        return {
            "name": self.name,
            "version": self.settings.service_version,
            "gizmopy": gizmopy.__version__,
            "python": platform.python_version(),
            # In a thread: the first call reads the metadata of every library from disk.
            "libraries": await asyncio.to_thread(_libraries),
            "loop": f"{loop.__module__}.{loop.__qualname__}",
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": self.started.astimezone(UTC),
            "uptime_seconds": round((datetime.now(UTC) - self.started).total_seconds(), 3),
        }

    @get("/debug/loggers")
    async def loggers(self) -> Mapping[str, Any]:
        """Show the level of every logger."""
        return self.levels.report()

    @put("/debug/loggers")
    async def set_level(self, request: web.Request, change: NamedLevelChange) -> Mapping[str, Any]:
        """Set a logger's level: {"logger": "gizmopy.pubsub", "level": "debug", "ttl": "10m"}."""
        return self._set(change.logger, change, request)

    @put("/debug/loggers/{name}")
    async def set_level_of(
        self, request: web.Request, name: str, change: LevelChange
    ) -> Mapping[str, Any]:
        """Set the level of the logger in the path: {"level": "debug", "ttl": "10m"}."""
        return self._set(name, change, request)

    @get("/debug/subscriptions")
    async def consumed(self) -> Sequence[Mapping[str, Any]]:
        """Show each subscription: whether it is paused, until when, by whom, and why."""
        return [{**row._asdict(), **control.describe()} for row, control in self.controls()]

    @put("/debug/subscriptions")
    async def change_subscription(
        self, request: web.Request, change: SubscriptionChange
    ) -> Mapping[str, Any]:
        """Pause or resume one: {"channel": "orders", "paused": true, "ttl": "10m"}."""
        row, control = self._control(change)
        by = request.remote or "a local client"
        try:
            control.set_paused(change.paused, change.ttl, by=by, reason=change.reason)
        except UsageError as error:
            raise Problem(409, f"{error}; send this to a daemon that runs") from error
        logger.warning(
            "%s %s %s/%s %s (reason: %s)",
            by,
            "pauses" if change.paused else "resumes",
            row.channel,
            row.subscription,
            "until the daemon ends" if change.ttl is None else f"for {format_duration(change.ttl)}",
            change.reason or "none given",
        )
        return {**row._asdict(), **control.describe()}

    def _control(self, change: SubscriptionChange) -> tuple[ChannelRow, SubscriptionControl]:
        found = [
            (row, control)
            for row, control in self.controls()
            if row.channel == change.channel and change.subscription in (None, row.subscription)
        ]
        if not found:
            listed = "GET /debug/subscriptions lists them all."
            raise Problem(404, f"Channel {change.channel} has no such subscription; {listed}")
        if len(found) > 1:
            names = ", ".join(row.subscription for row, _ in found)
            raise Problem(422, f"Channel {change.channel} has several; add subscription: {names}")
        return found[0]

    @get("/debug/tasks")
    async def tasks(self, request: web.Request) -> object:
        """Show where each task waits; as JSON with Accept: application/json."""
        tasks = await snapshot()
        if "application/json" in request.headers.get("Accept", ""):
            return as_data(tasks)
        return web.Response(text=as_text(tasks))

    def _set(self, name: str, change: LevelChange, request: web.Request) -> Mapping[str, Any]:
        # A parent of a known logger is valid too, even if it does not exist itself yet.
        if not any(f"{known}.".startswith(f"{name}.") for known in self.levels.report()):
            raise Problem(404, f"Logger {name} does not exist; GET /debug/loggers lists them all.")
        # Before the change: the new level may hide this line.
        logger.warning(
            "%s sets the log level of %s to %s %s",
            request.remote or "a local client",
            name,
            change.level or "inherited",
            "until the daemon ends" if change.ttl is None else f"for {format_duration(change.ttl)}",
        )
        try:
            self.levels.set(name, change.level, change.ttl)
        except ValueError as error:
            raise Problem(422, str(error)) from error
        return {name: self.levels.report().get(name)}


def debug_endpoints(debug: Debug) -> Iterator[tuple[str, str, Handler]]:
    """Yield method, path and handler of each endpoint below ``/debug/``, without a guard."""
    read_timeout = debug.settings.read_timeout.total_seconds()
    for route in collect_routes(debug):
        yield route.method, route.path, compile_endpoint(route, read_timeout=read_timeout)
    if debug.settings.enable_pprof:
        yield "GET", f"{PROFILES}{{profile:.*}}", _no_profile


async def _no_profile(request: web.Request) -> web.StreamResponse:
    raise Problem(501, "This version does not support profiles.")


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
        "security": None if route.security is None else str(route.security),
    }


@cache
def _libraries() -> Mapping[str, str]:
    """Return the version of each installed library that gizmopy uses. Blocks: it reads files."""
    from importlib import metadata  # imported here, because most daemons never need it

    versions = {}
    for requirement in metadata.requires("gizmopy") or ():
        found = re.match(r"[\w.-]+", requirement)
        if found is None or 'extra == "dev"' in requirement or found[0] == "gizmopy":
            continue
        try:
            versions[found[0]] = metadata.version(found[0])
        except metadata.PackageNotFoundError:  # of an extra that is not installed
            pass
    return versions
