"""JSON bodies: how they are bound, and the errors of bodies that cannot be read."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
from aiohttp import web
from pydantic import BaseModel, Field, JsonValue
from typing_extensions import TypedDict

from gizmopy.web.binding import compile_endpoint
from gizmopy.web.body import read_body
from gizmopy.web.decorators import Route
from tests.web.support import echo_endpoint, exchange, json_of, problem_of, serve

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


class NewCat(BaseModel):
    name: str


class Dog(TypedDict):
    name: str


@dataclass
class Bird:
    name: str


class Lion(BaseModel):
    kind: Literal["lion"]


class Tiger(BaseModel):
    kind: Literal["tiger"]


Feline = Annotated[Lion | Tiger, Field(discriminator="kind")]


@pytest.mark.parametrize(
    ("annotation", "body", "value"),
    [
        (NewCat, {"name": "Tom"}, NewCat(name="Tom")),
        (Bird, {"name": "Tweety"}, Bird("Tweety")),
        (Dog, {"name": "Rex"}, {"name": "Rex"}),
        (dict, {"a": [1]}, {"a": [1]}),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (list[NewCat], [{"name": "Tom"}], [NewCat(name="Tom")]),
        (NewCat | Bird, {"name": "Tom"}, NewCat(name="Tom")),
        (Feline, {"kind": "lion"}, Lion(kind="lion")),
        (JsonValue, [1, {"a": None}], [1, {"a": None}]),
        ((NewCat | None, None), {"name": "Tom"}, NewCat(name="Tom")),
    ],
)
async def test_a_structure_is_bound_to_the_body(
    annotation: Any, body: object, value: object
) -> None:
    """Models, dataclasses, typed dicts, mappings, and types that contain one come from the body."""
    async with serve(Route("POST", "/", echo_endpoint(body=annotation))) as client:
        assert await json_of(await client.post("/", json=body)) == {"body": repr(value)}


async def test_an_optional_body_may_be_absent() -> None:
    """Without a body, or with an empty one, chunked or not, the default applies."""

    async def nothing() -> Any:
        for chunk in list[bytes]():
            yield chunk

    async with serve(Route("POST", "/", echo_endpoint(body=(NewCat | None, None)))) as client:
        for data in (None, b"", nothing()):
            assert await json_of(await client.post("/", data=data)) == {"body": "None"}


async def test_a_body_in_several_pieces_is_read() -> None:
    """The endpoint waits for a body that arrives after the head."""

    async def pieces() -> Any:
        yield b'{"a":'
        await asyncio.sleep(0)
        yield b" 1}"

    async with serve(Route("POST", "/", echo_endpoint(body=dict))) as client:
        headers = {"Content-Type": "application/json"}
        response = await client.post("/", data=pieces(), headers=headers)
        assert await json_of(response) == {"body": "{'a': 1}"}


async def test_a_compressed_body_is_decompressed() -> None:
    """Clients may compress a body with gzip."""
    async with serve(Route("POST", "/", echo_endpoint(body=dict))) as client:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        response = await client.post("/", data=gzip.compress(b'{"a": 1}'), headers=headers)
        assert await json_of(response) == {"body": "{'a': 1}"}


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/vnd.cats+json",
        "application/merge-patch+json ; q=1",
    ],
)
async def test_json_has_several_content_types(content_type: str) -> None:
    """application/json and every type that ends in +json are JSON, with any parameters."""
    async with serve(Route("POST", "/", echo_endpoint(body=dict))) as client:
        response = await client.post("/", data=b"{}", headers={"Content-Type": content_type})
        assert await json_of(response) == {"body": "{}"}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "The request has no body; send JSON."),
        (b"{", "The request body is malformed. Invalid JSON: EOF while parsing"),
        (b" ", "The request body is malformed. Invalid JSON: EOF while parsing"),
        (b'{"name": "\xff"}', "The request body is malformed. Invalid JSON: invalid unicode"),
        (b'{"name": "\\ud800"}', "The request body is malformed. Invalid JSON: "),
        (b"[" * 10_000, "The request body is malformed. Invalid JSON: recursion limit"),
        (b'{"name": 1} 2', "The request body is malformed. Invalid JSON: trailing characters"),
    ],
)
async def test_malformed_json_is_400(body: bytes, detail: str) -> None:
    """If the body is not JSON, no other error is reported."""
    async with serve(Route("POST", "/", echo_endpoint(body=NewCat, limit=int))) as client:
        headers = {"Content-Type": "application/json"}
        response = await client.post("/?limit=x", data=body, headers=headers)
        assert (await problem_of(response, 400))["detail"].startswith(detail)


async def test_a_broken_compression_is_400() -> None:
    """A body that cannot be decompressed is the client's error."""
    async with serve(Route("POST", "/", echo_endpoint(body=dict))) as client:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        response = await client.post("/", data=b"no gzip at all", headers=headers)
        assert "cannot be decoded" in (await problem_of(response, 400))["detail"]


async def test_a_slow_body_is_408() -> None:
    """If a body does not arrive in time, the response says so and the connection is closed."""
    route = Route("POST", "/", echo_endpoint(body=dict))
    async with serve(route, read_timeout=0.05) as client:
        head, details = await exchange(client, HEAD + b"Content-Length: 2\r\n\r\n{")
    assert head.startswith("HTTP/1.1 408 ")
    assert "\r\nConnection: close" in head
    assert details["detail"] == "The request body did not arrive within 0.05 seconds."


async def test_a_large_body_is_413() -> None:
    """The limit holds for a body after decompression, and the response has the limit."""
    route = Route("POST", "/", echo_endpoint(body=dict))
    large = b'{"a": "' + b"x" * 2000 + b'"}'
    async with serve(route, client_max_size=1000) as client:
        headers = {"Content-Type": "application/json"}
        details = await problem_of(await client.post("/", data=large, headers=headers), 413)
        assert details["detail"] == "The request body is larger than 1000 bytes."
        headers["Content-Encoding"] = "gzip"
        response = await client.post("/", data=gzip.compress(large), headers=headers)
        await problem_of(response, 413)


async def test_a_body_without_a_content_type_is_415() -> None:
    """A page of any site can make a browser send a body without a Content-Type."""
    async with serve(Route("POST", "/", echo_endpoint(body=(dict | None, None)))) as client:
        response = await client.post("/", data=b"{}", skip_auto_headers=["Content-Type"])
        assert "application/json" in (await problem_of(response, 415))["detail"]
        response = await client.post("/", skip_auto_headers=["Content-Type"])
        assert await json_of(response) == {"body": "None"}  # an empty body needs no type


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "text/plain; application/json",
        "text/plain;charset=application/json",
        "text/plain, application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=+json",
        "application/jsonp",
        "json",
    ],
)
async def test_a_body_of_another_content_type_is_415(content_type: str) -> None:
    """The response names the type to send."""
    async with serve(Route("POST", "/", echo_endpoint(body=(dict | None, None)))) as client:
        response = await client.post("/", data=b"{}", headers={"Content-Type": content_type})
        assert "application/json" in (await problem_of(response, 415))["detail"]
        assert response.headers["Accept-Post"] == "application/json"


async def test_a_client_that_disconnects_gets_no_response() -> None:
    """A lost connection ends the handler with ConnectionError, not with a problem."""
    ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    handle = compile_endpoint(Route("POST", "/", echo_endpoint(body=dict)))

    async def watch(request: web.Request) -> web.StreamResponse:
        try:
            return await handle(request)
        except BaseException as error:
            ended.set_result(error)
            raise

    async with serve(Route("POST", "/", watch)) as client:
        url = client._base_url
        assert url is not None
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert isinstance(await ended, ConnectionError)


async def test_a_body_of_a_closed_connection_is_not_awaited() -> None:
    """A body that can no longer arrive raises at once."""
    unfinished = SimpleNamespace(is_eof=lambda: False)
    request: Any = SimpleNamespace(content=unfinished, transport=None)
    with pytest.raises(ConnectionResetError, match="the client has disconnected"):
        await read_body(request, timeout=10)
