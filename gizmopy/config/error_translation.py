"""Translate pydantic's errors into reasons and remedies that do not quote a secret."""

from __future__ import annotations

import dataclasses
import json
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import unquote

from pydantic import BaseModel

from gizmopy.config.duration import REMEDY as DURATION_REMEDY
from gizmopy.config.schema import Section, Setting
from gizmopy.config.secrets.masking import SECRET_TYPES
from gizmopy.config.secrets.redaction import quotable_text
from gizmopy.config.sources import SourceValue
from gizmopy.config.validation import ERROR_TYPE
from gizmopy.untrusted.hidden import MASK, masked
from gizmopy.untrusted.text import cut

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_VALIDATORS = ("value_error", "assertion_error")
_NEVER_QUOTE = frozenset(
    (
        *("missing", "literal_error", "enum", "greater_than", "greater_than_equal"),
        *("less_than", "less_than_equal", "multiple_of", "finite_number", "bool_parsing"),
        *("int_parsing", "int_from_float", "float_parsing", "int_parsing_size", "too_short"),
        *("too_long", "string_too_short", "string_too_long", "string_pattern_mismatch"),
        *("bytes_too_short", "bytes_too_long", "string_unicode", "url_scheme", "url_type"),
        *("string_type", "bytes_type", "int_type", "float_type", "bool_type", "list_type"),
        *("dict_type", "tuple_type", "set_type", "model_type", "model_attributes_type"),
        *("dataclass_type", "time_delta_type", "date_type", "datetime_type", "decimal_type"),
        *("path_type", "none_required", "url_too_long", "mapping_type", "frozen_set_type"),
    )
)
"""Types of pydantic's errors whose message quotes the declaration, and no part of the value."""
_PREFIXES = ("Value error, ", "Assertion failed, ", "Input ")
_WORD = re.compile(r"[^\W_]{4,}")


class ErrorTranslator:
    """Translate pydantic's errors about ``values`` into a reason and a remedy.

    The reason for a quotable setting is the message of pydantic or of the validator. For any other
    setting it is pydantic's message, if that never quotes the value. A message of a validator may
    quote the value or a changed form of it. So every value that may be a secret, and every part of
    one, is masked in it. The message is left out if the setting is a secret.
    """

    def __init__(self, schema: Section, values: Iterable[SourceValue]) -> None:
        texts = [*_hidden_texts(schema, values)]
        self._wholes = _longest_first(spelled for text in texts for spelled in _spellings(text))
        self._words = _longest_first(word for text in texts for word in _words(text))

    def translate(
        self,
        node: Setting | Section,
        rest: Sequence[int | str],
        error: ErrorDetails,
        *,
        hidden: bool = False,
    ) -> tuple[str, str]:
        """Return the reason for an error in a setting or a section, and the remedy.

        With ``hidden``, the value may be a secret, whatever its setting. Then only a message that
        never quotes is used: one that quotes the first 64 characters has no text to mask.
        """
        if isinstance(node, Setting) and error["type"] == "missing" and not rest:
            flag = f" or {node.flag}" if node.takes_flag else ""
            return "is required", f"set {node.environment[0]}{flag}"
        if hidden and error["type"] not in _NEVER_QUOTE:
            reason = "is not valid"
        else:
            reason = self._reason(node, error)
        if rest and isinstance(node, Setting) and node.structured and node.table is None:
            reason = f"{'.'.join(_known_parts(node.annotation, rest))}: {reason}"
        return reason, self._remedy(node, error)

    def _remedy(self, node: Setting | Section, error: ErrorDetails) -> str:
        own = error.get("ctx", {}).get("remedy") if error["type"] == ERROR_TYPE else None
        if own is not None:
            return _replaced(str(own), self._wholes)
        if isinstance(node, Section):
            return "change the settings that the reason names"
        if node.type == "duration":
            return DURATION_REMEDY
        if node.type == "boolean":
            return "set it to: true or false"
        if error["type"] == "string_type" and node.type == "text":
            return "set it to: text (in a file, in quotes)"
        structured = " (as JSON, except in a file)" if node.structured else ""
        return f"set it to: {node.type}{structured}"

    def _reason(self, node: Setting | Section, error: ErrorDetails) -> str:
        if error["type"] == ERROR_TYPE:  # of gizmopy's own validators, which quote no secret
            return _replaced(str(error.get("ctx", {}).get("reason", error["msg"])), self._wholes)
        reason = error["msg"]
        for prefix in _PREFIXES:
            reason = reason.removeprefix(prefix)
        if error["type"] in _NEVER_QUOTE:
            return cut(reason)
        if isinstance(node, Section) or node.quotable:
            return self._masked(reason)
        if error["type"] not in _VALIDATORS:
            return "is not valid"
        if node.secret:
            return f"was rejected{_place(error.get('ctx', {}).get('error'))}"
        return self._masked(reason)

    def _masked(self, text: str) -> str:
        return _replaced(text, (*self._wholes, *self._words))


def _longest_first(texts: Iterable[str]) -> list[str]:
    """Return the texts to mask, without those of one or two characters.

    A reader would infer a single letter that is masked in every word.
    """
    return sorted({text for text in texts if len(text) > 2}, key=len, reverse=True)


def _replaced(text: str, secrets: Iterable[str]) -> str:
    return cut(masked(text, secrets))


def _place(error: object) -> str:
    if not isinstance(error, Exception) or error.__traceback__ is None:
        return ""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f" in {place.filename}:{place.lineno}"


def _known_parts(annotation: Any, rest: Sequence[int | str]) -> Iterator[str]:
    """Yield the path to a part of a value. A key that is not a declared name is masked."""
    names = set(_declared_names(annotation, set()))
    for part in rest:
        yield str(part) if isinstance(part, int) or part in names else MASK


def _declared_names(annotation: Any, seen: set[Any]) -> Iterator[str]:
    annotation = getattr(annotation, "__value__", annotation)
    for inner in get_args(annotation):
        yield from _declared_names(inner, seen)
    if not isinstance(annotation, type) or annotation in seen:
        return
    seen.add(annotation)
    if issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from (name, *([field.alias] if field.alias else ()))
            yield from _declared_names(field.annotation, seen)
    elif dataclasses.is_dataclass(annotation):
        yield from (field.name for field in dataclasses.fields(annotation))


def _hidden_texts(schema: Section, values: Iterable[SourceValue]) -> Iterator[str]:
    """Yield every text that must not be in a reason: each hidden value, and each part of one."""
    for found in values:
        if not found.quotable or quotable_text(found.value, marked=found.setting.marked) is None:
            yield from _texts(found.value)
    for setting in schema.settings():
        if setting.secret:
            yield from _texts(setting.default)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, SECRET_TYPES):
        yield from _texts(value.get_secret_value())
    elif isinstance(value, BaseModel):
        yield from _texts(dict(value))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (*_texts(key), *_texts(item))
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, bytes):
        yield from _texts(value.decode(errors="replace"))
    elif isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        yield str(value)
        if isinstance(value, str) and "," in value:
            yield from value.split(",")


def _spellings(text: str) -> Iterator[str]:
    """Yield a text unchanged, and as ``repr``, JSON and a URL escape it."""
    for spelled in {text, text.strip(), unquote(text)}:
        yield from filter(None, (spelled, repr(spelled)[1:-1], json.dumps(spelled)[1:-1]))


def _words(text: str) -> Iterator[str]:
    """Yield each word of a text, because a validator may quote a part of a value."""
    for spelled in {text, unquote(text)}:
        yield from _WORD.findall(spelled)
