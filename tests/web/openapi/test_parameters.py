"""Parameters in the OpenAPI document."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field, Json

from gizmopy.web import Cookie, Header, Query
from tests.web.openapi.support import (
    Colour,
    Opaque,
    parameters_of,
)


def test_parameters_are_described() -> None:
    """Each has its location, name, default and description, and the schema of its type."""

    async def endpoint(
        day: date,
        size: Annotated[int, Query("page-size"), Field(ge=1, description="How many.")] = 20,
        colour: Colour = Colour.BLACK,
        trace: Annotated[UUID | None, Header("X-Trace")] = None,
        wait: timedelta = timedelta(seconds=90),
        number: int | float | None = None,
    ) -> None: ...

    assert parameters_of("/", endpoint) == {
        "day": {
            "in": "query",
            "required": True,
            "schema": {"type": "string", "format": "date"},
        },
        "page-size": {
            "in": "query",
            "required": False,
            "description": "How many.",
            "schema": {"type": "integer", "minimum": 1, "default": 20},
        },
        "colour": {
            "in": "query",
            "required": False,
            "schema": {"$ref": "#/components/schemas/Colour", "default": "black"},
        },
        "X-Trace": {
            "in": "header",
            "required": False,
            "schema": {"type": "string", "format": "uuid"},
        },
        "wait": {
            "in": "query",
            "required": False,
            "schema": {"type": "string", "format": "duration", "default": "PT1M30S"},
        },
        "number": {
            "in": "query",
            "required": False,
            "schema": {"anyOf": [{"type": "integer"}, {"type": "number"}]},
        },
    }


def test_repeated_parameters_are_described() -> None:
    """In the query they are a list. OpenAPI cannot describe a header that is sent several times."""

    async def endpoint(
        tags: list[str],
        ids: tuple[int, ...] | None = (1, 2),
        token: Annotated[list[int], Header("X-Token"), Field(description="A token.")] = [1],  # noqa: B006 - not changed
    ) -> None: ...

    assert parameters_of("/", endpoint) == {
        "tags": {
            "in": "query",
            "required": True,
            "explode": True,
            "schema": {"type": "array", "items": {"type": "string"}},
        },
        "ids": {
            "in": "query",
            "required": False,
            "explode": True,
            "schema": {"type": "array", "items": {"type": "integer"}, "default": [1, 2]},
        },
        "X-Token": {
            "in": "header",
            "required": False,
            "description": "A token. May be sent several times.",
            "schema": {"type": "integer"},
        },
    }


def test_a_default_without_a_json_form_is_left_out() -> None:
    """A default may be any object."""

    async def endpoint(a: int = Opaque(), b: float = float("inf")) -> None: ...  # type: ignore[assignment]  # the case in question

    assert [each["schema"] for each in parameters_of("/", endpoint).values()] == [
        {"type": "integer"},
        {"type": "number"},
    ]


def test_metadata_that_reads_one_text_is_described_as_text() -> None:
    """The client sends one text, not an array."""

    async def endpoint(
        a: Json[list[int]], b: Annotated[list[str], BeforeValidator(lambda text: text.split(","))]
    ) -> None: ...

    parameters = parameters_of("/", endpoint)
    assert parameters["a"]["schema"]["type"] == "string"
    assert parameters["b"]["schema"] == {"type": "string"}
    assert all("explode" not in each for each in parameters.values())


class Paging(BaseModel):
    """A page."""

    limit: int = Field(20, ge=1, description="How many.")
    tags: list[str] = []
    size: int = Field(alias="page-size")


class Common(BaseModel):
    x_tenant: str


def test_a_model_of_parameters_is_described_by_its_fields() -> None:
    """Each field is a parameter, under its name in the request."""

    async def endpoint(
        paging: Annotated[Paging, Query()],
        common: Annotated[Common, Header()],
        session: Annotated[str | None, Cookie()] = None,
    ) -> None: ...

    assert parameters_of("/", endpoint) == {
        "limit": {
            "in": "query",
            "required": False,
            "description": "How many.",
            "schema": {"type": "integer", "minimum": 1, "default": 20},
        },
        "tags": {
            "in": "query",
            "required": False,
            "explode": True,
            "schema": {"type": "array", "items": {"type": "string"}, "default": []},
        },
        "page-size": {"in": "query", "required": True, "schema": {"type": "integer"}},
        "x-tenant": {"in": "header", "required": True, "schema": {"type": "string"}},
        "session": {"in": "cookie", "required": False, "schema": {"type": "string"}},
    }
