"""Describe the body that an endpoint takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gizmopy.web.body import JSONBody, RequestBody
from gizmopy.web.forms import MULTIPART, FormBody, FormModel
from gizmopy.web.openapi.schemas import Schema, TypeSchema, default_of, without_null
from gizmopy.web.parameter_models import ModelField
from gizmopy.web.raw_body import RawBody

_DEFAULTS = {"*/*": "application/octet-stream", "text/*": "text/plain"}
"""The media types that stand for a range in the document: clients send one of them."""


class DescribedBody(Protocol):
    """The description of a body."""

    @property
    def types(self) -> Sequence[TypeSchema]:
        """The types that need a schema."""

    def describe(self) -> Schema:
        """Return the ``requestBody``, after the schemas are known."""


class _WholeBody:
    """The description of a body that is one value."""

    def __init__(self, location: str, body: JSONBody | RawBody) -> None:
        self._body = body
        self._schema = TypeSchema(location, "validation", body.declared.annotation)

    @property
    def types(self) -> Sequence[TypeSchema]:
        return (self._schema,)

    def describe(self) -> Schema:
        media: Schema = {"schema": self._schema.schema} if self._schema.schema else {}
        names = [_DEFAULTS.get(each, each) for each in self._body.media_types]
        return {"content": dict.fromkeys(names, media), "required": self._body.required}


class _Form:
    """The description of a form: that of its one model, or an object of all of its fields."""

    def __init__(self, location: str, body: FormBody) -> None:
        self._body = body
        self._fields = [field for each in body.binders for field in each.fields]
        (first, *others) = body.binders
        self._model = first.declared if isinstance(first, FormModel) and not others else None
        declared = [field.declared for field in self._fields] if self._model is None else []
        self._schemas = [
            TypeSchema(location, "validation", each.annotation)
            for each in ([self._model] if self._model is not None else declared)
        ]

    @property
    def types(self) -> Sequence[TypeSchema]:
        return self._schemas

    def describe(self) -> Schema:
        if self._model is not None:
            schema = without_null(self._schemas[0].schema)
        else:
            schema = _object(self._fields, self._schemas)
        files = [field.key for field in self._fields if field.is_file]
        content: Schema = {name: {"schema": schema} for name in self._body.media_types}
        if files:
            encoding = {"contentType": "application/octet-stream"}
            content[MULTIPART]["encoding"] = dict.fromkeys(files, encoding)
        return {"content": content, "required": self._body.required}


def _object(fields: Sequence[ModelField], types: Sequence[TypeSchema]) -> Schema:
    properties: Schema = {}
    for field, each in zip(fields, types, strict=True):
        schema = {
            key: value for key, value in without_null(each.schema).items() if key != "default"
        }
        if not field.repeated and schema.get("type") in ("array", "object"):
            schema = {"type": "string"}  # the metadata of the type reads one text
        elif (default := default_of(field.declared.default)) is not None:
            schema["default"] = default
        properties[field.key] = schema
    required = [field.key for field in fields if field.required]
    described: Schema = {"type": "object", "properties": properties}
    return {**described, "required": required} if required else described


def describe_body(location: str, body: RequestBody) -> DescribedBody:
    """Return the description of ``body``; ``location`` names the endpoint in log messages."""
    if isinstance(body, FormBody):
        return _Form(location, body)
    assert isinstance(body, JSONBody | RawBody)
    return _WholeBody(location, body)
