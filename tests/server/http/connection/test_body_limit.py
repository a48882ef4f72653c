"""The limit of a body, for each way to read it, as it is decompressed, and per endpoint."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import pytest
from aiohttp import web

import pubsubtest
from gizmopy import Service, Settings, get, post, put
from gizmopy.errors import DeclarationError
from gizmopy.web.decorators import collect_routes
from tests.server.support import request, talk

BOTH_LOOPS = True

LIMIT = 100_000
_HOW: dict[str, Callable[[web.Request], Any]] = {}


def _how(function: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
    _HOW[function.__name__[1:]] = function
    return function


@_how
async def _read(request: web.Request) -> int:
    return len(await request.read())


@_how
async def _content_read(request: web.Request) -> int:
    return len(await request.content.read())


@_how
async def _content_read_some(request: web.Request) -> int:
    size = 0
    while data := await request.content.read(1 << 30):
        size += len(data)
    return size


@_how
async def _content_iter_chunked(request: web.Request) -> int:
    return sum([len(data) async for data in request.content.iter_chunked(1 << 30)])


@_how
async def _content_iter_any(request: web.Request) -> int:
    return sum([len(data) async for data in request.content.iter_any()])


@_how
async def _content_iter_chunks(request: web.Request) -> int:
    return sum([len(data) async for data, _ in request.content.iter_chunks()])


@_how
async def _content_readany(request: web.Request) -> int:
    size = 0
    while data := await request.content.readany():
        size += len(data)
    return size


@_how
async def _post_form(request: web.Request) -> int:
    return len(str(await request.post()))


class Example(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.read = 0

    @put("/limited/{how}")
    async def limited(self, how: str, request: web.Request) -> int:
        self.read = await _HOW[how](request)
        return self.read

    @put("/more/{how}", max_body=1_000_000)
    async def more(self, how: str, request: web.Request) -> int:
        return int(await _HOW[how](request))

    @put("/any/{how}", max_body=0)
    async def any(self, how: str, request: web.Request) -> int:
        return int(await _HOW[how](request))

    @put("/less", max_body="10B")
    async def less(self, body: dict[str, int]) -> int:
        return len(body)

    @post("/unread")
    async def unread(self) -> str:
        return "no thanks"

    @get("/hello")
    async def hello(self) -> str:
        return "hello"


@asynccontextmanager
async def serving() -> AsyncIterator[pubsubtest.Served[Example]]:
    """Serve the service of this file."""
    async with pubsubtest.serve(Example, settings=Settings(max_body_bytes=LIMIT)) as served:
        yield served


def _sent(path: str, body: bytes, *, packed: bool, chunked: bool) -> bytes:
    lines = ["Content-Type: application/x-www-form-urlencoded"]
    lines += ["Content-Encoding: gzip"] if packed else []
    body = gzip.compress(body) if packed else body
    if not chunked:
        return request("PUT", path, body, *lines)
    head = request("PUT", path, b"", "Transfer-Encoding: chunked", *lines)
    pieces = [body[n : n + 5000] for n in range(0, len(body), 5000)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces)
    return head.replace(b"Content-Length: 0\r\n", b"") + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize("how", _HOW)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_limit_of_a_body_applies_to_every_way_to_read_it(
    how: str, packed: bool, chunked: bool
) -> None:
    """A body with one byte more than the limit is 413, and its connection is closed."""
    async with serving() as served:
        async with talk(served.url) as client:
            client.send(_sent(f"/limited/{how}", b"x" * LIMIT, packed=packed, chunked=chunked))
            assert (await client.answer()).status == 200
            client.ask("GET", "/hello")
            assert (await client.answer()).status == 200
        async with talk(served.url) as client:
            sent = _sent(f"/limited/{how}", b"x" * (LIMIT + 1), packed=packed, chunked=chunked)
            client.send(sent + request("GET", "/hello"))
            answer = await client.answer()
            assert (answer.status, answer.headers["Connection"]) == (413, "close")
            assert answer.problem["detail"] == f"The request body is larger than {LIMIT} bytes."
            assert await client.rest() == b""
            assert served.service.read in (
                LIMIT,
                len("<MultiDictProxy('" + "x" * LIMIT + "': '')>"),
            )


@pytest.mark.parametrize("how", sorted(set(_HOW) - {"post_form"}))
async def test_an_endpoint_can_have_a_higher_limit(how: str) -> None:
    """max_body is the endpoint's own limit; 0 is no limit."""
    async with serving() as served, talk(served.url) as client:
        for packed in (False, True):
            client.send(_sent(f"/more/{how}", b"x" * 1_000_000, packed=packed, chunked=packed))
            assert (await client.answer()).body == b"1000000"
            client.send(_sent(f"/any/{how}", b"x" * 3_000_000, packed=packed, chunked=packed))
            assert (await client.answer()).body == b"3000000"
        client.send(_sent(f"/more/{how}", b"x" * 1_000_001, packed=True, chunked=True))
        answer = await client.answer()
        assert answer.status == 413
        assert "1000000" in answer.problem["detail"]


async def test_an_endpoint_can_have_a_lower_limit() -> None:
    """max_body applies to a body that is a model, too."""
    async with serving() as served:
        async with served.http.put("/less", json={"a": 1}) as response:
            assert response.status == 200
        async with served.http.put("/less", json={"a": 11111}) as response:
            assert response.status == 413


@cache
def _bomb() -> bytes:
    """Return half a gigabyte as gzip, compressed once, a megabyte at a time."""
    packer = zlib.compressobj(1, wbits=31)
    pieces = [packer.compress(bytes(1 << 20)) for _ in range(512)]
    return b"".join((*pieces, packer.flush()))


@pytest.mark.parametrize("how", ["content_read", "content_iter_chunked", "read"])
async def test_a_decompression_bomb_is_not_decompressed(how: str) -> None:
    """Half a gigabyte in half a megabyte of gzip takes only about the limit in memory."""
    bomb = _bomb()
    head = request("PUT", f"/limited/{how}", b"", "Content-Encoding: gzip")
    head = head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    async with serving() as served, talk(served.url) as client:
        tracemalloc.start()
        try:
            client.send(head + b"%x\r\n" % len(bomb))
            client.send(bomb + b"\r\n0\r\n\r\n")
            assert (await client.answer()).status == 413
            assert await client.rest() == b""
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 16 * 1024 * 1024


async def test_a_body_with_a_length_over_the_limit_is_refused_before_it_arrives() -> None:
    """Its Content-Length is too large: the response is 413, and no 100 is sent."""
    async with serving() as served:
        for lines in ((), ("Expect: 100-continue",)):
            async with talk(served.url) as client:
                body = bytes(LIMIT + 1)
                client.send(request("PUT", "/limited/read", body, *lines)[: -len(body)])
                assert (await client.answer()).status == 413
                assert await client.rest() == b""


@pytest.mark.parametrize("lines", [("Content-Encoding: gzip",), ("Content-Encoding: deflate",)])
async def test_a_compressed_body_can_have_no_bytes(lines: tuple[str, ...]) -> None:
    """With Content-Length: 0 nothing is decompressed, and the connection stays open."""
    async with serving() as served, talk(served.url) as client:
        for _ in range(2):
            client.send(request("PUT", "/limited/read", b"", *lines))
            assert (await client.answer()).body == b"0"
            client.send(request("GET", "/hello", b"", *lines))
            assert (await client.answer()).body == b'"hello"'


async def test_a_body_over_the_limit_that_no_handler_reads_is_not_an_error() -> None:
    """The response is sent, and the connection is closed: the body is not read to its end."""
    async with serving() as served, talk(served.url) as client:
        client.send(request("POST", "/unread", bytes(LIMIT + 1)) + request("GET", "/hello"))
        assert (await client.answer()).body == b'"no thanks"'
        assert await client.rest() == b""


@pytest.mark.parametrize("name", ["max_body", "min_send_rate"])
def test_a_negative_limit_is_an_error(name: Any) -> None:
    """The service does not start."""
    options: Any = {name: -1}

    class Wrong(Service):
        @put("/x", **options)
        async def x(self) -> None:
            pass

    with pytest.raises(DeclarationError, match=f"{name}=-1"):
        collect_routes(Wrong(Settings()))
