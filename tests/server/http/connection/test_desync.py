"""No response is read as that of another request, for any client and any handler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType, web

import pubsubtest
from gizmopy import Service, Settings, get, post, put
from tests.server.support import PATIENCE, Talk, echo, request, talk

BOTH_LOOPS = True

NEXT = request("GET", "/next")
_SHARED = web.Response(text="shared")


class Example(Service):
    """Count the requests that are executed."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.ran: list[str] = []
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    @get("/next")
    async def next(self, request: web.Request) -> dict[str, str]:
        self.ran.append("next")
        return dict(request.headers)

    @put("/length")
    async def length(self, request: web.Request) -> int:
        self.begun.set()
        body = await request.read()
        self.ran.append("length")
        return len(body)

    @post("/unread")
    async def unread(self) -> str:
        self.ran.append("unread")
        return "no thanks"

    @post("/slow")
    async def slow(self) -> str:
        self.begun.set()
        await self.go_on.wait()
        self.ran.append("slow")
        return "done"

    @get("/socket")
    async def socket(self, request: web.Request) -> web.StreamResponse:
        return await echo(request, lambda data: f"you said {data}")

    @get("/file")
    async def file(self) -> web.StreamResponse:
        return web.FileResponse(__file__)

    @get("/answers/{kind}")
    async def answers(self, request: web.Request) -> web.StreamResponse:
        kind = request.match_info["kind"]
        if kind == "shared":
            return _SHARED
        if kind.startswith("written"):
            stream = web.StreamResponse(status=int(kind.removeprefix("written ")))
            await stream.prepare(request)
            await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return stream
        if kind.startswith("stream of"):
            stream = web.StreamResponse(headers={"Content-Length": kind.split()[-1]})
            await stream.prepare(request)
            await stream.write(b"three")
            return stream
        if kind.startswith("body of"):
            return web.Response(body=b"three", headers={"Content-Length": kind.split()[-1]})
        if kind == "two lengths":
            response = web.Response(body=b"three", headers={"Content-Length": "5"})
            response.headers.add("Content-Length", "4")
            return response
        if kind == "coding":
            return web.Response(body=b"three", headers={"Transfer-Encoding": "chunked"})
        return web.Response(status=int(kind))


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[pubsubtest.Served[Example]]:
    """Serve the service of this file."""
    async with pubsubtest.serve(Example, settings=Settings(**settings)) as served:
        yield served


async def _statuses(client: Talk) -> list[int]:
    """Return the statuses of all responses until the daemon closes the connection."""
    statuses = []
    while True:
        try:
            statuses.append((await client.answer()).status)
        except asyncio.IncompleteReadError:
            return statuses


def _chunked(chunks: bytes, *lines: str) -> bytes:
    head = request("PUT", "/length", b"", "Transfer-Encoding: chunked", *lines)
    return head.replace(b"Content-Length: 0\r\n", b"") + chunks


def _put(*lines: str, body: bytes = b"12345", version: str = "1.1") -> bytes:
    head = "\r\n".join((f"PUT /length HTTP/{version}", "Host: x", *lines, "", ""))
    return head.encode() + body


async def test_requests_before_garbage_are_served() -> None:
    """Three requests and garbage in one segment: three responses, a 400, and the end."""
    async with serving() as served, talk(served.url) as client:
        client.send(NEXT * 3 + b"garbage\r\n\r\n" + NEXT)
        assert await _statuses(client) == [200, 200, 200, 400]
        assert served.service.ran == ["next"] * 3


async def test_requests_before_garbage_are_served_after_a_split_body() -> None:
    """The end of a body, a request and garbage in one segment are answered in order."""
    async with serving() as served, talk(served.url) as client:
        client.send(_put("Content-Length: 5", body=b"12"))
        await served.service.begun.wait()
        client.send(b"345" + NEXT + b"garbage\r\n\r\n")
        assert await _statuses(client) == [200, 200, 400]
        assert served.service.ran == ["length", "next"]


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0", "tcp"])
@pytest.mark.parametrize("body", [b"", b"12345"])
async def test_a_request_after_a_declined_upgrade_is_served(upgrade: str, body: bytes) -> None:
    """Each of three pipelined requests is answered, whether or not an upgrade has a body."""
    lines = ("Connection: Upgrade", f"Upgrade: {upgrade}")
    first = request("PUT" if body else "GET", "/length" if body else "/next", body, *lines)
    async with serving() as served, talk(served.url) as client:
        client.send(first + request("POST", "/unread") + NEXT)
        assert (await client.answer()).status == 200
        assert (await client.answer()).body == b'"no thanks"'
        assert b"Host" in (await client.answer()).body
        assert served.service.ran == ["length" if body else "next", "unread", "next"]


async def test_a_websocket_frame_in_the_segment_of_the_handshake_is_read() -> None:
    """Bytes after an accepted upgrade belong to the WebSocket, on a used connection, too."""
    handshake = request(
        "GET",
        "/socket",
        b"",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    async with serving() as served, talk(served.url) as client:
        for _ in range(40):  # more than the parser holds if none is served
            client.send(_put("Content-Length: 5", body=b"12"))
            await served.service.begun.wait()
            client.send(b"345")
            assert (await client.answer()).body == b"5"
        client.send(handshake + b"\x81\x82\0\0\0\0hi")
        assert (await client.answer()).status == 101
        async with asyncio.timeout(PATIENCE):
            assert await client.reader.readexactly(13) == b"\x81\x0byou said hi"


async def test_a_websocket_works_after_other_requests() -> None:
    """A client's WebSocket opens and closes on a used connection."""
    async with serving() as served, ClientSession() as http:
        async with http.ws_connect(f"{served.url}/socket") as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "you said hello"
            await socket.close()
            assert (await socket.receive()).type == WSMsgType.CLOSED


async def test_a_trailer_field_is_not_a_header_of_the_next_request() -> None:
    """Trailer fields are removed: aiohttp's parser adds the last one to the next request."""
    chunks = b"1\r\nx\r\n0\r\nX-User: admin\r\nX-Last: 1\r\n\r\n"
    async with serving() as served, talk(served.url) as client:
        client.send(_chunked(chunks) + NEXT)
        assert (await client.answer()).body == b"1"
        answer = await client.answer()
        assert b"X-User" not in answer.body
        assert b"X-Last" not in answer.body
        client.send(_chunked(chunks))
        assert (await client.answer()).body == b"1"
        client.send(NEXT)
        assert b"X-Last" not in (await client.answer()).body


_DOUBTFUL = {
    "length and coding": _put("Content-Length: 5", "Transfer-Encoding: chunked"),
    "coding and length": _put("Transfer-Encoding: chunked", "Content-Length: 5"),
    "two lengths": _put("Content-Length: 4", "Content-Length: 5"),
    "two equal lengths": _put("Content-Length: 5", "Content-Length: 5"),
    "a list of lengths": _put("Content-Length: 5, 5"),
    "plus": _put("Content-Length: +5"),
    "minus": _put("Content-Length: -5"),
    "hexadecimal": _put("Content-Length: 0x5"),
    "underscore": _put("Content-Length: 0_5"),
    "no length": _put("Content-Length: "),
    "two numbers": _put("Content-Length: 5 5"),
    "2**64 - 1": _put("Content-Length: 18446744073709551615"),
    "2**64 + 5": _put("Content-Length: 18446744073709551621"),
    "many zeros": _put(f"Content-Length: {'0' * 5000}5"),
    "chunked twice": _put("Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "chunked first": _put("Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
    "not chunked": _put("Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "identity": _put("Transfer-Encoding: identity", body=b"0\r\n\r\n"),
    "vertical tab": _put("Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "two codings": _put("Transfer-Encoding: chunked", "Transfer-Encoding: gzip", body=b"0\r\n\r\n"),
    "coding in 1.0": _put("Transfer-Encoding: chunked", version="1.0", body=b"0\r\n\r\n"),
    "folded": _put("Transfer-Encoding:", " chunked", body=b"0\r\n\r\n"),
    "folded value": _put("X-A: 1", " 2", "Content-Length: 5"),
    "space before colon": _put("Content-Length : 5"),
    "space before name": b"PUT /length HTTP/1.1\r\n Host: x\r\nContent-Length: 5\r\n\r\n12345",
    "NUL": _put("X-A: a\0b", "Content-Length: 5"),
    "bare CR": _put("X-A: a\rContent-Length: 5"),
    "bare LF in a field": _put("X-A: a\nContent-Length: 5"),
    "bare LF": b"GET /next HTTP/1.1\nHost: x\n\n",
    "bare LF at the end": b"GET /next HTTP/1.1\r\nHost: x\r\n\n",
    "CONNECT": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT with a body": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
    "no size": _chunked(b"\r\nx\r\n0\r\n\r\n"),
    "size of letters": _chunked(b"zz\r\nx\r\n0\r\n\r\n"),
    "size with 0x": _chunked(b"0x1\r\nx\r\n0\r\n\r\n"),
    "size with a sign": _chunked(b"+1\r\nx\r\n0\r\n\r\n"),
    "size with a space": _chunked(b"1 \r\nx\r\n0\r\n\r\n"),
    "huge size": _chunked(b"fffffffffffffffff\r\nx\r\n0\r\n\r\n"),
    "size behind LF": _chunked(b"1\nx\r\n0\r\n\r\n"),
    "chunk too long": _chunked(b"1\r\nxy\r\n0\r\n\r\n"),
    "chunk without end": _chunked(b"1\r\nx0\r\n\r\n"),
    "extension with LF": _chunked(b"1;a\nb\r\nx\r\n0\r\n\r\n"),
    "extension with CR": _chunked(b"1;a\rb\r\nx\r\n0\r\n\r\n"),
    "trailer behind LF": _chunked(b"0\r\nA: b\n\n"),
    "trailer without colon": _chunked(b"0\r\nA\r\n\r\n"),
    "folded trailer": _chunked(b"0\r\nA: b\r\n c\r\n\r\n"),
    "trailer with a space": _chunked(b"0\r\nA : b\r\n\r\n"),
}


@pytest.mark.parametrize("sent", _DOUBTFUL.values(), ids=_DOUBTFUL)
async def test_a_request_without_a_clear_end_is_refused(sent: bytes) -> None:
    """It is 400, or 431 for a long head. It is not executed, and its connection is closed."""
    async with serving() as served, talk(served.url) as client:
        client.send(sent + NEXT)
        assert await _statuses(client) in ([400], [431])
        assert served.service.ran == []


@pytest.mark.parametrize("coding", ["gzip, chunked", ""])
async def test_a_transfer_coding_other_than_chunked_is_refused(coding: str) -> None:
    """It is refused (RFC 9112 section 6.1), and its connection is closed."""
    async with serving() as served, talk(served.url) as client:
        client.send(_put(f"Transfer-Encoding: {coding}", body=b"0\r\n\r\n") + NEXT)
        assert await _statuses(client) == [400]
        assert served.service.ran == []


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"1\r\nxy\r\n", b"1;" + b"x" * 2000, b"0\r\nA\r\n"])
async def test_a_malformed_chunk_ends_its_request_at_once(chunk: bytes) -> None:
    """The reader of the body gets 400 without waiting, and the connection is closed."""
    async with serving() as served, talk(served.url) as client:
        client.send(_chunked(b""))
        await served.service.begun.wait()
        client.send(chunk + NEXT)
        assert await _statuses(client) == [400]
        assert served.service.ran == []


async def test_a_malformed_chunk_does_not_affect_a_handler_that_does_not_read_it() -> None:
    """The handler's response is sent, nothing after it is served, and the connection is closed."""
    head = request("POST", "/slow", b"", "Transfer-Encoding: chunked")
    async with serving() as served, talk(served.url) as client:
        client.send(head.replace(b"Content-Length: 0\r\n", b""))
        await served.service.begun.wait()
        client.send(b"zz\r\n" + NEXT)
        served.service.go_on.set()
        assert await _statuses(client) == [200]
        assert served.service.ran == ["slow"]


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        ([request("POST", "/unread", NEXT), NEXT], [200, 200]),
        ([request("GET", "/next", NEXT), NEXT], [200, 200]),
        ([request("POST", "/unread", NEXT)[:-9], NEXT[-9:] + NEXT], [200, 200]),
        ([b"\r\n\r\n" + NEXT, b"\r\n" + NEXT], [200, 200]),
        ([request("GET", "/next", b"", "Connection: close") + NEXT], [200]),
        ([b"GET /next HTTP/1.0\r\n\r\n" + NEXT], [200]),
        ([request("GET", "/next", b"", "Connection: keep-alive, close") + NEXT], [200]),
    ],
)
async def test_a_body_is_never_a_request(sent: Sequence[bytes], answers: list[int]) -> None:
    """An unread body that looks like a request is not executed, nor one after the last request."""
    async with serving() as served, talk(served.url) as client:
        for piece in sent:
            client.send(piece)
            await client.writer.drain()
            await asyncio.sleep(0)
        for status in answers:
            assert (await client.answer()).status == status
        client.writer.write_eof()
        assert await client.rest() == b""
        assert len(served.service.ran) == len(answers)


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/next", 405)])
async def test_a_final_response_in_place_of_100_closes_the_connection(
    path: str, status: int
) -> None:
    """The client may send its body or the next request (RFC 9110 section 10.1.1)."""
    head = request("PUT", path, b"x" * len(NEXT), "Expect: 100-continue")[: -len(NEXT)]
    async with serving() as served, talk(served.url) as client:
        client.send(head)
        answer = await client.answer()
        assert (answer.status, answer.headers["Connection"]) == (status, "close")
        client.send(NEXT)
        assert await client.rest() == b""
        assert served.service.ran == []


@pytest.mark.parametrize("kind", ["written 204", "written 304", "204", "304"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_no_body_follows_a_head_without_one(method: str, kind: str) -> None:
    """A body that a handler writes after 204, 304 or the head for HEAD is not sent."""
    path = f"/answers/{kind.replace(' ', '%20')}"
    async with serving() as served, talk(served.url) as client:
        client.send(request(method, path) + NEXT)
        assert (await client.answer(to_head=method == "HEAD")).status == int(kind.split()[-1])
        assert b"Host" in (await client.answer()).body


@pytest.mark.parametrize("kind", ["stream of 3", "stream of 9", "body of 3", "body of 9"])
async def test_a_body_with_a_wrong_length_closes_the_connection(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No byte beyond Content-Length is sent, and no next response fills up a short body."""
    async with serving() as served, talk(served.url) as client:
        client.send(request("GET", f"/answers/{kind.replace(' ', '%20')}") + NEXT)
        assert (await client.rest()).endswith(b"\r\n\r\nthr" if "3" in kind else b"\r\n\r\nthree")
        assert served.service.ran == []
    assert "not as long as its Content-Length" in caplog.text


@pytest.mark.parametrize("kind", ["two lengths", "coding", "100", "102", "101", "199", "600"])
async def test_a_head_without_a_clear_end_is_not_sent(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged and answered with 500; the next response belongs to the next request."""
    async with serving() as served, talk(served.url) as client:
        client.send(request("GET", f"/answers/{kind.replace(' ', '%20')}") + NEXT)
        assert (await client.answer()).status == 500
        assert b"Host" in (await client.answer()).body
    assert "UsageError" in caplog.text


async def test_a_response_that_was_sent_before_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """aiohttp sends nothing: the client would take the next response for this request."""
    async with serving() as served, talk(served.url) as client:
        client.send(request("GET", "/answers/shared") * 2 + NEXT)
        answers = [await client.answer() for _ in range(3)]
    assert answers[-2].status == 500
    assert b"Host" in answers[-1].body
    assert "make one for each request" in caplog.text


async def test_a_file_response_is_sent_once(caplog: pytest.LogCaptureFixture) -> None:
    """The connection stays open, and nothing is logged."""
    async with serving() as served, talk(served.url) as client:
        client.send(request("GET", "/file") + NEXT)
        assert (await client.answer()).body.startswith(b'"""No response is read')
        assert b"Host" in (await client.answer()).body
        await asyncio.get_running_loop().shutdown_default_executor()
    assert "failed" not in caplog.text


async def test_thousands_of_pipelined_requests_are_answered_in_order() -> None:
    """None is lost, also if the client reads slowly."""
    many = b"".join(request("PUT", "/length", b"x" * (n % 7)) + NEXT for n in range(2000))
    async with serving() as served, talk(served.url) as client:
        client.send(many)
        for n in range(2000):
            assert (await client.answer()).body == b"%d" % (n % 7)
            assert b"Host" in (await client.answer()).body
        assert len(served.service.ran) == 4000


async def test_requests_split_at_every_place_are_the_same_requests() -> None:
    """Heads, bodies, chunks and trailers are parsed alike wherever segments end."""
    sent = _chunked(b"3;a=b\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nA: b\r\n\r\n")
    sent += _put("Content-Length: 5") + NEXT
    async with serving() as served, talk(served.url) as client:
        for split in range(1, len(sent)):
            client.send(sent[:split])
            await client.writer.drain()
            await asyncio.sleep(0)
            client.send(sent[split:])
            assert (await client.answer()).body == b"19"
            assert (await client.answer()).body == b"5"
            assert b"Host" in (await client.answer()).body
