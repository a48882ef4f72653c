"""The life of a daemon, from its first line to its last, readable from top to bottom.

STARTING → READY → DRAINING → STOPPING → CLEANUP → EXIT. Each part that is started registers its end
with one AsyncExitStack. The stack runs them in reverse order, also if the start fails half-way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType, TracebackType
from warnings import warn

from gizmopy._aio import background
from gizmopy._deprecated import REMOVED_IN
from gizmopy.config.origin import Origin
from gizmopy.pubsub import Driver, OnSettle, open_driver
from gizmopy.server.application import assemble, bind_ports
from gizmopy.server.http.listening.listener import NETWORK_DELAY, Port
from gizmopy.server.http.listening.tls import Certificate
from gizmopy.server.http.push_routes import mount_pushes
from gizmopy.server.jobs.clock import Clock
from gizmopy.server.lifecycle.announcement import log_declarations
from gizmopy.server.lifecycle.lifespan import Lifespan, enter_lifespan, exit_lifespan
from gizmopy.server.lifecycle.phase import Phase
from gizmopy.server.lifecycle.shutdown_budget import (
    CANCEL_SECONDS,
    HURRIED_SECONDS,
    ShutdownBudget,
)
from gizmopy.server.lifecycle.signals import Stop
from gizmopy.server.metrics import ServerMetrics
from gizmopy.server.service import Service

logger = logging.getLogger(__name__)

EXIT_FORCED = 70
"""The exit code of a daemon that did not drain before its deadline (EX_SOFTWARE, sysexits.h)."""
_LAST_RESPONSE_SECONDS = 0.1
"""Time for a load balancer to read the last health response before the listener closes."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A started daemon."""

    lifetime: AsyncExitStack
    """Closing it drains and stops the daemon."""
    subscribers: asyncio.Task[None]


class SimpleServer:
    """Serve one service: its endpoints over HTTP, its subscriptions, and its background work.

    Making one runs nothing. It raises DeclarationError if a declaration is wrong, ConfigError if
    the settings contradict one, and UsageError if ``service`` has a server already. As an async
    context manager it starts on entering (raising StartError or PubSubError if it cannot) and
    drains on leaving. ``serve`` does both around a ``Stop``.
    /debug/config shows the source of each setting that is in ``origins``, as ``load`` returns them.
    """

    def __init__(
        self,
        service: Service,
        *,
        open_driver: Callable[[str], Driver] = open_driver,
        origins: Mapping[str, Origin] = MappingProxyType({}),
        on_settle: OnSettle | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Clock | None = None,
        network_delay: float = NETWORK_DELAY,
    ) -> None:
        self.application = app = assemble(
            service,
            open_driver=open_driver,
            origins=origins,
            on_settle=on_settle,
            sleep=sleep,
            clock=clock,
            network_delay=network_delay,
        )
        self.service = service
        self.settings = service.settings
        self.name = app.name
        self.routes = app.routes
        self.subscriptions = app.subscriptions
        self.metrics = app.metrics
        self.channels = app.channels
        self.health = app.health
        self.phase = Phase.STARTING
        self.exit_code = 0
        self.stop = Stop()
        """Requests the end of ``serve``; a second request shortens the drain."""
        self._ports: list[Port] = []
        self._running: _Running | None = None
        self._metrics = ServerMetrics(app, self._ports)

    @property
    def state(self) -> Phase:
        """The old name of ``phase``."""
        warn(f"state ends with gizmopy {REMOVED_IN}: use phase", DeprecationWarning, stacklevel=2)
        return self.phase

    @property
    def url(self) -> str:
        """The URL of the main port, such as ``http://127.0.0.1:8080``; empty until it listens."""
        return self._ports[0].url if self._ports else ""

    @property
    def admin_url(self) -> str:
        """The URL of the admin port; empty without one."""
        return self._ports[1].url if len(self._ports) > 1 else ""

    async def serve(self, stop: Stop) -> int:
        """Start, work until ``stop`` is requested, drain, and return the exit code.

        A stop that is requested during the start ends the start and undoes it.
        """
        self.stop = stop
        with stop.interrupts():
            # An earlier request has cancelled this task. The cancellation is raised at the first
            # await, which must not be one of the start: it would leave something to undo.
            await asyncio.sleep(0)
            await self.__aenter__()
        if self._running is None:
            logger.info("stopped while starting: %s", stop.reason)
            return self.exit_code
        async with self._running.lifetime:
            async with background(stop.wait()) as requested:
                # Without subscriptions their task has ended already, which is not a reason to stop.
                subscribers = (self._running.subscribers,) if self.subscriptions else ()
                await asyncio.wait((requested, *subscribers), return_when=asyncio.FIRST_COMPLETED)
            logger.info("stopping: %s", stop.reason or "the subscribers ended")
        return self.exit_code

    async def __aenter__(self) -> SimpleServer:
        async with AsyncExitStack() as lifetime:
            subscribers = await self._start(lifetime)
            self._running = _Running(lifetime.pop_all(), subscribers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._running is not None
        await self._running.lifetime.__aexit__(kind, error, trace)

    # STARTING

    async def _start(self, lifetime: AsyncExitStack) -> asyncio.Task[None]:
        """Answer probes, open the resources of the service, subscribe, then serve its endpoints.

        Returns the task that runs the subscribers.
        """
        started_at = perf_counter()
        app = self.application
        budget = ShutdownBudget(self.settings, self.stop, has_jobs=bool(app.jobs.all))
        if app.debug_guard is not None:
            app.debug_guard.check_listener()
        self._bind_ports(lifetime)
        lifetime.callback(self._enter, Phase.EXIT)
        await lifetime.enter_async_context(app.instruments.running())
        await lifetime.enter_async_context(self.channels)  # first: lifespan may publish
        mount_pushes(app.handler.router, self.channels, self.subscriptions, self.settings)
        # Listen before the service opens its resources, which may take minutes: a liveness probe
        # that is refused for so long would restart the process again and again.
        await self._listen(lifetime)
        await self.channels.connect_local(self.subscriptions)
        await self._enter_lifespan(lifetime)
        lifetime.callback(self._enter, Phase.CLEANUP)
        lifetime.push_async_callback(self._finish_jobs, budget)
        await self.channels.start(self.subscriptions)
        subscribers = asyncio.create_task(self.channels.run(), name="gizmopy-subscribers")
        lifetime.push_async_callback(self._finish_messages, budget, subscribers)
        # Health checks use the resources of the lifespan, so they run only while it is open.
        await lifetime.enter_async_context(self.health)
        lifetime.push_async_callback(self._finish_requests, budget)
        log_declarations(app, self.url, self.admin_url)
        budget.log()
        app.jobs.start()
        app.handler.open()
        self.health.accepting = True
        lifetime.push_async_callback(self._refuse_work, budget)
        self._enter(Phase.READY, seconds=round(perf_counter() - started_at, 3))
        return subscribers

    def _bind_ports(self, lifetime: AsyncExitStack) -> None:
        """Bind every address first: if another process has one, nothing else is opened."""
        for port in bind_ports(self.application):
            self._ports.append(port)
            lifetime.push_async_callback(port.close)

    async def _listen(self, lifetime: AsyncExitStack) -> None:
        """Listen from here on: probes answer that the daemon is starting, endpoints answer 503."""
        settings, tls, admin_tls = self.settings, None, None
        if settings.tls_cert:
            files = (settings.tls_cert, settings.tls_key, settings.tls_client_ca)
            certificate = await lifetime.enter_async_context(Certificate(*files))
            self._metrics.watch_certificate(certificate)
            tls, admin_tls = certificate.context, certificate.admin_context
        for port, context in zip(self._ports, (tls, admin_tls), strict=False):
            await port.listen(context)
        if self.application.debug_guard is not None:
            self.application.debug_guard.log_url(self.admin_url or self.url)

    async def _enter_lifespan(self, lifetime: AsyncExitStack) -> None:
        lifespan = await enter_lifespan(self.service)
        lifetime.push_async_callback(self._exit_lifespan, lifespan)
        for port in self._ports:  # they listen already, in the context from before
            port.use_context()

    # The stop: the exit stack calls these in this order.

    async def _refuse_work(self, budget: ShutdownBudget) -> None:
        """DRAINING: report unready, but serve the requests that still arrive.

        Readiness fails, every response closes its connection, and subscribers stop receiving. The
        listener stays open for the drain delay: load balancers need a while to notice, and would
        send requests to a closed port until then. With the ``lb`` health check it stays open until
        each load balancer that polls the health has received the new response.
        """
        # Measured with 32 keep-alive clients and a load balancer that notices after one second:
        # about 32 requests were lost and 550 refused without the delay, none with it.
        handler = self.application.handler
        self.health.accepting, self.health.reason = False, "draining"
        handler.drain()
        self.channels.stop_receiving()
        self.application.jobs.stop_beginning()
        self._enter(Phase.DRAINING, requests=len(handler.active))
        await budget.within(budget.delay, self.stop.hurried.wait())
        budget.begin()
        if self.settings.health_check_type == "lb":
            load_balancers = self.application.load_balancers
            await budget.within(budget.remaining(), load_balancers.wait_aware())
            await asyncio.sleep(_LAST_RESPONSE_SECONDS)

    async def _finish_requests(self, budget: ShutdownBudget) -> None:
        """STOPPING: close the listener, finish the requests, cancel them at the deadline."""
        handler, port = self.application.handler, self._ports[0]  # the admin port serves probes on
        self._enter(Phase.STOPPING, requests=len(handler.active))
        await port.stop_listening(self.application.network_delay)
        if not await budget.within(budget.remaining(), handler.active.wait_idle()):
            logger.error("%d requests are cancelled at the deadline", len(handler.active))
            self._metrics.dropped_work.child("requests").value += len(handler.active)
            self.exit_code = EXIT_FORCED
            handler.active.cancel()
        handler.stop_serving()
        port.close_idle()
        # Requests that began while the others were cancelled are answered 503.
        await budget.within(CANCEL_SECONDS, handler.active.wait_idle())
        if not await budget.within(budget.remaining(), port.wait_sent()):
            logger.error("responses are cut off at the deadline: their clients read too slowly")
            self.exit_code = EXIT_FORCED

    async def _finish_messages(
        self, budget: ShutdownBudget, subscribers: asyncio.Task[None]
    ) -> None:
        """STOPPING: finish the messages whose handlers run, and release the others.

        This follows the last request because a request may publish to a broker in this process.
        Such a broker is drained until its queues are empty: no other process can consume them.
        """
        async with background(self._shorten_drain_when_hurried()):
            report = await self.channels.drain(budget.remaining())
        logger.info("%s: subscribers drained", self.name, extra=report._asdict())
        if dropped := report.cancelled + report.failed_to_settle:
            self._metrics.dropped_work.child("messages").value += dropped
            self.exit_code = EXIT_FORCED
        await subscribers  # raises the error that ended them, if it was not the drain

    async def _shorten_drain_when_hurried(self) -> None:
        await self.stop.hurried.wait()
        self.channels.shorten_deadline(HURRIED_SECONDS)

    async def _finish_jobs(self, budget: ShutdownBudget) -> None:
        """STOPPING: end the background work last, because requests and messages may need it."""
        if cut_off := await self.application.jobs.drain(budget):
            self._metrics.dropped_work.child("jobs").value += cut_off
            self.exit_code = EXIT_FORCED

    async def _exit_lifespan(self, lifespan: Lifespan) -> None:
        """CLEANUP: exit the service's lifespan, within ``CLEANUP_SECONDS``."""
        if not await exit_lifespan(lifespan):
            self.exit_code = EXIT_FORCED

    def _enter(self, phase: Phase, **counts: object) -> None:
        self.phase = phase
        self._metrics.set_phase(phase)
        logger.info("%s: %s", self.name, phase.value, extra=counts)
