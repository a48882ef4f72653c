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

_PART_NAMES = r"^[^\x00-\x1f\x7f]+$"
"""The names that a field in multipart may have: they are in a header."""


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
    """The description of a form: an object of all of its fields.

    A model is not described by its component, in which a field may be null: a text never is.
    """

    def __init__(self, location: str, body: FormBody) -> None:
        self._body = body
        self._models = [each for each in body.binders if isinstance(each, FormModel)]
        self._fields = [field for each in body.binders for field in each.fields]
        self._types = [
            TypeSchema(f"{location}, field {field.key!r}", "validation", field.declared.annotation)
            for field in self._fields
        ]

    @property
    def types(self) -> Sequence[TypeSchema]:
        return self._types

    def describe(self) -> Schema:
        media: dict[str, Schema] = {}
        for name in self._body.media_types:
            schema = _object(self._fields, self._types, has_files=name == MULTIPART)
            if any(each.extra == "forbid" for each in self._models):
                schema["additionalProperties"] = False
            if name == MULTIPART:
                schema["propertyNames"] = {"pattern": _PART_NAMES}
            media[name] = {"schema": schema}
        files = [field.key for field in self._fields if field.is_file]
        if files:
            encoding = {"contentType": "application/octet-stream"}
            media[MULTIPART]["encoding"] = dict.fromkeys(files, encoding)
        return {"content": media, "required": self._body.required}


def _object(
    fields: Sequence[ModelField], types: Sequence[TypeSchema], *, has_files: bool
) -> Schema:
    properties: Schema = {}
    for field, each in zip(fields, types, strict=True):
        if field.is_file and not has_files:
            continue
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
