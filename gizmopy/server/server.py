"""The life of a daemon, from its first line to its last, readable from top to bottom.

STARTING → READY → DRAINING → STOPPING → CLEANUP → EXIT. What is started is undone in reverse order
by one AsyncExitStack, wherever the start or the life ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime
from enum import Enum
from itertools import chain
from time import perf_counter
from types import MappingProxyType, TracebackType

from gizmopy._aio import background
from gizmopy.config.origin import Origin
from gizmopy.errors import (
    ConfigError,
    ConfigProblem,
    DeclarationError,
    StartError,
)
from gizmopy.observe.access import AccessLog
from gizmopy.observe.exposition import Scraper
from gizmopy.observe.levels import Levels
from gizmopy.observe.metrics import MAX_CHILDREN, Metrics
from gizmopy.observe.runtime import Runtime
from gizmopy.pubsub import (
    Channels,
    Driver,
    OnSettle,
    collect_subscriptions,
    open_driver,
)
from gizmopy.server.admin.access import DebugGuard, is_served
from gizmopy.server.health.checks import (
    Health,
    collect_health_checks,
    publisher_check,
    subscription_checks,
)
from gizmopy.server.health.load_balancers import Balancers
from gizmopy.server.health.probes import probe_endpoints
from gizmopy.server.http import builtin_routes as mounting
from gizmopy.server.http.browser_rules import Browsers, browsers_of
from gizmopy.server.http.connection.proxied import connections_of
from gizmopy.server.http.handler import HTTPDoor
from gizmopy.server.http.listening.descriptors import ADMIN_CONNECTIONS
from gizmopy.server.http.listening.listener import Port
from gizmopy.server.http.listening.shedding import Shedding
from gizmopy.server.http.listening.tls import Certificate
from gizmopy.server.http.proxies import Proxies
from gizmopy.server.lifecycle.loop_stalls import StallWatch
from gizmopy.server.lifecycle.shutdown_budget import (
    CANCEL_SECONDS,
    CLEANUP_SECONDS,
    HURRIED_SECONDS,
    Budget,
)
from gizmopy.server.lifecycle.signals import Stop
from gizmopy.server.servable import Servable
from gizmopy.web import Handler
from gizmopy.web.decorators import collect_routes
from gizmopy.web.hosts import AllowedHosts

logger = logging.getLogger(__name__)

EXIT_FORCED = 70
"""The exit code of a daemon whose time to drain ran out (EX_SOFTWARE of sysexits.h)."""


class State(Enum):
    """The phases of a daemon's life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    CLEANUP = "cleanup"
    EXIT = "exit"


_PHASES = {State.DRAINING: 1.0, State.STOPPING: 2.0, State.CLEANUP: 3.0}
_LAST_ANSWER_SECONDS = 0.1
"""How long a balancer may take to read what it was told, and send no more."""
_CHILDREN_OF_A_ROUTE = 20
"""How many pairs of method and status a route may well answer with."""


class SimpleServer:
    """Serve one service: its endpoints over HTTP, and its subscriptions.

    Making one reads every declaration of the service, and raises DeclarationError where one is
    wrong; nothing runs yet. As an async context manager it starts on entering, raising StartError
    or PubSubError where it cannot, and drains on leaving. ``serve`` does both around a ``Stop``.
    /debug/config names the source of each setting that is in ``origins``, as ``load`` returns them.
    """

    def __init__(
        self,
        service: Servable,
        *,
        open_driver: Callable[[str], Driver] = open_driver,
        origins: Mapping[str, Origin] = MappingProxyType({}),
        on_settle: OnSettle | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.service = service
        self.settings = settings = service.settings
        self.name = service.service_name()
        self.state = State.STARTING
        self.exit_code = 0
        self.routes = collect_routes(service, service.prefix)
        # The service's own routes are no growth that strangers could cause.
        self.metrics = Metrics(max_children=MAX_CHILDREN + _CHILDREN_OF_A_ROUTE * len(self.routes))
        self.subscriptions = collect_subscriptions(service, self.name)
        self.channels = Channels(
            settings.broker_url,
            service=self.name,
            topics=settings.topic_urls,
            subscriptions=settings.subscription_urls,
            metrics=self.metrics,
            linger=settings.publish_linger.total_seconds(),
            on_settle=on_settle,
            sleep=sleep,
            open_driver=open_driver,
        )
        self.health = Health(
            [
                *collect_health_checks(service),
                *subscription_checks(self.channels, self.subscriptions, critical=not self.routes),
                publisher_check(self.channels),
            ],
            interval=settings.health_interval.total_seconds(),
        )
        service.attach(self.channels, self.metrics)
        self._access = AccessLog(
            settings.http_access_log or settings.log_file,
            log_json=settings.log_json,
            format=settings.access_log_format,
            fields=settings.log_fields,
        )
        self._scraper = Scraper(self.metrics)
        self._runtime = Runtime(self.metrics)
        self._levels = Levels()
        self._balancers = Balancers()
        self._started = datetime.now(UTC)
        self._debug_guard = DebugGuard(settings) if is_served(settings) else None
        self._origins = origins
        self._door, self._admin_door = self._make_doors()
        self._ports: list[Port] = []
        self._certificate: Certificate | None = None
        self._measure()
        self.stop = Stop()
        """What ends ``serve``; asked for a second time, the drain hurries."""

    @property
    def url(self) -> str:
        """Where the daemon listens, such as ``http://127.0.0.1:8080``, once it does."""
        return self._ports[0].url if self._ports else ""

    @property
    def admin_url(self) -> str:
        """Where its admin port listens; empty where it has none."""
        return self._ports[1].url if len(self._ports) > 1 else ""

    def _make_doors(self) -> tuple[HTTPDoor, HTTPDoor | None]:
        """Compile the endpoints of the main port, and of the admin port where there is one."""
        settings = self.settings
        admin = settings.admin_port is not None
        probes = list(self._probes())
        own = chain(probes, () if admin else self._insight(), self._documentation())
        proxies = Proxies(settings.trusted_proxies)
        door = HTTPDoor(
            mounting.mount(self.service, self.routes, own),
            self.metrics,
            self._access,
            max_concurrent=settings.max_concurrent_requests,
            proxies=proxies,
            browsers=browsers_of(self.service),
        )
        if not admin:
            return door, None
        router = mounting.mount(self.service, (), chain(probes, self._insight()))
        browsers = Browsers(hosts=AllowedHosts(settings.allowed_hosts))
        return door, HTTPDoor(
            router, self.metrics, self._access, proxies=proxies, browsers=browsers
        )

    def _probes(self) -> Iterator[mounting.Builtin]:
        settings = self.settings
        path = settings.health_check_path
        if settings.health_check_type == "custom" and not any(
            route.method == "GET" and route.path == path for route in self.routes
        ):
            reason = f"{self.name} serves no GET {path}"
            remedy = "declare it, or set GIZMO_HEALTH_CHECK_PATH to one that it does serve"
            problem = ConfigProblem("GIZMO_HEALTH_CHECK_TYPE", reason, remedy, value="custom")
            raise ConfigError([problem])
        handlers = probe_endpoints(
            self.name,
            settings.service_version,
            settings,
            self.health,
            self._runtime.beat_age,
            self._balancers.note if settings.health_check_type == "lb" else None,
        )
        return mounting.probes(handlers, quiet=not settings.log_probes)

    def _insight(self) -> Iterator[mounting.Builtin]:
        """Yield what those who run the daemon look at: its metrics, and /debug."""
        settings = self.settings
        quiet = not settings.log_probes
        yield from mounting.scrape(self._scraper, settings.metrics_path, quiet=quiet)
        if self._debug_guard is not None:
            yield from mounting.debug(self._debug_guard, self._debug)

    def _debug(self) -> Iterator[tuple[str, str, Handler]]:
        from gizmopy.server.admin.debug import Debug, debug_endpoints  # when it is asked for first

        return debug_endpoints(
            Debug(
                self.name,
                self.settings,
                self.routes,
                self.channels.describe,
                self._levels,
                self._started,
                self._origins,
            )
        )

    def _documentation(self) -> Iterator[mounting.Builtin]:
        if self.settings.openapi and self.routes:
            yield from mounting.documentation(self.service, self.routes)

    def _measure(self) -> None:
        """Measure what does not change, and what is cheaper to read when somebody looks."""
        metrics, settings = self.metrics, self.settings
        labels = ("service_name", "service_version")
        info = metrics.gauge("target_info", "What is measured here.", labels)
        info.child(self.name, settings.service_version).value = 1.0
        dropped = metrics.counter(
            "gizmo_log_dropped", "Lines of the logs that were lost.", ("log",)
        )
        labels = ("http_request_method", "url_scheme")
        active = metrics.gauge("http_server_active_requests", "Requests being answered.", labels)
        connections = metrics.gauge("gizmo_connections", "Connections that are open.", ("state",))
        phase = "How far the shutdown is: 0 not begun, 1 draining, 2 stopping, 3 cleaning up."
        self._phase = metrics.gauge("gizmo_shutdown_phase", phase).child()
        lost = "Requests and messages that were cancelled, out of time."
        self._lost = metrics.counter("gizmo_shutdown_dropped", lost, ("work",))
        if settings.tls_cert:
            until = "When the certificate expires, in seconds since 1970."
            expiry = metrics.gauge("gizmo_tls_certificate_not_after_seconds", until).child()

        def refresh() -> None:
            dropped.child("access").value = self._access.dropped
            handlers = logging.getLogger().handlers
            dropped.child("log").value = sum(getattr(each, "dropped", 0) for each in handlers)
            states = Counter(state for port in self._ports for state in port.connection_states())
            for state in ("active", "idle", "websocket"):
                connections.child(state).value = states[state]
            requests = Counter(request for port in self._ports for request in port.door.active())
            for _, child in active.children():
                child.value = 0.0
            for request, number in requests.items():
                active.child(*request).value = number
            if self._certificate is not None:
                expiry.value = self._certificate.not_after

        metrics.before_scrape(refresh)

    async def serve(self, stop: Stop) -> int:
        """Start, work until ``stop`` is requested, drain, and return the exit code.

        A stop that is requested while it starts ends the start, and undoes what was done.
        """
        self.stop = stop
        with stop.interrupts():
            await asyncio.sleep(0)  # where a stop that came before takes effect
            await self.__aenter__()
        if self.state is not State.READY:
            logger.info("stopped while starting: %s", stop.reason)
            return self.exit_code
        async with self._lifetime:
            async with background(stop.wait()) as requested:
                # Without subscriptions that task has ended already, which is not a reason to stop.
                tasks = (requested, self._subscribers) if self.subscriptions else (requested,)
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            logger.info("stopping: %s", stop.reason or "the subscribers ended")
        return self.exit_code

    async def __aenter__(self) -> SimpleServer:
        async with AsyncExitStack() as lifetime:
            await self._start(lifetime)
            self._lifetime = lifetime.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._lifetime.__aexit__(kind, error, trace)

    async def _start(self, lifetime: AsyncExitStack) -> None:
        """STARTING: listen for probes, open what the service needs, subscribe, then serve."""
        began = perf_counter()
        self._budget = Budget(self.settings, self.stop)
        if self._debug_guard is not None:
            self._debug_guard.check_listener()
        await self._take_ports(lifetime)
        lifetime.callback(self._enter, State.EXIT)
        await self._open_instruments(lifetime)
        await self._listen(lifetime)
        await lifetime.enter_async_context(self.channels)
        await self._enter_lifespan(lifetime)
        lifetime.callback(self._enter, State.CLEANUP)
        await self.channels.start(self.subscriptions)
        self._subscribers = asyncio.create_task(self.channels.run(), name="gizmopy-subscribers")
        lifetime.push_async_callback(self._finish_messages)
        await lifetime.enter_async_context(self.health)
        lifetime.push_async_callback(self._finish_requests)
        self._announce()
        self._door.open()
        self.health.accepting = True
        lifetime.push_async_callback(self._refuse_work)
        self._enter(State.READY, seconds=round(perf_counter() - began, 3))

    async def _take_ports(self, lifetime: AsyncExitStack) -> None:
        """Take the addresses first: another process that has one is found out before all else."""
        settings = self.settings
        shedding = Shedding(self.metrics)
        main = (self._door, settings.http_addr, settings.http_port, settings, shedding)
        self._ports = [Port(*main, make_connection=connections_of(settings))]
        lifetime.push_async_callback(self._ports[0].close)
        if self._admin_door is not None and settings.admin_port is not None:
            address = (settings.admin_addr, settings.admin_port)
            admin = Port(
                self._admin_door,
                *address,
                settings,
                shedding,
                prefix="GIZMO_ADMIN",
                limit=ADMIN_CONNECTIONS,
            )
            self._ports.append(admin)
            lifetime.push_async_callback(self._ports[1].close)

    async def _open_instruments(self, lifetime: AsyncExitStack) -> None:
        try:
            await lifetime.enter_async_context(self._access)
        except OSError as error:
            raise StartError(f"HTTP_ACCESS_LOG: {error}") from error
        lifetime.enter_context(self._levels)
        await lifetime.enter_async_context(self._scraper)
        await lifetime.enter_async_context(self._runtime)
        stall = self.settings.liveness_stall.total_seconds()
        lifetime.enter_context(StallWatch(self._runtime.beat_age, stall, self.metrics))

    async def _listen(self, lifetime: AsyncExitStack) -> None:
        """Listen from now on: probes are answered while the rest starts, and hear just that."""
        settings, tls, admin_tls = self.settings, None, None
        if settings.tls_cert:
            files = (settings.tls_cert, settings.tls_key, settings.tls_client_ca)
            self._certificate = await lifetime.enter_async_context(Certificate(*files))
            tls, admin_tls = self._certificate.context, self._certificate.admin_context
        for port, context in zip(self._ports, (tls, admin_tls), strict=False):
            await port.listen(context)
        if self._debug_guard is not None:
            self._debug_guard.announce(self.admin_url or self.url)

    async def _enter_lifespan(self, lifetime: AsyncExitStack) -> None:
        lifespan = self.service.lifespan()
        if not isinstance(lifespan, AbstractAsyncContextManager):
            reason = "is no async context manager; decorate it with @asynccontextmanager"
            raise DeclarationError(self.service.lifespan, reason)
        await lifespan.__aenter__()
        lifetime.push_async_callback(self._leave, lifespan)

    def _announce(self) -> None:
        """Log what there is: where the daemon listens, its endpoints and its subscriptions."""
        logger.info("%s listens on %s", self.name, self.url, extra={"url": self.url})
        if self.admin_url:
            logger.info("its admin port is %s", self.admin_url, extra={"url": self.admin_url})
        for route in self.routes:
            logger.info("endpoint %s %s → %s", route.method, route.path, route.name)
        for row in self.channels.describe():
            logger.info("subscription %s of %s → %s", row.subscription, row.url, row.handler)
        self._budget.announce()

    async def _refuse_work(self) -> None:
        """DRAINING: say that no more work is wanted, while what still comes is served.

        Readiness turns red, answers close their connections, and subscribers stop fetching, but
        the listener stays open for the drain delay: a balancer goes on sending for a while. With
        the ``lb`` health check it stays open until every balancer that asks has been told.
        """
        self.health.accepting, self.health.reason = False, "draining"
        self._door.drain()
        self.channels.stop_receiving()
        self._enter(State.DRAINING, requests=self._door.under_way)
        await self._budget.within(self._budget.delay, self.stop.hurried.wait())
        self._budget.begin()
        if self.settings.health_check_type == "lb":
            await self._budget.within(self._budget.remaining(), self._balancers.wait_told())
            await asyncio.sleep(_LAST_ANSWER_SECONDS)

    async def _finish_requests(self) -> None:
        """STOPPING: close the listener, let requests finish, and cancel those out of time."""
        door, budget = self._door, self._budget
        self._enter(State.STOPPING, requests=door.under_way)
        await self._ports[0].stop_listening()
        if not await budget.within(budget.remaining(), door.wait_idle()):
            logger.error("requests are cancelled, out of time: %d", door.under_way)
            self._lost.child("requests").value += door.under_way
            self.exit_code = EXIT_FORCED
            door.cancel()
        door.shut()
        self._ports[0].close_idle()
        await budget.within(CANCEL_SECONDS, door.wait_idle())  # what began meanwhile hears 503
        if not await budget.within(budget.remaining(), self._ports[0].wait_sent()):
            logger.error("answers are cut, out of time: their clients read too slowly")
            self.exit_code = EXIT_FORCED

    async def _finish_messages(self) -> None:
        """STOPPING: let subscribers finish what they hold, and release the rest.

        Those of a broker within this process go on until its queues are empty, since nobody else
        could handle what is in them: that is why this comes after the last request.
        """
        async with background(self._hurry_messages()):
            report = await self.channels.drain(self._budget.remaining())
        logger.info("%s: subscribers drained", self.name, extra=report._asdict())
        if report.cancelled or report.failed_to_settle:
            self._lost.child("messages").value += report.cancelled + report.failed_to_settle
            self.exit_code = EXIT_FORCED
        await self._subscribers  # raises what ended them, where it was not the drain

    async def _hurry_messages(self) -> None:
        await self.stop.hurried.wait()
        self.channels.hurry(HURRIED_SECONDS)

    async def _leave(self, lifespan: AbstractAsyncContextManager[None]) -> None:
        """CLEANUP: leave the service's lifespan, within a bound.

        It is left without the error that may have ended the daemon: that is not the service's to
        handle, and what follows its ``yield`` has to run in any case.
        """
        try:
            async with asyncio.timeout(CLEANUP_SECONDS) as bound:
                await lifespan.__aexit__(None, None, None)
        except TimeoutError:
            if not bound.expired():
                raise
            logger.error("lifespan's clean-up took longer than %g s", CLEANUP_SECONDS)
            self.exit_code = EXIT_FORCED

    def _enter(self, state: State, **counts: object) -> None:
        self.state = state
        self._phase.value = _PHASES.get(state, self._phase.value)
        logger.info("%s: %s", self.name, state.value, extra=counts)
