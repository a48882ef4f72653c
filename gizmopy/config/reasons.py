"""Say why a value is wrong, without the value: pydantic and validators may quote it."""

from __future__ import annotations

import dataclasses
import json
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import unquote

from pydantic import BaseModel

from gizmopy.config.schema import Section, Setting
from gizmopy.config.secrets.masking import SECRET_TYPES
from gizmopy.config.secrets.shown_fields import quotable_text
from gizmopy.config.sources import Given
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
"""Types of pydantic's errors whose message has the declaration in it, and no part of the value."""
_PREFIXES = ("Value error, ", "Assertion failed, ", "Input ")
_WORD = re.compile(r"[^\W_]{4,}")


class Reasons:
    """Translate pydantic's errors about ``given`` into a reason and a remedy that show no secret.

    Of a setting that is quotable, the reason is pydantic's message or the validator's. Of others it
    is pydantic's if no part of the value is in such a message; a validator's has every value and
    every part of a value masked that may be a secret, and is left out if the setting is a secret:
    a validator may have changed the value that it quotes.
    """

    def __init__(self, schema: Section, given: Iterable[Given]) -> None:
        texts = [*_hidden_texts(schema, given)]
        self._wholes = _longest_first(spelled for text in texts for spelled in _spellings(text))
        self._words = _longest_first(word for text in texts for word in _words(text))

    def of(
        self, node: Setting | Section, rest: Sequence[int | str], error: ErrorDetails
    ) -> tuple[str, str]:
        """Return the fault of a setting or a section, and the remedy."""
        context = error.get("ctx", {})
        if isinstance(node, Section):
            remedy = "change the settings that it speaks of"
        elif error["type"] == "missing" and not rest:
            flag = f" or {node.flag}" if node.takes_flag else ""
            return "is required", f"set {node.environment[0]}{flag}"
        else:
            structured = ", as JSON where not in a file" if node.structured else ""
            remedy = f"set it to: {node.type}{structured}"
        reason = self._reason(node, error)
        if rest and isinstance(node, Setting) and node.structured and node.table is None:
            reason = f"{'.'.join(_known_parts(node.annotation, rest))}: {reason}"
        if error["type"] == "refused":  # by gizmopy itself, whose two parts never quote a secret
            remedy = _replaced(str(context.get("remedy", remedy)), self._wholes)
        return reason, remedy

    def _reason(self, node: Setting | Section, error: ErrorDetails) -> str:
        context = error.get("ctx", {})
        if error["type"] == "refused":
            return _replaced(str(context.get("reason", error["msg"])), self._wholes)
        reason = error["msg"]
        for prefix in _PREFIXES:
            reason = reason.removeprefix(prefix)
        if error["type"] in _NEVER_QUOTE:
            return cut(reason)
        if isinstance(node, Section) or node.quotable:
            return self._masked(reason)
        if error["type"] not in _VALIDATORS:
            return "is not valid"
        return f"is refused{_place(context.get('error'))}" if node.secret else self._masked(reason)

    def _masked(self, text: str) -> str:
        return _replaced(text, (*self._wholes, *self._words))


def _longest_first(texts: Iterable[str]) -> list[str]:
    """Return the texts to mask; one letter that is masked in all words would be known."""
    return sorted({text for text in texts if len(text) > 2}, key=len, reverse=True)


def _replaced(text: str, secrets: Iterable[str]) -> str:
    return cut(masked(text, secrets))


def _place(error: object) -> str:
    if not isinstance(error, Exception) or error.__traceback__ is None:
        return ""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f" in {place.filename}:{place.lineno}"


def _known_parts(annotation: Any, rest: Sequence[int | str]) -> Iterator[str]:
    """Yield the way to a part of a value: positions and declared names, since keys are values."""
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


def _hidden_texts(schema: Section, given: Iterable[Given]) -> Iterator[str]:
    """Yield every text that must not be in a reason: each hidden value, and each part of one."""
    for found in given:
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
    """Yield a text as it is, and as ``repr``, JSON and a URL escape it."""
    for spelled in {text, text.strip(), unquote(text)}:
        yield from filter(None, (spelled, repr(spelled)[1:-1], json.dumps(spelled)[1:-1]))


def _words(text: str) -> Iterator[str]:
    """Yield each word of a text: a validator may quote a part of a value only."""
    for spelled in {text, unquote(text)}:
        yield from _WORD.findall(spelled)
