"""Describe the body that an endpoint takes."""

from __future__ import annotations

from collections.abc import Sequence

from gizmopy.web.body import JSONBody, RequestBody
from gizmopy.web.openapi.schemas import Schema, TypeSchema
from gizmopy.web.raw_body import RawBody

_DEFAULTS = {"*/*": "application/octet-stream", "text/*": "text/plain"}
"""The media types that stand for a range in the document: clients send one of them."""


class WholeBody:
    """The description of a body that is one value."""

    def __init__(self, location: str, body: JSONBody | RawBody) -> None:
        self._body = body
        self._schema = TypeSchema(location, "validation", body.declared.annotation)

    @property
    def types(self) -> Sequence[TypeSchema]:
        """The types that need a schema."""
        return (self._schema,)

    def describe(self) -> Schema:
        """Return the ``requestBody``, after the schemas are known."""
        media: Schema = {"schema": self._schema.schema} if self._schema.schema else {}
        names = [_DEFAULTS.get(each, each) for each in self._body.media_types]
        return {"content": dict.fromkeys(names, media), "required": self._body.required}


def describe_body(location: str, body: RequestBody) -> WholeBody:
    """Return the description of ``body``; ``location`` names the endpoint in log messages."""
    assert isinstance(body, JSONBody | RawBody)
    return WholeBody(location, body)
