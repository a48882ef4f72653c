"""Requests: every part of aiohttp that needs a request works, except its application."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import FormData, WSMsgType, web

from gizmopy.errors import UsageError
from gizmopy.web import Request
from gizmopy.web.decorators import Route
from tests.web.support import serve


async def test_path_parameters_are_the_match_info() -> None:
    """match_info has the path parameters, also in a clone; there is no application."""

    async def read(request: Request) -> list[object]:
        with pytest.raises(
            UsageError, match="no aiohttp Application; keep objects that handlers share"
        ):
            _ = request.app
        clone = request.clone(method="PATCH")
        return [dict(request.match_info), dict(clone.path_parameters), clone.method]

    async with serve(Route("GET", "/cats/{id}", read)) as client:
        response = await client.get("/cats/a%20b")
        assert await response.json() == [{"id": "a b"}, {"id": "a b"}, "PATCH"]


async def test_a_request_without_a_route_has_no_parameters() -> None:
    """By default there are none, and the default is read-only."""
    assert dict(Request.path_parameters) == {}
    with pytest.raises(TypeError):
        Request.path_parameters["id"] = "x"  # type: ignore[index]  # the mistake in question


@pytest.mark.parametrize(
    "given", ["text/plain; a=" + "b" * 256, "(" * 250, "text/plain;" * 1000, "text/plain (a)"]
)
async def test_a_content_type_that_is_too_long_or_has_a_comment_is_a_bad_request(
    given: str,
) -> None:
    """To read the body as text is 400. Python's parser took 0.3 s for a header of 16 KB."""

    async def read(request: Request) -> str:
        return await request.text()

    async with serve(Route("POST", "/", read)) as client:
        response = await client.post("/", data=b"x", headers={"Content-Type": given[:8000]})
        assert (response.status, "Content-Type is longer" in await response.text()) == (400, True)
        plain = "text/plain; charset=utf-16-le"
        response = await client.post("/", data=b"x\0", headers={"Content-Type": plain})
        assert await response.json() == "x"


@pytest.mark.parametrize("given", ["multipart/form-data;b*", "a/b;=*", 'text/plain;charset="'])
async def test_a_content_type_that_python_cannot_parse_is_no_server_error(given: str) -> None:
    """Python's parser of headers raises IndexError for some content types."""

    async def read(request: Request) -> int:
        await request.post()
        return len(request.content_type)

    async with serve(Route("POST", "/", read)) as client:
        response = await client.post("/", data=b"x", headers={"Content-Type": given})
        assert response.status < 500


async def test_a_stream_is_sent() -> None:
    """A StreamResponse can be prepared and written."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one,")
        await response.write(b"two")
        return response

    async with serve(Route("GET", "/", stream)) as client:
        assert await (await client.get("/")).text() == "one,two"


async def test_a_web_socket_is_served() -> None:
    """A WebSocketResponse can be prepared, and exchanges messages."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data.upper())
        return socket

    async with serve(Route("GET", "/", echo)) as client:
        async with client.ws_connect("/") as socket:
            await socket.send_str("hello")
            reply = await socket.receive()
            assert (reply.type, reply.data) == (WSMsgType.TEXT, "HELLO")


async def test_a_file_is_sent(tmp_path: Path) -> None:
    """A FileResponse can be returned, and serves ranges."""
    (tmp_path / "cat.txt").write_text("meow meow")

    async def send(request: web.Request) -> web.FileResponse:
        return web.FileResponse(tmp_path / "cat.txt")

    async with serve(Route("GET", "/", send)) as client:
        response = await client.get("/", headers={"Range": "bytes=0-3"})
        assert (response.status, await response.text()) == (206, "meow")
    await (
        asyncio.get_running_loop().shutdown_default_executor()
    )  # aiohttp reads files in its threads


async def test_forms_are_read() -> None:
    """post(), multipart() and json() read the body."""

    async def form(request: web.Request) -> dict[str, object]:
        data = await request.post()
        upload = data["file"]
        assert isinstance(upload, web.FileField)
        return {"name": data["name"], "file": upload.file.read().decode()}

    async def parts(request: web.Request) -> list[object]:
        reader = await request.multipart()
        names = []
        while (part := await reader.next()) is not None:
            names.append(part.name)  # type: ignore[union-attr]  # no nested parts are sent
        return names

    async def data(request: web.Request) -> object:
        return await request.json()

    def filled() -> FormData:
        sent = FormData({"name": "Tom"})
        sent.add_field("file", b"meow", filename="cat.txt")
        return sent

    routes = [Route("POST", "/form", form), Route("POST", "/parts", parts)]
    async with serve(*routes, Route("POST", "/json", data)) as client:
        response = await client.post("/form", data=filled())
        assert await response.json() == {"name": "Tom", "file": "meow"}
        response = await client.post("/parts", data=filled())
        assert await response.json() == ["name", "file"]
        response = await client.post("/json", json={"a": 1})
        assert await response.json() == {"a": 1}


async def test_head_has_no_body() -> None:
    """HEAD calls GET's endpoint and sends only the head."""

    async def read() -> list[int]:
        return [1, 2]

    async with serve(Route("GET", "/", read)) as client:
        response = await client.head("/")
        assert (response.status, response.headers["Content-Length"]) == (200, "5")
        assert await response.read() == b""
