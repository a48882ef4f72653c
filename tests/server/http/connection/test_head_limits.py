"""The limits of heads, chunk lines, trailers and messages, however their bytes arrive."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

import pubsubtest
from gizmopy import Service, Settings, get, put
from gizmopy.server.http.connection.head_limits import MAX_LINE
from tests.server.support import Talk, echo, request, talk

BOTH_LOOPS = True

CHUNKED = b"PUT /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Example(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    @get("/fields")
    async def fields(self, request: web.Request) -> list[str]:
        return sorted(request.headers)

    @put("/length")
    async def length(self, request: web.Request) -> int:
        return len(await request.read())

    @put("/parts")
    async def parts(self, request: web.Request) -> int:
        reader = await request.multipart()
        return len([part async for part in reader])

    @get("/echo")
    async def echo(self, request: web.Request) -> web.StreamResponse:
        return await echo(request, lambda data: str(len(data)))

    @get("/slow")
    async def slow(self) -> str:
        self.begun.set()
        await self.go_on.wait()
        return "done"


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[pubsubtest.Served[Example]]:
    """Serve the service of this file."""
    async with pubsubtest.serve(Example, settings=Settings(**settings)) as served:
        yield served


def head_of(length: int, path: str = "/fields") -> bytes:
    """Return a head of ``length`` bytes, with fields of at most 1,000 bytes."""
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode()
    while (left := length - len(head) - 2) > 1000:
        head += b"X: " + b"x" * (min(left, 1000) - 5 - 50) + b"\r\n"
    return head + b"X: " + b"x" * (left - 5) + b"\r\n\r\n"


async def send_in(client: Talk, data: bytes, size: int) -> None:
    """Send ``data`` in pieces of ``size`` bytes, most of which are read one by one."""
    for begin in range(0, len(data), size):
        client.send(data[begin : begin + size])
        await client.writer.drain()
        await asyncio.sleep(0)


async def last_status(client: Talk) -> int:
    """Return the status of the response that ends the connection."""
    answer = await client.answer()
    assert answer.headers["Connection"] == "close"
    assert answer.problem["detail"]
    assert await client.rest() == b""
    return answer.status


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
async def test_the_limit_of_a_head_applies_however_it_arrives(size: int) -> None:
    """A head of the configured size is served; one byte more is 431, on any connection."""
    async with serving(max_header_bytes=3000) as served:
        async with talk(served.url) as client:
            for _ in range(2):
                await send_in(client, head_of(3000), size)
                assert (await client.answer()).status == 200
            await send_in(client, head_of(3001), size)
            assert await last_status(client) == 431


async def test_a_head_has_at_most_64_kib_by_default() -> None:
    """The sum of short fields is refused before the head is complete."""
    field = b"X: " + b"x" * 16_000 + b"\r\n"
    async with serving() as served:
        async with talk(served.url) as client:
            client.send(head_of(64 * 1024))
            assert (await client.answer()).status == 200
            client.send(b"GET /fields HTTP/1.1\r\nHost: x\r\n" + field * 5)  # the head does not end
            assert await last_status(client) == 431


@pytest.mark.parametrize("size", [1, 1000, 100_000])
@pytest.mark.parametrize("limit", [1500, 64 * 1024])
async def test_a_long_request_line_is_414(size: int, limit: int) -> None:
    """A request line has at most 16 KiB, or the limit of a head if that is lower."""
    most = min(limit, MAX_LINE)
    if size == 1 and most == MAX_LINE:
        pytest.skip("takes seconds, and shows no more than the short line")
    async with serving(max_header_bytes=limit) as served:
        async with talk(served.url) as client:
            target = "/nowhere?" + "x" * (most - 100)
            await send_in(client, request("GET", target), size)
            assert (await client.answer()).status == 404
            target += "x" * 100
            await send_in(client, b"\r\n" + request("GET", target), size)
            assert await last_status(client) == 414
        async with talk(served.url) as client:  # it need not end
            await send_in(client, b"GET /" + b"x" * most, size)
            assert await last_status(client) == 414
        async with served.http.get("/metrics") as response:
            assert 'status_code="414",http_route="__404__"' in await response.text()


@pytest.mark.parametrize("size", [1000, 100_000])
async def test_a_field_has_16_kib_and_a_head_128_fields(size: int) -> None:
    """A longer field, or one more field, is 431, although the head is short enough."""
    async with serving() as served:
        fields: tuple[str, ...]
        for fields in ((f"X: {'x' * 16_380}",), (f"{'X' * 16_380}: x",), ("X: x",) * 125):
            async with talk(served.url) as client:
                await send_in(client, request("GET", "/fields", b"", *fields), size)
                assert (await client.answer()).status == 200
        for fields in ((f"X: {'x' * 16_384}",), (f"{'X' * 16_384}: x",), ("X: x",) * 128):
            async with talk(served.url) as client:
                await send_in(client, request("GET", "/fields", b"", *fields), size)
                assert await last_status(client) == 431


async def test_empty_lines_before_a_request_are_limited() -> None:
    """They are skipped (RFC 9112 section 2.2), but a client that sends nothing else is refused."""
    async with serving(max_header_bytes=3000) as served, talk(served.url) as client:
        await send_in(client, b"\r\n" * 500 + request("GET", "/fields"), 3)
        assert (await client.answer()).status == 200
        client.send(b"\r\n" * 1501)
        assert await last_status(client) in (414, 431)


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize(
    "before",
    [
        request("GET", "/fields"),
        request("GET", "/fields") * 5,
        request("PUT", "/length", b"x" * 2000 + b"\r\n\r\n" * 3),
        CHUNKED + b"7d0\r\n" + b"x" * 1996 + b"\r\n\r\n\r\n3\r\n\r\n\r\r\n0\r\n\r\n",
        CHUNKED + b"1\r\nx\r\n0\r\nX-Trailer: x\r\n\r\n",
        request("PUT", "/length", b"12345", "Expect: 100-continue"),
    ],
    ids=["request", "requests", "body", "chunks", "trailer", "continue"],
)
async def test_each_head_has_its_own_limit(size: int, before: bytes) -> None:
    """Earlier requests on the connection do not count, and are answered."""
    async with serving(max_header_bytes=3000) as served, talk(served.url) as client:
        await send_in(client, before + head_of(3000) + before + head_of(3001), size)
        async with asyncio.timeout(10):
            answers = await client.reader.read()
    statuses = re.findall(rb"HTTP/1\.[01] ([2-5]\d\d) ", answers)
    each = 5 if before == 5 * request("GET", "/fields") else 1
    assert statuses == [b"200"] * (2 * each + 1) + [b"431"]


async def test_a_client_that_still_sends_gets_its_response() -> None:
    """The connection is not reset while the rest of a long head arrives."""
    async with serving() as served, talk(served.url) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: 1234567890\r\n" * 200_000)
        assert await last_status(client) == 431


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize(
    "rest",
    [
        b"1;" + b"x" * 3001 + b"\r\n",
        b"1;" + b"x" * 4000,
        (b"1;" + b"x" * 200 + b"\r\ny\r\n") * 100,
        b"0\r\n" + b"X: 1234567890\r\n" * 300,
        b"0\r\n" + b"X: x\r\n" * 129,
        b"0\r\nX: x\nY: y\r\n\r\n",
        b"0\r\nno field\r\n\r\n",
        b"0\r\nX : x\r\n\r\n",
        b"+1\r\nx\r\n0\r\n\r\n",
        b"0x1\r\nx\r\n0\r\n\r\n",
        b"1_0\r\n",
        b"\r\n",
        b"1\nx\r\n0\r\n\r\n",
        b"1\r\nxx\r\n0\r\n\r\n",
        b"f" * 17 + b"\r\n",
    ],
)
async def test_a_chunked_body_over_a_limit_is_refused(size: int, rest: bytes) -> None:
    """Chunk extensions and trailers have limits, each and together, and are checked: 400."""
    async with serving(max_header_bytes=3000) as served, talk(served.url) as client:
        await send_in(client, CHUNKED + b"3\r\nabc\r\n" + rest, size)
        assert await last_status(client) == 400


async def test_signed_chunks_are_read() -> None:
    """Extensions of the size of AWS signatures are accepted, for any number of chunks."""
    chunk = b"400;chunk-signature=" + b"f" * 64 + b"\r\n" + b"x" * 1024 + b"\r\n"
    async with serving() as served, talk(served.url) as client:
        client.send(CHUNKED + chunk * 1000 + b"0;chunk-signature=" + b"f" * 64 + b"\r\n\r\n")
        assert (await client.answer()).body == b"1024000"


@pytest.mark.parametrize(
    ("fields", "status"), [(100, 200), (200, 400), (-15_000, 200), (-17_000, 400)]
)
async def test_the_heads_of_parts_are_limited(fields: int, status: int) -> None:
    """A part of a multipart body has at most 128 fields of 16 KiB for ``request.multipart()``."""
    more = b"X: " + b"x" * -fields + b"\r\n" if fields < 0 else b"X: x\r\n" * fields
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n' + more + b"\r\nhello\r\n"
    kind = "Content-Type: multipart/form-data; boundary=b"
    async with serving() as served, talk(served.url) as client:
        client.send(request("PUT", "/parts", part * 2 + b"--b--\r\n", kind))
        answer = await client.answer()
        assert answer.status == status
        assert status != 200 or answer.body == b"2"


async def test_the_fragments_of_a_websocket_message_have_one_limit() -> None:
    """A message has at most 4 MiB, aiohttp's default, in any number of frames: else 1009."""
    key = "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="
    lines = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key)
    frame = b"\xff" + (100_000).to_bytes(8) + bytes(4) + b"x" * 100_000
    async with serving() as served, talk(served.url) as client:
        client.send(request("GET", "/echo", b"", *lines))
        assert (await client.answer()).status == 101
        for size, said in ((40, b"4000000"), (43, b"")):
            client.send(b"\x01" + frame + (b"\x00" + frame) * (size - 2) + b"\x80" + frame)
            opcode = (await client.reader.readexactly(2))[0]
            if said:
                assert await client.reader.readexactly(len(said)) == said
            else:
                assert opcode == 0x88
                assert await client.reader.readexactly(2) == (1009).to_bytes(2)
