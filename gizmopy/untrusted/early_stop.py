"""Validate a large JSON body with few errors, if it is wrong.

pydantic makes an error for each wrong value, with a copy of every key that leads to it. A body of
70 KB, 10,000 wrong numbers under one key of 20 KB, took 194 MB, and 1 MB more than a machine has.
So in a large body the validation of a list, a set, a tuple or a dict stops at its first wrong
value, as with pydantic's ``FailFast``. A valid body is read as before.

Not bounded by this: a model that forbids extra fields has an error for each of them, and a model
that contains itself twice has one for each field of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import SchemaError, SchemaValidator, ValidationError

from gizmopy.untrusted.missing_fields import AbsentFields

LISTED_BYTES = 16 * 1024
"""The size of a body up to which all wrong values are listed."""
_PLAIN_BYTES = 512
"""The size up to which a body is validated by pydantic's own validator."""
_COPIED_BYTES = 1024 * 1024
"""How much JSON the errors may copy, at most: as objects of Python it takes 30 times as much."""

_CONTAINERS = frozenset(
    ("counter", "deque", "dict", "frozendict", "frozenset", "list", "ordered-dict", "set", "tuple")
)
_BY_NAME = frozenset(("choices", "definitions", "fields"))
"""Keys whose values hold schemas by the user's names: a field may be called ``default``."""
_NO_SCHEMA = frozenset(("default", "expected", "metadata", "serialization"))
"""Keys whose values are the user's, and may look like a schema."""


def json_validator(
    adapter: TypeAdapter[Any], complete: Callable[[bytes], Any]
) -> Callable[[bytes], Any]:
    """Return a validator of JSON for the type of ``adapter``; ``complete`` validates a short body.

    The validator raises pydantic's ValidationError. If much is wrong, read it with
    ``wrong_input.details_of``, which knows the missing fields.
    """
    made: dict[bool, tuple[Callable[[bytes], Any], Callable[[bytes], Any]]] = {}

    def validate(data: bytes) -> Any:
        size = len(data)
        if size <= _PLAIN_BYTES:
            return complete(data)
        stops = size > LISTED_BYTES
        if stops not in made:  # made when it is first needed: most types never meet a large body
            exact = (_validator(adapter, _fail_fast) if stops else None) or complete
            made[stops] = _without_copies(adapter, stops=stops) or exact, exact
        first, exact = made[stops]
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
    """Return a validator whose schema is changed, or None if pydantic does not make one."""
    schema = _changed(dict(adapter.core_schema), change)
    try:
        try:
            # Else pydantic takes the validators that its models have already.
            validator = SchemaValidator(schema, _use_prebuilt=False)
        except TypeError:  # a version of pydantic that does not know the argument
            validator = SchemaValidator(schema)
    except SchemaError:
        return None
    return validator.validate_json


def _fail_fast(part: dict[str, Any]) -> None:
    """Have a container stop at its first wrong value."""
    kind = part.get("type")
    if isinstance(kind, str) and kind in _CONTAINERS:
        part["fail_fast"] = True


def _changed(schema: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """Return a copy of a schema of pydantic, or a part of one, with each dict in it changed."""
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
