"""Give the value of one setting in full, for a person at a terminal."""

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
from gizmopy.config.secrets.shown_fields import as_line
from gizmopy.errors import UsageError


def value_of(loaded: Loaded[Any], name: str) -> str:
    """Return the value of one setting as text, a secret too.

    ``name`` is the name of the setting, of one of its variables or of its flag; an entry of a table
    is ``topics.CATS``. Raises UsageError if there is no such setting.
    """
    for setting in read_schema(type(loaded.settings)).settings():
        value = reduce(lambda above, key: getattr(above, key, None), setting.path, loaded.settings)
        for names, each in _named(setting, value):
            if name in names:
                return as_line(_revealed(each))
    raise UsageError("--show names no setting; gizmopy config lists them")


def _named(setting: Setting, value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield (setting.name, setting.flag, *setting.environment), value
    if setting.table is not None:
        for entry, item in value.items():
            yield (f"{setting.name}.{entry}", f"{setting.table.prefix}{entry}"), item


def _revealed(value: Any) -> Any:
    if isinstance(value, SECRET_TYPES):
        return _revealed(value.get_secret_value())
    if isinstance(value, Enum):
        return _revealed(value.value)
    if isinstance(value, BaseModel):
        return {key: _revealed(item) for key, item in value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            each.name: _revealed(getattr(value, each.name)) for each in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _revealed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_revealed(item) for item in value]
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, timedelta) and value >= timedelta(0):
        return format_duration(value)
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
