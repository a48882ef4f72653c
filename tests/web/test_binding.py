"""Endpoints over a real socket: what they are given, and how bad requests are refused."""

from __future__ import annotations

import asyncio
import enum
import gzip
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NamedTuple, NewType
from uuid import UUID

import pytest
from aiohttp import ClientResponse, ClientSession, web
from pydantic import AfterValidator, BaseModel, Field, JsonValue
from typing_extensions import TypeAliasType, TypedDict

from gizmopy.errors import DeclarationError
from gizmopy.web import Header, Query, Request
from gizmopy.web.binding import compile_endpoint
from gizmopy.web.body import read_body
from gizmopy.web.decorators import Route

Serve = Any  # the fixture of conftest.py


class Colour(enum.Enum):
    BLACK = "black"
    WHITE = "white"


class Size(enum.IntEnum):
    SMALL = 1


class Numbered(enum.Enum):
    ONE = 1


class Address(BaseModel):
    city: str
    zip: int = 0


class NewCat(BaseModel):
    name: str
    lives: int = Field(default=9, ge=1)
    address: Address | None = None


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
CatId = NewType("CatId", int)
Pair = TypeAliasType("Pair", tuple[int, int])


class Point(NamedTuple):
    x: int


class Opaque:
    pass


def endpoint(**annotations: Any) -> Callable[..., Awaitable[object]]:
    """Return an endpoint with these parameters (a pair is a type and default), which echoes them.

    The values come back as their representations."""
    defaults = {name: each[1] for name, each in annotations.items() if isinstance(each, tuple)}
    order = sorted(annotations, key=lambda name: name in defaults)
    source = ", ".join(f"{name}=defaults[{name!r}]" if name in defaults else name for name in order)
    body = ", ".join(f"{name!r}: repr({name})" for name in order)
    scope: dict[str, Any] = {"defaults": defaults}
    exec(f"async def echo({source}): return {{{body}}}", scope)
    echo: Callable[..., Awaitable[object]] = scope["echo"]
    echo.__annotations__ = {
        name: each[0] if isinstance(each, tuple) else each for name, each in annotations.items()
    }
    return echo


async def answer(response: ClientResponse) -> Any:
    """Return the JSON of a good answer."""
    assert response.status == 200, await response.text()
    return await response.json()


async def problem(response: ClientResponse, status: int) -> Any:
    """Return the problem that was answered, which must be of this status."""
    assert (response.status, response.content_type) == (status, "application/problem+json")
    return await response.json(content_type=None)


async def errors(response: ClientResponse) -> list[tuple[str, str, str]]:
    """Return place, field and type of each wrong value that a 422 lists."""
    return [
        (each["in"], each["field"], each["type"])
        for each in (await problem(response, 422))["errors"]
    ]


# what an endpoint is given


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
async def test_text_becomes_the_declared_type(
    serve: Serve, annotation: Any, text: str, value: object
) -> None:
    """Path, query and header parameters alike are read from text."""
    function = endpoint(
        one=annotation, two=annotation, three=Annotated[annotation, Header("X-Three")]
    )
    async with serve(Route("GET", "/x/{one}", function)) as client:
        response = await client.get(f"/x/{text}", params={"two": text}, headers={"X-Three": text})
        assert await answer(response) == dict.fromkeys(("one", "two", "three"), repr(value))


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
async def test_repeated_names_become_a_collection(
    serve: Serve, annotation: Any, value: object
) -> None:
    """A list, set or tuple takes every value of its name, in the query and in headers."""
    function = endpoint(n=annotation, h=Annotated[annotation, Header("X-N")])
    async with serve(Route("GET", "/", function)) as client:
        headers = [("X-N", "2"), ("X-N", "1"), ("X-N", "2")]
        response = await client.get("/?n=2&n=1&n=2", headers=headers)
        assert await answer(response) == {"n": repr(value), "h": repr(value)}


async def test_what_is_absent_has_its_default(serve: Serve) -> None:
    """The function's own defaults apply; a plain name given twice is read the first time."""
    function = endpoint(
        limit=(int, 20),
        after=(str | None, None),
        tags=(list[str], ["none"]),
        trace=(Annotated[str | None, Header("X-Trace")], None),
        other=(Annotated[str, Header("X-Other")] | None, None),
    )
    async with serve(Route("GET", "/", function)) as client:
        assert await answer(await client.get("/")) == {
            "limit": "20",
            "after": "None",
            "tags": "['none']",
            "trace": "None",
            "other": "None",
        }
        assert (await answer(await client.get("/?limit=1&limit=2")))["limit"] == "1"
        assert (await answer(await client.get("/?after=")))["after"] == "''"


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
async def test_a_structure_is_the_body(
    serve: Serve, annotation: Any, body: object, value: object
) -> None:
    """Models, dataclasses, typed dicts, mappings and what holds them come from the JSON body."""
    async with serve(Route("POST", "/", endpoint(body=annotation))) as client:
        assert await answer(await client.post("/", json=body)) == {"body": repr(value)}


async def test_an_optional_body_may_be_absent(serve: Serve) -> None:
    """No body, an empty one and an empty one in chunks give the default."""

    async def nothing() -> Any:
        for chunk in list[bytes]():
            yield chunk

    async with serve(Route("POST", "/", endpoint(body=(NewCat | None, None)))) as client:
        for data in (None, b"", nothing()):
            assert await answer(await client.post("/", data=data)) == {"body": "None"}


async def test_the_request_itself_is_given(serve: Serve) -> None:
    """An endpoint that takes the request may leave path parameters to it."""

    async def read(request: web.Request, ours: Request, base: web.BaseRequest) -> list[object]:
        return [request.match_info["id"], request.method, request is ours is base]

    async with serve(Route("PUT", "/cats/{id}", read)) as client:
        assert await answer(await client.put("/cats/17")) == ["17", "PUT", True]


async def test_everything_at_once(serve: Serve) -> None:
    """The order of parameters does not matter, and keyword-only ones are given too."""

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
        assert await answer(response) == {
            "new": {"name": "Tom", "lives": 9, "address": None},
            "id": 7,
            "agent": "a",
            "dry": True,
            "path": "/cats/7",
        }


# wrong values: 422


async def test_every_wrong_value_is_listed(serve: Serve) -> None:
    """Path, query, headers and body are checked together, and each wrong field is named."""
    function = endpoint(
        id=int,
        limit=Annotated[int, Field(le=10)],
        ids=list[int],
        need=str,
        level=Annotated[Colour, Header("X-Level")],
        new=NewCat,
    )
    async with serve(Route("PUT", "/cats/{id}", function)) as client:
        response = await client.put(
            "/cats/x?limit=11&ids=1&ids=y",
            json={"lives": 0, "address": {"city": 5}},
            headers={"X-Level": "red"},
        )
        assert await errors(response) == [
            ("path", "id", "int_parsing"),
            ("query", "limit", "less_than_equal"),
            ("query", "ids.1", "int_parsing"),
            ("query", "need", "missing"),
            ("header", "X-Level", "enum"),
            ("body", "name", "missing"),
            ("body", "lives", "greater_than_equal"),
            ("body", "address.city", "string_type"),
        ]


async def test_a_wrong_value_says_what_is_right(serve: Serve) -> None:
    """An error holds place, field, message and type, and nothing else."""
    async with serve(Route("GET", "/{id}", endpoint(id=Annotated[int, Field(ge=1)]))) as client:
        details = await problem(await client.get("/0"), 422)
    assert details["detail"] == "The request has wrong values: see errors."
    assert details["errors"] == [
        {
            "in": "path",
            "field": "id",
            "message": "Input should be greater than or equal to 1",
            "type": "greater_than_equal",
        }
    ]


@pytest.mark.parametrize(
    "annotation", [int, float, bool, Decimal, date, datetime, UUID, Colour, Size, Literal["a"]]
)
async def test_wrong_text_is_not_echoed(serve: Serve, annotation: Any) -> None:
    """What was sent may be a secret, and does not come back."""
    async with serve(Route("GET", "/", endpoint(x=annotation))) as client:
        response = await client.get("/?x=zzz")
        assert response.status == 422
        assert "z" not in json.dumps((await response.json(content_type=None))["errors"])


async def test_a_wrong_tag_is_not_echoed(serve: Serve) -> None:
    """The tag of a union is told as what it should be."""
    async with serve(Route("POST", "/", endpoint(body=Feline))) as client:
        response = await client.post("/", json={"kind": "hunter2"})
        details = await problem(response, 422)
    assert [(each["field"], each["message"]) for each in details["errors"]] == [
        ("", "Input should have one of the tags 'lion', 'tiger' as 'kind'")
    ]


async def test_a_flood_of_wrong_values_is_counted(serve: Serve) -> None:
    """A body with more wrong fields than can be listed says how many there are."""
    async with serve(Route("POST", "/", endpoint(body=dict[str, list[int]]))) as client:
        assert len(await errors(await client.post("/", json={"a": ["x"] * 100}))) == 100
        details = await problem(await client.post("/", json={"a": ["x"] * 101}), 422)
    assert details["errors"] == [
        {
            "in": "body",
            "field": "",
            "message": "101 values are wrong in dict[str,list[int]], too many to list",
            "type": "too_many_errors",
        }
    ]


async def test_what_names_a_wrong_field_is_cut(serve: Serve) -> None:
    """The keys of a dict and the quotes of a validator are the client's, and come back cut."""

    def refuse(value: str) -> str:
        raise ValueError(f"{value} is wrong")

    body = dict[str, Annotated[str, AfterValidator(refuse)]]
    async with serve(Route("POST", "/", endpoint(body=body))) as client:
        details = await problem(await client.post("/", json={"k" * 9000: "v" * 9000}), 422)
    (error,) = details["errors"]
    assert error["field"] == "k" * 1024 + "… (9000 characters)"
    assert error["message"].startswith("Value error, vvv")
    assert len(error["message"]) < 1100


async def test_a_query_name_may_be_no_identifier(serve: Serve) -> None:
    """Query names what the client writes, for one value and for several; errors name it too."""
    function = endpoint(
        size=Annotated[int, Query("page-size")],
        only=(Annotated[list[str], Query("filter[kind]")], ()),
    )
    async with serve(Route("GET", "/", function)) as client:
        given = [("page-size", "5"), ("filter[kind]", "a"), ("filter[kind]", "b")]
        assert await answer(await client.get("/", params=given)) == {
            "size": "5",
            "only": "['a', 'b']",
        }
        assert await errors(await client.get("/", params={"page-size": "x"})) == [
            ("query", "page-size", "int_parsing")
        ]
        assert await errors(await client.get("/", params={"size": "5"})) == [
            ("query", "page-size", "missing")
        ]


async def test_one_name_in_two_places_is_two_parameters(serve: Serve) -> None:
    """A header and the query may use the same name."""
    function = endpoint(a=Annotated[str, Header("x")], b=Annotated[str, Query("x")], X=str)
    async with serve(Route("GET", "/", function)) as client:
        response = await client.get("/", params={"x": "q", "X": "Q"}, headers={"X": "h"})
        assert await answer(response) == {"a": "'h'", "b": "'q'", "X": "'Q'"}


async def test_text_that_is_no_utf_8_is_refused(serve: Serve) -> None:
    """Bytes that are no text do not reach the endpoint as lone surrogates."""
    function = endpoint(a=Annotated[str, Header("X-A")], b=Annotated[list[str], Header("X-B")])
    async with serve(Route("GET", "/", function)) as client:
        request = b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\xff\r\nX-B: b\r\nX-B: \xe4\r\n\r\n"
        _, details = await converse(client, request)
    assert [(each["field"], each["type"]) for each in details["errors"]] == [
        ("X-A", "string_unicode"),
        ("X-B", "string_unicode"),
    ]


async def test_text_beyond_ascii_is_given(serve: Serve) -> None:
    """Text is UTF-8, encoded or not."""
    async with serve(Route("GET", "/{a}", endpoint(a=str, b=str))) as client:
        assert await answer(await client.get("/ä", params={"b": "ß"})) == {"a": "'ä'", "b": "'ß'"}


async def test_an_error_in_a_validator_is_the_servers_own(serve: Serve) -> None:
    """Only what a validator says by ValueError or AssertionError is the client's fault."""

    def fail(value: int) -> int:
        raise TypeError("a bug")

    function = endpoint(x=Annotated[int, AfterValidator(fail)])
    async with serve(Route("GET", "/", function)) as client:
        assert (await client.get("/?x=1")).status == 500


# bodies that cannot be read: 400, 408, 413, 415


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
async def test_malformed_json_is_400(serve: Serve, body: bytes, detail: str) -> None:
    """A body that is no JSON is refused as a whole, whatever else is wrong."""
    async with serve(Route("POST", "/", endpoint(body=NewCat, limit=int))) as client:
        headers = {"Content-Type": "application/json"}
        response = await client.post("/?limit=x", data=body, headers=headers)
        assert (await problem(response, 400))["detail"].startswith(detail)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/vnd.cats+json",
        "application/merge-patch+json ; q=1",
    ],
)
async def test_json_goes_by_many_names(serve: Serve, content_type: str) -> None:
    """application/json and every type that ends in +json are JSON, with any parameters."""
    async with serve(Route("POST", "/", endpoint(body=dict))) as client:
        response = await client.post("/", data=b"{}", headers={"Content-Type": content_type})
        assert await answer(response) == {"body": "{}"}


async def test_a_body_without_a_type_is_415(serve: Serve) -> None:
    """A page of any site can make a browser send a body without a Content-Type."""
    async with serve(Route("POST", "/", endpoint(body=(dict | None, None)))) as client:
        response = await client.post("/", data=b"{}", skip_auto_headers=["Content-Type"])
        assert "application/json" in (await problem(response, 415))["detail"]
        response = await client.post("/", skip_auto_headers=["Content-Type"])
        assert await answer(response) == {"body": "None"}  # nothing was sent that needs a type


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
async def test_another_type_is_415(serve: Serve, content_type: str) -> None:
    """A body that says to be something else is refused, with what would be accepted."""
    async with serve(Route("POST", "/", endpoint(body=(dict | None, None)))) as client:
        response = await client.post("/", data=b"{}", headers={"Content-Type": content_type})
        assert "application/json" in (await problem(response, 415))["detail"]
        assert response.headers["Accept-Post"] == "application/json"


async def test_a_large_body_is_413(serve: Serve) -> None:
    """The limit holds for what a compressed body decompresses to, and the answer names it."""
    route = Route("POST", "/", endpoint(body=dict))
    large = b'{"a": "' + b"x" * 2000 + b'"}'
    async with serve(route, client_max_size=1000) as client:
        headers = {"Content-Type": "application/json"}
        details = await problem(await client.post("/", data=large, headers=headers), 413)
        assert details["detail"] == "The request body is larger than 1000 bytes."
        headers["Content-Encoding"] = "gzip"
        response = await client.post("/", data=gzip.compress(large), headers=headers)
        await problem(response, 413)


async def test_a_compressed_body_is_decompressed(serve: Serve) -> None:
    """Clients may compress what they send."""
    async with serve(Route("POST", "/", endpoint(body=dict))) as client:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        response = await client.post("/", data=gzip.compress(b'{"a": 1}'), headers=headers)
        assert await answer(response) == {"body": "{'a': 1}"}


async def test_a_broken_compression_is_400(serve: Serve) -> None:
    """A body that cannot be decompressed is the client's fault."""
    async with serve(Route("POST", "/", endpoint(body=dict))) as client:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        response = await client.post("/", data=b"no gzip at all", headers=headers)
        assert "cannot be decoded" in (await problem(response, 400))["detail"]


async def converse(client: ClientSession, data: bytes) -> tuple[str, Any]:
    """Send ``data`` on a connection of its own, and return head and JSON of the answer."""
    url = client._base_url
    assert url is not None
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(data)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"Content-Length: (\d+)", head)
    assert length is not None
    body = await reader.readexactly(int(length[1]))
    writer.close()
    await writer.wait_closed()
    return head, json.loads(body)


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def test_a_slow_body_is_408(serve: Serve) -> None:
    """A body that does not arrive in time is given up, and the connection closed."""
    route = Route("POST", "/", endpoint(body=dict))
    async with serve(route, read_timeout=0.05) as client:
        head, details = await converse(client, HEAD + b"Content-Length: 2\r\n\r\n{")
    assert head.startswith("HTTP/1.1 408 ")
    assert "\r\nConnection: close" in head
    assert details["detail"] == "The request body did not arrive within 0.05 seconds."


async def test_a_body_in_pieces_is_read(serve: Serve) -> None:
    """A body that comes after its head is waited for."""

    async def pieces() -> Any:
        yield b'{"a":'
        await asyncio.sleep(0)
        yield b" 1}"

    async with serve(Route("POST", "/", endpoint(body=dict))) as client:
        headers = {"Content-Type": "application/json"}
        response = await client.post("/", data=pieces(), headers=headers)
        assert await answer(response) == {"body": "{'a': 1}"}


async def test_a_client_that_goes_away_is_no_problem(serve: Serve) -> None:
    """A connection that is lost ends the handler with ConnectionError, which nobody answers."""
    ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    handle = compile_endpoint(Route("POST", "/", endpoint(body=dict)))

    async def watch(request: web.Request) -> web.StreamResponse:
        try:
            return await handle(request)
        except BaseException as error:
            ended.set_result(error)
            raise

    async with serve(Route("POST", "/", watch)) as client:
        url = client._base_url
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert isinstance(await ended, ConnectionError)


async def test_a_client_that_is_gone_already_is_no_problem() -> None:
    """A body that can no longer arrive is not waited for."""
    unfinished = SimpleNamespace(is_eof=lambda: False)
    request: Any = SimpleNamespace(content=unfinished, transport=None)
    with pytest.raises(ConnectionResetError, match="the client has disconnected"):
        await read_body(request, timeout=10)


# mistakes in a declaration


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (
            ("GET", "/{id}", endpoint()),
            "has no parameter for 'id' of its path '/{id}'; add id",
        ),
        (("GET", "/{id}", endpoint(id=(int, 1))), "path parameter 'id' has a default"),
        (("GET", "/{id}", endpoint(id=list[int])), "path parameter 'id' is one text"),
        (("GET", "/{id}", endpoint(id=NewCat)), "path parameter 'id' is one text"),
        (("POST", "/", endpoint(a=NewCat, b=dict)), "takes 'a' and 'b' from the body"),
        (("GET", "/", endpoint(a=NewCat)), "takes 'a' from the body, but a GET request has none"),
        (("HEAD", "/", endpoint(a=dict)), "takes 'a' from the body, but a HEAD request has none"),
        (
            ("GET", "/", endpoint(a=bytes)),
            "query parameter 'a' is read from text",
        ),
        (("GET", "/", endpoint(a=list[bytes])), "which cannot give <class 'bytes'>"),
        (("GET", "/", endpoint(a=Any)), "which cannot give typing.Any"),
        (("GET", "/", endpoint(a=list[list[int]])), "which cannot give list[list[int]]"),
        (("GET", "/", endpoint(a=list[Pair])), "which cannot give list[Pair]"),
        (("GET", "/", endpoint(a=list[int] | int)), "which cannot give list[int] | int"),
        (("GET", "/", endpoint(a=Literal[1, 2])), "which cannot give typing.Literal[1, 2]"),
        (("GET", "/", endpoint(a=Numbered)), "which cannot give <enum 'Numbered'>"),
        (("GET", "/", endpoint(a=Point)), "which cannot give <class"),
        (("GET", "/", endpoint(a=Callable[[], int])), "which cannot give"),
        (("GET", "/", endpoint(a=Opaque)), "parameter 'a' has a type that cannot be validated"),
        (("GET", "/", endpoint(a=Annotated[str, Field(pattern="(")])), "regex parse error"),
        (("GET", "/", endpoint(a="Gone")), "its annotations cannot be resolved"),
        (("POST", "/", endpoint(a=dict[str, Opaque])), "has a type that cannot be validated"),
        (("GET", "/", endpoint(a=Annotated[str, Header("")])), "a Header without a name"),
        (("GET", "/", endpoint(a=Annotated[str, Header])), "a Header without a name"),
        (("GET", "/", endpoint(a=Annotated[dict, Header("X")])), "header parameter 'a' is one"),
        (
            ("GET", "/{a}", endpoint(a=Annotated[str, Header("X")])),
            "has no parameter for 'a'",
        ),
        (("GET", "/", endpoint(a=Annotated[str, Query("")])), "a Query without a name"),
        (("GET", "/", endpoint(a=Annotated[str, Query])), 'write Query("page-size")'),
        (("GET", "/", endpoint(a=Annotated[dict, Query("x")])), "query parameter 'a' is one text"),
        (("GET", "/", endpoint(a=Annotated[bytes, Query("x")])), "which cannot give <class"),
        (
            ("GET", "/{a}", endpoint(a=Annotated[str, Query("x")])),
            "has no parameter for 'a'",
        ),
        (
            ("GET", "/", endpoint(a=Annotated[str, Query("x"), Header("X")])),
            "parameter 'a' is marked as ",
        ),
        (
            ("GET", "/", endpoint(a=str, b=Annotated[int, Query("a")])),
            "takes 'a' and 'b' both from 'a' in the query; keep one",
        ),
        (
            (
                "GET",
                "/",
                endpoint(a=Annotated[str, Header("X-A")], b=Annotated[str, Header("x-a")]),
            ),
            "takes 'a' and 'b' both from 'x-a' in the header",
        ),
        (("GET", "/", lambda: None), "is not async"),
    ],
)
def test_a_mistake_fails_at_start(route: tuple[Any, ...], reason: str) -> None:
    """An endpoint that no request could be served by is refused, with its place and the reason."""
    with pytest.raises(DeclarationError, match=re.escape(reason)) as refused:
        compile_endpoint(Route(*route))
    assert re.match(r"\S+:\d+: .*(echo|lambda)", str(refused.value))


def test_a_parameter_without_a_type_fails_at_start() -> None:
    """Types say where a parameter comes from, so each needs one."""

    async def untyped(a): ...  # type: ignore[no-untyped-def]  # the mistake in question

    with pytest.raises(DeclarationError, match="untyped: parameter 'a' has no type"):
        compile_endpoint(Route("GET", "/", untyped))
