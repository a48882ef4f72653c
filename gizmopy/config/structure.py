"""Name and replace the parts of one structured value: a list, a dict, a dataclass, a model.

``DBS__0__HOST`` is the host of the first model in a list, ``LIMITS__CATS`` an entry of a dict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import Enum
from typing import Any, get_args, get_origin

from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo

from gizmopy.config.secrets.masking import alias_names
from gizmopy.config.secrets.redaction import field_types, literal_choices, union_members

Part = tuple["int | str", Any]
"""The key of a part in pydantic's input, and its type."""


class MissingItemError(ValueError):
    """An index of a list whose items before it are missing. The text is the reason."""


def is_structure(member: Any) -> bool:
    """Return whether a value of this type, which is not a union, has parts."""
    kind = get_origin(member) or member
    if not isinstance(kind, type) or issubclass(kind, (str, bytes, bytearray)):
        return False
    return issubclass(kind, (Mapping, Sequence, Set, BaseModel)) or dataclasses.is_dataclass(kind)


def input_key(model: type[BaseModel], name: str, info: FieldInfo) -> str:
    """Return the key of a field in pydantic's input: its alias, if there is one that is used."""
    if model.model_config.get("validate_by_alias") is False:
        return name
    return next(iter(alias_names(info)), name)


def find_part(annotation: Any, name: str) -> Part | None:
    """Return the part of a value of type ``annotation`` that an environment name calls ``name``.

    Fields are found in any case of their letters. The key of a dict is in lower case, unless its
    type has a choice that differs in case only; pydantic-settings has the same rule.
    """
    for member in union_members(annotation):
        if (found := _part_of_member(member, name)) is not None:
            return found
    return None


def _part_of_member(member: Any, name: str) -> Part | None:
    kind = get_origin(member) or member
    if kind is Any or kind is object:
        return name.lower(), Any
    if not isinstance(kind, type) or not is_structure(member):
        return None
    if issubclass(kind, RootModel):
        return find_part(kind.model_fields["root"].annotation, name)
    if (fields := dict(_fields(kind))) or dataclasses.is_dataclass(kind):
        return fields.get(name.upper())
    if issubclass(kind, Mapping):
        key_type, item_type = (*get_args(member), Any, Any)[:2]
        return _key(key_type, name), item_type
    if not name.isdecimal() or len(name) > 4:
        return None
    return int(name), _item_type(kind, get_args(member), int(name))


def _fields(kind: type) -> Iterator[tuple[str, Part]]:
    """Yield the fields of a model, a dataclass, a TypedDict or a NamedTuple, by capital name."""
    if issubclass(kind, BaseModel):
        for name, info in kind.model_fields.items():
            for spelling in (name, *alias_names(info)):
                yield spelling.upper(), (input_key(kind, name, info), info.annotation)
    elif dataclasses.is_dataclass(kind):
        types = field_types(kind)
        for field in dataclasses.fields(kind):
            yield field.name.upper(), (field.name, types.get(field.name, Any))
    elif hasattr(kind, "__total__") or hasattr(kind, "_fields"):
        for name, annotation in field_types(kind).items():
            yield name.upper(), (name, annotation)


def _key(key_type: Any, name: str) -> str:
    choices = [str(choice) for choice in literal_choices(key_type)]
    for member in union_members(key_type):
        if isinstance(member, type) and issubclass(member, Enum):
            choices += [str(choice.value) for choice in member]
    return next((choice for choice in choices if choice.upper() == name.upper()), name.lower())


def _item_type(kind: type, arguments: tuple[Any, ...], index: int) -> Any:
    if not arguments:
        return Any
    if issubclass(kind, tuple) and arguments[-1] is not Ellipsis:
        return arguments[index] if index < len(arguments) else Any
    return arguments[0]


def find_path(annotation: Any, names: Sequence[str]) -> tuple[tuple[int | str, ...], Any] | None:
    """Return the keys of a part within a part, and its type; None if there is no such part."""
    keys: list[int | str] = []
    for name in names:
        found = find_part(annotation, name) if name else None
        if found is None:
            return None
        keys.append(found[0])
        annotation = found[1]
    return tuple(keys), annotation


def with_part(whole: Any, keys: Sequence[int | str], part: Any) -> Any:
    """Return a copy of ``whole`` with one part replaced. Raises MissingItemError."""
    if not keys:
        return part
    key, *inner = keys
    if isinstance(key, int):
        items = list(whole) if isinstance(whole, (list, tuple)) else []
        if key > len(items):
            raise MissingItemError(f"is item {key} of a list that has no item {len(items)}")
        items[key : key + 1] = [with_part(items[key] if key < len(items) else None, inner, part)]
        return items
    table = _as_table(whole)
    return table | {key: with_part(table.get(key), inner, part)}


def _as_table(value: Any) -> dict[Any, Any]:
    """Return the fields of a default, or the entries of a dict, as pydantic's input."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            input_key(type(value), name, info): getattr(value, name)
            for name, info in fields.items()
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return dict(value._asdict())
    return dict(value) if isinstance(value, Mapping) else {}
