"""The shutdown: its phases, streams that are open, and work that is lost."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType, web

from gizmopy import Service, Settings, SimpleServer, get, put, subscribe
from gizmopy.server import Phase, Stop
from tests.server.support import PATIENCE, echo, talk, until

BOTH_LOOPS = True


class Pond(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.closed: list[str] = []

    @get("/hello")
    async def hello(self) -> str:
        return "hello"

    @get("/slow")
    async def slow(self) -> str:
        self.started.set()
        await self.go_on.wait()
        return "done"

    @get("/stubborn")
    async def stubborn(self) -> str:
        self.started.set()
        while True:
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.closed.append("ignored")
            else:
                return "done"

    @get("/events")
    async def events(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"data: 1\n\n")
        try:
            await asyncio.Event().wait()
        finally:
            self.closed.append("events")
        return stream

    @get("/finite")
    async def finite(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b"first ")
        self.started.set()
        await self.go_on.wait()
        await stream.write(b"last")
        return stream

    @get("/socket")
    async def socket(self, request: web.Request) -> web.StreamResponse:
        socket = await echo(request, lambda data: data)
        self.closed.append("socket")
        return socket

    @put("/length")
    async def length(self, request: web.Request) -> int:
        self.started.set()
        return len(await request.read())


class Life:
    """A daemon and its clients."""

    def __init__(self, service: Pond, server: SimpleServer, serving: asyncio.Task[int]) -> None:
        self.service = service
        self.server = server
        self.serving = serving

    async def stop(self, phase: Phase = Phase.STOPPING) -> None:
        """Request the stop, and wait until the daemon is in ``phase``."""
        self.server.stop.request("SIGTERM")
        await until(lambda: self.server.phase is phase)

    async def exit_code(self) -> int:
        """Wait for the end, and return the exit code."""
        return await asyncio.wait_for(self.serving, PATIENCE)


@asynccontextmanager
async def living(kind: type[Pond] = Pond, **settings: Any) -> AsyncIterator[Life]:
    """Run a daemon until a stop is requested."""
    values: dict[str, Any] = {"http_port": 0, "http_access_log": "off", "drain_delay": "0s"}
    service = kind(Settings(**(values | settings)))
    server = SimpleServer(service)
    serving = asyncio.create_task(server.serve(Stop()))
    await until(lambda: server.phase is Phase.READY or serving.done())
    life = Life(service, server, serving)
    try:
        yield life
    finally:
        server.stop.request("the test ends")
        server.stop.request("the test ends")
        service.go_on.set()
        await life.exit_code()


async def test_each_phase_is_logged_in_order(caplog: pytest.LogCaptureFixture) -> None:
    """Each phase is one line of the log, in order."""
    caplog.set_level(logging.INFO, "gizmopy.server.server")
    async with living() as life:
        await life.stop()
        assert await life.exit_code() == 0
    phases = [each.value for each in Phase if each is not Phase.STARTING]
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line in {f"pond: {each}" for each in phases}] == [
        f"pond: {each}" for each in phases
    ]


async def test_the_phase_is_a_metric() -> None:
    """The admin port exposes the phase, also after the main port is closed."""
    async with living(admin_port=0, drain_delay="1h") as life:

        async def until_phase(number: int) -> None:
            # On a busy machine a scrape is slow, and serves those of the next second, too.
            line = f"\ngizmo_shutdown_phase {number}.0\n"
            async with asyncio.timeout(PATIENCE), ClientSession(life.server.admin_url) as http:
                while line not in await (await http.get("/metrics")).text():
                    pass

        async with talk(life.server.url) as client:
            client.ask("GET", "/slow")
            await life.service.started.wait()
            await until_phase(0)
            await life.stop(Phase.DRAINING)
            await until_phase(1)
            life.server.stop.hurried.set()
            await until(lambda: life.server.phase is Phase.STOPPING)
            await until_phase(2)
            life.service.go_on.set()
            assert (await client.answer()).body == b'"done"'


async def test_during_the_drain_delay_requests_are_served_and_readiness_fails() -> None:
    """New connections are served during the delay, and each is closed with its response."""
    async with living(drain_delay="1h") as life:
        await life.stop(Phase.DRAINING)
        for path, status in (("/hello", 200), ("/readyz", 503), ("/livez", 200)):
            async with talk(life.server.url) as client:
                client.ask("GET", path)
                answer = await client.answer()
                assert (path, answer.status) == (path, status)
                assert answer.headers["Connection"] == "close"
                assert await client.rest() == b""


async def test_an_idle_daemon_needs_no_time_to_stop() -> None:
    """With shutdown_timeout=0s, a daemon without requests exits with 0."""
    async with living(shutdown_timeout="0s") as life:
        async with talk(life.server.url) as client:
            client.ask("GET", "/hello")
            await client.answer()
            await life.stop()
            assert await life.exit_code() == 0
            assert await client.rest() == b""


async def test_a_websocket_is_closed_with_1001() -> None:
    """The loop of its handler ends, the client reads 1001, and the exit code is 0."""
    async with living() as life, ClientSession(life.server.url) as http:
        async with http.ws_connect("/socket") as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "hello"
            await life.stop()
            message = await socket.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)
            assert await life.exit_code() == 0
    assert life.service.closed == ["socket"]


async def test_a_websocket_whose_client_never_answers_does_not_delay_the_exit() -> None:
    """A client that does not answer the close frame is disconnected after a second."""
    async with living() as life, talk(life.server.url) as client:
        upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
        client.ask("GET", "/socket", b"", *upgrade, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
        answer = await client.answer()
        assert (answer.status, answer.headers["Server"]) == (101, "gizmopy")
        assert answer.headers["X-Request-ID"]
        await life.stop()
        assert await life.exit_code() == 0
        assert await client.rest() == b"\x88\x12\x03\xe9the server stops"


async def test_an_event_stream_ends_with_its_last_chunk() -> None:
    """Its handler is cancelled, and its client reads the last chunk."""
    async with living() as life, talk(life.server.url) as client:
        client.ask("GET", "/events")
        await client.reader.readuntil(b"data: 1\n\n\r\n")
        await life.stop()
        assert await client.rest() == b"0\r\n\r\n"
        assert await life.exit_code() == 0
    assert life.service.closed == ["events"]


async def test_a_finite_stream_is_sent_to_its_end() -> None:
    """A stream that is not text/event-stream is not cancelled by a stop."""
    async with living() as life, talk(life.server.url) as client:
        client.ask("GET", "/finite")
        await life.service.started.wait()
        await life.stop()
        life.service.go_on.set()
        assert (await client.answer()).body == b"first last"
        assert await life.exit_code() == 0


@pytest.mark.parametrize("path", ["/events", "/socket"])
async def test_a_stream_that_starts_during_the_drain_is_ended_too(path: str) -> None:
    """A late stream on an idle connection does not delay the exit."""
    async with living() as life, talk(life.server.url) as slow, talk(life.server.url) as late:
        slow.ask("GET", "/slow")
        await life.service.started.wait()
        late.ask("GET", "/hello")
        await late.answer()
        async with ClientSession(life.server.url) as http, http.ws_connect("/socket") as socket:
            await life.stop()
            assert (await socket.receive()).data == 1001  # the open streams have been ended
        upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
        late.ask("GET", path, b"", *upgrade, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
        await late.reader.readuntil(b"\r\n\r\n")
        end = b"0\r\n\r\n" if path == "/events" else b"\x88\x12\x03\xe9the server stops"
        assert (await late.rest()).endswith(end)
        life.service.go_on.set()
        assert (await slow.answer()).status == 200
        assert await life.exit_code() == 0


async def test_requests_cancelled_at_the_deadline_are_counted() -> None:
    """Each is in gizmo_shutdown_dropped_total, and the exit code is 70."""
    async with living(shutdown_timeout="10ms") as life:
        async with talk(life.server.url) as one, talk(life.server.url) as two:
            for client in (one, two):
                client.ask("GET", "/slow")
            await until(lambda: len(life.server.application.handler.active) == 2)
            await life.stop()
            for client in (one, two):
                answer = await client.answer()
                assert answer.status == 503
                assert answer.problem["title"] == "Service Unavailable"
                assert answer.headers["Connection"] == "close"
        assert await life.exit_code() == 70
    child = life.server.metrics.counter("gizmo_shutdown_dropped", "", ("work",)).child("requests")
    assert child.value == 2


async def test_messages_cancelled_at_the_deadline_are_counted() -> None:
    """A message whose handler is cancelled is counted as lost work of this daemon."""

    class Fishing(Pond):
        @subscribe("fish")
        async def on_fish(self, name: str) -> None:
            self.started.set()
            await asyncio.Event().wait()

    async with living(Fishing, shutdown_timeout="10ms") as life:
        await life.service.publish("fish", "Nemo")
        await life.service.started.wait()
        await life.stop()
        assert await life.exit_code() == 70
    child = life.server.metrics.counter("gizmo_shutdown_dropped", "", ("work",)).child("messages")
    assert child.value == 1


async def test_a_handler_that_ignores_its_cancellation_does_not_delay_the_exit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exit code is 70, and the connection of its client is closed."""
    monkeypatch.setattr("gizmopy.server.server.CANCEL_SECONDS", 0.01)
    async with living(shutdown_timeout="10ms") as life, talk(life.server.url) as client:
        client.ask("GET", "/stubborn")
        await life.service.started.wait()
        await life.stop()
        assert await life.exit_code() == 70
        assert await client.rest() == b""
    assert "ignored" in life.service.closed
    life.service.go_on.set()
    await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_a_second_signal_shortens_both_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second signal the daemon waits neither for the delay nor for its requests."""
    monkeypatch.setattr("gizmopy.server.lifecycle.shutdown_budget.HURRIED_SECONDS", 0.01)
    async with living(drain_delay="1h", shutdown_timeout="1h") as life:
        async with talk(life.server.url) as client:
            client.ask("GET", "/slow")
            await life.service.started.wait()
            await life.stop(Phase.DRAINING)
            life.server.stop.request("SIGTERM")
            assert (await client.answer()).status == 503
        assert await life.exit_code() == 70


async def test_an_upload_continues_after_the_listener_is_closed() -> None:
    """A body that arrives after the stop is read to its end, and answered."""
    async with living() as life, talk(life.server.url) as client:
        client.send(b"PUT /length HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        await life.service.started.wait()
        await life.stop()
        client.send(b"67890")
        assert (await client.answer()).body == b"10"
        assert await life.exit_code() == 0


async def test_a_client_that_reads_late_gets_its_whole_response() -> None:
    """The daemon does not exit before the kernel has the last byte of every response."""

    class Large(Pond):
        @get("/large")
        async def large(self) -> bytes:
            return bytes(20_000_000)

    async with living(Large) as life, talk(life.server.url) as client:
        client.ask("GET", "/large")
        await client.reader.readuntil(b"200 OK\r\n")
        await life.stop()
        rest = await client.rest()
        assert len(rest.partition(b"\r\n\r\n")[2]) == 20_000_000
        assert await life.exit_code() == 0


async def test_a_pipelined_request_after_a_closing_response_is_not_started() -> None:
    """A response with Connection: close is the last; the next request is not handled."""
    async with living(drain_delay="1h") as life, talk(life.server.url) as client:
        client.ask("GET", "/slow")
        client.ask("PUT", "/length", b"12345")
        await life.service.started.wait()
        life.service.started.clear()
        await life.stop(Phase.DRAINING)
        life.service.go_on.set()
        answer = await client.answer()
        assert (answer.body, answer.headers["Connection"]) == (b'"done"', "close")
        assert await client.rest() == b""
        assert not life.service.started.is_set()
