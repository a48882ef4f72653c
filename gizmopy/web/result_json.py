"""Encode a value as JSON by the type that an endpoint declares to return.

The declared type decides which fields are sent, and how. An instance of the declared class is
written by the schema of that class. Any other value is validated first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import (
    CoreConfig,
    PydanticSerializationError,
    SchemaSerializer,
    ValidationError,
)

from gizmopy.untrusted.error_text import too_many
from gizmopy.untrusted.input_errors import details_of, field_of, message_of
from gizmopy.untrusted.text import cut
from gizmopy.web import result_schemas as schemas


class ResultMismatch(Exception):
    """A value does not have the declared type. The text names the fields, and quotes no value."""


class ResultJSON:
    """Encode values of one type as JSON. Raises pydantic's errors if pydantic has no such type."""

    def __init__(self, annotation: Any) -> None:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        self._schema = schemas.rebuild(dict(adapter.core_schema), schemas.undeclare)
        self._config = schemas.config_of(self._schema)
        self._class = schemas.class_of(self._schema)
        self._has_functions = schemas.has_functions(self._schema)
        self._validate = self._validator(schemas.skip_decoders)
        # A float that is no number would become null, which the type does not allow. As a constant
        # (NaN) it is found in the JSON at little cost.
        self._may_have_constants = schemas.has_floats(self._schema)
        serializer = self._constants if self._may_have_constants else self._plain
        self._to_json = serializer.to_json

    @cached_property
    def _plain(self) -> SchemaSerializer:
        return schemas.serializer_of(self._schema, self._config)

    @cached_property
    def _constants(self) -> SchemaSerializer:
        config: CoreConfig = {"ser_json_inf_nan": "constants", **self._config}
        return schemas.serializer_of(schemas.rebuild(self._schema, schemas.write_constants), config)

    @cached_property
    def _finite(self) -> SchemaSerializer:
        schema = schemas.rebuild(self._schema, schemas.refuse_constants, own_inf_nan=False)
        return schemas.serializer_of(schema, self._config)

    def encode(self, value: object) -> bytes:
        """Return ``value`` as JSON.

        Raises ResultMismatch if it does not have the type, and PydanticSerializationError if it has
        no JSON form.
        """
        # The first test is a fast path: pydantic's isinstance is a Python function.
        if type(value) is not self._class and not self._is_instance(value):
            value = self._validated(value)
        # The type of a field that was set later is the service's own matter, as in pydantic.
        body = self._to_json(value, by_alias=True, warnings=False)
        if self._may_have_constants and (b"NaN" in body or b"Infinity" in body):
            return self._without_constants(value, body)
        return body

    def _is_instance(self, value: object) -> bool:
        return self._class is not None and isinstance(value, self._class)

    def _validated(self, value: object) -> Any:
        """Return the value of the declared type that ``value`` gives, lax and from attributes."""
        if self._has_functions and isinstance(value, Iterator):
            value = list(value)  # it may be validated several times
        try:
            return self._validate(value, from_attributes=True)
        except Exception as error:  # noqa: BLE001 - a validator of the user may raise any
            first = error
        # A function that converts the input of a client may not expect the value of Python.
        for validate in self._other_validators:
            try:
                return validate(value, from_attributes=True)
            except Exception:  # noqa: BLE001 - as above
                continue
        if not isinstance(first, ValidationError):
            raise first
        raise ResultMismatch(_problems(first))

    @cached_property
    def _other_validators(self) -> list[Callable[..., Any]]:
        if not self._has_functions:
            return []
        return [self._validator(), self._validator(schemas.skip_converters)]

    def _validator(self, *changes: schemas.Change) -> Callable[..., Any]:
        schema = self._schema
        for change in (*changes, schemas.keep_instances):
            schema = schemas.rebuild(schema, change)
        return schemas.validator_of(schema).validate_python

    def _without_constants(self, value: object, body: bytes) -> bytes:
        """Return the JSON without NaN and infinities, which may also be text, or of type Any."""
        try:
            self._finite.to_json(value, by_alias=True, warnings="error")
            return self._plain.to_json(value, by_alias=True, warnings=False)
        except PydanticSerializationError:
            field = next(_non_finite(json.loads(body)), "")
        raise ResultMismatch(f"{field or 'value'}: NaN and infinities are no JSON numbers")


def validated(validate: Callable[..., Any], value: object) -> Any:
    """Return the validated value. Raises ResultMismatch with the wrong fields."""
    try:
        return validate(value, from_attributes=True)
    except ValidationError as error:
        problems = _problems(error)
    raise ResultMismatch(problems)  # outside of the except clause: pydantic's error has values


def _non_finite(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[str]:
    """Yield the field of each number in parsed JSON that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield field_of(path)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _non_finite(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _non_finite(each, (*path, index))


def _problems(error: ValidationError) -> str:
    """Return each wrong field and the reason, without values; the number if too many."""
    if summary := too_many(error):
        return summary
    problems = details_of(error)
    return cut("; ".join(f"{field_of(p['loc']) or 'value'}: {message_of(p)}" for p in problems))
