"""Wrong values: the 422 response lists them all, and does not repeat the values."""

from __future__ import annotations

import enum
import json
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AfterValidator, BaseModel, Field

from gizmopy.web import Header
from gizmopy.web.decorators import Route
from tests.web.support import echo_endpoint, errors_of, problem_of, serve


class Colour(enum.Enum):
    BLACK = "black"


class Size(enum.IntEnum):
    SMALL = 1


class Address(BaseModel):
    city: str


class NewCat(BaseModel):
    name: str
    lives: int = Field(default=9, ge=1)
    address: Address | None = None


class Lion(BaseModel):
    kind: Literal["lion"]


class Tiger(BaseModel):
    kind: Literal["tiger"]


Feline = Annotated[Lion | Tiger, Field(discriminator="kind")]


async def test_every_wrong_value_is_listed() -> None:
    """The path, the query, headers and the body are checked together."""
    function = echo_endpoint(
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
        assert await errors_of(response) == [
            ("path", "id", "int_parsing"),
            ("query", "limit", "less_than_equal"),
            ("query", "ids.1", "int_parsing"),
            ("query", "need", "missing"),
            ("header", "X-Level", "enum"),
            ("body", "name", "missing"),
            ("body", "lives", "greater_than_equal"),
            ("body", "address.city", "string_type"),
        ]


async def test_an_error_says_which_values_are_valid() -> None:
    """An error has the location, field, message and type, and no other member."""
    route = Route("GET", "/{id}", echo_endpoint(id=Annotated[int, Field(ge=1)]))
    async with serve(route) as client:
        details = await problem_of(await client.get("/0"), 422)
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
async def test_a_wrong_value_is_not_echoed(annotation: Any) -> None:
    """The value may be a secret, so the response does not contain it."""
    async with serve(Route("GET", "/", echo_endpoint(x=annotation))) as client:
        response = await client.get("/?x=zzz")
        assert response.status == 422
        assert "z" not in json.dumps((await response.json(content_type=None))["errors"])


async def test_a_wrong_tag_is_not_echoed() -> None:
    """For the tag of a union the error lists the valid tags."""
    async with serve(Route("POST", "/", echo_endpoint(body=Feline))) as client:
        response = await client.post("/", json={"kind": "hunter2"})
        details = await problem_of(response, 422)
    assert [(each["field"], each["message"]) for each in details["errors"]] == [
        ("", "Input should have one of the tags 'lion', 'tiger' as 'kind'")
    ]


async def test_many_wrong_values_are_only_counted() -> None:
    """Of more than 100 wrong fields the response has the number."""
    async with serve(Route("POST", "/", echo_endpoint(body=dict[str, list[int]]))) as client:
        assert len(await errors_of(await client.post("/", json={"a": ["x"] * 100}))) == 100
        details = await problem_of(await client.post("/", json={"a": ["x"] * 101}), 422)
    assert details["errors"] == [
        {
            "in": "body",
            "field": "",
            "message": "101 values are wrong in dict[str,list[int]], too many to list",
            "type": "too_many_errors",
        }
    ]


async def test_long_texts_of_an_error_are_truncated() -> None:
    """The client may choose the keys of a dict, and a value that a validator quotes."""

    def refuse(value: str) -> str:
        raise ValueError(f"{value} is wrong")

    body = dict[str, Annotated[str, AfterValidator(refuse)]]
    async with serve(Route("POST", "/", echo_endpoint(body=body))) as client:
        details = await problem_of(await client.post("/", json={"k" * 9000: "v" * 9000}), 422)
    (error,) = details["errors"]
    assert error["field"] == "k" * 1024 + "… (9000 characters)"
    assert error["message"].startswith("Value error, vvv")
    assert len(error["message"]) < 1100
