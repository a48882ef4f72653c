"""Generate the JSON schemas of types, with the components that they share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from pydantic_core import PydanticSerializationError, to_jsonable_python

from gizmopy.declaration import REQUIRED

logger = logging.getLogger("gizmopy.web.openapi")

Schema = dict[str, Any]


@dataclass(slots=True, eq=False)
class TypeSchema:
    """A type that the document uses at ``location``, and its schema; empty if it has none."""

    location: str
    mode: JsonSchemaMode
    annotation: Any
    schema: Schema = field(default_factory=dict)
    is_item: bool = False
    """Whether it is the type of each item of a stream."""


_IN_PLACE_OF_NAN: dict[str | None, Schema] = {
    "null": {"type": "null"},
    "strings": {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]},
}


class _Generator(GenerateJsonSchema):
    """Leave out titles that repeat a name, and ignore defaults that have no JSON form."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - its type

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False: only titles that a model declares are set."""
        return False

    def float_schema(self, schema: Any) -> Schema:
        """Add what the config of a class writes in place of NaN; without it a result has none."""
        number = super().float_schema(schema)
        # A private attribute of pydantic: there is no public way to the config of the class.
        config = getattr(getattr(self, "_config", None), "config_dict", {})
        other = _IN_PLACE_OF_NAN.get(config.get("ser_json_inf_nan"))
        return number if self.mode == "validation" or other is None else {"anyOf": [number, other]}


def fill_schemas(types: Sequence[TypeSchema]) -> Schema:
    """Set the schema of each of ``types``, and return the components that they share.

    A type without a schema is logged, and its schema stays empty.
    """
    inputs = []
    for key, each in enumerate(types):
        try:
            adapter = TypeAdapter(each.annotation)
            adapter.json_schema(mode=each.mode, schema_generator=_Generator)
        except Exception as error:  # noqa: BLE001 - hooks of a type may raise any exception
            why = str(error).partition("\n")[0]
            logger.warning("%s has no schema in the OpenAPI document: %s", each.location, why)
        else:
            inputs.append((key, each.mode, adapter))
    schemas, shared = TypeAdapter.json_schemas(
        inputs, ref_template="#/components/schemas/{model}", schema_generator=_Generator
    )
    for (key, _), schema in schemas.items():
        types[key].schema = schema
    components: Schema = shared.get("$defs", {})
    return components


def without_null(schema: Schema) -> Schema:
    """Return a schema without null: a text in a request is never null."""
    kinds = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(kinds) == len(schema.get("anyOf", ())):
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**kinds[0], **rest} if len(kinds) == 1 else {"anyOf": kinds, **rest}


def default_of(value: Any) -> Any:
    """Return the JSON form of a default; None if there is no default, or it has no JSON form."""
    if value is REQUIRED:
        return None
    try:
        return to_jsonable_python(value, inf_nan_mode="null")
    except PydanticSerializationError:
        return None
