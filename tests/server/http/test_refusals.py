"""Bytes that are not HTTP/1.1 or a WebSocket are refused, and a response begins once."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSMsgType, web

import pubsubtest
from gizmopy import Service, Settings, get
from gizmopy.server.http.connection.websocket_frames import MaskedFrames
from gizmopy.web.authority import is_host
from tests.server.support import Talk, request, talk

BOTH_LOOPS = True


class Example(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.ran = 0
        self.received: list[tuple[WSMsgType, object]] = []

    @get("/hello")
    async def hello(self) -> str:
        self.ran += 1
        return "hello"

    @get("/begun/{kind}")
    async def begun(self, kind: str, request: web.Request) -> object:
        if kind == "socket":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            return "a value"
        stream = web.StreamResponse() if kind != "response" else web.Response(text="whole")
        await stream.prepare(request)
        if kind == "response":
            await stream.write_eof()
        elif kind != "head":
            await stream.write(b"part")
        if kind == "none":
            return None
        return "a value" if kind != "another" else web.Response(text="another")

    @get("/socket")
    async def socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(max_msg_size=1 << 17)
        await socket.prepare(request)
        async for message in socket:
            self.received.append((message.type, message.data))
        return socket


@asynccontextmanager
async def serving() -> AsyncIterator[pubsubtest.Served[Example]]:
    """Serve the service of this file."""
    async with pubsubtest.serve(Example) as served:
        yield served


@pytest.mark.parametrize("kind", ["value", "none", "another", "head", "response"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_value_after_a_response_that_has_begun_is_not_sent(
    method: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """There is one head; the connection is closed, and the handler's mistake is logged."""
    async with serving() as served, talk(served.url) as client:
        client.send(request(method, f"/begun/{kind}") + request("GET", "/hello"))
        answer = await client.rest()
        assert answer.count(b"HTTP/1.1 ") == 1
        assert not answer.endswith(b"\r\n0\r\n\r\n")  # the last chunk of a complete response
        assert served.service.ran == 0
        async with served.http.get("/metrics") as response:
            assert 'status_code="500",http_route="/begun/{kind}"' in await response.text()
    assert "returned after a response had begun" in caplog.text


async def test_a_value_after_a_websocket_is_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    """No head is written between the frames of a WebSocket."""
    async with serving() as served, talk(served.url) as client:
        client.send(_handshake("/begun/socket"))
        assert (await client.rest()).count(b"HTTP/1.1 ") == 1
    assert "returned after a response had begun" in caplog.text


async def test_a_broken_response_without_a_length_ends_with_a_reset() -> None:
    """A client of HTTP/1.0 takes the end of the connection for the end of the response."""
    async with serving() as served, talk(served.url) as client:
        client.send(b"GET /begun/value HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await client.rest()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /hello", b"400"),
        (b"GET /hello HTTP/0.9", b"400"),
        (b"GET /hello HTTP/1.2", b"400"),
        (b"GET /hello HTTP/2.0", b"400"),
        (b"GET /hello HTTP/3.0", b"400"),
        (b"GET /hello HTTP/01.1", b"400"),
        (b"GET /hello HTTP/1.10", b"400"),
        (b"GET /hello http/1.1", b"400"),
        (b"GET /hello HTTP/1", b"400"),
        (b"PRI * HTTP/2.0", b"400"),
    ],
)
async def test_a_version_that_is_not_served_is_refused(line: bytes, status: bytes) -> None:
    """It is 400, is not executed, and its connection is closed."""
    async with serving() as served, talk(served.url) as client:
        client.send(line + b"\r\nHost: x\r\n\r\n")
        answer = await client.rest()
        assert answer.split(b" ")[1] == status
        assert answer.count(b"\r\n\r\n") == 1
        assert served.service.ran == 0


_HOSTS = {
    "x": True,
    "": False,
    ":": False,
    ":80": False,
    ".": False,
    "x:": True,
    "x:80": True,
    "X.example:65535": True,
    "127.0.0.1:1": True,
    "[::1]": True,
    "[::1]:80": True,
    "[::ffff:127.0.0.1]": True,
    "my_service.default.svc.cluster.local": True,
    "x%20y": True,
    "xn--bcher-kva.example": True,
    "x:65536": False,
    "x:99999": False,
    "x:8a": False,
    "x:-1": False,
    "x:80:80": False,
    "::1": False,
    "[::1": False,
    "::1]": False,
    "[]": False,
    "[zz]": False,
    "[:::]": False,
    "[::1%25eth0]": False,
    "[127.0.0.1]": False,
    "user@x": False,
    "user:password@x": False,
    "x y": False,
    "x/y": False,
    "x?y": False,
    "x#y": False,
    "x\\y": False,
    'x"y': False,
    "x<y": False,
    "x%zz": False,
    "x%": False,
    "x, y": False,
    "bücher.example": False,
    "xn--": False,
    "xn--a": False,
    "XN--A.b:80": False,
    "x" * 255: True,
    "x" * 16_000: False,
}


@pytest.mark.parametrize(("host", "is_good"), _HOSTS.items(), ids=lambda value: str(value)[:20])
async def test_a_malformed_host_is_refused(host: str, is_good: bool) -> None:
    """It is 400 in HTTP/1.0, too (RFC 9112 section 3.2), and not executed."""
    assert is_host(host) == is_good
    for version in ("1.1", "1.0"):
        async with serving() as served, talk(served.url) as client:
            client.send(f"GET /hello HTTP/{version}\r\nHost: {host}\r\n\r\n".encode())
            status = (await client.answer()).status
            assert (status == 200) == is_good
            assert is_good or status in (400, 431)
            assert served.service.ran == is_good


@pytest.mark.parametrize("lines", [b"", b"Host: x\r\nHost: x\r\n", b"Host: x\r\nHOST: y\r\n"])
async def test_a_request_has_one_host(lines: bytes) -> None:
    """None and two are 400; HTTP/1.0 may have none."""
    async with serving() as served, talk(served.url) as client:
        client.send(b"GET /hello HTTP/1.1\r\n" + lines + b"\r\n")
        assert (await client.answer()).status == 400
    async with serving() as served, talk(served.url) as client:
        client.send(b"GET /hello HTTP/1.0\r\n" + lines + b"\r\n")
        assert (await client.answer()).status == (400 if lines else 200)


def _handshake(path: str = "/socket") -> bytes:
    return request(
        "GET",
        path,
        b"",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )


def _frame(opcode: int, payload: bytes, *, masked: bool = True) -> bytes:
    size, flag = len(payload), 0x80 if masked else 0
    if size < 126:
        head = bytes((0x80 | opcode, flag | size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, flag | 126)) + struct.pack("!H", size)
    else:
        head = bytes((0x80 | opcode, flag | 127)) + struct.pack("!Q", size)
    return head + (bytes(4) if masked else b"") + payload


async def _upgraded(client: Talk, *pieces: bytes) -> bytes:
    """Send frames on a new WebSocket, and return the bytes until its end."""
    client.send(_handshake())
    assert (await client.answer()).status == 101
    for piece in pieces:
        client.send(piece)
        await client.writer.drain()
        await asyncio.sleep(0)
    return await client.rest()


@pytest.mark.parametrize("opcode", [1, 2, 8, 9, 10])
@pytest.mark.parametrize("payload", [b"", b"hi"])
async def test_a_frame_that_is_not_masked_closes_the_socket(opcode: int, payload: bytes) -> None:
    """Only frames before it are read, and the close code is 1002 (RFC 6455 section 5.1)."""
    frames = _frame(1, b"before") + _frame(opcode, payload, masked=False) + _frame(1, b"behind")
    async with serving() as served, talk(served.url) as client:
        assert (await _upgraded(client, frames))[2:4] == b"\x03\xea"
        kinds = [kind for kind, _ in served.service.received]
        assert kinds == [WSMsgType.TEXT, WSMsgType.ERROR]
        assert served.service.received[0][1] == "before"


class Owner:
    """The part of a connection that frames use."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_input_paused = self.is_body_paused = self.closed = False

    def pause_input(self) -> None:
        """Note that reading stops."""
        self.is_input_paused = True

    def resume_input(self) -> None:
        """Note that reading resumes."""
        self.is_input_paused = False

    def close(self) -> None:
        """Note that it is closed."""
        self.closed = True


async def test_small_frames_are_passed_on_in_batches() -> None:
    """A read full of them is passed on in several turns while the handler keeps up."""
    size, received = len(_frame(1, b"")), [b""]

    class Reader:
        def feed_data(self, data: bytes) -> tuple[bool, bytes]:
            received.append(data)
            return len(b"".join(received)) >= 999 * size, b""

        def feed_eof(self) -> None:
            received.append(b"eof")

    owner = Owner()
    frames = MaskedFrames(Reader(), owner)
    frames.feed_data(_frame(1, b"") * 500)
    frames.feed_data(_frame(1, b"") * 498 + b"\x81")
    assert len(received[-1]) == 128 * size
    assert owner.is_input_paused
    await asyncio.sleep(0)
    assert list(map(len, received[1:])) == [128 * size] * 2
    owner.is_body_paused = True
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(received) == 3
    owner.is_body_paused = False
    frames.resume()
    for _ in range(10):
        await asyncio.sleep(0)
    assert b"".join(received) == _frame(1, b"") * 998
    assert not owner.is_input_paused
    frames.feed_data(_frame(1, b"")[1:] + _frame(1, b"") * 1000)
    frames.feed_eof()
    assert b"".join(received) == _frame(1, b"") * 1999 + b"eof"


async def test_thousands_of_frames_arrive_also_if_the_handler_is_slow() -> None:
    """Held frames are passed on after the handler has read, before newer ones."""
    async with serving() as served, talk(served.url) as client:
        await _upgraded(client, _frame(1, b"x") * 20_000, _frame(8, b""))
        assert len(served.service.received) == 20_000


async def test_masked_frames_of_every_size_are_read_however_they_are_split() -> None:
    """Lengths of one, two and eight bytes are parsed wherever segments end."""
    payloads = ["", "a", "b" * 125, "c" * 126, "d" * 65_535, "e" * 65_536]
    frames = b"".join(_frame(1, each.encode()) for each in payloads)
    for size in (1, 3, 7, 4096):
        received: list[bytes] = []

        class Reader:
            def feed_data(self, data: bytes) -> tuple[bool, bytes]:
                received.append(data)  # noqa: B023 -- used within the loop
                return False, b""

        checker = MaskedFrames(Reader(), Owner())
        for begin in range(0, len(frames), size):
            checker.feed_data(frames[begin : begin + size])
        assert b"".join(received) == frames
    async with serving() as served, talk(served.url) as client:
        await _upgraded(
            client, *(frames[n : n + 9973] for n in range(0, len(frames), 9973)), _frame(8, b"")
        )
        assert [data for _, data in served.service.received] == payloads


async def test_an_unmasked_frame_is_found_wherever_a_segment_ends() -> None:
    """Its first byte can be the last one of a segment."""
    frames = _frame(1, b"before") + _frame(1, b"hi", masked=False)
    async with serving() as served:
        for split in range(1, len(frames)):
            served.service.received.clear()
            async with talk(served.url) as client:
                answer = await _upgraded(client, frames[:split], frames[split:])
            assert answer[2:4] == b"\x03\xea"
            assert served.service.received[0] == (WSMsgType.TEXT, "before")
