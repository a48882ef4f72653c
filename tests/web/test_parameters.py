"""Parameters of endpoints: the values that text in the path, the query and headers gives them."""

from __future__ import annotations

import enum
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import pytest
from aiohttp import web
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    Json,
    PlainValidator,
    WrapValidator,
)
from yarl import URL

from gizmopy.web import Header, Query, Request
from gizmopy.web.decorators import Route
from tests.web.support import echo_endpoint, errors_of, exchange, json_of, serve


class Colour(enum.Enum):
    BLACK = "black"
    WHITE = "white"


class Size(enum.IntEnum):
    SMALL = 1


class NewCat(BaseModel):
    name: str


CatId = NewType("CatId", int)


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (str, "tom", "tom"),
        (int, "-17", -17),
        (float, "1.5", 1.5),
        (bool, "true", True),
        (Decimal, "1.10", Decimal("1.10")),
        (date, "2026-02-03", date(2026, 2, 3)),
        (datetime, "2026-02-03T04:05:06", datetime(2026, 2, 3, 4, 5, 6)),  # noqa: DTZ001
        (UUID, "0" * 31 + "1", UUID(int=1)),
        (Colour, "black", Colour.BLACK),
        (Size, "1", Size.SMALL),
        (Literal["a", "b"], "b", "b"),
        (Annotated[int, Field(ge=1)], "3", 3),
        (Annotated[int, AfterValidator(lambda number: number * 2)], "3", 6),
        (CatId, "3", 3),
        (int | str, "x", "x"),
    ],
)
async def test_text_becomes_the_declared_type(annotation: Any, text: str, value: object) -> None:
    """The path, the query and headers are validated by the same rules."""
    function = echo_endpoint(
        one=annotation, two=annotation, three=Annotated[annotation, Header("X-Three")]
    )
    async with serve(Route("GET", "/x/{one}", function)) as client:
        response = await client.get(f"/x/{text}", params={"two": text}, headers={"X-Three": text})
        assert await json_of(response) == dict.fromkeys(("one", "two", "three"), repr(value))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[int], [2, 1, 2]),
        (set[int], {1, 2}),
        (frozenset[int], frozenset({1, 2})),
        (tuple[int, ...], (2, 1, 2)),
        (tuple[int, int, int], (2, 1, 2)),
        (list[int] | None, [2, 1, 2]),
        (Annotated[list[Literal["1", "2"]], Field(max_length=3)], ["2", "1", "2"]),
        (list, ["2", "1", "2"]),
    ],
)
async def test_a_repeated_name_becomes_a_collection(annotation: Any, value: object) -> None:
    """A list, set or tuple takes each value of its name, in the query and in headers."""
    function = echo_endpoint(n=annotation, h=Annotated[annotation, Header("X-N")])
    async with serve(Route("GET", "/", function)) as client:
        headers = [("X-N", "2"), ("X-N", "1"), ("X-N", "2")]
        response = await client.get("/?n=2&n=1&n=2", headers=headers)
        assert await json_of(response) == {"n": repr(value), "h": repr(value)}


async def test_an_absent_parameter_has_its_default() -> None:
    """The function's own defaults apply. If a single name is repeated, the first value counts."""
    function = echo_endpoint(
        limit=(int, 20),
        after=(str | None, None),
        tags=(list[str], ["none"]),
        trace=(Annotated[str | None, Header("X-Trace")], None),
        other=(Annotated[str, Header("X-Other")] | None, None),
    )
    async with serve(Route("GET", "/", function)) as client:
        assert await json_of(await client.get("/")) == {
            "limit": "20",
            "after": "None",
            "tags": "['none']",
            "trace": "None",
            "other": "None",
        }
        assert (await json_of(await client.get("/?limit=1&limit=2")))["limit"] == "1"
        assert (await json_of(await client.get("/?after=")))["after"] == "''"


async def test_an_endpoint_may_take_the_request() -> None:
    """An endpoint that takes the request may read path parameters from it."""

    async def read(request: web.Request, ours: Request, base: web.BaseRequest) -> list[object]:
        return [request.match_info["id"], request.method, request is ours is base]

    async with serve(Route("PUT", "/cats/{id}", read)) as client:
        assert await json_of(await client.put("/cats/17")) == ["17", "PUT", True]


async def test_an_endpoint_may_take_parameters_of_every_kind() -> None:
    """The order of parameters does not matter, and some may be keyword-only."""

    class Service:
        async def put(
            self,
            new: NewCat,
            request: web.Request,
            agent: Annotated[str, Header("X-Agent")],
            *,
            dry: bool = False,
            id: int,
        ) -> dict[str, object]:
            return {"new": new, "id": id, "agent": agent, "dry": dry, "path": request.path}

    async with serve(Route("PUT", "/cats/{id}", Service().put)) as client:
        response = await client.put(
            "/cats/7?dry=yes", json={"name": "Tom"}, headers={"X-Agent": "a"}
        )
        assert await json_of(response) == {
            "new": {"name": "Tom"},
            "id": 7,
            "agent": "a",
            "dry": True,
            "path": "/cats/7",
        }


async def test_a_query_name_may_be_no_identifier() -> None:
    """Query gives the name in the URL, for one value and for several; errors have that name."""
    function = echo_endpoint(
        size=Annotated[int, Query("page-size")],
        only=(Annotated[list[str], Query("filter[kind]")], ()),
    )
    async with serve(Route("GET", "/", function)) as client:
        given = [("page-size", "5"), ("filter[kind]", "a"), ("filter[kind]", "b")]
        assert await json_of(await client.get("/", params=given)) == {
            "size": "5",
            "only": "['a', 'b']",
        }
        assert await errors_of(await client.get("/", params={"page-size": "x"})) == [
            ("query", "page-size", "int_parsing")
        ]
        assert await errors_of(await client.get("/", params={"size": "5"})) == [
            ("query", "page-size", "missing")
        ]


async def test_one_name_in_two_locations_is_two_parameters() -> None:
    """A header and the query may use the same name."""
    function = echo_endpoint(a=Annotated[str, Header("x")], b=Annotated[str, Query("x")], X=str)
    async with serve(Route("GET", "/", function)) as client:
        response = await client.get("/", params={"x": "q", "X": "Q"}, headers={"X": "h"})
        assert await json_of(response) == {"a": "'h'", "b": "'q'", "X": "'Q'"}


async def test_text_that_is_not_utf_8_is_refused() -> None:
    """Bytes that are not UTF-8 never reach an endpoint as lone surrogates."""
    function = echo_endpoint(a=Annotated[str, Header("X-A")], b=Annotated[list[str], Header("X-B")])
    async with serve(Route("GET", "/", function)) as client:
        request = b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\xff\r\nX-B: b\r\nX-B: \xe4\r\n\r\n"
        _, details = await exchange(client, request)
    assert [(each["field"], each["type"]) for each in details["errors"]] == [
        ("X-A", "string_unicode"),
        ("X-B", "string_unicode"),
    ]


async def test_text_outside_of_ascii_is_accepted() -> None:
    """Text is UTF-8, percent-encoded or not."""
    async with serve(Route("GET", "/{a}", echo_endpoint(a=str, b=str))) as client:
        assert await json_of(await client.get("/ä", params={"b": "ß"})) == {"a": "'ä'", "b": "'ß'"}


async def test_a_bug_in_a_validator_is_a_server_error() -> None:
    """Only a ValueError or an AssertionError of a validator is the client's fault."""

    def fail(value: int) -> int:
        raise TypeError("a bug")

    function = echo_endpoint(x=Annotated[int, AfterValidator(fail)])
    async with serve(Route("GET", "/", function)) as client:
        assert (await client.get("/?x=1")).status == 500


class Numbered(enum.Enum):
    ONE = 1


class Filter(BaseModel):
    name: str


def split(text: str) -> list[str]:
    """Split a text; a list has no such method."""
    return text.split(",")


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (Json[list[int]], "[1,2]", [1, 2]),
        (Json[list[int]] | None, "[1]", [1]),
        (Json[Filter], '{"name":"Tom"}', Filter(name="Tom")),
        (Json[dict[str, int]], '{"a":1}', {"a": 1}),
        (Annotated[Json[list[int]], Query("a")], "[1]", [1]),
        (Json, "[1]", [1]),
        (Annotated[list[str], BeforeValidator(split)], "a,b", ["a", "b"]),
        (Annotated[list[str], BeforeValidator(split)], "", [""]),
        (Annotated[list[int], BeforeValidator(split), Field(max_length=2)], "1,2", [1, 2]),
        (Annotated[list[int] | None, BeforeValidator(split)], "1", [1]),
        (Annotated[list[int], BeforeValidator(split)] | None, "1", [1]),
        (Annotated[set[int], PlainValidator(lambda text: {len(text)})], "abc", {3}),
        (Annotated[list[int], WrapValidator(lambda text, call: call(split(text)))], "1", [1]),
        (Annotated[list[list[int]], BeforeValidator(lambda text: [split(text)])], "1", [[1]]),
        (Annotated[Literal[1, 2], BeforeValidator(int)], "2", 2),
        (Annotated[Numbered, BeforeValidator(int)], "1", Numbered.ONE),
        (
            Annotated[date, BeforeValidator(lambda text: date(int(text), 1, 1))],
            "26",
            date(26, 1, 1),
        ),
        (Annotated[bytes, BeforeValidator(str.encode)], "a", b"a"),
        (
            Annotated[dict[str, int], BeforeValidator(lambda text: {text: 1}), Query("a")],
            "x",
            {"x": 1},
        ),
        (
            Annotated[Filter, BeforeValidator(lambda text: Filter(name=text)), Query("a")],
            "Tom",
            Filter(name="Tom"),
        ),
    ],
)
async def test_metadata_may_read_one_text(annotation: Any, text: str, value: object) -> None:
    """A validator or parser ahead of the type takes the text, whatever the type is."""
    for location in ("query", "header", "path"):
        if location != "query" and "Query" in repr(annotation):
            continue
        declared = Annotated[annotation, Header("a")] if location == "header" else annotation
        path = "/x/{a}" if location == "path" else "/x"
        if location == "path" and not text:
            continue
        async with serve(Route("GET", path, echo_endpoint(a=declared))) as client:
            url = URL("/x") / text if location == "path" else URL("/x")
            query = {"a": text} if location == "query" else {}
            headers = {"a": text} if location == "header" else {}
            answer = await client.get(url, params=query, headers=headers)
            assert await json_of(answer) == {"a": repr(value)}


async def test_metadata_may_take_a_list() -> None:
    """A validator that declares a list as its input is given each value of the name."""
    unique = BeforeValidator(lambda texts: sorted(set(texts)), json_schema_input_type=list[str])
    after = AfterValidator(sorted)
    for declared in (Annotated[list[int], unique], Annotated[list[int], after]):
        async with serve(Route("GET", "/x", echo_endpoint(a=declared))) as client:
            answer = await client.get("/x?a=2&a=1")
            assert await json_of(answer) == {"a": "[1, 2]"}


async def test_a_text_that_metadata_refuses_is_an_error_of_its_field() -> None:
    """The fault names the parameter."""
    declared = {"a": Json[list[int]], "b": Annotated[Literal[1], BeforeValidator(int)]}
    async with serve(Route("GET", "/x", echo_endpoint(**declared))) as client:
        assert await errors_of(await client.get("/x?a=[&b=x")) == [
            ("query", "a", "json_invalid"),
            ("query", "b", "value_error"),
        ]
