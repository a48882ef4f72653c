"""Parse JSON as RFC 8259 defines it: in UTF-8, and with finite numbers only.

Python's ``json`` accepts NaN and Infinity, and so does pydantic's parser. Both make infinity of the
number 1e999. A handler that calculates with these gets a result that no JSON can express, far from
the request or the message that they came with. A byte order mark is skipped, as RFC 8259 section
8.1 allows: some editors and .NET programs write one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import (
    PydanticCustomError,
    SchemaError,
    SchemaValidator,
    ValidationError,
    from_json,
)

BY_NAME = frozenset(("choices", "definitions", "fields"))
"""Keys of a schema whose values are schemas by names of the user, such as ``default``."""
NO_SCHEMA = frozenset(("default", "expected", "metadata", "serialization"))
"""Keys of a schema whose values come from the user, and may look like a schema."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CONSTANTS = "NaN and Infinity are not JSON (RFC 8259 section 6)"
_ITEMS = {
    "list": "items_schema",
    "set": "items_schema",
    "frozenset": "items_schema",
    "dict": "values_schema",
}
"""The key of the schema of a container's values, which is optional."""
_WITH_EXTRA_FIELDS = frozenset(("model-fields", "typed-dict"))


def read_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError with the reason if it is not JSON."""
    data = text.encode() if isinstance(text, str) else text
    data = data.removeprefix(BYTE_ORDER_MARK)
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(_CONSTANTS if has_constants(data) else str(error)) from error
    if not _is_finite(value):
        raise ValueError("a number is too large")
    return value


def has_constants(data: bytes) -> bool:
    """Return whether ``data`` would be JSON if NaN and Infinity were, and has one of them."""
    if data.find(b"NaN") < 0 and data.find(b"Infinity") < 0:
        return False
    try:
        from_json(data, allow_inf_nan=False)
    except ValueError:
        try:
            from_json(data)
        except ValueError:
            return False
        return True
    return False


def check_constants(data: bytes) -> None:
    """Raise pydantic's error of a text that is not JSON if ``data`` has NaN or Infinity."""
    if has_constants(data):
        kind: Any = {"type": "json_invalid", "loc": (), "input": None, "ctx": {"error": _CONSTANTS}}
        raise ValidationError.from_exception_data("JSON", [kind])


class FiniteSchema:
    """Change a schema of pydantic's so that it refuses numbers that are not finite.

    An ``Iterable`` becomes a list, so that its items are validated at once.

    A float, a model or another type that sets ``allow_inf_nan=True`` itself is left as it is.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.allows_constants = False
        """Whether a part of the type allows NaN and Infinity."""
        self.is_changed = False
        """Whether ``schema`` differs from the one that was given."""
        self.schema: dict[str, Any] = self._schema(schema, {})

    def _any(self, value: Any, config: Mapping[str, Any]) -> Any:
        if isinstance(value, list | tuple):
            return type(value)([self._any(each, config) for each in value])
        return self._schema(value, config) if isinstance(value, dict) else value

    def _schema(self, schema: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of ``schema``, whose nearest model or dataclass has this ``config``."""
        own = schema.get("config")
        config = own if isinstance(own, Mapping) else config
        kind = schema.get("type")
        items = _ITEMS.get(kind, "") if isinstance(kind, str) else ""
        are_untyped = bool(items) and _is_untyped(schema.get(items))
        copy: dict[str, Any] = {}
        for key, value in schema.items():
            if key in NO_SCHEMA or (are_untyped and key == items):
                copy[key] = value
            elif key in BY_NAME and isinstance(value, Mapping):
                copy[key] = {name: self._any(part, config) for name, part in value.items()}
            else:
                copy[key] = self._any(value, config)
        if kind == "float":
            return self._finite(copy, config)
        if kind == "generator":
            # pydantic validates an Iterable while it is read. The error of a wrong item would be
            # raised in the handler, as a fault of ours.
            copy["type"] = "list"
            self.is_changed = True
        if kind in ("any", "complex") or are_untyped or (kind == "json" and "schema" not in copy):
            return self._checked(copy)
        if kind in _WITH_EXTRA_FIELDS and _keeps_extra_fields(copy, config):
            copy.setdefault("extras_schema", self._checked({"type": "any"}))
        return copy

    def _finite(self, schema: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        if "allow_inf_nan" not in schema and "allow_inf_nan" not in config:
            self.is_changed = True
            return {**schema, "allow_inf_nan": False}
        if schema.get("allow_inf_nan", config.get("allow_inf_nan")):
            self.allows_constants = True
        return schema

    def _checked(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return a schema that checks the numbers in a value, whatever they are nested in."""
        self.is_changed = True
        reference = {"ref": schema.pop("ref")} if "ref" in schema else {}
        function = {"type": "no-info", "function": _check_finite}
        return {"type": "function-after", "function": function, "schema": schema, **reference}


def finite_validator(adapter: TypeAdapter[Any]) -> Any:
    """Return a validator of the adapter's type, as pydantic's, that refuses NaN and infinities."""
    finite = FiniteSchema(adapter.core_schema)
    if finite.is_changed:
        with suppress(SchemaError):
            return new_validator(finite.schema)
    return adapter.validator


def new_validator(schema: Any) -> SchemaValidator:
    """Return a validator with a changed schema. Raises SchemaError if pydantic refuses it."""
    try:
        # Otherwise pydantic uses the validators that its models already have, unchanged.
        return SchemaValidator(schema, _use_prebuilt=False)
    except TypeError:  # this version of pydantic does not have the argument
        return SchemaValidator(schema)


def _is_untyped(schema: Any) -> bool:
    return schema is None or (schema.get("type") == "any" and "ref" not in schema)


def _keeps_extra_fields(fields: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    behavior = fields.get("extra_behavior", config.get("extra_fields_behavior"))
    return bool(behavior == "allow")


def _check_finite(value: Any) -> Any:
    if not _is_finite(value):
        raise PydanticCustomError("finite_number", "Input should have finite numbers only")
    return value


def _is_finite(value: Any) -> bool:
    """Return whether each float in a value that was parsed from JSON is finite."""
    kind = type(value)
    if kind is float or kind is complex:
        return bool(value - value == 0)
    if kind is not dict and kind is not list:
        return True
    rest: list[Any] = [value]
    for each in rest:  # which grows meanwhile: a recursive function would take twice as long
        kind = type(each)
        if kind is dict:
            rest.extend(each.values())
        elif kind is list:
            rest.extend(each)
        elif kind is float and each - each != 0.0:
            return False
    return True
