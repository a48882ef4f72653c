"""A body that is malformed is refused at once, and its connection ends with the response."""

from __future__ import annotations

import asyncio
import gzip
import logging
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, web

import pubsubtest
from gizmopy import Service, Settings, get, post
from gizmopy.server.http.connection.content_coding import Decompressor, decompressor_for
from tests.server.support import Talk, request, talk, until

BOTH_LOOPS = True

_TEXT = b"".join(b'{"n": %d}' % n for n in range(1000))


class Example(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.begun = asyncio.Event()
        self.may_answer = asyncio.Event()

    @get("/hello")
    async def hello(self) -> str:
        return "hello"

    @post("/model")
    async def model(self, body: dict[str, Any]) -> int:
        return len(body)

    @post("/read/{how}")
    async def read(self, how: str, request: web.Request) -> int:
        self.begun.set()
        match how:
            case "read":
                return len(await request.read())
            case "text":
                return len(await request.text())
            case "json":
                return len(await request.json())
            case "post":
                return len(await request.post())
            case "multipart":
                return len([await part.read() async for part in await request.multipart()])  # type: ignore[union-attr]
            case "content":
                return sum([len(piece) async for piece in request.content.iter_any()])
            case "lines":
                return len([line async for line in request.content])
            case "exactly":
                return len(await request.content.readexactly(100))
            case "group":
                async with asyncio.TaskGroup() as group:
                    read = group.create_task(request.read())
                return len(read.result())
        raise AssertionError(how)

    @post("/unread")
    async def unread(self) -> str:
        return "no thanks"

    @post("/later")
    async def later(self) -> str:
        self.begun.set()
        await self.may_answer.wait()
        return "no thanks"


READERS = ("read", "text", "json", "post", "multipart", "content", "lines", "exactly", "group")


@asynccontextmanager
async def serving() -> AsyncIterator[pubsubtest.Served[Example]]:
    """Serve the service of this file."""
    async with pubsubtest.serve(Example) as served:
        yield served


def _type_for(how: str) -> str:
    types = {
        "post": "application/x-www-form-urlencoded",
        "multipart": "multipart/form-data; boundary=x",
    }
    return f"Content-Type: {types.get(how, 'application/json')}"


def _chunked(path: str, body: bytes, *lines: str) -> bytes:
    head = request("POST", path, b"", "Transfer-Encoding: chunked", *lines)
    return head.replace(b"Content-Length: 0\r\n", b"") + body


async def _ends_with(client: Talk, status: int) -> None:
    """Check that the response has ``status``, and that the connection ends with it."""
    answer = await client.answer()
    assert (answer.status, answer.headers.get("Connection")) == (status, "close")
    assert await client.rest() == b""


_PACKED = gzip.compress(_TEXT)
_BAD = {
    "no gzip": ("gzip", b"no gzip at all, but text"),
    "no x-gzip": ("x-gzip", b"no gzip at all, but text"),
    "no deflate": ("deflate", b"no deflate at all, but text"),
    "gzip without its end": ("gzip", _PACKED[:-12]),
    "gzip without its checksum": ("gzip", _PACKED[:-8]),
    "gzip without its last byte": ("gzip", _PACKED[:-1]),
    "gzip with a wrong checksum": ("gzip", _PACKED[:-8] + b"12345678"),
    "gzip and then other bytes": ("gzip", _PACKED + b"other bytes"),
    "gzip and half another one": ("gzip", _PACKED + _PACKED[:-9]),
    "deflate without its end": ("deflate", zlib.compress(_TEXT)[:-6]),
    "deflate and then other bytes": ("deflate", zlib.compress(_TEXT) + b"other bytes"),
    "raw deflate without its end": ("deflate", zlib.compress(_TEXT, wbits=-15)[:-6]),
}


@pytest.mark.parametrize("kind", _BAD)
@pytest.mark.parametrize("how", ["read", "model", "unread"])
@pytest.mark.parametrize("is_split", [False, True])
async def test_a_body_that_cannot_be_decompressed_ends_its_connection(
    kind: str, how: str, is_split: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is 400 if it is read; the response says that the connection ends, and a line is logged."""
    caplog.set_level(logging.INFO, "gizmopy.server.http")
    coding, body = _BAD[kind]
    path = f"/read/{how}" if how == "read" else f"/{how}"
    sent = request("POST", path, body, f"Content-Encoding: {coding}", _type_for(how))
    async with serving() as served, talk(served.url) as client:
        if is_split and how == "read":
            client.send(sent[:-9])
            await served.service.begun.wait()
            client.send(sent[-9:] + request("GET", "/hello"))
        else:
            client.send(sent + request("GET", "/hello"))
        await _ends_with(client, 200 if how == "unread" else 400)
        async with talk(served.url) as another:
            another.ask("GET", "/hello")
            assert (await another.answer()).status == 200
    assert f"POST {path}: the body cannot be decompressed" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize(
    "later", [b"zz\r\n", b"5\r\nabcdefgh", b"-5\r\n", b"0\r\nbad trailer\r\n\r\n"]
)
async def test_a_bad_chunk_is_refused_when_it_arrives(
    how: str, later: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is 400 at once, however the handler reads, and not after the read timeout."""
    caplog.set_level(logging.INFO, "gizmopy.server.http")
    async with serving() as served, talk(served.url) as client:
        path = f"/read/{how}"
        client.send(_chunked(path, b"3\r\n--x\r\n", _type_for(how)))
        await served.service.begun.wait()
        client.send(later)
        await _ends_with(client, 400)
    assert f"POST {path}: the body is malformed" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_response_says_that_a_broken_body_ends_the_connection() -> None:
    """It does so also if its handler does not read the body, and it breaks before the response."""
    async with serving() as served, talk(served.url) as client:
        client.send(_chunked("/later", b"5\r\nabcde\r\n"))
        await served.service.begun.wait()
        client.send(b"zz\r\n")
        (connection,) = served.server._ports[0]._server.open_connections()
        await until(lambda: connection.framing.is_broken)
        served.service.may_answer.set()
        await _ends_with(client, 200)


async def test_an_unexpected_error_of_the_parser_is_answered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its traceback, and the client has its answer and a new connection."""

    def fail(*args: object) -> None:
        raise RuntimeError("a bug of the parser")

    async with serving() as served, talk(served.url) as client:
        monkeypatch.setattr("aiohttp.StreamReader.begin_http_chunk_receiving", fail)
        client.send(_chunked("/read/read", b""))
        await served.service.begun.wait()
        client.send(b"5\r\nabcde\r\n")
        await _ends_with(client, 400)
    assert "RuntimeError: a bug of the parser" in caplog.text


@pytest.mark.parametrize("how", [*READERS, "model"])
@pytest.mark.parametrize(
    "coding",
    ["br", "zstd", "compress", "snappy", "gzip, gzip", "gzip\r\nContent-Encoding: br", "ö"],
)
async def test_a_coding_that_is_not_supported_is_415(how: str, coding: str) -> None:
    """However the handler reads the body, and the response names the codings that are."""
    path = "/model" if how == "model" else f"/read/{how}"
    async with serving() as served, talk(served.url) as client:
        client.ask("POST", path, b"x", f"Content-Encoding: {coding}", _type_for(how))
        answer = await client.answer()
        assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "gzip, deflate")
        assert answer.headers["Connection"] == "close"
        assert await client.rest() == b""


async def test_a_body_in_an_unknown_coding_is_not_asked_for() -> None:
    """A client that waits for 100 gets 415."""
    async with serving() as served, talk(served.url) as client:
        client.send(
            b"POST /read/read HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
            b"Content-Encoding: br\r\nExpect: 100-continue\r\n\r\n"
        )
        await _ends_with(client, 415)


@pytest.mark.parametrize("coding", ["", "identity", "Identity"])
async def test_a_body_without_a_coding_is_read_as_it_is(coding: str) -> None:
    """``identity`` is no coding (RFC 9110 section 8.4.1)."""
    async with serving() as served, talk(served.url) as client:
        client.ask("POST", "/read/read", b"plain", f"Content-Encoding: {coding}")
        assert (await client.answer()).body == b"5"
        client.ask("GET", "/hello")
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("coding", "body", "plain"),
    [
        ("gzip", _PACKED, _TEXT),
        ("GZip", _PACKED, _TEXT),
        ("x-gzip", _PACKED, _TEXT),
        ("gzip", _PACKED + gzip.compress(b"") + _PACKED, _TEXT + _TEXT),
        ("deflate", zlib.compress(_TEXT), _TEXT),
        ("deflate", zlib.compress(_TEXT, wbits=-15), _TEXT),
        ("gzip", gzip.compress(bytes(3_000_000)), bytes(3_000_000)),
        ("gzip", b"", b""),
    ],
)
async def test_gzip_and_deflate_are_decompressed(
    coding: str, body: bytes, plain: bytes, step: int
) -> None:
    """Wherever a body is split, the pieces are bounded, and gzip may have several members."""
    decompressor = decompressor_for([coding])
    assert decompressor is not None
    pieces: list[bytes] = []
    for at in range(0, len(body), step):
        assert not decompressor.has_more
        decompressor.add(body[at : at + step])
        while decompressor.has_more:
            pieces.append(decompressor.take())
    assert decompressor.is_whole
    assert b"".join(pieces) == plain
    assert max(map(len, pieces), default=0) <= 256 * 1024


async def test_many_small_gzip_members_do_not_take_quadratic_time() -> None:
    """zlib copies the bytes after each member, so it gets a few of them at once."""
    decompressor = Decompressor("gzip")
    decompressor.add(gzip.compress(b"") * 20_000)
    assert decompressor.take() == b""
    assert decompressor.is_whole


async def test_a_compressed_body_leaves_its_connection_open() -> None:
    """A client of aiohttp sends several on one connection, by Content-Length and in chunks."""

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(_PACKED), 100):
            yield _PACKED[at : at + 100]

    async with serving() as served, ClientSession(served.url) as client:
        for data in (_PACKED, pieces(), _PACKED, pieces()):
            headers = {"Content-Encoding": "gzip"}
            async with client.post("/read/read", data=data, headers=headers) as response:
                assert (response.status, await response.json()) == (200, len(_TEXT))
                assert "Connection" not in response.headers


@pytest.mark.parametrize("body", [b"", b"x" * 99])
async def test_a_body_that_is_too_short_is_the_clients_fault(body: bytes) -> None:
    """``readexactly`` raises 400, and the connection stays open."""
    async with serving() as served, talk(served.url) as client:
        if body:
            client.ask("POST", "/read/exactly", body)
        else:
            client.send(_chunked("/read/exactly", b"0\r\n\r\n"))
        answer = await client.answer()
        assert (answer.status, answer.problem["detail"]) == (400, "The request body is too short.")
        client.ask("GET", "/hello")
        assert (await client.answer()).status == 200
