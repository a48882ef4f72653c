"""Responses in the OpenAPI document, from the annotations of results."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from http import HTTPStatus
from typing import Annotated, Any, Literal, NewType, NoReturn, Protocol

import pytest
from aiohttp import web
from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field, Json

from gizmopy import EventStream, FileResponse
from gizmopy.web.decorators import Route, RouteOptions
from tests.web.openapi.support import (
    PROBLEM,
    Bird,
    Cat,
    Dog,
    Feline,
    MaybeCat,
    Point,
    content_for,
    document,
    nothing,
    responses_for,
    returning,
)


class Sized(Protocol):
    size: int


class Price(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="null")
    amount: float


class TextPrice(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    amount: float


Picture = NewType("Picture", bytes)
ARRAY = {"type": "array", "items": {"$ref": "#/components/schemas/Cat"}}


@pytest.mark.parametrize(
    ("returns", "media_type", "schema"),
    [
        (AsyncIterator[Cat], "application/x-ndjson", {"$ref": "#/components/schemas/Cat"}),
        (EventStream[Cat], "text/event-stream", {"$ref": "#/components/schemas/Cat"}),
        (EventStream[str], "text/event-stream", None),
        (AsyncIterator[str], "text/plain; charset=utf-8", None),
        (AsyncGenerator[bytes, None], "application/octet-stream", None),
        (AsyncIterator[Any], "application/x-ndjson", None),
        (
            AsyncIterable[int | None],
            "application/x-ndjson",
            {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        ),
    ],
)
def test_a_stream_has_the_schema_of_its_items(returns: Any, media_type: str, schema: Any) -> None:
    """OpenAPI 3.1 has no schema of items: it is that of the content of a text, or of an event."""
    ((found, content),) = content_for(returns, "200").items()
    assert found == media_type
    if schema is None:
        assert content == {}
    elif media_type == "text/event-stream":
        assert content["schema"]["type"] == "object"
        assert content["schema"]["properties"]["data"]["contentSchema"] == schema
    else:
        assert content["schema"]["type"] == "string"
        assert content["schema"]["contentSchema"] == schema


def test_a_media_type_is_that_of_the_option() -> None:
    """Of bytes, of text, and of a stream."""

    async def csv(): ...  # type: ignore[no-untyped-def]  # it gets its annotation below

    for returns in (str, bytes, AsyncIterator[str], AsyncIterator[Any]):
        csv.__annotations__["return"] = returns
        route = Route("GET", "/", csv, RouteOptions(media_type="text/csv; header=present"))
        content = document(route)["paths"]["/"]["get"]["responses"]["200"]["content"]
        assert [each.partition(";")[0] for each in content] == ["text/csv"]


@pytest.mark.parametrize(
    ("returns", "schema"),
    [
        (Cat, {"$ref": "#/components/schemas/Cat"}),
        (Bird, {"$ref": "#/components/schemas/Bird"}),
        (Dog, {"$ref": "#/components/schemas/Dog"}),
        (list[Cat], {"type": "array", "items": {"$ref": "#/components/schemas/Cat"}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (int, {"type": "integer"}),
        (Point, {"$ref": "#/components/schemas/Point"}),
        (tuple[str, int], None),
        (tuple[bool, int], None),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (Iterator[Cat], ARRAY),
        (Json[list[Cat]], ARRAY),
        (Base64Bytes, {"type": "string", "format": "base64"}),
        (Annotated[int, AfterValidator(abs)], {"type": "integer"}),
        (list[Sized], {"type": "array", "items": {}}),
        (float, {"type": "number"}),
    ],
)
def test_a_value_is_a_json_response(returns: Any, schema: Any) -> None:
    """Any value is JSON with 200, except a response, bytes, and a tuple with a status."""
    written = responses_for(returns)
    assert [status for status in written if status < "4"] == ["200"]
    assert list(written["200"]["content"]) == ["application/json"]
    found = written["200"]["content"]["application/json"]["schema"]
    assert found == schema if schema is not None else found["prefixItems"]


def test_the_content_type_of_json_is_a_setting() -> None:
    """The server may send another type."""
    assert list(content_for(int, "200", json_content_type="application/hal+json")) == [
        "application/hal+json"
    ]


def test_none_is_a_response_without_a_body() -> None:
    """None is 204, alone, in a union, and in an alias of one."""
    assert responses_for(None)["204"] == {"description": "No Content"}
    for returns in (Cat | None, MaybeCat):
        written = responses_for(returns)
        assert written["204"] == {"description": "No Content"}
        assert written["200"]["content"]["application/json"]["schema"] == {
            "$ref": "#/components/schemas/Cat"
        }


def test_a_union_with_metadata_may_be_none() -> None:
    """The metadata of a union does not change its members."""
    written = responses_for(Annotated[Cat | None, Field(description="text")])
    assert written["204"] == {"description": "No Content"}
    assert "200" in written


def test_the_config_of_a_class_may_write_nan() -> None:
    """The schema has what the answer has."""
    for kind, other in (
        (Price, {"type": "null"}),
        (TextPrice, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}),
    ):
        schemas = document(Route("GET", "/", returning(kind)))["components"]["schemas"]
        found = schemas[kind.__name__]["properties"]["amount"]
        assert found == {"anyOf": [{"type": "number"}, other]}


def test_bytes_are_an_octet_stream() -> None:
    """Bytes have a media type, and no schema."""
    for returns in (bytes, Picture, Annotated[bytes, "text"], bytearray):
        assert content_for(returns, "200") == {"application/octet-stream": {}}
    assert set(content_for(bytes | Cat, "200")) == {"application/octet-stream", "application/json"}


def test_a_union_is_any_of_its_members() -> None:
    """Members that are JSON are one response; a discriminator is kept."""
    assert content_for(Cat | Bird, "200")["application/json"]["schema"] == {
        "anyOf": [{"$ref": "#/components/schemas/Cat"}, {"$ref": "#/components/schemas/Bird"}]
    }
    found = content_for(Feline | None, "200")["application/json"]["schema"]
    assert found["discriminator"]["propertyName"] == "kind"


def test_a_literal_status_is_described() -> None:
    """A literal status is one response; for an error, the body may be a problem, too."""
    schema = {"$ref": "#/components/schemas/Cat"}
    written = responses_for(
        tuple[Literal[200, HTTPStatus.CREATED], Cat] | tuple[Literal[500], Bird]
    )
    assert [status for status in written if status < "4"] == ["200", "201"]
    assert written["201"] == {
        "description": "Created",
        "content": {"application/json": {"schema": schema}},
    }
    assert set(written["500"]["content"]) == {"application/json", "application/problem+json"}
    assert responses_for(tuple[Literal[205], Cat])["205"] == {"description": "Reset Content"}
    assert responses_for(tuple[Literal[299], Cat])["299"]["description"] == "Status 299"


@pytest.mark.parametrize("status", [int, HTTPStatus])
def test_a_status_that_the_endpoint_chooses_is_a_range(status: Any) -> None:
    """The value may come with an error, too."""
    written = responses_for(tuple[status, Cat | None])
    assert [code for code in written if code < "4"] == ["2XX"]
    own = {"application/json": {"schema": {"$ref": "#/components/schemas/Cat"}}}
    assert written["2XX"]["content"] == own
    assert written["default"]["content"] == written["500"]["content"] == {**own, **PROBLEM}


@pytest.mark.parametrize(
    "returns", [web.Response, web.StreamResponse, Any, object, BaseModel, tuple, Sized]
)
def test_an_unknown_result_has_no_schema(returns: Any) -> None:
    """A response of aiohttp may have any status and type."""
    written = responses_for(returns)
    assert written["2XX"] == {"description": "Success", "content": {"*/*": {}}}
    assert written["default"]["content"] == {"*/*": {}, **PROBLEM}


def test_a_result_needs_no_annotation() -> None:
    """Without an annotation the response may have any status and type."""

    async def endpoint(): ...  # type: ignore[no-untyped-def]  # the case in question

    responses = document(("GET", "/", endpoint))["paths"]["/"]["get"]["responses"]
    assert responses["2XX"]["content"] == {"*/*": {}}


def test_an_endpoint_that_never_returns_has_only_errors() -> None:
    """NoReturn gives no successful response."""
    assert set(responses_for(NoReturn)) == {"500", "503", "504", "default"}


def test_errors_are_those_that_are_possible() -> None:
    """Each is a problem: of the path, of the values, of the body, or of any request."""

    async def query(a: int) -> None: ...
    async def variable(a: int) -> None: ...
    async def body(a: Cat) -> None: ...

    routes = [
        Route("GET", "/", nothing),
        Route("GET", "/q", query),
        Route("GET", "/{a}", variable),
        Route("GET", "/any/{a}", variable, RouteOptions(unsafe_path=True)),
        Route("PUT", "/b", body),
    ]
    general = {"500", "503", "504", "default"}
    expected = [
        general,
        general | {"422"},
        general | {"400", "404", "405", "422"},
        general | {"404", "405", "422"},
        general | {"400", "408", "413", "415", "422"},
    ]
    for item, statuses in zip(document(*routes)["paths"].values(), expected, strict=True):
        (operation,) = item.values()
        errors = {
            status: each["content"]
            for status, each in operation["responses"].items()
            if status != "204"
        }
        assert errors == dict.fromkeys(statuses, PROBLEM)


def test_a_file_may_be_sent_in_part() -> None:
    """A client may ask for a range, and may have the file already."""
    written = responses_for(FileResponse | None)
    assert sorted(status for status in written if status < "4") == ["200", "204", "206", "304"]
    assert written["200"]["content"] == written["206"]["content"] == {"*/*": {}}
    assert "content" not in written["304"]
    assert {"404", "412", "416"} <= written.keys()
