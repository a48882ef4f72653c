"""Read ``5s`` for a plain ``timedelta`` in settings, as for a ``Duration``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, BeforeValidator, PlainValidator, WrapValidator

from gizmopy.config.duration import parse_duration
from gizmopy.config.secrets.redaction import marked_members
from gizmopy.config.structure import find_part

_VALIDATORS = (BeforeValidator, PlainValidator, WrapValidator)


def with_durations(model: type[BaseModel], values: Any) -> Any:
    """Return the input of a model with a timedelta for each text that is a duration of Go.

    A field with a validator of its own for unvalidated input is left to that validator, and any
    other text to pydantic.
    """
    if not isinstance(values, Mapping):
        return values
    own = _validated_fields(model)
    read = dict(values)
    for name, info in model.model_fields.items():
        if name in own or any(isinstance(mark, _VALIDATORS) for mark in info.metadata):
            continue
        for key in {name, *_aliases(info.validation_alias)} & read.keys():
            read[key] = _read(read[key], info.annotation)
    return read


def _validated_fields(model: type[BaseModel]) -> set[str]:
    """Return the fields that have a validator for unvalidated input in the class."""
    validators = model.__pydantic_decorators__.field_validators.values()
    return {
        name
        for validator in validators
        if validator.info.mode != "after"
        for name in validator.info.fields
    }


def _aliases(alias: Any) -> Iterable[str]:
    choices = getattr(alias, "choices", [alias])
    return [choice for choice in choices if isinstance(choice, str)]


def _read(value: Any, annotation: Any) -> Any:
    if isinstance(value, str):
        return _read_text(value, annotation)
    if isinstance(value, (list, tuple)):
        items = [_read_part(item, annotation, str(index)) for index, item in enumerate(value)]
        return value if items == list(value) else items
    if isinstance(value, Mapping):
        return _read_table(value, annotation)
    return value


def _read_text(text: str, annotation: Any) -> Any:
    members = [*marked_members(annotation)]
    kinds = [member for member, _ in members]
    if timedelta not in kinds or str in kinds:
        return text
    if any(isinstance(mark, _VALIDATORS) for _, marks in members for mark in marks):
        return text
    try:
        return parse_duration(text)
    except ValueError:
        return text


def _read_table(table: Mapping[Any, Any], annotation: Any) -> Any:
    for member, _ in marked_members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return with_durations(member, table)
    read = {key: _read_part(item, annotation, str(key)) for key, item in table.items()}
    return table if read == table else read


def _read_part(value: Any, annotation: Any, name: str) -> Any:
    found = find_part(annotation, name)
    return value if found is None else _read(value, found[1])
