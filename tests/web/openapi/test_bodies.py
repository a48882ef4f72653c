"""Bodies in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import Field

from gizmopy.web import Body
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
