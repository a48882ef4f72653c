"""Reject text that cannot be encoded as UTF-8 before a later encoding fails.

The ``repr`` of a UnicodeEncodeError quotes the whole text, which may be a password, and a traceback
or a log line would show it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import SecretBytes, SecretStr

from gizmopy.config.validation import validation_error

_MAX_DEPTH = 64
_SURROGATE = re.compile("[\ud800-\udfff]")


class TextProblem(NamedTuple):
    """The reason why a value cannot be a setting, and the remedy; neither quotes the value."""

    reason: str
    remedy: str


_NOT_UTF8 = TextProblem("is not UTF-8 text", "write it in UTF-8")
_NUL = TextProblem("contains a NUL character", "remove it")
_TOO_DEEP = TextProblem(
    "is nested too deeply", f"nest lists and tables at most {_MAX_DEPTH} levels deep"
)


def text_problem(value: Any) -> TextProblem | None:
    """Return why ``value``, or a text in it, cannot be a setting; None if it can.

    Python decodes a byte of the environment or of the command line that is not UTF-8 to a lone
    surrogate (PEP 383), and JSON can spell one. ``str.encode`` raises UnicodeEncodeError for it. A
    NUL ends a path in system calls.
    """
    level, depth = [value], 0
    # A YAML alias puts one list in many places. Without this set, nested aliases multiply the work.
    seen: set[int] = set()
    while level:
        # The functions that show a value recurse: a deeper one would raise RecursionError there.
        if depth > _MAX_DEPTH:
            return _TOO_DEEP
        for each in level:
            if isinstance(each, str) and (found := _string_problem(each)):
                return found
        level = [inner for each in level for inner in _inner(each) if id(inner) not in seen]
        seen.update(map(id, level))
        depth += 1
    return None


def _inner(value: Any) -> list[Any]:
    if isinstance(value, (SecretStr, SecretBytes)):
        return [value.get_secret_value()]
    if isinstance(value, Mapping):
        return [*value, *value.values()]
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else []


def _string_problem(text: str) -> TextProblem | None:
    # Not text.encode() in a try: its UnicodeEncodeError, which quotes the text, would become the
    # __context__ of a later error.
    if _SURROGATE.search(text):
        return _NOT_UTF8
    return _NUL if "\0" in text else None


def validated_text(value: Any) -> Any:
    """Return ``value``; a validator for any field.

    Raises ValueError, which does not quote the value, if it cannot be a setting.
    """
    if found := text_problem(value):
        raise validation_error(*found)
    return value
