"""Assemble a service: its endpoints, subscriptions, health checks and instruments.

Nothing here runs: ``gizmopy.server.server`` starts and stops the parts.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from types import MappingProxyType
from typing import Any

from gizmopy.config import Settings
from gizmopy.config.origin import Origin
from gizmopy.errors import ConfigError, ConfigProblem, StartError, UsageError
from gizmopy.observe.access import AccessLog
from gizmopy.observe.exposition import Exposition
from gizmopy.observe.levels import LogLevels
from gizmopy.observe.metrics import MAX_CHILDREN, Metrics
from gizmopy.observe.runtime import Runtime, heartbeat_interval
from gizmopy.pubsub import (
    Channels,
    Driver,
    OnSettle,
    Subscription,
    collect_subscriptions,
    open_driver,
)
from gizmopy.server.admin.access import DebugGuard, is_served
from gizmopy.server.endpoints import Endpoints
from gizmopy.server.health.checks import Health, collect_health_checks
from gizmopy.server.health.jobs import job_checks
from gizmopy.server.health.load_balancers import LoadBalancers
from gizmopy.server.health.messaging import publisher_check, subscription_checks
from gizmopy.server.health.probes import probe_endpoints
from gizmopy.server.http import builtin_routes
from gizmopy.server.http.browser_rules import BrowserRules, browser_rules_of
from gizmopy.server.http.connection.proxied import connections_of
from gizmopy.server.http.handler import RequestHandler
from gizmopy.server.http.listening.descriptors import ADMIN_CONNECTIONS
from gizmopy.server.http.listening.listener import NETWORK_DELAY, Port
from gizmopy.server.http.listening.shedding import Shedding
from gizmopy.server.http.proxies import Proxies
from gizmopy.server.http.request_recorder import RequestRecorder
from gizmopy.server.jobs.clock import Clock, sleep_of
from gizmopy.server.jobs.declaration import collect_jobs
from gizmopy.server.jobs.runner import Jobs
from gizmopy.server.lifecycle.loop_stalls import StallDetector
from gizmopy.server.mounting import mounted_on, warn_of_undeclared
from gizmopy.server.service import Service, declared_channels, service_name
from gizmopy.untrusted.text import cut
from gizmopy.web import Handler
from gizmopy.web.decorators import Route, collect_routes
from gizmopy.web.hosts import AllowedHosts
from gizmopy.web.streams import Sleep

_CHILDREN_OF_A_ROUTE = 20
"""The pairs of method and status that one route may answer with."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """The access log, the metrics' exposition, and measurements of the process."""

    access_log: AccessLog
    exposition: Exposition
    levels: LogLevels
    runtime: Runtime
    stalls: StallDetector

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run them while the context lasts. Raises StartError if the access log cannot open."""
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self.access_log)
            except OSError as error:
                raise StartError(f"HTTP_ACCESS_LOG: {error}") from error
            stack.enter_context(self.levels)
            await stack.enter_async_context(self.exposition)
            await stack.enter_async_context(self.runtime)
            stack.enter_context(self.stalls)
            yield


@dataclass(frozen=True, slots=True)
class Application:
    """A service and all that serves it, assembled and not started."""

    service: Service
    name: str
    mounts: Sequence[Endpoints]
    routes: Sequence[Route]
    subscriptions: Sequence[Subscription]
    publishes: Mapping[str, Any]
    """The channels that the service declares to publish to, with the type of their values."""
    metrics: Metrics
    channels: Channels
    jobs: Jobs
    health: Health
    instruments: Instruments
    load_balancers: LoadBalancers
    debug_guard: DebugGuard | None
    """None if /debug is not served."""
    handler: RequestHandler
    """Answers the requests of the main port."""
    admin_handler: RequestHandler | None
    """Answers those of the admin port; None without one."""
    network_delay: float
    """How many seconds the last requests may take to arrive, when the listener closes."""


def assemble(
    service: Service,
    *,
    open_driver: Callable[[str], Driver] = open_driver,
    origins: Mapping[str, Origin] = MappingProxyType({}),
    on_settle: OnSettle | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Clock | None = None,
    network_delay: float = NETWORK_DELAY,
) -> Application:
    """Read every declaration of ``service`` and make the parts that serve it.

    Raises DeclarationError if a declaration is wrong, ConfigError if the settings contradict the
    declarations, and UsageError if ``service`` already has a server. /debug/config shows the source
    of each setting that is in ``origins``. ``clock`` is that of background work and of
    event streams (default: the event loop). ``network_delay`` is how many seconds the last requests
    may take to arrive.
    """
    if not isinstance(service, Service):
        shown = cut(repr(service), 100)
        remedy = f"call it: {service.__name__}()" if isinstance(service, type) else "make one"
        raise UsageError(f"a server serves an object of a Service, not {shown}; {remedy}")
    settings, name = service.settings, service_name(service)
    mounts = mounted_on(service)
    routes = collect_routes(service, service.prefix, mounts, realm=name)
    warn_of_undeclared((service, *mounts))
    # The limit protects the memory against labels that clients choose. Clients cannot add routes,
    # so each route raises it.
    metrics = Metrics(max_children=MAX_CHILDREN + _CHILDREN_OF_A_ROUTE * len(routes))
    subscriptions = collect_subscriptions(service, name, mounts)
    publishes = declared_channels(service, mounts)
    channels = Channels(
        settings.broker_url,
        service=name,
        topics=settings.topic_urls,
        subscriptions=settings.subscription_urls,
        publishes=publishes,
        metrics=metrics,
        linger=settings.publish_linger.total_seconds(),
        publish_stall=settings.publish_stall.total_seconds(),
        on_settle=on_settle,
        sleep=sleep,
        open_driver=open_driver,
    )
    jobs = Jobs(collect_jobs(service, mounts), metrics, clock)
    for part in (service, *mounts):
        part._attach(channels, metrics)
    checks = [
        *collect_health_checks(service, mounts),
        *subscription_checks(
            channels, subscriptions, critical=not routes, declares=bool(publishes)
        ),
        publisher_check(channels),
        *job_checks(jobs),
    ]
    health = Health(checks, interval=settings.health_interval.total_seconds())
    builtin = _BuiltinEndpoints(
        service=service,
        name=name,
        routes=routes,
        subscriptions=subscriptions,
        publishes=publishes,
        channels=channels,
        jobs=jobs,
        health=health,
        instruments=_make_instruments(settings, metrics),
        load_balancers=LoadBalancers(),
        debug_guard=DebugGuard(settings) if is_served(settings) else None,
        started=datetime.now(UTC),
        origins=origins,
    )
    handler, admin_handler = _make_handlers(builtin, metrics, sleep_of(clock))
    return Application(
        service=service,
        name=name,
        mounts=mounts,
        routes=routes,
        subscriptions=subscriptions,
        publishes=publishes,
        metrics=metrics,
        channels=channels,
        jobs=jobs,
        health=health,
        instruments=builtin.instruments,
        load_balancers=builtin.load_balancers,
        debug_guard=builtin.debug_guard,
        handler=handler,
        admin_handler=admin_handler,
        network_delay=network_delay,
    )


def _make_instruments(settings: Settings, metrics: Metrics) -> Instruments:
    access_log = AccessLog(
        settings.http_access_log or settings.log_file,
        log_json=settings.log_json,
        format=settings.access_log_format,
        fields=settings.log_fields,
    )
    stall, warning = settings.liveness_stall, settings.blocking_warning
    runtime = Runtime(metrics, interval=heartbeat_interval(warning.total_seconds()))
    stalls = StallDetector(
        runtime.seconds_since_heartbeat,
        stall=stall.total_seconds(),
        warning=warning.total_seconds(),
        metrics=metrics,
    )
    return Instruments(access_log, Exposition(metrics), LogLevels(), runtime, stalls)


def _make_handlers(
    builtin: _BuiltinEndpoints, metrics: Metrics, timer: Sleep
) -> tuple[RequestHandler, RequestHandler | None]:
    """Compile the endpoints of the main port, and those of the admin port if there is one."""
    service, routes, settings = builtin.service, builtin.routes, builtin.service.settings
    observers = (RequestRecorder(metrics, builtin.instruments.access_log),)
    proxies = Proxies(settings.trusted_proxies)
    has_admin_port = settings.admin_port is not None
    probes = list(builtin.probes())
    operations = list(builtin.operations())
    on_main_port = chain(probes, () if has_admin_port else operations, builtin.documentation())
    handler = RequestHandler(
        builtin_routes.mount(service, routes, on_main_port, timer=timer),
        observers,
        max_concurrent=settings.max_concurrent_requests,
        proxies=proxies,
        browsers=browser_rules_of(service),
    )
    if not has_admin_port:
        return handler, None
    admin_handler = RequestHandler(
        builtin_routes.mount(service, (), chain(probes, operations)),
        observers,
        proxies=proxies,
        browsers=BrowserRules(hosts=AllowedHosts(settings.allowed_hosts)),
    )
    return handler, admin_handler


def bind_ports(app: Application) -> Iterator[Port]:
    """Bind the address of the main port, and of the admin port if there is one.

    Yields each port as soon as it is bound, so that the caller can close it if a later one fails.
    Raises StartError if an address cannot be bound.
    """
    settings, shedding = app.service.settings, Shedding(app.metrics)
    yield Port(
        app.handler,
        settings.http_addr,
        settings.http_port,
        settings,
        shedding,
        make_connection=connections_of(settings),
    )
    if app.admin_handler is not None and settings.admin_port is not None:
        yield Port(
            app.admin_handler,
            settings.admin_addr,
            settings.admin_port,
            settings,
            shedding,
            prefix="GIZMO_ADMIN",
            limit=ADMIN_CONNECTIONS,
        )


@dataclass(frozen=True, slots=True)
class _BuiltinEndpoints:
    """The endpoints that every daemon has, and the parts that they show."""

    service: Service
    name: str
    routes: Sequence[Route]
    subscriptions: Sequence[Subscription]
    publishes: Mapping[str, Any]
    channels: Channels
    jobs: Jobs
    health: Health
    instruments: Instruments
    load_balancers: LoadBalancers
    debug_guard: DebugGuard | None
    started: datetime
    origins: Mapping[str, Origin]

    def probes(self) -> Iterator[builtin_routes.Builtin]:
        """Yield the health probes. Raises ConfigError if the service's own probe is missing."""
        settings = self.service.settings
        self._check_custom_probe()
        handlers = probe_endpoints(
            self.name,
            settings.service_version,
            settings,
            self.health,
            self.instruments.runtime.seconds_since_heartbeat,
            self.load_balancers.record_poll if settings.health_check_type == "lb" else None,
        )
        return builtin_routes.probes(handlers, quiet=not settings.log_probes)

    def _check_custom_probe(self) -> None:
        settings = self.service.settings
        path = settings.health_check_path
        if settings.health_check_type != "custom" or any(
            route.method == "GET" and route.path == path for route in self.routes
        ):
            return
        reason = f"{self.name} serves no GET {path}"
        remedy = "declare it, or set GIZMO_HEALTH_CHECK_PATH to a path that it serves"
        problem = ConfigProblem("GIZMO_HEALTH_CHECK_TYPE", reason, remedy, value="custom")
        raise ConfigError([problem])

    def operations(self) -> Iterator[builtin_routes.Builtin]:
        """Yield the endpoints for operators: /metrics and /debug."""
        settings = self.service.settings
        yield from builtin_routes.scrape(
            self.instruments.exposition, settings.metrics_path, quiet=not settings.log_probes
        )
        if self.debug_guard is not None:
            yield from builtin_routes.debug(self.debug_guard, self._debug)

    def _debug(self) -> Iterator[tuple[str, str, Handler]]:
        # Imported by the first request for /debug: a start does not pay for it.
        from gizmopy.server.admin.debug import Debug, debug_endpoints

        return debug_endpoints(
            Debug(
                self.name,
                self.service.settings,
                self.routes,
                self.channels.describe,
                self.instruments.levels,
                self.started,
                self.origins,
                self.jobs.describe,
                self.channels.controls,
            )
        )

    def documentation(self) -> Iterator[builtin_routes.Builtin]:
        """Yield /openapi.json, /docs and /asyncapi.json, unless GIZMO_OPENAPI is off."""
        if not self.service.settings.openapi:
            return
        if self.routes:
            yield from builtin_routes.documentation(self.service, self.routes)
        if self.subscriptions or self.publishes:
            yield from builtin_routes.messaging_documentation(self._write_asyncapi)

    def _write_asyncapi(self) -> bytes:
        # Imported by the first request for it: a start does not pay for it.
        from pydantic_core import to_json

        from gizmopy.pubsub.destinations import DestinationResolver
        from gizmopy.server.asyncapi import asyncapi_document

        settings = self.service.settings
        document = asyncapi_document(
            self.subscriptions,
            self.publishes,
            title=self.name,
            version=settings.service_version or "0",
            description=inspect.cleandoc(type(self.service).__doc__ or ""),
            destinations=DestinationResolver(
                settings.broker_url, settings.topic_urls, settings.subscription_urls
            ),
        )
        return to_json(document)
