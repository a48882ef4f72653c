"""Validate a large JSON body so that an invalid one has few errors.

pydantic creates an error for each wrong value, with a copy of every key on the path to it. A body
of 70 KB, 10,000 wrong numbers under one key of 20 KB, took 194 MB; one of 1 MB took more memory
than the machine had. So in a large body the validation of a list, a set, a tuple or a dict stops at
its first wrong value, as with pydantic's ``FailFast``. A valid body is validated as before.

This does not limit every number of errors: a model that forbids extra fields has an error for each
of them, and a model that contains itself twice has one for each field of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import SchemaError, SchemaValidator, ValidationError

from gizmopy.untrusted.missing_fields import AbsentFields

LISTED_BYTES = 16 * 1024
"""The maximum size of a body whose wrong values are all listed."""
_PLAIN_BYTES = 512
"""The maximum size of a body that pydantic's unchanged validator validates."""
_COPIED_BYTES = 1024 * 1024
"""How many bytes of JSON the errors may copy. As Python objects, they take 30 times as many."""

_CONTAINERS = frozenset(
    ("counter", "deque", "dict", "frozendict", "frozenset", "list", "ordered-dict", "set", "tuple")
)
_BY_NAME = frozenset(("choices", "definitions", "fields"))
"""Keys whose values are schemas by names of the user: a field may be named ``default``."""
_NO_SCHEMA = frozenset(("default", "expected", "metadata", "serialization"))
"""Keys whose values come from the user, and may look like a schema."""


def json_validator(
    adapter: TypeAdapter[Any], complete: Callable[[bytes], Any]
) -> Callable[[bytes], Any]:
    """Return a validator of JSON for the type of ``adapter``; ``complete`` validates a short body.

    The validator raises pydantic's ValidationError. Read it with ``input_errors.details_of``, which
    recognizes the stand-in for a missing field.
    """
    # Built when first needed, because most types never receive a large body.
    validators: dict[bool, tuple[Callable[[bytes], Any], Callable[[bytes], Any]]] = {}

    def validate(data: bytes) -> Any:
        size = len(data)
        if size <= _PLAIN_BYTES:
            return complete(data)
        stops = size > LISTED_BYTES
        if stops not in validators:
            exact = (_validator(adapter, _fail_fast) if stops else None) or complete
            validators[stops] = _without_copies(adapter, stops=stops) or exact, exact
        first, exact = validators[stops]
        try:
            return first(data)
        except ValidationError as error:
            if first is exact or error.error_count() * size > _COPIED_BYTES:
                raise
        return exact(data)

    return validate


def _without_copies(adapter: TypeAdapter[Any], *, stops: bool) -> Callable[[bytes], Any] | None:
    absent = AbsentFields(adapter.core_schema)

    def change(part: dict[str, Any]) -> None:
        absent.change(part)
        if stops:
            _fail_fast(part)

    return _validator(adapter, change)


def _validator(
    adapter: TypeAdapter[Any], change: Callable[[dict[str, Any]], None]
) -> Callable[[bytes], Any] | None:
    """Return a validator with a changed schema, or None if pydantic does not accept the schema."""
    schema = _changed(dict(adapter.core_schema), change)
    try:
        try:
            # Otherwise pydantic uses the validators that its models already have, unchanged.
            validator = SchemaValidator(schema, _use_prebuilt=False)
        except TypeError:  # this version of pydantic does not have the argument
            validator = SchemaValidator(schema)
    except SchemaError:
        return None
    return validator.validate_json


def _fail_fast(part: dict[str, Any]) -> None:
    """Make the validation of a container stop at its first wrong value."""
    kind = part.get("type")
    if isinstance(kind, str) and kind in _CONTAINERS:
        part["fail_fast"] = True


def _changed(schema: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """Return a copy of a schema of pydantic, or of a part of one, with each dict changed."""
    if isinstance(schema, list | tuple):
        return type(schema)([_changed(part, change) for part in schema])
    if not isinstance(schema, dict):
        return schema
    copy = {key: _part(key, value, change) for key, value in schema.items()}
    change(copy)
    return copy


def _part(key: str, value: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    if key in _NO_SCHEMA:
        return value
    if key in _BY_NAME and isinstance(value, Mapping):
        return {name: _changed(part, change) for name, part in value.items()}
    return _changed(value, change)
