"""Schemas of types in the OpenAPI document, and the components that they share."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import BaseModel

from tests.web.openapi.support import (
    Cat,
    Counted,
    Explosive,
    Holder,
    Opaque,
    Tree,
    content_for,
    document,
    returning,
)


def test_a_model_is_one_component_or_one_for_each_direction() -> None:
    """A computed field makes two components of a model, one for requests, one for responses."""

    async def endpoint(new: Cat) -> Cat:
        raise NotImplementedError

    async def counted(new: Counted | None = None) -> Counted:
        raise NotImplementedError

    written = document(("PUT", "/a", endpoint), ("PUT", "/b", counted))
    schemas = written["components"]["schemas"]
    assert set(schemas) == {
        "Cat",
        "Counted-Input",
        "Counted-Output",
        "FieldError",
        "ProblemDetails",
    }
    assert set(schemas["Cat"]["properties"]) == {"catName", "lives"}
    assert set(schemas["Counted-Output"]["properties"]) == {"names", "count"}
    body = written["paths"]["/b"]["put"]["requestBody"]
    assert body["required"] is False
    assert body["content"]["application/json"]["schema"]["anyOf"] == [
        {"$ref": "#/components/schemas/Counted-Input"},
        {"type": "null"},
    ]


def test_a_model_may_be_recursive() -> None:
    """A recursive model is a component that refers to itself."""
    written = document(("GET", "/", returning(Tree)))
    assert written["components"]["schemas"]["Tree"]["properties"]["branches"]["items"] == {
        "$ref": "#/components/schemas/Tree"
    }


def test_models_of_the_same_name_are_distinct() -> None:
    """This holds for a model with the name of ours, too."""

    class ProblemDetails(BaseModel):
        mine: int

    content_ = content_for(ProblemDetails, "200")["application/json"]["schema"]
    error = content_for(ProblemDetails, "500")["application/problem+json"]["schema"]
    assert content_ != error


@pytest.mark.parametrize("kind", [Opaque, Holder, Explosive, list[Opaque], Cat | Opaque])
def test_a_type_without_a_schema_is_logged(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The rest of the document is complete; one warning names the response and the reason."""

    async def endpoint(new: Cat) -> None: ...

    endpoint.__annotations__["return"] = kind
    written = document(("PUT", "/", endpoint))
    operation = written["paths"]["/"]["put"]
    assert operation["responses"]["200"]["content"] == {"application/json": {}}
    assert "Cat" in written["components"]["schemas"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    start = "PUT /: the response has no schema in the OpenAPI document: "
    assert record.getMessage().startswith(start)


def test_a_body_without_a_schema_is_still_described(caplog: pytest.LogCaptureFixture) -> None:
    """A type that can be validated may have no schema."""

    async def endpoint(new: Holder) -> None: ...

    operation = document(("PUT", "/", endpoint))["paths"]["/"]["put"]
    assert operation["requestBody"] == {"required": True, "content": {"application/json": {}}}
    assert "PUT /: the body has no schema" in caplog.text
