"""Models of parameters: each field comes from the query, from a header or from a cookie."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, NotRequired, TypeVar

import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict

from gizmopy.web import Cookie, Header, Query
from gizmopy.web.decorators import Route
from tests.web.support import echo_endpoint, errors_of, exchange, json_of, serve

T = TypeVar("T")


class Size(enum.IntEnum):
    SMALL = 1


class Paging(BaseModel):
    limit: int = Field(20, ge=1, le=100)
    after: str | None = None
    tags: list[str] = []
    order: Literal["asc", "desc"] = "asc"
    page_size: int = Field(10, alias="page-size")


@dataclass
class Area:
    north: float
    names: list[str] = field(default_factory=list)


class Dates(TypedDict):
    first: int
    last: NotRequired[Annotated[int, Field(ge=0)]]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    number: int
    numbers: list[int] = []
    size: Size = Size.SMALL


class Page(BaseModel, Generic[T]):
    after: T


class Split(BaseModel):
    tags: list[str]
    words: Annotated[list[str], BeforeValidator(str.split)] = []
    filter: Json[dict[str, int]] | None = None

    @field_validator("tags", mode="before")
    @classmethod
    def split(cls, text: str) -> list[str]:
        return text.split(",")


class Checked(BaseModel):
    first: int
    last: int

    @model_validator(mode="before")
    @classmethod
    def keep(cls, values: Any) -> Any:
        return values

    @model_validator(mode="after")
    def in_order(self) -> Checked:
        if self.last < self.first:
            raise ValueError("last is before first")
        return self


@dataclass
class Many(Generic[T]):
    numbers: T


class ByName(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)
    number: int = Field(alias="no")


class Either(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    number: int = Field(validation_alias=AliasChoices("n", "no"))


@pytest.mark.parametrize(
    ("annotation", "query", "value"),
    [
        (Paging, "", Paging()),
        (
            Paging,
            "limit=3&tags=a&tags=b&order=desc&page-size=5&x=1",
            Paging.model_validate(
                {"limit": 3, "tags": ["a", "b"], "order": "desc", "page-size": 5}
            ),
        ),
        (Paging, "page_size=5", Paging()),
        (Paging | None, "limit=2", Paging(limit=2)),
        (Area, "north=1.5&names=a&names=b", Area(1.5, ["a", "b"])),
        (Dates, "first=1&last=2", {"first": 1, "last": 2}),
        (Dates, "first=1", {"first": 1}),
        (Strict, "number=1&numbers=2&size=1", Strict(number=1, numbers=[2])),
        (Page[int], "after=7", Page[int](after=7)),
        (Split, "tags=a,b&words=c+d&filter={%22a%22:1}", "tags=['a', 'b'], words=['c', 'd']"),
        (Checked, "first=1&last=2", Checked(first=1, last=2)),
        (Many[list[int]], "numbers=1&numbers=2", Many[list[int]]([1, 2])),
        (ByName, "number=1", ByName(number=1)),
        (Either, "n=1", "number=1"),
        (Either, "no=1", "number=1"),
        (Either, "number=1", "number=1"),
    ],
)
async def test_a_model_is_bound_to_the_query(annotation: Any, query: str, value: object) -> None:
    """Defaults, lists, aliases and validators hold as for a JSON body; other names are ignored."""
    function = echo_endpoint(model=Annotated[annotation, Query()])
    async with serve(Route("GET", "/", function)) as client:
        bound = (await json_of(await client.get(f"/?{query}")))["model"]
        assert value in bound if isinstance(value, str) else bound == repr(value)


@pytest.mark.parametrize(
    ("annotation", "query", "errors"),
    [
        (Paging, "limit=0", [("query", "limit", "greater_than_equal")]),
        (
            Paging,
            "limit=x&page-size=y&order=z",
            [
                ("query", "limit", "int_parsing"),
                ("query", "order", "literal_error"),
                ("query", "page-size", "int_parsing"),
            ],
        ),
        (Strict, "number=1&numbers=1&numbers=x", [("query", "numbers.1", "int_parsing")]),
        (Dates, "", [("query", "first", "missing")]),
        (Checked, "first=2&last=1", [("query", "", "value_error")]),
        (Area, "north=NaN", [("query", "north", "finite_number")]),
        (Paging, "after=%ff", [("query", "after", "string_unicode")]),
    ],
)
async def test_each_wrong_field_is_named_as_in_the_request(
    annotation: Any, query: str, errors: list[tuple[str, str, str]]
) -> None:
    """The error has the name that the client sent, as that of a single parameter has."""
    function = echo_endpoint(model=Annotated[annotation, Query()])
    async with serve(Route("GET", "/", function)) as client:
        assert await errors_of(await client.get(f"/?{query}")) == errors


class Closed(BaseModel, extra="forbid"):
    limit: int = 20


class Open(BaseModel, extra="allow"):
    limit: int = 20


async def test_a_model_may_forbid_other_names() -> None:
    """The names of the endpoint's other parameters are known."""
    function = echo_endpoint(model=Annotated[Closed, Query()], q=(str, ""), o=(list[int], []))
    async with serve(Route("GET", "/", function)) as client:
        bound = await json_of(await client.get("/?limit=1&q=a&o=1&o=2"))
        assert bound["model"] == repr(Closed(limit=1))
        assert await errors_of(await client.get("/?limt=1&limt=2&q=a")) == [
            ("query", "limt", "extra_forbidden")
        ]


async def test_a_model_may_take_other_names() -> None:
    """Several values of a name are a list."""
    async with serve(Route("GET", "/", echo_endpoint(m=Annotated[Open, Query()]))) as client:
        bound = await json_of(await client.get("/?a=1&b=2&b=3"))
        assert bound["m"] == repr(Open.model_validate({"a": "1", "b": ["2", "3"]}))


async def test_the_default_of_the_parameter_applies_if_all_fields_are_absent() -> None:
    """A model without any of its fields is made of their defaults, unless there is a default."""
    function = echo_endpoint(
        a=(Annotated[Paging | None, Query()], None), b=(Annotated[Area | None, Header()], None)
    )
    async with serve(Route("GET", "/", function)) as client:
        assert await json_of(await client.get("/?x=1")) == {"a": "None", "b": "None"}


class Common(BaseModel):
    x_tenant: str
    via: list[str] = []
    trace: str = Field("", alias="X-Trace_Id")


async def test_a_model_is_bound_to_headers() -> None:
    """Names ignore case; an underscore in the name of a field is a hyphen in the header's."""
    function = echo_endpoint(m=Annotated[Common, Header()])
    async with serve(Route("GET", "/", function)) as client:
        headers = [("X-TENANT", "a"), ("Via", "1"), ("Via", "2"), ("x-trace_id", "t")]
        value = Common(x_tenant="a", via=["1", "2"], **{"X-Trace_Id": "t"})
        assert await json_of(await client.get("/", headers=headers)) == {"m": repr(value)}
        assert await errors_of(await client.get("/")) == [("header", "x-tenant", "missing")]


class Session(BaseModel):
    session: str
    theme: Literal["dark", "light"] = "light"


async def test_parameters_and_models_are_bound_to_cookies() -> None:
    """A cookie has the name of the parameter, unless the mark has another one."""
    function = echo_endpoint(
        m=Annotated[Session, Cookie()],
        visits=(Annotated[int, Cookie()], 0),
        other=(Annotated[str | None, Cookie("the-other")], None),
    )
    async with serve(Route("GET", "/", function)) as client:
        headers = {"Cookie": 'session="a;b; theme=dark; visits=3; the-other=x y=z'}
        assert await json_of(await client.get("/", headers=headers)) == {
            "m": repr(Session(session='"a', theme="dark")),
            "visits": "3",
            "other": repr("x y=z"),
        }
        headers = {"Cookie": "theme=x; visits=y"}
        assert await errors_of(await client.get("/", headers=headers)) == [
            ("cookie", "session", "missing"),
            ("cookie", "theme", "literal_error"),
            ("cookie", "visits", "int_parsing"),
        ]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("a=1; a=2", "1"),
        ("b=1;a=2", "2"),
        ('a="1\\0732\\"3"', '1;2"3'),
        ("a= ", ""),
        ('a="', '"'),
        ("x; a=ä", "ä"),
        ("a{b}=1; a=ok", "ok"),
        ("$Version=1; a=b c", "b c"),
    ],
)
async def test_a_cookie_is_read_as_it_was_sent(header: str, value: str) -> None:
    """The first of two counts, quotation is undone, and no value is cut."""
    async with serve(Route("GET", "/", echo_endpoint(a=Annotated[str, Cookie()]))) as client:
        data = f"GET / HTTP/1.1\r\nHost: x\r\nCookie: {header}\r\n\r\n".encode()
        assert (await exchange(client, data))[1] == {"a": repr(value)}


@pytest.mark.parametrize("annotation", [Annotated[str, Cookie("a")], Annotated[Session, Cookie()]])
async def test_a_cookie_that_is_not_utf8_is_refused(annotation: Any) -> None:
    """Bytes are never replaced in silence."""
    async with serve(Route("GET", "/", echo_endpoint(m=annotation))) as client:
        data = b"GET / HTTP/1.1\r\nHost: x\r\nCookie: a=\xff; session=\xff\r\n\r\n"
        errors = (await exchange(client, data))[1]["errors"]
        assert [each["type"] for each in errors] == ["string_unicode"]
