"""Know which settings name code to import: these are not taken from ``.env``.

A ``.env`` is read from the working directory, so a user that may write a file there would choose
the code that a command runs.
"""

from __future__ import annotations

from typing import Any, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import ImportString
from pydantic.fields import FieldInfo

from gizmopy.config.kafka import KafkaSettings
from gizmopy.config.marks import NamesCode

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
