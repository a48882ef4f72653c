"""Bodies in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, BeforeValidator, Field

from gizmopy.web import Body, Form, UploadFile
from tests.web.openapi.support import document

BINARY = {"type": "string", "format": "binary"}


def body_of(annotation: Any) -> Any:
    """Return the requestBody of an endpoint with one parameter."""

    async def endpoint(body): ...  # type: ignore[no-untyped-def]  # it gets its annotation below

    endpoint.__annotations__["body"] = annotation
    operation = document(("POST", "/", endpoint))["paths"]["/"]["post"]
    assert operation["requestBody"]["required"] is True
    assert {"400", "408", "413", "415", "422"} < operation["responses"].keys()
    return operation["requestBody"]["content"]


@pytest.mark.parametrize(
    ("annotation", "content"),
    [
        (bytes, {"application/octet-stream": {"schema": BINARY}}),
        (
            Annotated[bytes, Body("image/png", "image/*"), Field(max_length=9)],
            {
                "image/png": {"schema": {**BINARY, "maxLength": 9}},
                "image/*": {"schema": {**BINARY, "maxLength": 9}},
            },
        ),
        (Annotated[str, Body()], {"text/plain": {"schema": {"type": "string"}}}),
        (Annotated[str, Body("text/csv")], {"text/csv": {"schema": {"type": "string"}}}),
        (Annotated[int, Body()], {"application/json": {"schema": {"type": "integer"}}}),
        (
            Annotated[list[int], Body("application/x+json")],
            {"application/x+json": {"schema": {"type": "array", "items": {"type": "integer"}}}},
        ),
    ],
)
def test_a_whole_body_is_described(annotation: Any, content: Any) -> None:
    """The media types are those of the mark; bytes are binary."""
    assert body_of(annotation) == content


NAMES = {"propertyNames": {"pattern": r"^[^\x00-\x1f\x7f]+$"}}
FILE = {"contentType": "application/octet-stream"}


class Order(BaseModel):
    """An order."""

    name: str
    number: int = Field(1, ge=1, alias="no", description="How many.")
    photo: UploadFile | None = None


def form_of(endpoint: Any) -> Any:
    """Return the requestBody of an endpoint that takes a form."""
    return document(("POST", "/", endpoint))["paths"]["/"]["post"]["requestBody"]


def test_the_fields_of_a_form_are_described() -> None:
    """Without a file a form may have both media types."""

    async def endpoint(
        name: Annotated[str, Form()],
        size: Annotated[int, Form("page-size"), Field(ge=1)] = 20,
        tags: Annotated[list[str] | None, Form()] = None,
        split: Annotated[list[str], BeforeValidator(str.split), Form()] = [],  # noqa: B006 - not changed
    ) -> None: ...

    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "page-size": {"type": "integer", "minimum": 1, "default": 20},
            "tags": {"type": "array", "items": {"type": "string"}},
            "split": {"type": "string"},
        },
        "required": ["name"],
    }
    assert form_of(endpoint) == {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {"schema": schema},
            "multipart/form-data": {"schema": {**schema, **NAMES}},
        },
    }


def test_the_files_of_a_form_are_described() -> None:
    """They are binary. Only multipart has them; a form without optional ones may be urlencoded."""

    async def endpoint(
        photo: UploadFile | None = None,
        files: Annotated[list[UploadFile], Form("more"), Field(max_length=3)] = [],  # noqa: B006 - not changed
    ) -> None: ...

    schema = {
        "type": "object",
        "properties": {
            "photo": BINARY,
            "more": {"type": "array", "items": BINARY, "maxItems": 3, "default": []},
        },
    }
    encoding = {"photo": FILE, "more": FILE}
    assert form_of(endpoint) == {
        "required": False,
        "content": {
            "multipart/form-data": {"schema": {**schema, **NAMES}, "encoding": encoding},
            "application/x-www-form-urlencoded": {"schema": {"type": "object", "properties": {}}},
        },
    }

    async def required(photo: UploadFile) -> None: ...

    assert list(form_of(required)["content"]) == ["multipart/form-data"]


class Closed(BaseModel, extra="forbid"):
    b: int | None = None


def test_a_model_of_a_form_is_described_by_its_fields() -> None:
    """Unlike in a component, none of them is null: a form has only texts and files."""

    async def endpoint(
        order: Annotated[Order, Form()],
        a: Annotated[str, Form()],
        closed: Annotated[Closed, Form()],
    ) -> None: ...

    media = form_of(endpoint)["content"]["multipart/form-data"]
    assert media == {
        "schema": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "no": {"type": "integer", "minimum": 1, "description": "How many.", "default": 1},
                "photo": BINARY,
                "a": {"type": "string"},
                "b": {"type": "integer"},
            },
            "required": ["name", "a"],
            "additionalProperties": False,
            **NAMES,
        },
        "encoding": {"photo": FILE},
    }
