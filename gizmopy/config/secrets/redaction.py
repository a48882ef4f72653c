"""Decide by an allowlist which values may be shown: by the declaration of a field, not its name.

A value is shown if one of these is true, else ``*** (12 characters, from the environment)``:

- its field is marked: ``Annotated[str, Shown]``
- it is a number, a boolean, a duration, a date, an address or a network, or one of the choices that
  its type names (an enumeration, a Literal)
- it is the default in the source code, which is not a secret
- it is ``host:port``, in a field with a name like ``db_host`` or ``address``

Of a URL the scheme, the host and the port are shown. A value whose type is one for secrets
(pydantic's SecretStr, SecretBytes, Secret) is never shown. A number or a default is not shown if
the name of its field is typical of a secret (``pin``, ``api_key``), unless the field is marked.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, RootModel

from gizmopy.config.duration import format_duration
from gizmopy.config.marks import Shown, has_mark
from gizmopy.config.origin import Origin
from gizmopy.config.secrets.masking import SECRET_TYPES, is_secret_field, is_secret_name, mask_text
from gizmopy.config.urls import HOST_PATTERN, scheme_and_hosts
from gizmopy.untrusted.hidden import describe_size, placeholder
from gizmopy.untrusted.text import MAX_CHARACTERS, cut

MISSING = object()
"""The default of a field without one, or with one that is not known before it is needed."""

CHOICES = (bool, Enum, timedelta)
"""Types of values that are never secrets, not even in a field named ``password``."""
_NUMBERS = (int, float, complex, Decimal, Fraction, date, time)
_ADDRESSES = (IPv4Address, IPv6Address, IPv4Network, IPv6Network, IPv4Interface, IPv6Interface)
_SHOWN_TYPES = (*CHOICES, *_NUMBERS, *_ADDRESSES)

_HOST_NAMES = frozenset(
    (
        *("addr", "address", "broker", "endpoint", "host", "server"),
        *("addrs", "addresses", "brokers", "endpoints", "hosts", "servers"),
    )
)
_HOST_PORT = re.compile(rf"{HOST_PATTERN}:[0-9]{{1,5}}")
_MAX_QUOTED = 64
"""The maximum length of a wrong value that an error quotes: no number or choice is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueContext:
    """The place of a value, from which follows whether it may be shown."""

    path: tuple[str, ...] = ()
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """The origin of each value, by its path."""
    marked: bool = False
    secret: bool = False
    """Whether its name, or a name above it, is typical of a secret."""
    default: Any = MISSING
    is_default: bool = False

    @property
    def origin(self) -> Origin:
        """The origin of the value, or of the setting that it is a part of; empty if unknown."""
        paths = (".".join(self.path[:end]) for end in range(len(self.path), 0, -1))
        return next((self.origins[path] for path in paths if path in self.origins), Origin(""))

    def inner(
        self,
        name: str,
        *,
        secret: bool = False,
        marked: bool = False,
        default: Any = MISSING,
    ) -> ValueContext:
        """Return the context of a value within this one."""
        return replace(
            self,
            path=(*self.path, name),
            marked=self.marked or marked,
            secret=self.secret or secret,
            default=default,
        )


def redacted_value(value: Any, annotation: Any, context: ValueContext) -> Any:
    """Return ``value`` as plain data (dicts, lists, numbers, text), each possible secret hidden.

    None and empty values are shown, so that a report shows which secrets are not set.
    """
    if isinstance(value, SECRET_TYPES):
        inner = value.get_secret_value()
        return "" if inner in ("", b"") else _hide(inner, context)
    if value is None or value in ("", b""):
        return None if value is None else ""
    if context.origin.secret:
        return _hide(value, context)
    context = replace(
        context,
        marked=context.marked or is_marked(annotation),
        is_default=context.is_default or _is_default(value, context),
    )
    if (inner := _redacted_structure(value, annotation, context)) is not MISSING:
        return inner
    return _redacted_leaf(value, annotation, context)


def is_marked(annotation: Any) -> bool:
    """Return whether ``annotation`` is Annotated with Shown, itself or as the member of a union."""
    return has_mark(_marks(annotation), Shown)


def is_quotable(annotation: Any) -> bool:
    """Return whether an error may quote the value of a field of this type."""
    if is_marked(annotation):
        return True
    return all(map(_is_quotable, union_members(annotation)))


def quotable_text(value: Any, *, marked: bool = False) -> str | None:
    """Return a wrong value as text for an error; None if it may be a secret in the wrong setting.

    The value is for a setting of a type that is shown, or for one that is ``marked``.
    """
    text = "" if value is None else value if isinstance(value, str) else as_line(value)
    if len(text) > (MAX_CHARACTERS if marked else _MAX_QUOTED) or mask_text(text) != text:
        return None
    return text


def as_line(plain: Any) -> str:
    """Return plain data as one line of text; None is the empty text."""
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, default=str)


def is_marked_field(model: type[BaseModel], name: str) -> bool:
    """Return whether the declaration of a field is marked; a new default in a subclass keeps it."""
    declared = (getattr(base, "model_fields", {}).get(name) for base in model.__mro__)
    return any(info is not None and has_mark(info.metadata, Shown) for info in declared)


def redacted_model(
    model: BaseModel, origins: Mapping[str, Origin] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the values of a model by name, as plain data; ``origins`` are by a setting's path."""
    return dict(_redacted_fields(model, ValueContext(origins=origins)))


def field_types(kind: type) -> Mapping[str, Any]:
    """Return the types of a class's fields by name, with their marks; {} if one is unknown."""
    try:
        return get_type_hints(kind, include_extras=True)
    except (NameError, TypeError):
        # A type is not resolvable here. Without types, each value of the class is hidden.
        return {}


def union_members(annotation: Any) -> Iterator[Any]:
    """Yield the types that ``annotation`` allows, without Annotated and type aliases."""
    return (member for member, _ in marked_members(annotation))


def literal_choices(annotation: Any) -> list[Any]:
    """Return the values that a Literal in ``annotation`` names."""
    found: list[Any] = []
    for member in union_members(annotation):
        if get_origin(member) is Literal:
            found += get_args(member)
    return found


def marked_members(
    annotation: Any, marks: tuple[Any, ...] = ()
) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield each type that ``annotation`` allows, with the marks of every Annotated around it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *own = get_args(annotation)
        yield from marked_members(inner, (*marks, *own))
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from marked_members(member, marks)
    elif hasattr(annotation, "__value__"):
        yield from marked_members(annotation.__value__, marks)
    else:
        yield annotation, marks


def _marks(annotation: Any) -> Iterator[Any]:
    for _, marks in marked_members(annotation):
        yield from marks


def _is_quotable(member: Any) -> bool:
    kind = get_origin(member) or member
    if kind in (Literal, NoneType):
        return True
    if not isinstance(kind, type):
        return False
    if issubclass(kind, SECRET_TYPES):
        return False
    if issubclass(kind, _SHOWN_TYPES):
        return True
    if issubclass(kind, (str, bytes)) or not issubclass(kind, (Mapping, Sequence, Set)):
        return False
    items = [item for item in get_args(member) if item is not Ellipsis]
    return bool(items) and all(map(is_quotable, items))


def _is_default(value: Any, context: ValueContext) -> bool:
    if context.default is MISSING or context.secret:
        return False
    return type(value) is type(context.default) and bool(value == context.default)


def _redacted_leaf(value: Any, annotation: Any, context: ValueContext) -> Any:
    if isinstance(value, Enum):
        choice = value.value
        return choice if isinstance(choice, (bool, int, float)) else str(choice)
    if isinstance(value, CHOICES):
        return _plain(value)
    if value in literal_choices(annotation):
        return value
    if context.secret and not context.marked:
        return _hide(value, context)
    if isinstance(value, (*_NUMBERS, *_ADDRESSES)):
        return _plain(value)
    if isinstance(value, (bytes, bytearray)):
        return _hide(value, context)
    text = str(value)
    if context.marked or context.is_default:
        return mask_text(cut(text))
    if _names_host(context.path) and all(map(_HOST_PORT.fullmatch, text.split(","))):
        return text
    return _url(text, context) or _hide(value, context)


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, timedelta) and value >= timedelta(0):
        return format_duration(value)
    return str(value)


def _hide(value: Any, context: ValueContext) -> str:
    return placeholder(describe_size(value), context.origin.source)


def _url(text: str, context: ValueContext) -> str:
    """Return scheme and hosts of a URL, and the mask for the rest; "" if ``text`` is not one."""
    start = scheme_and_hosts(text)
    if not start:
        return ""
    return start if text.rstrip("/") == start.rstrip("/") else f"{start} {_hide(text, context)}"


def _names_host(path: tuple[str, ...]) -> bool:
    return bool(path) and path[-1].lower().rpartition("_")[2] in _HOST_NAMES


def _redacted_structure(value: Any, annotation: Any, context: ValueContext) -> Any:
    """Return a model, a mapping or a list, redacted; MISSING if ``value`` is none of these."""
    if isinstance(value, RootModel):
        info = type(value).model_fields["root"]
        return redacted_value(value.root, info.annotation, context)
    if isinstance(value, BaseModel):
        return dict(_redacted_fields(value, context))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        parts = {name: getattr(value, name) for name in names}
        return dict(_redacted_items(parts, field_types(type(value)), context))
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return dict(_redacted_items(value._asdict(), field_types(type(value)), context))
    if isinstance(value, Mapping):
        return _redacted_mapping(value, annotation, context)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [
            redacted_value(item, item_type, replace(context, default=MISSING))
            for item, item_type in zip(value, _item_types(value, annotation), strict=False)
        ]
    return MISSING


def _redacted_fields(value: BaseModel, context: ValueContext) -> Iterator[tuple[str, Any]]:
    fields = type(value).model_fields
    extras: dict[str, Any] = {}
    for name, item in value:
        if name not in fields:
            extras[name] = item
            continue
        info = fields[name]
        inner = context.inner(
            name,
            secret=is_secret_field(name, info),
            marked=is_marked_field(type(value), name),
            default=MISSING if info.is_required() or info.default_factory else info.default,
        )
        yield name, redacted_value(item, info.annotation, inner)
    if extras:  # the source of the values chose their names, so a name may be a secret too
        yield "...", _redacted_mapping(extras, Any, context)


def _redacted_items(
    parts: Mapping[str, Any], types: Mapping[str, Any], context: ValueContext
) -> Iterator[tuple[str, Any]]:
    for name, item in parts.items():
        yield (
            name,
            redacted_value(
                item, types.get(name, Any), context.inner(name, secret=is_secret_name(name))
            ),
        )


def _redacted_mapping(value: Mapping[Any, Any], annotation: Any, context: ValueContext) -> Any:
    for member in union_members(annotation):
        if isinstance(member, type) and hasattr(member, "__total__"):  # a TypedDict
            types = field_types(member)
            if all(name in types for name in value):
                return dict(_redacted_items(value, types, context))
    if not value:
        return {}
    key_type, item_type = _mapping_types(annotation)
    if not context.marked and not all(_key_is_shown(key, key_type) for key in value):
        return _hide(value, context)
    parts = {}
    for key, item in value.items():
        inner = context.inner(str(key), secret=is_secret_name(str(key)))
        # The mark on a dict does not cover an entry whose name is typical of a secret: the
        # developer who marked it did not know the names.
        if inner.secret and not context.secret:
            inner = replace(inner, marked=False, is_default=False)
        parts[mask_text(cut(str(key)))] = redacted_value(item, item_type, inner)
    return parts


def _key_is_shown(key: Any, key_type: Any) -> bool:
    return is_marked(key_type) or isinstance(key, _SHOWN_TYPES) or key in literal_choices(key_type)


def _mapping_types(annotation: Any) -> tuple[Any, Any]:
    for member in union_members(annotation):
        kind, arguments = get_origin(member) or member, get_args(member)
        if isinstance(kind, type) and issubclass(kind, Mapping) and len(arguments) == 2:
            return arguments[0], arguments[1]
    return Any, Any


def _item_types(value: Any, annotation: Any) -> list[Any]:
    for member in union_members(annotation):
        kind, arguments = get_origin(member) or member, get_args(member)
        if not (isinstance(kind, type) and issubclass(kind, (Sequence, Set)) and arguments):
            continue
        if issubclass(kind, tuple) and arguments[-1] is not Ellipsis:
            return [*arguments, *[Any] * len(value)]
        return [arguments[0]] * len(value)
    return [Any] * len(value)
