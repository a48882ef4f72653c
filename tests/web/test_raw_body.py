"""Bodies that are one value: bytes, text, or JSON of any type."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, BeforeValidator, Field

from gizmopy.web import Body
from gizmopy.web.decorators import Route, RouteOptions
from tests.web.support import echo_endpoint, errors_of, json_of, problem_of, serve


class Cat(BaseModel):
    name: str


@pytest.mark.parametrize(
    ("annotation", "content_type", "data", "value"),
    [
        (bytes, "image/png", b"\x89\xff", b"\x89\xff"),
        (bytes, None, b"1", b"1"),
        (bytes, "application/json", b'{"a":', b'{"a":'),
        (bytes | None, "a/b", b"1", b"1"),
        (Annotated[bytes, Field(max_length=2)], "a/b", b"12", b"12"),
        (Annotated[bytes, Body("image/*")], "IMAGE/PNG; q=1", b"1", b"1"),
        (Annotated[bytes, Body("a/b", "a/c")], "a/c", b"1", b"1"),
        (Annotated[str, Body()], "text/csv", "ä".encode(), "ä"),
        (Annotated[str, Body()], "text/plain; charset=ISO-8859-1", b"\xe4", "ä"),
        (Annotated[str, Body()], "text/plain", b"\xef\xbb\xbfa", "a"),
        (Annotated[str, Body()], "text/plain; charset=utf-16", "ä".encode("utf-16"), "ä"),
        (Annotated[str, Body("application/xml")], "application/xml", b"<a/>", "<a/>"),
        (Annotated[list[str], BeforeValidator(lambda v: v), Body()], "application/json", b"[]", []),
        (Annotated[int, Body()], "application/json", b"1", 1),
        (Annotated[list[int], Body()], "application/json", b"[1]", [1]),
        (
            Annotated[Cat, Body("application/merge-patch+json")],
            "application/merge-patch+json",
            b'{"name":"T"}',
            Cat(name="T"),
        ),
    ],
)
async def test_the_body_is_one_value(
    annotation: Any, content_type: str | None, data: bytes, value: object
) -> None:
    """Bytes are as they were sent, a str is text in the charset, and all else is JSON."""
    headers = {"Content-Type": content_type} if content_type else {}
    skip = [] if content_type else ["Content-Type"]
    async with serve(Route("POST", "/", echo_endpoint(body=annotation))) as client:
        response = await client.post("/", data=data, headers=headers, skip_auto_headers=skip)
        assert await json_of(response) == {"body": repr(value)}


@pytest.mark.parametrize(
    ("annotation", "content_type", "data", "status"),
    [
        (Annotated[bytes, Body("image/png", "image/jpeg")], "image/gif", b"1", 415),
        (Annotated[bytes, Body("image/*")], "imagery/png", b"1", 415),
        (Annotated[str, Body()], "application/json", b"1", 415),
        (Annotated[str, Body()], "text/plain; charset=punycode", b"1", 415),
        (Annotated[str, Body()], "text/plain", b"\xff", 400),
        (Annotated[str, Body()], "text/plain; charset=utf-16", b"\xff\xfea", 400),
        (Annotated[str, Body()], "text/plain" + ";a=b" * 70, b"1", 400),
        (Annotated[int, Body()], "text/plain", b"1", 415),
        (Annotated[int, Body()], "application/json", b"x", 400),
        (Annotated[Cat, Body("application/merge-patch+json")], "application/json", b"{}", 415),
        (Annotated[bytes, Field(max_length=1)], "a/b", b"12", 422),
    ],
)
async def test_a_body_of_another_kind_is_refused(
    annotation: Any, content_type: str, data: bytes, status: int
) -> None:
    """The answer 415 says which media types are accepted; damaged text is never repaired."""
    async with serve(Route("POST", "/", echo_endpoint(body=annotation))) as client:
        headers = {"Content-Type": content_type}
        response = await client.post("/", data=data, headers=headers)
        await problem_of(response, status)
        has_hint = status == 415 and "charset" not in content_type
        assert ("Accept-Post" in response.headers) is has_hint


async def test_415_names_the_accepted_media_types() -> None:
    """As Accept-Post (W3C LDP section 7.1)."""
    function = echo_endpoint(body=Annotated[bytes, Body("image/png", "image/jpeg")])
    async with serve(Route("POST", "/", function)) as client:
        response = await client.post("/", data=b"1")
        assert response.headers["Accept-Post"] == "image/png, image/jpeg"


async def test_an_empty_body_is_a_value_unless_there_is_a_default() -> None:
    """No Content-Type is needed then."""
    for annotation, value in [
        (bytes, "b''"),
        (Annotated[str, Body()], "''"),
        ((bytes | None, None), "None"),
        ((Annotated[str, Body()], "x"), "'x'"),
    ]:
        async with serve(Route("POST", "/", echo_endpoint(body=annotation))) as client:
            assert await json_of(await client.post("/")) == {"body": value}


async def test_the_error_of_a_whole_body_has_no_field() -> None:
    """As that of a JSON body that is a number."""
    function = echo_endpoint(body=Annotated[bytes, Field(max_length=1)])
    async with serve(Route("POST", "/", function)) as client:
        assert await errors_of(await client.post("/", data=b"12")) == [
            ("body", "", "bytes_too_long")
        ]


@pytest.mark.parametrize(("max_body", "status"), [(None, 408), (0, 200), ("1GB", 200)])
async def test_a_larger_body_may_take_longer(max_body: int | str | None, status: int) -> None:
    """The read timeout is for the default limit; a larger one has more time."""
    arrives = asyncio.Event()

    async def slowly() -> Any:
        yield b"1"
        await arrives.wait()
        yield b"2"

    async def endpoint(body: bytes) -> int:
        return len(body)

    route = Route("POST", "/", endpoint, RouteOptions(max_body=max_body))
    async with serve(route, read_timeout=0.02) as client:
        asyncio.get_running_loop().call_later(0.1, arrives.set)
        response = await client.post("/", data=slowly())
        assert response.status == status
