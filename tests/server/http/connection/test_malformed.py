"""No input of a client is an error of the server: no 500, traceback or hanging connection."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

import pubsubtest
from gizmopy import Problem, Service, Settings, get, post, put
from tests.server.support import request, talk, until

BOTH_LOOPS = True


class Example(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.begun = asyncio.Event()

    @get("/url")
    async def url(self, request: web.Request) -> str:
        return f"{request.url} {request.host} {request.path} {request.query_string}"

    @get("/socket")
    async def socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        return socket

    @get("/conditions")
    async def conditions(self, request: web.Request) -> str:
        dates = request.if_modified_since, request.if_unmodified_since, request.if_range
        return f"{dates} {request.if_match} {request.if_none_match} {request.cookies}"

    @get("/range")
    async def range(self, request: web.Request) -> str:
        return str(request.http_range)

    @get("/file")
    async def file(self) -> web.StreamResponse:
        return web.FileResponse(__file__)

    @put("/bytes")
    async def bytes(self, request: web.Request) -> int:
        self.begun.set()
        return len(await request.read())

    @put("/line")
    async def line(self, request: web.Request) -> int:
        return len(await request.content.readline(max_line_length=10))

    @put("/text")
    async def text(self, request: web.Request) -> int:
        return len(await request.text())

    @put("/json")
    async def json(self, request: web.Request) -> str:
        return type(await request.json()).__name__

    @put("/form")
    async def form(self, request: web.Request) -> int:
        return len(await request.post())

    @put("/parts")
    async def parts(self, request: web.Request) -> int:
        return len([part async for part in await request.multipart()])

    @put("/model")
    async def model(self, body: dict[str, Any]) -> int:
        return len(body)

    @post("/unread")
    async def unread(self) -> str:
        self.begun.set()
        return "no thanks"

    @get("/wrong/{kind}")
    async def wrong(self, kind: str) -> web.StreamResponse:
        headers = {"X-Wrong": "a\r\nb" if kind.endswith("break") else "\udc80"}
        if kind.startswith("problem"):
            raise Problem(400, "wrong", headers=headers)
        if kind.startswith("exception"):
            raise web.HTTPConflict(headers=headers)
        return web.Response(text="wrong", headers=headers)


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[pubsubtest.Served[Example]]:
    """Serve the service of this file."""
    async with pubsubtest.serve(Example, settings=Settings(**settings)) as served:
        yield served


async def _ask(sent: bytes, **settings: Any) -> int:
    """Return the status of the response to one request."""
    async with serving(**settings) as served, talk(served.url) as client:
        client.send(sent)
        status = (await client.answer()).status
        await until(lambda: not served.server.application.handler.active)
        await asyncio.get_running_loop().shutdown_default_executor()
    return status


_HANDSHAKE = {
    "Connection": b"Upgrade",
    "Upgrade": b"websocket",
    "Sec-WebSocket-Version": b"13",
    "Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ==",
}


def _handshake(changes: Mapping[str, bytes]) -> bytes:
    fields = {"Host": b"x", **_HANDSHAKE, **changes}
    lines = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in fields.items())
    return b"GET /socket HTTP/1.1\r\n" + lines + b"\r\n"


@pytest.mark.parametrize(
    "name", [*_HANDSHAKE, "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"]
)
@pytest.mark.parametrize(
    "value", [b"\xff", b"websocket\xe9", b"websocket\xc2\xa0", b"\xe2\x84\xaa"]
)
async def test_a_handshake_that_is_not_ascii_is_refused(
    name: str, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is 400 for each of its fields, and nothing is logged."""
    assert await _ask(_handshake({name: value})) == 400
    assert "failed" not in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"Sec-WebSocket-Key": b"x"},
        {"Sec-WebSocket-Key": b"===="},
        {"Sec-WebSocket-Key": b""},
        {"Sec-WebSocket-Version": b"99"},
        {"Upgrade": b"websocket, x"},
        {"Connection": b"close"},
        {"Sec-WebSocket-Extensions": b"permessage-deflate; server_max_window_bits=" + b"9" * 5000},
    ],
)
async def test_a_malformed_handshake_is_refused(
    changes: Mapping[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """It is 400, and nothing is logged."""
    assert await _ask(_handshake(changes)) == 400
    assert "failed" not in caplog.text


@pytest.mark.parametrize(
    "target",
    [
        b"http://[::1",
        b"http://[::1/url",
        b"http://[zz]/url",
        b"http://[]@/url",
        b"http://[::1]@/url",
        b"http://x:abc/url",
        b"http://x:65536/url",
        b"http://x:80:80/url",
        b"http://a@x/url",
        b"http://a:b@x/url",
        b"http://xn--/url",
        b"http:///url",
        b"http://",
        b"ftp://x/url",
        b"://x/url",
        b"x:80",
        b"url",
        b"*",
        b"?a",
        b"#",
    ],
)
async def test_a_malformed_target_is_refused(
    target: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is 400, and nothing is logged."""
    assert await _ask(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n") == 400
    assert "failed" not in caplog.text


_Request = tuple[bytes, bytes, bytes, bytes]
"""A method, a target, a line of the head, and a body."""


def _get(target: bytes, field: bytes = b"") -> _Request:
    return (b"GET", target, field, b"")


def _put(target: bytes, body: bytes, field: bytes = b"X: y") -> _Request:
    return (b"PUT", target, field, body)


_STRANGE = {
    "percent": _get(b"/%"),
    "percent zz": _get(b"/url?a=%zz"),
    "not UTF-8": _get(b"/url?\xff"),
    "not UTF-8, encoded": _get(b"/%ff?%ff"),
    "absolute": _get(b"http://x:65535/url?a#b"),
    "OPTIONS *": (b"OPTIONS", b"*", b"", b""),
    "unknown method": (b"PROPFIND", b"/url", b"", b""),
    "expectation": _get(b"/url", b"Expect: \xff"),
    "cookies": _get(b"/conditions", b'Cookie: \xff=\xff; ;; a="\\777; ='),
    "year": _get(b"/conditions", b"If-Modified-Since: Thu, 01 Jan %d 0:0:0 GMT" % 10**20),
    "range year": _get(b"/conditions", b"If-Range: Thu, 01 Jan %d 0:0:0 GMT" % 10**20),
    "tags": _get(b"/conditions", b'If-None-Match: "\xff, W/'),
    "range": _get(b"/range", b"Range: bytes=5-1"),
    "range of digits": _get(b"/range", b"Range: bytes=" + b"9" * 5000 + b"-"),
    "range of a file": _get(b"/file", b"Range: bytes=5-1"),
    "year of a file": _get(b"/file", b"If-Modified-Since: Thu, 01 Jan %d 0:0:0 GMT" % 10**20),
    "identity": _get(b"/url", b"X-Request-ID: \xff\r\ntraceparent: \xff"),
    "agent": _get(b"/url", b"User-Agent: \xff\r\nReferer: \xff\r\nOrigin: \xff"),
    "charset": _put(b"/text", b"x", b"Content-Type: text/plain; charset=unknown-xyz"),
    "charset of bytes": _put(b"/text", b"x", b"Content-Type: text/plain; charset=hex"),
    "slow charset": _put(b"/text", b"x", b"Content-Type: text/plain; charset=punycode"),
    "charset of controls": _put(b"/text", b"x", b"Content-Type: text/plain; charset=\xff"),
    "text not UTF-8": _put(b"/text", b"\xff"),
    "text not UTF-16": _put(b"/text", b"xyz", b"Content-Type: text/plain; charset=utf-16"),
    "no JSON": _put(b"/json", b"{"),
    "deep JSON": _put(b"/json", b"[" * 100_000),
    "digits in JSON": _put(b"/json", b"1" * 5000),
    "empty JSON": _put(b"/json", b""),
    "no model": _put(b"/model", b"\xff", b"Content-Type: application/json"),
    "deep model": _put(b"/model", b"[" * 100_000, b"Content-Type: application/json"),
    "model in UTF-16": _put(b"/model", b"{}", b"Content-Type: application/json;charset=utf-16"),
    "form not UTF-8": _put(b"/form", b"\xff", b"Content-Type: application/x-www-form-urlencoded"),
    "form without boundary": _put(b"/form", b"x", b"Content-Type: multipart/form-data"),
    "form without part": _put(b"/form", b"x", b"Content-Type: multipart/form-data; boundary=x"),
    "form cut": _put(b"/form", b"--x\r\n", b"Content-Type: multipart/form-data; boundary=x"),
    "parts without boundary": _put(b"/parts", b"x", b"Content-Type: multipart/mixed"),
    "part without colon": _put(
        b"/parts", b"--x\r\nbad\r\n\r\n", b"Content-Type: multipart/mixed; boundary=x"
    ),
    "long line": _put(b"/line", b"x" * 100),
    "deflate": _put(b"/bytes", b"garbage", b"Content-Encoding: deflate"),
    "gzip cut": _put(b"/bytes", gzip.compress(b"x" * 100)[:-9], b"Content-Encoding: gzip"),
    "unknown coding": _put(b"/bytes", b"x", b"Content-Encoding: \xff"),
}


@pytest.mark.parametrize(("method", "target", "field", "body"), _STRANGE.values(), ids=_STRANGE)
async def test_no_input_of_a_client_is_an_error_of_the_server(
    method: bytes, target: bytes, field: bytes, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is served, or refused with 4xx, and no error is logged."""
    lines = b"".join((b"Host: x\r\n", field, b"\r\n" if field else b""))
    length = b"Content-Length: %d\r\n" % len(body) if method == b"PUT" else b""
    sent = b"".join((method, b" ", target, b" HTTP/1.1\r\n", lines, length, b"\r\n", body))
    assert 200 <= await _ask(sent) < 500
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


@pytest.mark.parametrize("kind", ["problem", "exception", "response"])
@pytest.mark.parametrize("wrong", ["break", "surrogate"])
async def test_a_response_that_cannot_be_sent_becomes_500(
    kind: str, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A line break in a header of an error is logged and answered, and the connection stays open.

    aiohttp sends a lone surrogate in a header as a question mark.
    """
    async with serving() as served, talk(served.url) as client:
        client.ask("GET", f"/wrong/{kind}-{wrong}")
        answer = await client.answer()
        if wrong == "break":
            assert answer.status == 500
            assert answer.problem["detail"].startswith("The server failed")
            assert "Forbidden control character" in caplog.text
        assert "X-Wrong: a" not in str(answer.headers)
        client.ask("GET", "/url")
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "sent",
    [
        request("PUT", "/bytes", b"12345")[:-2],
        request("POST", "/unread", b"12345")[:-2],
        request("PUT", "/model", b"12345")[:-2],
        request("PUT", "/bytes", b"12", "Transfer-Encoding: chunked").replace(
            b"Content-Length: 2\r\n", b""
        ),
        request(
            "POST", "/unread", b"", "Expect: 100-continue", "Transfer-Encoding: chunked"
        ).replace(b"Content-Length: 0\r\n", b""),
        _handshake({}) + b"\x81",
    ],
)
@pytest.mark.parametrize("late", [False, True])
async def test_a_client_that_disconnects_during_its_body_causes_no_log_line(
    sent: bytes, reset: bool, late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It disconnects at once, or while the body is read: nothing is logged or left behind."""
    async with serving() as served:
        async with talk(served.url) as client:
            client.send(sent)
            await client.writer.drain()
            if late:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):  # no sign that the body is read
                        await asyncio.Event().wait()
            if reset:
                options = client.writer.get_extra_info("socket")
                options.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server = served.server._ports[0]._server
        await until(
            lambda: not server.open_connections() and not served.server.application.handler.active
        )
        loop_errors = [each for each in caplog.records if each.levelno >= 30]
    assert not loop_errors


@pytest.mark.parametrize("error", [None, TimeoutError("by TCP")])
@pytest.mark.parametrize("target", ["/bytes", "/text", "/model"])
async def test_a_client_that_disconnects_before_its_handler_runs_causes_no_log_line(
    target: str, error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A part of its body has arrived, and the connection is lost in the same turn of the loop."""
    async with serving() as served, talk(served.url):
        server = served.server._ports[0]._server
        await until(server.open_connections)
        (connection,) = server.open_connections()
        assert connection.open_transport is not None
        wire = connection.open_transport
        connection.data_received(
            request("PUT", target, b"12345", "Content-Type: application/json")[:-2]
        )
        connection.connection_lost(error)
        wire.abort()
        await until(
            lambda: not served.server.application.handler.active and connection.task is None
        )
    assert not [each for each in caplog.records if each.levelno >= 30]
