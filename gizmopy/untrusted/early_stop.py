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
from pydantic_core import SchemaError, ValidationError

from gizmopy.untrusted.json_text import (
    BY_NAME,
    BYTE_ORDER_MARK,
    NO_SCHEMA,
    FiniteSchema,
    check_constants,
    new_validator,
)
from gizmopy.untrusted.missing_fields import AbsentFields

LISTED_BYTES = 16 * 1024
"""The maximum size of a body whose wrong values are all listed."""
_PLAIN_BYTES = 512
"""The maximum size of a body whose errors are all listed with copies: they are small."""
_COPIED_BYTES = 1024 * 1024
"""How many bytes of JSON the errors may copy. As Python objects, they take 30 times as many."""

_N, _I = b"NI"

_CONTAINERS = frozenset(
    ("counter", "deque", "dict", "frozendict", "frozenset", "list", "ordered-dict", "set", "tuple")
)


def json_validator(
    adapter: TypeAdapter[Any], complete: Callable[[bytes], Any]
) -> Callable[[bytes], Any]:
    """Return a validator of JSON for the type of ``adapter``; ``complete`` is pydantic's own.

    The validator raises pydantic's ValidationError. Read it with ``input_errors.details_of``, which
    recognizes the stand-in for a missing field.
    """
    # Built when first needed, because most types never receive a body, or a large one.
    validators: _Validators | None = None

    def validate(data: bytes) -> Any:
        nonlocal validators
        if validators is None:
            validators = _Validators(adapter, complete)
        # These cost a small body 50 ns. ``b"NaN" in data`` would take ten times as long, because it
        # tries to convert its argument to an int first.
        if (_N in data and data.find(b"NaN") >= 0) or (_I in data and data.find(b"Infinity") >= 0):
            validators.check_constants(data)
        try:
            if len(data) <= _PLAIN_BYTES:
                return validators.short(data)
            return validators.validate_long(data)
        except ValidationError:
            if not data.startswith(BYTE_ORDER_MARK):
                raise
        return validators.validate_long(data[len(BYTE_ORDER_MARK) :])

    return validate


class _Validators:
    """The validators of one type, for bodies of each size."""

    __slots__ = ("_allows_constants", "_long", "_schema", "short")

    def __init__(self, adapter: TypeAdapter[Any], complete: Callable[[bytes], Any]) -> None:
        finite = FiniteSchema(adapter.core_schema)
        self._schema = finite.schema
        self._allows_constants = finite.allows_constants
        self._long: dict[bool, tuple[Callable[[bytes], Any], Callable[[bytes], Any]]] = {}
        self.short = (_validator(self._schema) if finite.is_changed else None) or complete
        """The validator of a short body."""

    def check_constants(self, data: bytes) -> None:
        """Raise pydantic's error if ``data`` has NaN or Infinity, and the type allows neither."""
        if not self._allows_constants:
            check_constants(data)

    def validate_long(self, data: bytes) -> Any:
        """Return the value of a body that is not short."""
        size = len(data)
        stops = size > LISTED_BYTES
        if stops not in self._long:
            changed = _changed(self._schema, _fail_fast) if stops else None
            exact = (_validator(changed) if changed else None) or self.short
            self._long[stops] = self._without_copies(stops=stops) or exact, exact
        first, exact = self._long[stops]
        try:
            return first(data)
        except ValidationError as error:
            if first is exact or error.error_count() * size > _COPIED_BYTES:
                raise
        return exact(data)

    def _without_copies(self, *, stops: bool) -> Callable[[bytes], Any] | None:
        absent = AbsentFields(self._schema)

        def change(part: dict[str, Any]) -> None:
            absent.change(part)
            if stops:
                _fail_fast(part)

        return _validator(_changed(self._schema, change))


def _validator(schema: Any) -> Callable[[bytes], Any] | None:
    """Return a validator with this schema, or None if pydantic does not accept the schema."""
    try:
        return new_validator(schema).validate_json
    except SchemaError:
        return None


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
    if key in NO_SCHEMA:
        return value
    if key in BY_NAME and isinstance(value, Mapping):
        return {name: _changed(part, change) for name, part in value.items()}
    return _changed(value, change)
