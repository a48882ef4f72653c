"""The life of a daemon: its start, its work, and the order of its end."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, TCPConnector, web

import gizmopy.server
from gizmopy import Message, Service, Settings, SimpleServer, get, health_check, put, subscribe
from gizmopy.errors import DeclarationError, PubSubError, StartError, UsageError
from gizmopy.pubsub import Driver, Receiver, open_driver
from gizmopy.pubsub.handlers import Handler as MessageHandler
from gizmopy.server import Phase, Stop, make_service
from gizmopy.server.service import service_name, settings_class
from gizmopy.web import EndpointTable
from gizmopy.web import Handler as HTTPHandler
from tests.support import until


class Recorder(Service):
    """A service that records events, and whose requests wait for ``go_on``."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.events: list[str] = []
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.events.append("opened")
        yield
        self.events.append("closed")

    @get("/slow")
    async def slow(self) -> str:
        self.started.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # a clean-up that takes a moment
            self.events.append("cancelled")
            raise
        await self.publish("cats", "from the last request")
        self.events.append("answered")
        return "done"

    @subscribe("cats")
    async def on_cat(self, name: str) -> None:
        self.events.append(f"handled {name}")


def _settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {"http_port": 0, "http_access_log": "off"}
    return Settings(**(values | changes))


async def _serving(service: Service) -> tuple[SimpleServer, asyncio.Task[int]]:
    """Serve until ``server.stop`` is requested; return as soon as it is ready."""
    server = SimpleServer(service)
    serving = asyncio.create_task(server.serve(Stop()))
    await until(lambda: server.phase is Phase.READY)
    return server, serving


def _port(server: SimpleServer) -> int:
    return int(server.url.rpartition(":")[2])


async def _refused(port: int) -> None:
    """Wait until connections to ``port`` are refused."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            writer.close()
            await writer.wait_closed()


async def test_a_drain_finishes_requests_then_messages_then_closes() -> None:
    """The active request is answered, its message is handled, then the lifespan ends."""
    recorder = Recorder(_settings())
    async with ClientSession() as http:
        async with SimpleServer(recorder) as server:
            asking = asyncio.create_task(http.get(f"{server.url}/slow"))
            await recorder.started.wait()
            asyncio.get_running_loop().call_soon(recorder.go_on.set)
        response = await asking
        assert await response.json() == "done"
    assert recorder.events == ["opened", "answered", "handled from the last request", "closed"]
    assert server.exit_code == 0
    assert server.phase is Phase.EXIT


class Hello(Service):
    @get("/")
    async def hello(self) -> str:
        return "hello"

    @put("/upload")
    async def upload(self, request: web.Request) -> int:
        return len(await request.read())


async def test_a_daemon_without_subscriptions_serves_until_the_stop() -> None:
    """Without subscriptions nothing ends the daemon before a stop is requested."""
    server, serving = await _serving(Hello(_settings()))
    async with ClientSession() as http, http.get(server.url) as response:
        assert await response.json() == "hello"
    assert server.phase is Phase.READY
    server.stop.request("test")

    assert await serving == 0


async def test_an_upload_is_received_to_its_end() -> None:
    """A body that arrives during the drain is read to its end, and answered."""
    server, serving = await _serving(Hello(_settings()))
    reader, writer = await asyncio.open_connection("127.0.0.1", _port(server))
    writer.write(b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
    await until(lambda: server.application.handler.active)
    server.stop.request("test")
    await until(lambda: server.phase is Phase.STOPPING)
    writer.write(b"67890")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"Connection: close" in answer
    assert answer.endswith(b"10")
    assert await serving == 0


async def test_connections_in_the_backlog_are_served() -> None:
    """A client that sent a request before the listener closed gets a response, not a reset."""
    server, serving = await _serving(Hello(_settings()))
    clients = [socket.create_connection(("127.0.0.1", _port(server))) for _ in range(20)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    server.stop.request("test")  # the loop has not run since: none of them is accepted yet

    assert await serving == 0
    for client in clients:
        with client:
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")


async def test_serve_returns_0_after_a_clean_stop() -> None:
    """serve() works until the stop is requested, and returns the exit code."""
    server, serving = await _serving(Recorder(_settings()))
    server.stop.request("test")

    assert await serving == 0


async def test_a_stop_during_the_start_undoes_the_start() -> None:
    """A signal during a long start closes the opened resources, and the exit code is 0."""

    class Slow(Recorder):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            async with super().lifespan():
                self.started.set()
                try:
                    await asyncio.Event().wait()
                    yield
                finally:
                    self.events.append("gave up")

    stop = Stop()
    slow = Slow(_settings())
    serving = asyncio.create_task(SimpleServer(slow).serve(stop))
    await slow.started.wait()
    stop.request("SIGTERM")

    assert await asyncio.wait_for(serving, 10) == 0
    assert slow.events == ["opened", "gave up"]
    assert not serving.cancelling()


async def test_a_stop_before_the_start_starts_nothing() -> None:
    """After a signal during the import of the service, nothing is opened."""
    stop = Stop()
    stop.request("SIGTERM")
    recorder = Recorder(_settings())

    assert await SimpleServer(recorder).serve(stop) == 0
    assert recorder.events == []


async def test_a_cancellation_of_the_start_is_not_a_stop() -> None:
    """A cancellation by the caller of serve() is raised."""

    class Slow(Recorder):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            self.started.set()
            await asyncio.Event().wait()
            yield

    slow = Slow(_settings())
    serving = asyncio.create_task(SimpleServer(slow).serve(Stop()))
    await slow.started.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_the_listener_is_closed_while_requests_finish() -> None:
    """New connections are refused while the last request is answered."""
    recorder = Recorder(_settings())
    server, serving = await _serving(recorder)
    async with ClientSession() as http:
        asking = asyncio.create_task(http.get(f"{server.url}/slow"))
        await recorder.started.wait()
        server.stop.request("test")
        await until(lambda: server.phase is Phase.STOPPING)
        await _refused(_port(server))
        recorder.go_on.set()
        async with await asking as response:
            assert response.status == 200
    assert await serving == 0


async def test_a_request_at_the_deadline_is_cancelled_and_the_exit_code_is_70() -> None:
    """A request that does not end within the budget is cancelled and answered 503."""
    recorder = Recorder(_settings(shutdown_timeout="10ms"))
    async with ClientSession() as http:
        async with SimpleServer(recorder) as server:
            asking = asyncio.create_task(http.get(f"{server.url}/slow"))
            await recorder.started.wait()
        async with await asking as response:
            assert response.status == 503
            assert response.headers["Connection"] == "close"
    assert server.exit_code == 70
    assert recorder.events == ["opened", "cancelled", "closed"]


async def test_a_second_stop_shortens_the_drain() -> None:
    """A second request to stop leaves one second of the budget."""
    recorder = Recorder(_settings(shutdown_timeout="1h", drain_delay="1h"))
    async with ClientSession() as http:
        async with SimpleServer(recorder) as server:
            asking = asyncio.create_task(http.get(f"{server.url}/slow"))
            await recorder.started.wait()
            server.stop.hurried.set()
        async with await asking as response:
            assert response.status == 503
    assert server.exit_code == 70


async def test_a_taken_port_opens_nothing() -> None:
    """The port is bound before the service opens its resources."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        recorder = Recorder(_settings(http_port=other.getsockname()[1]))
        with pytest.raises(StartError, match="is taken by another process"):
            await SimpleServer(recorder).__aenter__()
    assert recorder.events == []


async def test_a_start_that_fails_is_undone() -> None:
    """If a subscription cannot start, the lifespan is exited; the error names the subscription."""

    class Refusing:
        def __init__(self, inner: Driver) -> None:
            self.capabilities = replace(inner.capabilities, process_local=False)
            self.sender = inner.sender
            self.aclose = inner.aclose

        def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
            raise PubSubError(f"no permission to consume {topic}", transient=False)

    recorder = Recorder(_settings())
    server = SimpleServer(recorder, open_driver=lambda url: Refusing(open_driver(url)))
    with pytest.raises(StartError, match=r"'cats' \(Recorder.on_cat\).*no permission to consume"):
        await server.__aenter__()
    assert recorder.events == ["opened", "closed"]


async def test_an_unknown_scheme_ends_the_start() -> None:
    """The error names the broker's URL and the known schemes."""
    recorder = Recorder(_settings(pubsub_url="kafak://b1"))
    with pytest.raises(StartError, match=r"kafak://b1.*memory://"):
        await SimpleServer(recorder).__aenter__()


async def test_a_lifespan_that_fails_ends_the_start() -> None:
    """An exception of the service's lifespan is raised unchanged."""

    class Failing(Recorder):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            raise ConnectionError("the database is down")
            yield

    with pytest.raises(ConnectionError, match="the database is down"):
        await SimpleServer(Failing(_settings())).__aenter__()


async def test_a_subscriber_that_fails_is_replaced() -> None:
    """The failure is counted and logged, and a new subscriber handles the messages."""
    broken = [PubSubError("the queue was deleted", transient=False)]

    class Broken:
        def __init__(self, inner: Driver) -> None:
            self.capabilities = inner.capabilities
            self.sender = inner.sender
            self.aclose = inner.aclose
            self._inner = inner

        def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
            receiver = self._inner.receiver(topic, subscription, ordered=ordered)
            receive = receiver.receive

            async def receive_or_die(limit: int, wait: float) -> Any:
                if broken:
                    raise broken.pop()
                return await receive(limit, wait)

            receiver.receive = receive_or_die  # type: ignore[method-assign]
            return receiver

    recorder = Recorder(_settings())
    server = SimpleServer(
        recorder, open_driver=lambda url: Broken(open_driver(url)), sleep=lambda _: asyncio.sleep(0)
    )
    async with server:
        restarts = server.metrics.counter("gizmo_pubsub_restarts", "").child("cats", "recorder")
        async with asyncio.timeout(10):
            while not restarts.value:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0)
        await recorder.publish("cats", "after it")
        await server.channels.idle()
    assert recorder.events == ["opened", "handled after it", "closed"]


async def test_an_error_of_the_body_is_raised_unchanged() -> None:
    """A test that fails within `async with` sees its own error, not a group, after the drain."""
    recorder = Recorder(_settings())
    with pytest.raises(AssertionError, match="mine"):
        async with SimpleServer(recorder):
            raise AssertionError("mine")
    assert recorder.events == ["opened", "closed"]


async def test_two_servers_live_in_one_process() -> None:
    """Each server has its own broker, metrics and port."""
    mine, yours = Recorder(_settings()), Recorder(_settings())
    async with SimpleServer(mine) as one, SimpleServer(yours) as two:
        assert one.url != two.url
        await mine.publish("cats", "mine")
        await one.channels.idle()
    assert "handled mine" in mine.events
    assert "handled mine" not in yours.events


async def test_the_old_names_of_the_phase_are_deprecated() -> None:
    """State and ``server.state`` are usable until 0.3, with a warning."""
    server = SimpleServer(Hello(_settings()))
    with pytest.warns(DeprecationWarning, match=r"gizmopy\.server\.State is deprecated"):
        phases = gizmopy.server.State
    with pytest.warns(DeprecationWarning, match=r"use phase"):
        assert server.state is phases.STARTING


async def test_a_service_is_served_once() -> None:
    """One service in two servers would mix their channels, so the second server refuses it."""
    recorder = Recorder(_settings())
    SimpleServer(recorder)
    with pytest.raises(UsageError, match="already has a server"):
        SimpleServer(recorder)


async def test_a_service_without_a_server_cannot_publish() -> None:
    """Without a server, publish() and metrics raise errors that say so."""
    recorder = Recorder(_settings())
    with pytest.raises(UsageError, match="Recorder is not running"):
        await recorder.publish("cats", "x")
    with pytest.raises(UsageError, match="Recorder has no metrics yet"):
        _ = recorder.metrics


@pytest.mark.parametrize(
    ("class_name", "own", "setting", "expected"),
    [
        ("Cats", "", "", "cats"),
        ("CatsAndDogs", "", "", "cats-and-dogs"),
        ("HTTPCats2Go", "", "", "http-cats2-go"),
        ("Cats", "own", "", "own"),
        ("Cats", "own", "set", "set"),
    ],
)
def test_a_service_has_a_name(class_name: str, own: str, setting: str, expected: str) -> None:
    """The setting overrides ``name``, which overrides the name of the class."""
    kind = type(class_name, (Service,), {"name": own})

    assert service_name(kind(Settings(service_name=setting))) == expected


class CatsSettings(Settings):
    greeting: str = "miaow"


def test_the_annotation_chooses_the_settings() -> None:
    """A service gets the annotated settings class, and so do its subclasses."""

    class Own(Service):
        settings: CatsSettings

    class Derived(Own):
        pass

    assert settings_class(Service) is Settings
    assert settings_class(Derived) is CatsSettings
    assert Derived().settings.greeting == "miaow"


def test_an_annotation_must_be_a_settings_class() -> None:
    """It must be a subclass of Settings that its module defines."""

    class Wrong(Service):
        settings: int  # type: ignore[assignment]

    class Unknown(Service):
        settings: "NoSuchSettings"  # type: ignore[name-defined]  # noqa: F821

    for kind in (Wrong, Unknown):
        with pytest.raises(DeclarationError, match=r"use a subclass of gizmopy\.Settings"):
            settings_class(kind)


async def test_an_endless_stream_is_cancelled_at_the_deadline() -> None:
    """A stream that never ends does not delay the exit beyond the budget."""

    class Endless(Service):
        @get("/stream")
        async def stream(self, request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"x")
            await asyncio.Event().wait()
            return response

    server = SimpleServer(Endless(_settings(shutdown_timeout="10ms")))
    async with ClientSession() as http:
        async with server:
            response = await http.get(f"{server.url}/stream")
            assert await response.content.readexactly(1) == b"x"
        with pytest.raises(ClientError):
            await response.read()
    assert server.exit_code == 70


async def test_a_clean_up_that_hangs_is_cancelled_and_the_exit_code_is_70(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The code after the lifespan's yield has a time limit."""

    class Hanging(Service):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            yield
            await asyncio.Event().wait()

    monkeypatch.setattr("gizmopy.server.lifecycle.lifespan.CLEANUP_SECONDS", 0.01)
    server = SimpleServer(Hanging(_settings()))
    async with server:
        pass
    assert server.exit_code == 70


async def test_a_lifespan_must_be_a_context_manager() -> None:
    """The error about a forgotten @asynccontextmanager has the file and line."""

    class Wrong(Service):
        async def lifespan(self) -> AsyncIterator[None]:  # type: ignore[override]  # the mistake
            yield

    with pytest.raises(DeclarationError, match=r"Wrong\.lifespan: decorate it with @async"):
        await SimpleServer(Wrong(_settings())).__aenter__()


def test_an_init_must_take_the_settings_and_keep_them() -> None:
    """The error names an __init__ that does not."""

    class Without(Service):
        def __init__(self) -> None:
            super().__init__()

    class Forgetful(Service):
        def __init__(self, settings: Settings | None = None) -> None:
            pass

    with pytest.raises(DeclarationError, match=r"Without\.__init__: must take the settings"):
        make_service(Without, Settings())
    with pytest.raises(DeclarationError, match=r"must call super\(\)\.__init__\(settings\)"):
        make_service(Forgetful, Settings())


@pytest.mark.parametrize("name", ["publish", "name", "lifespan"])
def test_an_endpoint_cannot_have_the_name_of_a_member_of_service(name: str) -> None:
    """It would replace that member, so it is refused."""

    async def endpoint(self: Service) -> None: ...

    with pytest.raises(DeclarationError, match=f"'{name}' is a member of Service; rename"):
        type("Wrong", (Service,), {name: get("/wrong")(endpoint)})


def test_a_method_of_service_may_be_overridden() -> None:
    """A plain method may override a method of Service."""

    class Own(Service):
        def endpoints(self) -> EndpointTable:
            return {"/own": {"GET": self.own}}

        async def own(self) -> str:
            return "own"

    assert [route.path for route in SimpleServer(Own(_settings())).routes] == ["/own"]


tenant: ContextVar[str] = ContextVar("tenant", default="none")


class Tenants(Service):
    """A service that records the tenant that each part of it sees, and changes it."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.seen: dict[str, str] = {}
        self.may_start = asyncio.Event()
        self.middleware = [self.around]
        self.message_middleware = [self.around_messages]

    def see(self, place: str) -> None:
        self.seen[place] = tenant.get()
        tenant.set(place)  # it must not reach any other place

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await self.may_start.wait()
        token = tenant.set("cats")
        yield
        tenant.reset(token)
        self.see("clean-up")

    def around(self, handler: HTTPHandler) -> HTTPHandler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.see("middleware")
            tenant.set("cats")
            return await handler(request)

        return handle

    def around_messages(self, handler: MessageHandler) -> MessageHandler:
        async def handle(message: Message) -> None:
            self.see("message middleware")
            tenant.set("cats")
            await handler(message)

        return handle

    @get("/see")
    async def endpoint(self) -> str:
        self.see("endpoint")
        await self.publish("cats", "Tom")
        await self.publish("dogs", "Rex")
        return self.seen["endpoint"]

    @get("/thread")
    async def thread(self) -> str:
        return await asyncio.to_thread(tenant.get)

    @health_check
    async def check(self) -> None:
        self.see("check")

    @health_check(group="startup")
    async def startup_check(self) -> None:
        self.see("startup check")

    @subscribe("cats")
    async def on_cat(self, name: str) -> None:
        self.see("handler")

    @subscribe("dogs", batch_size=10)
    async def on_dogs(self, names: list[str]) -> None:
        self.see("batch handler")


async def test_all_parts_of_a_service_see_the_context_of_its_lifespan() -> None:
    """A ContextVar that lifespan sets has its value everywhere, and no part changes it for others.

    This includes requests on a connection that was accepted before.
    """
    tenants = Tenants(_settings())
    server = SimpleServer(tenants)
    serving = asyncio.create_task(server.serve(Stop()))
    await until(lambda: bool(server.url))
    async with ClientSession(connector=TCPConnector(limit=1)) as http:
        assert (await http.get(f"{server.url}/see")).status == 503  # it is starting
        tenants.may_start.set()
        await until(lambda: server.phase is Phase.READY)
        for path in ("/see", "/see", "/thread"):
            assert await (await http.get(f"{server.url}{path}")).json() == "cats"
        await until(lambda: len(tenants.seen) == 7)
    server.stop.request("SIGTERM")
    await serving
    await asyncio.get_running_loop().shutdown_default_executor()

    assert tenants.seen.pop("clean-up") == "none"  # the token of lifespan is valid
    assert set(tenants.seen.values()) == {"cats"}, tenants.seen


async def test_a_second_stop_shortens_the_drain_of_messages() -> None:
    """It leaves a message handler one second of the budget."""

    class Slow(Service):
        started = asyncio.Event()

        @subscribe("cats")
        async def on_cat(self, name: str) -> None:
            self.started.set()
            await asyncio.Event().wait()

    slow = Slow(_settings(shutdown_timeout="1h"))
    server = SimpleServer(slow)
    serving = asyncio.create_task(server.serve(Stop()))
    await until(lambda: server.phase is Phase.READY)
    await slow.publish("cats", "Tom")
    await slow.started.wait()
    server.stop.request("SIGTERM")
    await until(lambda: server.phase is Phase.STOPPING)
    server.stop.request("SIGTERM")

    assert await asyncio.wait_for(serving, 10) == 70
