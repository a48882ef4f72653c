"""Return values of settings in full, also secrets: to show one on request, and to mask them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import Enum
from functools import reduce
from typing import Any

from pydantic import BaseModel

from gizmopy.config.duration import format_duration
from gizmopy.config.loading import Loaded
from gizmopy.config.schema import Setting, read_schema
from gizmopy.config.secrets.masking import SECRET_TYPES
from gizmopy.config.secrets.redaction import as_line
from gizmopy.errors import UsageError


def revealed_value(loaded: Loaded[Any], name: str) -> str:
    """Return the value of one setting as text, also of a secret.

    ``name`` is the name of the setting, of one of its variables or of its flag; that of a table's
    entry is ``topics.CATS``. Raises UsageError if there is no such setting.
    """
    for setting in read_schema(type(loaded.settings)).settings():
        value = _value(loaded, setting)
        for names, each in _named(setting, value):
            if name in names:
                return as_line(_plain_data(each))
    raise UsageError("--show does not name a setting; gizmopy config lists them")


def secret_settings(loaded: Loaded[Any]) -> list[Any]:
    """Return the values that come from files of secrets, except those of marked settings.

    The settings class may not declare them as secrets: a file of a secret can set any setting.
    """
    return [
        _value(loaded, setting)
        for setting in read_schema(type(loaded.settings)).settings()
        if not setting.marked and _is_from_secret_file(loaded, setting.name)
    ]


def _is_from_secret_file(loaded: Loaded[Any], name: str) -> bool:
    return any(
        origin.secret and (path == name or path.startswith(f"{name}."))
        for path, origin in loaded.origins.items()
    )


def _value(loaded: Loaded[Any], setting: Setting) -> Any:
    return reduce(lambda node, key: getattr(node, key, None), setting.path, loaded.settings)


def _named(setting: Setting, value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield (setting.name, setting.flag, *setting.environment), value
    if setting.table is not None:
        for entry, item in value.items():
            yield (f"{setting.name}.{entry}", f"{setting.table.prefix}{entry}"), item


def _plain_data(value: Any) -> Any:
    """Return ``value`` as JSON can write it, secrets included."""
    if isinstance(value, SECRET_TYPES):
        return _plain_data(value.get_secret_value())
    if isinstance(value, Enum):
        return _plain_data(value.value)
    if isinstance(value, BaseModel):
        return {key: _plain_data(item) for key, item in value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            each.name: _plain_data(getattr(value, each.name)) for each in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain_data(item) for item in value]
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, timedelta) and value >= timedelta(0):
        return format_duration(value)
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
