"""The life of a daemon: what starts, what is finished, and in which order it ends."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, web

import gizmopy.server
from gizmopy import Service, Settings, SimpleServer, get, put, subscribe
from gizmopy.errors import DeclarationError, PubSubError, StartError, UsageError
from gizmopy.pubsub import Driver, Receiver, open_driver
from gizmopy.server import Phase, Stop, make_service
from gizmopy.server.service import service_name, settings_class


class Recorder(Service):
    """Writes down what happens, and lets a test hold it up."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.events: list[str] = []
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.events.append("opened")
        yield
        self.events.append("closed")

    @get("/slow")
    async def slow(self) -> str:
        self.begun.set()
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
    """Serve until ``server.stop`` is requested, and return once it is ready."""
    server = SimpleServer(service)
    serving = asyncio.create_task(server.serve(Stop()))
    await _until(lambda: server.phase is Phase.READY)
    return server, serving


def _port(server: SimpleServer) -> int:
    return int(server.url.rpartition(":")[2])


async def _refused(port: int) -> None:
    """Wait until nobody listens on ``port``."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            writer.close()
            await writer.wait_closed()


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- any condition
            await asyncio.sleep(0)


async def test_a_drain_finishes_requests_then_messages_then_closes() -> None:
    """The request under way is answered, what it published is handled, and only then is closed."""
    recorder = Recorder(_settings())
    async with ClientSession() as http:
        async with SimpleServer(recorder) as server:
            asking = asyncio.create_task(http.get(f"{server.url}/slow"))
            await recorder.begun.wait()
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


async def test_a_daemon_without_subscriptions_serves_until_it_is_asked_to_stop() -> None:
    """Endpoints alone are enough to live: nothing ends the daemon before somebody asks."""
    server, serving = await _serving(Hello(_settings()))
    async with ClientSession() as http, http.get(server.url) as response:
        assert await response.json() == "hello"
    assert server.phase is Phase.READY
    server.stop.request("test")

    assert await serving == 0


async def test_an_upload_under_way_is_received_to_its_end() -> None:
    """The rest of a body that arrives during the drain is read, and the request answered."""
    server, serving = await _serving(Hello(_settings()))
    reader, writer = await asyncio.open_connection("127.0.0.1", _port(server))
    writer.write(b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
    await _until(lambda: server.application.handler.active)
    server.stop.request("test")
    await _until(lambda: server.phase is Phase.STOPPING)
    writer.write(b"67890")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"Connection: close" in answer
    assert answer.endswith(b"10")
    assert await serving == 0


async def test_connections_that_the_kernel_has_accepted_are_served() -> None:
    """Who connected and sent a request before the listener closed is answered, not reset."""
    server, serving = await _serving(Hello(_settings()))
    clients = [socket.create_connection(("127.0.0.1", _port(server))) for _ in range(20)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    server.stop.request("test")  # the loop has not run since: none of them is accepted yet

    assert await serving == 0
    for client in clients:
        with client:
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")


async def test_serve_returns_0_once_it_was_asked_to_stop() -> None:
    """serve() works until the stop is requested, and returns the exit code."""
    server, serving = await _serving(Recorder(_settings()))
    server.stop.request("test")

    assert await serving == 0


async def test_a_stop_asked_for_while_it_starts_undoes_what_was_done() -> None:
    """A signal during a long start ends it with a clean exit: what was opened is closed."""

    class Slow(Recorder):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            async with super().lifespan():
                self.begun.set()
                try:
                    await asyncio.Event().wait()
                    yield
                finally:
                    self.events.append("gave up")

    stop = Stop()
    slow = Slow(_settings())
    serving = asyncio.create_task(SimpleServer(slow).serve(stop))
    await slow.begun.wait()
    stop.request("SIGTERM")

    assert await asyncio.wait_for(serving, 10) == 0
    assert slow.events == ["opened", "gave up"]
    assert not serving.cancelling()


async def test_a_stop_asked_for_before_it_starts_starts_nothing() -> None:
    """A signal during the import of the service leaves nothing to do."""
    stop = Stop()
    stop.request("SIGTERM")
    recorder = Recorder(_settings())

    assert await SimpleServer(recorder).serve(stop) == 0
    assert recorder.events == []


async def test_cancelling_the_start_is_no_stop() -> None:
    """Somebody else's cancellation during the start is passed on."""

    class Slow(Recorder):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            self.begun.set()
            await asyncio.Event().wait()
            yield

    slow = Slow(_settings())
    serving = asyncio.create_task(SimpleServer(slow).serve(Stop()))
    await slow.begun.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_the_listener_is_closed_while_requests_finish() -> None:
    """While a request is finished, new connections are refused."""
    recorder = Recorder(_settings())
    server, serving = await _serving(recorder)
    async with ClientSession() as http:
        asking = asyncio.create_task(http.get(f"{server.url}/slow"))
        await recorder.begun.wait()
        server.stop.request("test")
        await _until(lambda: server.phase is Phase.STOPPING)
        await _refused(_port(server))
        recorder.go_on.set()
        async with await asking as response:
            assert response.status == 200
    assert await serving == 0


async def test_a_request_out_of_time_is_cancelled_and_the_exit_code_is_70() -> None:
    """A request that does not end within the budget is cancelled and answered 503."""
    recorder = Recorder(_settings(shutdown_timeout="10ms"))
    async with ClientSession() as http:
        async with SimpleServer(recorder) as server:
            asking = asyncio.create_task(http.get(f"{server.url}/slow"))
            await recorder.begun.wait()
        async with await asking as response:
            assert response.status == 503
            assert response.headers["Connection"] == "close"
    assert server.exit_code == 70
    assert recorder.events == ["opened", "cancelled", "closed"]


async def test_a_hurried_drain_does_not_wait_the_whole_budget() -> None:
    """A second request to stop leaves a second, not the 18 of the budget."""
    recorder = Recorder(_settings(shutdown_timeout="1h", drain_delay="1h"))
    async with ClientSession() as http:
        async with SimpleServer(recorder) as server:
            asking = asyncio.create_task(http.get(f"{server.url}/slow"))
            await recorder.begun.wait()
            server.stop.hurried.set()
        async with await asking as response:
            assert response.status == 503
    assert server.exit_code == 70


async def test_a_taken_port_opens_nothing() -> None:
    """A port that cannot be had is found out before the service opens anything."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        recorder = Recorder(_settings(http_port=other.getsockname()[1]))
        with pytest.raises(StartError, match="is taken by another process"):
            await SimpleServer(recorder).__aenter__()
    assert recorder.events == []


async def test_a_start_that_fails_undoes_what_it_did() -> None:
    """A subscription that cannot be had leaves the lifespan again, and says which."""

    class Refusing:
        def __init__(self, inner: Driver) -> None:
            self.capabilities = inner.capabilities
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
    """A broker URL that no driver knows is named, with those that are."""
    recorder = Recorder(_settings(pubsub_url="kafak://b1"))
    with pytest.raises(StartError, match=r"kafak://b1.*memory://"):
        await SimpleServer(recorder).__aenter__()


async def test_a_lifespan_that_fails_ends_the_start() -> None:
    """What the service cannot open is raised as it is."""

    class Failing(Recorder):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            raise ConnectionError("the database is away")
            yield

    with pytest.raises(ConnectionError, match="the database is away"):
        await SimpleServer(Failing(_settings())).__aenter__()


async def test_a_subscriber_that_dies_is_replaced_and_the_daemon_lives() -> None:
    """What an engine dies of is counted and logged; another one goes on with its messages."""
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
            while not restarts.value:  # noqa: ASYNC110 - a child tells nobody when it changes
                await asyncio.sleep(0)
        await recorder.publish("cats", "after it")
        await server.channels.idle()
    assert recorder.events == ["opened", "handled after it", "closed"]


async def test_an_error_amid_the_body_is_raised_as_it_is() -> None:
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
    """The same object in two servers would mix their channels: it is refused."""
    recorder = Recorder(_settings())
    SimpleServer(recorder)
    with pytest.raises(UsageError, match="already has a server"):
        SimpleServer(recorder)


async def test_a_service_that_is_not_served_cannot_publish() -> None:
    """Publishing and metrics come with a server; without one the error says so."""
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
    """The setting beats the class's own name, which beats the name of the class."""
    kind = type(class_name, (Service,), {"name": own})

    assert service_name(kind(Settings(service_name=setting))) == expected


class CatsSettings(Settings):
    greeting: str = "miaow"


def test_the_annotation_chooses_the_settings() -> None:
    """A service that annotates settings gets that class, its subclasses too."""

    class Own(Service):
        settings: CatsSettings

    class Derived(Own):
        pass

    assert settings_class(Service) is Settings
    assert settings_class(Derived) is CatsSettings
    assert Derived().settings.greeting == "miaow"


def test_an_annotation_that_is_no_settings_class_is_refused() -> None:
    """What is annotated must be a subclass of Settings, and known to its module."""

    class Wrong(Service):
        settings: int  # type: ignore[assignment]

    class Unknown(Service):
        settings: "NoSuchSettings"  # type: ignore[name-defined]  # noqa: F821

    for kind in (Wrong, Unknown):
        with pytest.raises(DeclarationError, match=r"use a subclass of gizmopy\.Settings"):
            settings_class(kind)


async def test_streams_are_served_and_a_long_one_is_cut_at_the_deadline() -> None:
    """A stream that never ends does not hold the daemon beyond its budget."""

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


async def test_a_clean_up_that_hangs_is_left_and_the_exit_code_is_70(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the service does after its yield is bounded in time."""

    class Hanging(Service):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            yield
            await asyncio.Event().wait()

    monkeypatch.setattr("gizmopy.server.server.CLEANUP_SECONDS", 0.01)
    server = SimpleServer(Hanging(_settings()))
    async with server:
        pass
    assert server.exit_code == 70


async def test_a_lifespan_that_is_no_context_manager_is_a_mistake_in_the_declaration() -> None:
    """A forgotten @asynccontextmanager is named, with file and line."""

    class Wrong(Service):
        async def lifespan(self) -> AsyncIterator[None]:  # type: ignore[override]  # the mistake
            yield

    with pytest.raises(DeclarationError, match=r"Wrong\.lifespan: is not an async context"):
        await SimpleServer(Wrong(_settings())).__aenter__()


def test_an_init_that_takes_no_settings_is_a_mistake_in_the_declaration() -> None:
    """A service's __init__ takes the settings, and passes them on: else it is named."""

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
def test_an_endpoint_does_not_take_a_name_that_service_needs(name: str) -> None:
    """An endpoint named like a part of Service would break it: it is refused, by name."""

    async def endpoint(self: Service) -> None: ...

    with pytest.raises(DeclarationError, match=f"'{name}' is a member of Service; rename"):
        type("Wrong", (Service,), {name: get("/wrong")(endpoint)})


def test_a_method_of_service_may_be_overridden() -> None:
    """Overriding a method without declaring anything is what inheritance is for."""

    class Own(Service):
        def service_name(self) -> str:
            return "own"

    assert SimpleServer(Own(_settings())).name == "own"


async def test_a_hurried_drain_cuts_messages_short_too() -> None:
    """A second request to stop leaves a handler of messages a second, not the whole budget."""

    class Slow(Service):
        begun = asyncio.Event()

        @subscribe("cats")
        async def on_cat(self, name: str) -> None:
            self.begun.set()
            await asyncio.Event().wait()

    slow = Slow(_settings(shutdown_timeout="1h"))
    server = SimpleServer(slow)
    serving = asyncio.create_task(server.serve(Stop()))
    await _until(lambda: server.phase is Phase.READY)
    await slow.publish("cats", "Tom")
    await slow.begun.wait()
    server.stop.request("SIGTERM")
    await _until(lambda: server.phase is Phase.STOPPING)
    server.stop.request("SIGTERM")

    assert await asyncio.wait_for(serving, 10) == 70
