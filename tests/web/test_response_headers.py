"""Headers that an endpoint returns beside the value."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Annotated, Any, Literal

import pytest
from aiohttp import web
from annotated_types import MinLen
from pydantic import BaseModel

import pubsubtest
from gizmopy import Cookie, Header, Query, Service, get
from gizmopy.errors import DeclarationError, UsageError
from gizmopy.server import SimpleServer
from gizmopy.web.decorators import Route
from gizmopy.web.openapi.document import openapi_document
from gizmopy.web.responses import RawResponse, response_encoder


class Cat(BaseModel):
    name: str


class Tame(Cat):
    secret: str = "s"


class Size(enum.Enum):
    BIG = "big"


Location = Annotated[str, Header("Location")]
ETag = Annotated[str | None, Header("ETag")]
Count = Annotated[int, Header("X-Count")]
Links = Annotated[list[str], Header("Link")]
TOM = Cat(name="Tom")


def encoder(annotation: Any) -> Callable[[object], Any]:
    """Return the encoder of an endpoint that is annotated so."""

    async def endpoint() -> Any: ...

    endpoint.__annotations__["return"] = annotation
    return response_encoder(Route("POST", "/cats", endpoint))


@pytest.mark.parametrize(
    ("annotation", "result", "status", "body", "headers"),
    [
        (
            tuple[Literal[201], Cat, Location],
            (201, TOM, "/cats/1"),
            201,
            b'{"name":"Tom"}',
            [("Location", "/cats/1")],
        ),
        (tuple[Cat, ETag], (TOM, '"1"'), 200, b'{"name":"Tom"}', [("ETag", '"1"')]),
        (tuple[Cat, ETag], (TOM, None), 200, b'{"name":"Tom"}', []),
        # The declared type filters the value, with headers as well.
        (tuple[Cat, Count], (Tame(name="T"), 3), 200, b'{"name":"T"}', [("X-Count", "3")]),
        (
            tuple[list[int], Count, Links],
            ([1], 2, ["<a>", "<b>"]),
            200,
            b"[1]",
            [("X-Count", "2"), ("Link", "<a>"), ("Link", "<b>")],
        ),
        (tuple[Literal[204], None, Location], (204, None, "/"), 204, None, [("Location", "/")]),
        (tuple[None, Location], (None, "/"), 204, None, [("Location", "/")]),
        (tuple[int, Cat, Location], (202, TOM, "/"), 202, b'{"name":"Tom"}', [("Location", "/")]),
        (tuple[bytes, ETag], (b"x", "1"), 200, b"x", [("ETag", "1")]),
        (tuple[int, Location], (7, "/"), 200, b"7", [("Location", "/")]),
        (tuple[Any, Location], ({"a": 1}, "/"), 200, b'{"a":1}', [("Location", "/")]),
        (
            tuple[Cat, Annotated[bool, Header("X-New")], Annotated[Size, Header("X-Size")]],
            (TOM, True, Size.BIG),
            200,
            b'{"name":"Tom"}',
            [("X-New", "true"), ("X-Size", "big")],
        ),
        (
            tuple[Literal[201], Cat, Location] | tuple[Literal[200], Cat, ETag],
            (200, TOM, "1"),
            200,
            b'{"name":"Tom"}',
            [("ETag", "1")],
        ),
        (tuple[Literal[201], Cat, Location] | Cat, TOM, 200, b'{"name":"Tom"}', []),
        (tuple[Literal[201], Cat, Location] | None, None, 204, None, []),
        (tuple[Literal[201], Cat, Location] | tuple[Literal[200], Cat], (200, TOM), 200, None, []),
    ],
)
def test_headers_are_the_last_items_of_a_tuple(
    annotation: Any, result: object, status: int, body: bytes | None, headers: Any
) -> None:
    """The value, with a status or without, is encoded as without headers."""
    response = encoder(annotation)(result)
    if isinstance(response, RawResponse):
        response = response.to_aiohttp()
    assert response.status == status
    assert body is None or response.body == body
    sent = [(name, value) for name, value in response.headers.items() if name != "Content-Type"]
    assert sent == headers


@pytest.mark.parametrize(
    ("annotation", "result", "reason"),
    [
        (tuple[Cat, Location], TOM, "returned a Cat, which is not of the declared type"),
        (tuple[Cat, Location], (TOM,), "returned a tuple, which is not of the declared type"),
        (tuple[Cat, Location], (TOM, None), "the header Location is a NoneType, which is not"),
        (tuple[Cat, Count], (TOM, "many"), "the header X-Count is a str, which is not"),
        (tuple[Cat, Location], (TOM, "a\r\nSet-Cookie: b"), "Location has a line break"),
        (tuple[Cat, Location], (TOM, "a\0"), "Location has a line break or another control"),
        (tuple[Cat, Location], (TOM, "\udcff"), "Location has a line break or another control"),
        (tuple[Literal[201], Cat, Location], (200, TOM, "/"), "not of the declared type"),
        (tuple[Cat, Annotated[str, MinLen(2), Header("X")]], (TOM, "a"), "the header X is a str"),
    ],
)
def test_a_result_without_its_headers_is_the_fault_of_the_service(
    annotation: Any, result: object, reason: str
) -> None:
    """It is 500. The log names the endpoint and the header, and quotes no value."""
    with pytest.raises(UsageError, match=rf"^POST /cats: .*{reason}") as raised:
        encoder(annotation)(result)
    assert "Set-Cookie" not in str(raised.value)


def test_a_response_of_aiohttp_has_its_own_headers() -> None:
    """It is sent as it is, instead of the tuple."""
    response = web.Response(text="x")
    assert encoder(tuple[Cat, Location] | web.Response)(response) is response


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (Annotated[str, Header("Location")], "which stands in no tuple with a value"),
        (tuple[Location], "returns headers after something other than a value"),
        (tuple[Location, Cat], "returns Header.*ahead of the value"),
        (tuple[Cat, Location, Location], "returns the header 'Location' twice"),
        (tuple[str, Cat, Location], "after something other than a value, or a status and a value"),
        (tuple[int, Cat, Cat, Location], "after something other than a value"),
        (tuple[Cat, Annotated[str, Header()]], "is marked with one Header"),
        (tuple[Cat, Annotated[str, Cookie("session")]], "is marked with one Header"),
        (tuple[Cat, Annotated[str, Query("q")]], "is marked with one Header"),
        (tuple[Cat, Annotated[str, Header("X Y")]], "'X Y', which is no valid name"),
        (tuple[Cat, Annotated[int, Header("content-length")]], "which the server sets"),
        (tuple[Cat, Annotated[str, Header("X-Request-ID")]], "which the server sets"),
        (tuple[Cat, Annotated[datetime, Header("Expires")]], "as datetime, which has no one form"),
        (tuple[Cat, Annotated[Cat, Header("X")]], "as Cat, which has no one form"),
        (tuple[Cat, Annotated[Any, Header("X")]], "as .*Any, which has no one form"),
        (tuple[Cat, ETag] | tuple[int, Cat], "two kinds of tuples with 2 items"),
        (tuple[Cat, ETag] | tuple[Cat, Location], "two kinds of tuples with 2 items"),
        (tuple[Cat, ETag, Count] | tuple[int, int, int], "two kinds of tuples with 3 items"),
    ],
)
def test_a_header_that_cannot_be_sent_ends_the_start(annotation: Any, reason: str) -> None:
    """The error names the method, its file and its line."""
    with pytest.raises(DeclarationError, match=rf"^{__file__}:\d+: \S+: .*{reason}"):
        encoder(annotation)


class Cats(Service):
    @get("/cats/{id}")
    async def cat(
        self, id: int
    ) -> (
        tuple[Literal[200], Cat, ETag, Annotated[int, Header("X-Count")]] | tuple[Literal[404], str]
    ):
        return (200, TOM, '"1"', 1) if id else (404, "no cat")

    @get("/next")
    async def next(self) -> tuple[None, Location]:
        return None, "/cats/1"


async def test_a_stream_may_have_headers() -> None:
    """They are sent ahead of its first item."""

    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    class Streams(Service):
        @get("/numbers")
        async def numbers(self) -> tuple[AsyncIterator[int], Location]:
            return numbers(), "/numbers"

    async with pubsubtest.serve(Streams) as streams, streams.http.get("/numbers") as response:
        assert response.headers["Location"] == "/numbers"
        assert (await response.text()).split() == ["1", "2"]


async def test_the_headers_are_sent() -> None:
    """HEAD has them, too."""
    async with pubsubtest.serve(Cats) as cats:
        for method in ("GET", "HEAD"):
            async with cats.http.request(method, "/cats/1") as response:
                assert response.status == 200
                assert (response.headers["ETag"], response.headers["X-Count"]) == ('"1"', "1")
        async with cats.http.get("/next") as response:
            assert (response.status, response.headers["Location"]) == (204, "/cats/1")
        async with cats.http.get("/cats/0") as response:
            assert (response.status, await response.json()) == (404, "no cat")


def test_the_headers_are_in_the_document() -> None:
    """Each status has its own, with the schema of the value."""
    routes = SimpleServer(Cats()).routes
    paths = openapi_document(routes, title="t", version="1")["paths"]
    responses = paths["/cats/{id}"]["get"]["responses"]
    assert responses["200"]["headers"] == {
        "ETag": {"required": False, "schema": {"type": "string"}},
        "X-Count": {"required": True, "schema": {"type": "integer"}},
    }
    assert "headers" not in responses["404"]
    assert responses["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Cat")
    moved = paths["/next"]["get"]["responses"]["204"]
    assert moved["headers"] == {"Location": {"required": True, "schema": {"type": "string"}}}
