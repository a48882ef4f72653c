"""The life of a daemon, from its first line to its last, readable from top to bottom.

STARTING → READY → DRAINING → STOPPING → CLEANUP → EXIT. What is started is undone in reverse order
by one AsyncExitStack, wherever the start or the life ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from enum import Enum
from time import perf_counter
from types import TracebackType
from typing import Any

from aiohttp import web

from gizmopy.errors import DeclarationError, StartError
from gizmopy.observe.access import AccessLog
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import (
    Channels,
    Driver,
    OnSettle,
    collect_subscriptions,
    open_driver,
)
from gizmopy.server.builtin import Scraper, builtin_endpoints
from gizmopy.server.health import Health, collect_health_checks, subscription_checks
from gizmopy.server.http import Endpoint, HTTPDoor, ProtocolLogger, compose
from gizmopy.server.listening import accept_all, bind, refused
from gizmopy.server.servable import Servable
from gizmopy.server.signals import Stop
from gizmopy.web import (
    Router,
    collect_routes,
    compile_endpoint,
    request_factory,
)

logger = logging.getLogger(__name__)

EXIT_FORCED = 70
"""The exit code of a daemon whose time to drain ran out (EX_SOFTWARE of sysexits.h)."""

_BACKLOG = 1024
_CANCEL_SECONDS = 1.0
"""How long a cancelled request may take to end."""
_CLOSE_SECONDS = 0.1
"""How long aiohttp may wait for connections that nothing is under way on; it does so twice."""
_CLEANUP_SECONDS = 3.0
"""How long the service's own clean-up may take."""
_LINGER_SECONDS = 0.1
"""How long requests that were sent before the listener closed may take to be read."""
_HURRIED_SECONDS = 1.0
"""What a second signal leaves of the time to drain."""


class State(Enum):
    """The phases of a daemon's life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    CLEANUP = "cleanup"
    EXIT = "exit"


class SimpleServer:
    """Serve one service: its endpoints over HTTP, and its subscriptions.

    Making one reads every declaration of the service, and raises DeclarationError where one is
    wrong; nothing runs yet. As an async context manager it starts on entering, raising StartError
    or PubSubError where it cannot, and drains on leaving. ``serve`` does both around a ``Stop``.
    """

    def __init__(
        self,
        service: Servable,
        *,
        open_driver: Callable[[str], Driver] = open_driver,
        on_settle: OnSettle | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.service = service
        self.settings = service.settings
        self.name = service.service_name()
        self.state = State.STARTING
        self.url = ""
        """Where the daemon listens, such as ``http://127.0.0.1:8080``, once it does."""
        self.exit_code = 0
        self.metrics = Metrics()
        self.routes = collect_routes(service, service.prefix)
        self.subscriptions = collect_subscriptions(service, self.name)
        self.channels = Channels(
            self.settings.pubsub_url,
            service=self.name,
            topics=self.settings.topics,
            subscriptions=self.settings.subscriptions,
            metrics=self.metrics,
            linger=self.settings.publish_linger.total_seconds(),
            on_settle=on_settle,
            sleep=sleep,
            open_driver=open_driver,
        )
        self.health = Health(
            collect_health_checks(service)
            + subscription_checks(self.channels, self.subscriptions, critical=not self.routes)
        )
        service.attach(self.channels, self.metrics)
        self._access = AccessLog(
            self.settings.http_access_log or self.settings.log_file,
            log_json=self.settings.log_json,
        )
        self._scraper = Scraper(self.metrics)
        self._tell_what_is_measured_late()
        self._door = HTTPDoor(self._compile(), self.metrics, self._access)
        self.stop = Stop()
        """What ends ``serve``; asked for a second time, the drain hurries."""
        self._deadline: float | None = None

    def _tell_what_is_measured_late(self) -> None:
        """Measure what does not change, and what is cheaper to read when somebody looks."""
        labels = ("service_name", "service_version")
        info = self.metrics.gauge("target_info", "What is measured here.", labels)
        info.cell(self.name, self.settings.service_version).value = 1.0
        help_text = "Access lines that could not be written."
        dropped = self.metrics.counter("gizmo_log_dropped", help_text).cell()

        def refresh() -> None:
            dropped.value = self._access.dropped

        self.metrics.before_scrape(refresh)

    def _compile(self) -> Router[Endpoint]:
        """Compile every route, and add the built-in ones where the service has none of its own."""
        router: Router[Endpoint] = Router()
        settings = self.settings
        for route in self.routes:
            handler = compile_endpoint(
                route,
                read_timeout=settings.read_timeout.total_seconds(),
                json_content_type=settings.json_content_type,
            )
            composed = compose(handler, self.service.middleware)
            router.add(route.method, route.path, Endpoint(route.path, composed))
        taken = {route.path for route in self.routes if route.method == "GET"}
        for path, handler in builtin_endpoints(self.name, settings, self.health, self._scraper):
            if path not in taken:
                try:
                    router.add("GET", path, Endpoint(path, handler, quiet=True))
                except ValueError as error:
                    raise StartError(f"built-in endpoint {path!r}: {error}") from error
        return router

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
            asked = asyncio.create_task(stop.wait())
            try:
                # Without subscriptions that job has ended already, and is no reason to stop.
                jobs = (asked, self._subscribers) if self.subscriptions else (asked,)
                await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            finally:
                asked.cancel()
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
        """STARTING: take the port, open what the service needs, subscribe, then listen."""
        began = perf_counter()
        listener = bind(self.settings.http_addr, self.settings.http_port)
        lifetime.callback(listener.close)
        lifetime.callback(self._enter, State.EXIT)
        lifetime.callback(self._scraper.close)
        try:
            await lifetime.enter_async_context(self._access)
        except OSError as error:
            raise StartError(
                f"HTTP_ACCESS_LOG: {error}; give a file that can be written"
            ) from error
        await lifetime.enter_async_context(self.channels)
        lifespan = self.service.lifespan()
        if not isinstance(lifespan, AbstractAsyncContextManager):
            reason = "is no async context manager; decorate it with @asynccontextmanager"
            raise DeclarationError(self.service.lifespan, reason)
        await lifespan.__aenter__()
        lifetime.push_async_callback(self._leave, lifespan)
        lifetime.callback(self._enter, State.CLEANUP)
        await self.channels.start(self.subscriptions)
        self._subscribers = asyncio.create_task(self.channels.run(), name="gizmopy-subscribers")
        lifetime.push_async_callback(self._finish_messages)
        await self._listen(listener, lifetime)
        self._announce()
        self.health.accepting = True
        lifetime.push_async_callback(self._refuse_work)
        self._enter(State.READY, seconds=round(perf_counter() - began, 3))

    async def _listen(self, listener: socket.socket, lifetime: AsyncExitStack) -> None:
        settings = self.settings
        server = web.Server(
            self._door.handle,
            request_factory=request_factory(settings.max_body_bytes),
            access_log=None,
            logger=ProtocolLogger(),
            keepalive_timeout=settings.idle_timeout.total_seconds(),
            max_field_size=settings.max_header_bytes,
            max_line_size=settings.max_header_bytes,
        )
        runner = web.ServerRunner(server, shutdown_timeout=_CLOSE_SECONDS)
        await runner.setup()
        lifetime.push_async_callback(self._finish_requests, runner, server, listener)
        try:
            await web.SockSite(runner, listener, backlog=_BACKLOG).start()
        except OSError as error:  # another daemon has bound it too, and listens already
            raise refused(error, settings.http_addr, settings.http_port) from error
        host, port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def _announce(self) -> None:
        """Log what there is: where the daemon listens, its endpoints and its subscriptions."""
        logger.info("%s listens on %s", self.name, self.url, extra={"url": self.url})
        for route in self.routes:
            logger.info("endpoint %s %s → %s", route.method, route.path, route.name)
        for row in self.channels.describe():
            logger.info("subscription %s of %s → %s", row.subscription, row.url, row.handler)

    async def _refuse_work(self) -> None:
        """DRAINING: say that no more work is wanted, while what still comes is served.

        Readiness turns red, answers close their connections, and subscribers stop fetching, but
        the listener stays open for the drain delay: a balancer goes on sending for a while.
        """
        self.health.accepting, self.health.reason = False, "draining"
        self._door.draining = True
        self.channels.stop_receiving()
        self._enter(State.DRAINING, requests=self._door.under_way)
        await self._within(self._drain_delay(), self.stop.hurried.wait())
        self._deadline = asyncio.get_running_loop().time() + self._budget()

    async def _finish_requests(
        self, runner: web.ServerRunner, server: web.Server, listener: socket.socket
    ) -> None:
        """STOPPING: close the listener, let requests finish, and cancel those out of time."""
        self._enter(State.STOPPING, requests=self._door.under_way)
        await self._stop_listening(runner, server, listener)
        if not await self._within(self._remaining(), self._door.wait_idle()):
            logger.error("requests are cancelled, out of time: %d", self._door.under_way)
            self.exit_code = EXIT_FORCED
            self._door.cancel()
            await self._within(_CANCEL_SECONDS, self._door.wait_idle())
        await runner.cleanup()

    async def _stop_listening(
        self, runner: web.ServerRunner, server: web.Server, listener: socket.socket
    ) -> None:
        """Close the listener, but serve the connections that are made already.

        Closing resets those that wait in the kernel, or between asyncio's accepting them and making
        their transport, and a client may have sent its request on them. So the loop stops accepting
        first, what has been accepted is finished, what waits is taken over, and what lies in every
        connection's buffer is given a moment to be read.
        """
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)  # asyncio's; uvloop, which has none, makes transports at once
        for _ in range(3):
            await asyncio.sleep(0)
        late = list(accept_all(listener))
        for site in list(runner.sites):
            await site.stop()
        for connection in late:
            await loop.connect_accepted_socket(server, connection)
        await asyncio.sleep(_LINGER_SECONDS)

    async def _finish_messages(self) -> None:
        """STOPPING: let subscribers finish what they hold, and release the rest.

        Those of a broker within this process go on until its queues are empty, since nobody else
        could handle what is in them: that is why this comes after the last request.
        """
        report = await self.channels.drain(self._remaining())
        logger.info("%s: subscribers drained", self.name, extra=report._asdict())
        if report.cancelled or report.failed_to_settle:
            self.exit_code = EXIT_FORCED
        await self._subscribers  # raises what ended them, where it was not the drain

    async def _leave(self, lifespan: AbstractAsyncContextManager[None]) -> None:
        """CLEANUP: leave the service's lifespan, within a bound.

        It is left without the error that may have ended the daemon: that is not the service's to
        handle, and what follows its ``yield`` has to run in any case.
        """
        try:
            async with asyncio.timeout(_CLEANUP_SECONDS) as bound:
                await lifespan.__aexit__(None, None, None)
        except TimeoutError:
            if not bound.expired():
                raise
            logger.error("lifespan's clean-up took longer than %g s", _CLEANUP_SECONDS)
            self.exit_code = EXIT_FORCED

    def _drain_delay(self) -> float:
        """Return the seconds between refusing work and closing the listener.

        Under Kubernetes a terminating pod goes on being sent requests until every proxy has heard.
        A person at the terminal does not want to wait.
        """
        if self.stop.reason == "SIGINT":
            return 0.0
        if self.settings.drain_delay is not None:
            return self.settings.drain_delay.total_seconds()
        return 5.0 if "KUBERNETES_SERVICE_HOST" in os.environ else 0.0

    def _budget(self) -> float:
        return self.settings.shutdown_timeout.total_seconds()

    def _remaining(self) -> float:
        """Return the seconds left to finish what is in hand."""
        now = asyncio.get_running_loop().time()
        left = self._budget() if self._deadline is None else max(0.0, self._deadline - now)
        return min(left, _HURRIED_SECONDS) if self.stop.hurried.is_set() else left

    async def _within(self, seconds: float, condition: Coroutine[Any, Any, object]) -> bool:
        """Wait for ``condition`` at most ``seconds``, less once hurried; return whether it held."""
        waiting = asyncio.create_task(condition)
        hurried = asyncio.create_task(self.stop.hurried.wait())
        try:
            await asyncio.wait(
                (waiting, hurried), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if hurried.done() and not waiting.done():
                await asyncio.wait((waiting,), timeout=min(seconds, _HURRIED_SECONDS))
            return waiting.done()
        finally:
            for task in (waiting, hurried):
                task.cancel()
            await asyncio.gather(waiting, hurried, return_exceptions=True)

    def _enter(self, state: State, **counts: object) -> None:
        self.state = state
        logger.info("%s: %s", self.name, state.value, extra=counts)
