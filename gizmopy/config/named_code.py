"""Know which settings name code to import: these are not taken from ``.env``.

A ``.env`` is read from the working directory, so a user that may write a file there would choose
the code that a command runs.
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
from gizmopy.config.secrets.shown_fields import hints

_IMPORT: Any = ImportString

REASON = "names code, and that is not taken from .env"


def field_names_code(info: FieldInfo) -> bool:
    """Return whether the value of a field is the name of code: it is marked, or an ImportString."""
    return any(map(_is_mark, info.metadata)) or _names_code(info.annotation)


def _is_mark(mark: Any) -> bool:
    return mark is NamesCode or isinstance(mark, (NamesCode, _IMPORT))


def _names_code(annotation: Any) -> bool:
    """Return whether a value of this type is, or has somewhere in it, the name of code."""
    annotation = getattr(annotation, "__value__", annotation)
    if annotation is _IMPORT or any(map(_is_mark, getattr(annotation, "__metadata__", ()))):
        return True
    return any(map(_names_code, get_args(annotation)))


def code_keys(annotation: Any) -> frozenset[str]:
    """Return the names of all fields that name code in the models within a type.

    Such a model is a part of one setting if it stands in a list, in a table, or beside other types.
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
    is_table = hasattr(annotation, "__total__") or hasattr(annotation, "_asdict")
    if is_table or dataclasses.is_dataclass(annotation):
        for name, hint in hints(annotation).items():
            if _names_code(hint):
                found.add(name)
            _find_keys(hint, found, seen)


def holds_key(value: Any, keys: frozenset[str]) -> bool:
    """Return whether a table in ``value``, at any depth, has one of ``keys``.

    Text that may be JSON counts as if it had: how pydantic reads it is not known here.
    """
    if not keys:
        return False
    if isinstance(value, Mapping):
        return any(key in keys or holds_key(item, keys) for key, item in value.items())
    if isinstance(value, list):
        return any(holds_key(item, keys) for item in value)
    return isinstance(value, str) and "{" in value


def value_names_code(value: Any) -> bool:
    """Return whether a URL of a broker has a parameter that names code.

    Any text with one counts: ``urlsplit`` takes ``kafka:?…``, too, and drops line ends.
    """
    if not isinstance(value, str):
        return False
    try:
        given = parse_qsl(urlsplit(value).query, keep_blank_values=True)
    except ValueError:
        return False  # it is refused as a URL
    return any(name in _PARAMETERS for name, _ in given)


_PARAMETERS = frozenset(
    name for name, info in KafkaSettings.model_fields.items() if field_names_code(info)
)
