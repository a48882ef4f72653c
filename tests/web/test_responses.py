"""The results of endpoints, and their encoding as responses."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from aiohttp import web
from pydantic import BaseModel, Field

from gizmopy.errors import UsageError
from gizmopy.web import json_response
from gizmopy.web.binding import compile_endpoint
from gizmopy.web.decorators import Route
from tests.web.support import serve


class Owner(BaseModel):
    full_name: str = Field(serialization_alias="fullName")


class Cat(BaseModel):
    id: int
    owner: Owner | None = None


class Box(BaseModel):
    content: Any


class Tabby(Cat):
    stripes: int


@dataclass
class Bird:
    cat: Cat


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.Enum):
    BLACK = "black"


def numbers() -> Iterator[int]:
    """Yield two numbers."""
    yield from (1, 2)


def returning(value: object) -> Route:
    """Return a route whose endpoint returns ``value``."""

    async def endpoint() -> object:
        return value

    return Route("GET", "/x", endpoint)


async def encode(value: object, content_type: str = "application/json") -> web.StreamResponse:
    """Return the response of an endpoint that returns ``value``; it reads no request."""
    handle = compile_endpoint(returning(value), json_content_type=content_type)
    return await handle(None)  # type: ignore[arg-type]  # an endpoint without parameters


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ({"a": 1}, b'{"a":1}'),
        ([], b"[]"),
        ((1, 2, 3), b"[1,2,3]"),
        ((), b"[]"),
        (("a", "b"), b'["a","b"]'),
        ((True, 1), b"[true,1]"),
        (Point(201, 2), b"[201,2]"),
        (Cat(id=1), b'{"id":1,"owner":null}'),
        (Cat(id=1, owner=Owner(full_name="x")), b'{"id":1,"owner":{"fullName":"x"}}'),
        ([Tabby(id=1, stripes=2)], b'[{"id":1,"owner":null,"stripes":2}]'),
        (Bird(Cat(id=1)), b'{"cat":{"id":1,"owner":null}}'),
        ("text", b'"text"'),
        ("ä", '"ä"'.encode()),
        (17, b"17"),
        (0, b"0"),
        (False, b"false"),
        (1.5, b"1.5"),
        (float("nan"), b"null"),
        ({"a": float("inf")}, b'{"a":null}'),
        (Colour.BLACK, b'"black"'),
        (Decimal("1.10"), b'"1.10"'),
        (UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        (datetime(2026, 1, 2, tzinfo=UTC), b'"2026-01-02T00:00:00Z"'),
        ({1}, b"[1]"),
        (numbers(), b"[1,2]"),
    ],
)
async def test_a_value_is_encoded_as_json(value: object, body: bytes) -> None:
    """Any value is JSON, except a response, bytes and None."""
    response = await encode(value)
    assert isinstance(response, web.Response)
    assert (response.status, response.body) == (200, body)
    assert response.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("value", "status", "body"),
    [
        ((201, {"a": 1}), 201, b'{"a":1}'),
        ((404, "no"), 404, b'"no"'),
        ((200, (1, 2)), 200, b"[1,2]"),
        ((201, b"raw"), 201, b"raw"),
        ((299, []), 299, b"[]"),
        (b"raw", 200, b"raw"),
        (bytearray(b"raw"), 200, b"raw"),
    ],
)
async def test_a_pair_is_a_status_and_a_value(value: object, status: int, body: bytes) -> None:
    """A plain tuple of an int and a value sets the status."""
    response = await encode(value)
    assert isinstance(response, web.Response)
    assert (response.status, response.body) == (status, body)


async def test_bytes_are_an_octet_stream() -> None:
    """Bytes are sent unchanged."""
    assert (await encode(b"raw")).headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (None, 204),
        ((204, None), 204),
        ((204, {"dropped": True}), 204),
        ((304, None), 304),
        ((304, {"dropped": True}), 304),
        ((202, None), 202),
        ((404, None), 404),
    ],
)
async def test_none_has_no_body(value: object, status: int) -> None:
    """None, and a status that forbids a body, give no body and no content type."""
    async with serve(returning(value)) as client:
        response = await client.get("/x")
        assert (response.status, await response.read()) == (status, b"")
        assert "Content-Type" not in response.headers


async def test_a_response_is_returned_unchanged() -> None:
    """aiohttp's responses need no encoding."""
    response = web.Response(text="hello")
    assert await encode(response) is response


async def test_the_content_type_of_json_is_a_setting() -> None:
    """The type may have a charset, as Gizmo's has."""
    response = await encode({}, "application/json; charset=UTF-8")
    assert response.headers["Content-Type"] == "application/json; charset=UTF-8"


@pytest.mark.parametrize("status", [0, 42, 100, 199, 600, -1])
async def test_an_invalid_status_is_refused(status: int) -> None:
    """A pair whose number is not a final status raises UsageError; it is not sent as a list."""
    with pytest.raises(UsageError, match=rf"GET /x: .*endpoint returned the status {status};"):
        await encode((status, "x"))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "object"),
        ({"a": object()}, "dict"),
        ("\ud800", "str"),
        ([b"\xff"], "list"),
        ((200, web.Response()), "Response"),
        (Box(content=object()), "Box"),
    ],
)
async def test_a_result_without_a_json_form_names_the_endpoint(value: object, kind: str) -> None:
    """The error of a result that cannot be encoded has the endpoint and the type."""
    reason = rf"GET /x: returning\.<locals>\.endpoint returned a {kind}, which has no JSON form"
    with pytest.raises(UsageError, match=reason):
        await encode(value)


async def test_a_circular_value_has_no_json_form() -> None:
    """A list that contains itself raises UsageError."""
    circular: list[Any] = []
    circular.append(circular)
    with pytest.raises(UsageError, match="Circular reference"):
        await encode(circular)


def test_json_response_encodes_as_endpoints_do() -> None:
    """A handler can make the same response itself."""
    response = json_response([1], 201)
    assert (response.status, response.body) == (201, b"[1]")
    assert response.content_type == "application/json"
