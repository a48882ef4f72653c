"""Find the settings that name code to import. Their values in a ``.env`` file are not used.

A ``.env`` file is read from the working directory. Otherwise, any user with write access to that
directory could choose the code that a command runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import ImportString
from pydantic.fields import FieldInfo

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.config.marks import NamesCode
from gizmopy.config.secrets.masking import alias_names
from gizmopy.config.secrets.redaction import field_types

_IMPORT: Any = ImportString

REASON = "names code to import, which neither .env nor a file named there may do"


def field_names_code(info: FieldInfo) -> bool:
    """Return whether the value of a field names code: it is marked, or an ImportString."""
    return any(map(_is_mark, info.metadata)) or _names_code(info.annotation)


def _is_mark(mark: Any) -> bool:
    return mark is NamesCode or isinstance(mark, (NamesCode, _IMPORT))


def _names_code(annotation: Any) -> bool:
    """Return whether a value of this type names code, itself or in a part of it."""
    annotation = getattr(annotation, "__value__", annotation)
    if annotation is _IMPORT or any(map(_is_mark, getattr(annotation, "__metadata__", ()))):
        return True
    return any(map(_names_code, get_args(annotation)))


def code_keys(annotation: Any) -> frozenset[str]:
    """Return the names of all fields that name code, in the models within a type.

    A model in a list, a dict or a union is a part of one setting, and not a section.
    """
    found: set[str] = set()
    _find_keys(annotation, found, set())
    return frozenset(found)


def _find_keys(annotation: Any, found: set[str], seen: set[Any]) -> None:
    annotation = getattr(annotation, "__value__", annotation)
    for inner in get_args(annotation):
        _find_keys(inner, found, seen)
    if not isinstance(annotation, type) or annotation in seen:
        return
    seen.add(annotation)
    for name, info in getattr(annotation, "model_fields", {}).items():
        if field_names_code(info):
            found.update((name, *alias_names(info)))
        _find_keys(info.annotation, found, seen)
    is_mapping = hasattr(annotation, "__total__") or hasattr(annotation, "_asdict")
    if is_mapping or dataclasses.is_dataclass(annotation):
        for name, hint in field_types(annotation).items():
            if _names_code(hint):
                found.add(name)
            _find_keys(hint, found, seen)


def has_code_key(value: Any, keys: frozenset[str]) -> bool:
    """Return whether a dict in ``value``, at any depth, has one of ``keys``.

    Text that may be JSON counts as having one: how pydantic will parse it is not known here.
    """
    if not keys:
        return False
    if isinstance(value, Mapping):
        return any(key in keys or has_code_key(item, keys) for key, item in value.items())
    if isinstance(value, list):
        return any(has_code_key(item, keys) for item in value)
    return isinstance(value, str) and "{" in value


def url_names_code(value: Any) -> bool:
    """Return whether ``value`` is a URL of a broker with a parameter that names code.

    Any text with such a parameter counts, because ``urlsplit`` also accepts ``kafka:?…``, and
    removes line ends.
    """
    if not isinstance(value, str):
        return False
    try:
        parameters = parse_qsl(urlsplit(value).query, keep_blank_values=True)
    except ValueError:
        return False  # validated_url rejects it
    return any(name in _CODE_PARAMETERS for name, _ in parameters)


_CODE_PARAMETERS = frozenset(
    name for name, info in KafkaSettings.model_fields.items() if field_names_code(info)
)
