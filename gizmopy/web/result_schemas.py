"""Change pydantic's schema of a type, so that it fits the results of endpoints.

A schema validates input. A result is a value of Python already: text that a client would send in
its place is the exception.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, EncodedBytes, EncodedStr
from pydantic_core import CoreConfig, SchemaSerializer, SchemaValidator

Schema = dict[str, Any]
Change = Callable[[Schema], Schema]
"""Returns a part of a schema, whose own parts are changed, or another part in its place."""

_BY_NAME = frozenset(("choices", "definitions", "fields"))
"""Keys whose values are schemas by names of the user: a field may be named ``default``."""
_NO_SCHEMA = frozenset(("config", "default", "expected", "metadata"))
"""Keys whose values come from the user, and may look like a schema."""
_CONVERTERS = ("function-before", "function-wrap")
_FUNCTIONS = (*_CONVERTERS, "function-after")
_CLASSES = ("model", "dataclass")
_INF_NAN = "ser_json_inf_nan"


def rebuild(schema: Any, change: Change, *, own_inf_nan: bool = True) -> Any:
    """Return a copy of a schema with each part changed, the inner ones first.

    With ``own_inf_nan=False`` a class whose config says how to write NaN is left as it is.
    """
    if isinstance(schema, list | tuple):
        return type(schema)([rebuild(part, change, own_inf_nan=own_inf_nan) for part in schema])
    if not isinstance(schema, dict) or (
        not own_inf_nan and _INF_NAN in (schema.get("config") or ())
    ):
        return schema
    copy = {key: _part(key, value, change, own_inf_nan) for key, value in schema.items()}
    return change(copy) if isinstance(copy.get("type"), str) else copy


def _part(key: str, value: Any, change: Change, own_inf_nan: bool) -> Any:
    if key in _NO_SCHEMA:
        return value
    if key == "serialization":
        # It has a type, such as function-plain, which is not that of a schema.
        returned = value.get("return_schema")
        if returned is None:
            return value
        return {**value, "return_schema": rebuild(returned, change, own_inf_nan=own_inf_nan)}
    if key in _BY_NAME and isinstance(value, Mapping):
        return {
            name: rebuild(part, change, own_inf_nan=own_inf_nan) for name, part in value.items()
        }
    return rebuild(value, change, own_inf_nan=own_inf_nan)


def undeclare(part: Schema) -> Schema:
    """Replace the bare BaseModel, which has no fields, by Any."""
    if part["type"] == "model" and part["cls"] is BaseModel:
        return _in_place_of(part, {"type": "any"})
    return part


def skip_decoders(part: Schema) -> Schema:
    """Leave out what turns the text of a client into the value that an endpoint returns.

    Base64Bytes would decode the bytes that it has to encode, and Json would parse the value that it
    has to write. A function before the validation has a serializer as its counterpart.
    """
    kind = part["type"]
    if kind == "json":
        return _in_place_of(part, part.get("schema", {"type": "any"}))
    if kind in _FUNCTIONS and _decodes(part):
        return _in_place_of(part, part["schema"])
    return part


def skip_converters(part: Schema) -> Schema:
    """Leave out every function that may expect the input of a client."""
    part = skip_decoders(part)
    if part["type"] in _CONVERTERS or (part["type"] == "function-after" and _is_written(part)):
        return _in_place_of(part, part["schema"])
    if part["type"] == "function-plain" and _is_written(part):
        return _in_place_of(part, {"type": "any"})
    return part


def _decodes(part: Schema) -> bool:
    function = part["function"]["function"]
    if isinstance(getattr(function, "__self__", None), EncodedBytes | EncodedStr):
        return True
    return part["type"] == "function-before" and _is_written(part)


def _is_written(part: Schema) -> bool:
    """Return whether a type has a serializer of its own; that of a class is another matter."""
    while part["type"] not in _CLASSES:
        if "serialization" in part:
            return True
        if part["type"] not in _FUNCTIONS:
            break
        part = part["schema"]
    return False


def _in_place_of(part: Schema, other: Schema) -> Schema:
    """Return ``other`` under the name by which the rest of the schema refers to ``part``."""
    return {**other, "ref": part["ref"]} if "ref" in part else other


def write_constants(part: Schema) -> Schema:
    """Write NaN and the infinities as such, unless a class says otherwise in its config."""
    if part["type"] in (*_CLASSES, "typed-dict"):
        part["config"] = {_INF_NAN: "constants", **(part.get("config") or {})}
    return part


def refuse_constants(part: Schema) -> Schema:
    """Let the serialization of NaN and the infinities fail, where the type is a float."""
    if part["type"] == "float" and "serialization" not in part:
        part["serialization"] = {"type": "function-plain", "function": _finite}
    return part


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not finite")
    return value


def keep_instances(part: Schema) -> Schema:
    """Let an instance of a class pass, without the validators around the class.

    The class itself lets its instances pass, but a ``model_validator`` would run again.
    """
    kind = class_of(part) if part["type"] in _FUNCTIONS else None
    if kind is None:
        return part

    def validate(value: Any, validated: Callable[[Any], Any]) -> Any:
        return value if isinstance(value, kind) else validated(value)

    function = {"type": "no-info", "function": validate}
    inner = {key: value for key, value in part.items() if key != "ref"}
    return _in_place_of(part, {"type": "function-wrap", "function": function, "schema": inner})


def has_floats(schema: Schema) -> bool:
    """Return whether a number of a type may be NaN, and no config says how to write it."""
    return "float" in _kinds(schema, own_inf_nan=False)


def has_functions(schema: Schema) -> bool:
    """Return whether functions of the user validate parts of a type."""
    return not _kinds(schema).isdisjoint((*_FUNCTIONS, "function-plain", "json"))


def _kinds(schema: Schema, *, own_inf_nan: bool = True) -> set[str]:
    found = set()

    def look(part: Schema) -> Schema:
        found.add(part["type"])
        return part

    rebuild(schema, look, own_inf_nan=own_inf_nan)
    return found


def class_of(schema: Schema) -> type[Any] | None:
    """Return the model or dataclass that a schema is of, or None."""
    definitions: dict[str, Schema] = {}
    while schema["type"] not in _CLASSES:
        if schema["type"] == "definitions":
            definitions |= {each["ref"]: each for each in schema["definitions"]}
        if schema["type"] == "definition-ref":
            if schema["schema_ref"] not in definitions:
                return None
            schema = definitions[schema["schema_ref"]]
        elif schema["type"] in ("definitions", *_FUNCTIONS):
            schema = schema["schema"]
        else:
            return None
    found: type[Any] = schema["cls"]
    return found


def config_of(schema: Schema) -> CoreConfig:
    """Return the config of the class that a schema is of; it applies to values of Any, too."""
    while schema["type"] in _FUNCTIONS:
        schema = schema["schema"]
    config: CoreConfig = schema.get("config") or {}
    return config


def validator_of(schema: Schema) -> SchemaValidator:
    """Return the validator of a changed schema."""
    try:
        # Otherwise pydantic uses the validators that its models already have, unchanged.
        return SchemaValidator(schema, _use_prebuilt=False)
    except TypeError:  # this version of pydantic does not have the argument
        return SchemaValidator(schema)


def serializer_of(schema: Schema, config: CoreConfig) -> SchemaSerializer:
    """Return the serializer of a changed schema."""
    try:
        return SchemaSerializer(schema, config, _use_prebuilt=False)
    except TypeError:  # this version of pydantic does not have the argument
        return SchemaSerializer(schema, config)
