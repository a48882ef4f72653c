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
from pydantic_core import SchemaError, SchemaValidator

LISTED_BYTES = 16 * 1024
"""The size of a body up to which all wrong values are listed."""

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

    The validator raises pydantic's ValidationError.
    """
    early: Callable[[bytes], Any] | None = None

    def validate(data: bytes) -> Any:
        nonlocal early
        if len(data) <= LISTED_BYTES:
            return complete(data)
        if early is None:  # made when it is first needed: most types never meet a large body
            early = _stopping_early(adapter) or complete
        return early(data)

    return validate


def _stopping_early(adapter: TypeAdapter[Any]) -> Callable[[bytes], Any] | None:
    """Return a validator that stops early, or None if pydantic does not make one."""
    schema = _fail_fast(dict(adapter.core_schema))
    try:
        try:
            # Else pydantic takes the validators that its models have already.
            validator = SchemaValidator(schema, _use_prebuilt=False)
        except TypeError:  # a version of pydantic that does not know the argument
            validator = SchemaValidator(schema)
    except SchemaError:
        return None
    return validator.validate_json


def _fail_fast(schema: Any) -> Any:
    """Return a copy of a schema of pydantic, or a part of one, whose containers fail fast."""
    if isinstance(schema, list | tuple):
        return type(schema)([_fail_fast(part) for part in schema])
    if not isinstance(schema, dict):
        return schema
    copy = {key: _part(key, value) for key, value in schema.items()}
    kind = schema.get("type")
    if isinstance(kind, str) and kind in _CONTAINERS:
        copy["fail_fast"] = True
    return copy


def _part(key: str, value: Any) -> Any:
    if key in _NO_SCHEMA:
        return value
    if key in _BY_NAME and isinstance(value, Mapping):
        return {name: _fail_fast(part) for name, part in value.items()}
    return _fail_fast(value)
