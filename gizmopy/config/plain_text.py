"""Refuse text that cannot be encoded: its error would hold all of it, and may be logged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import SecretBytes, SecretStr

from gizmopy.config.validation import refusal

_MAX_DEPTH = 64
_SURROGATE = re.compile("[\ud800-\udfff]")


class Fault(NamedTuple):
    """Why a value cannot be a setting, and the remedy; neither holds a part of the value."""

    reason: str
    remedy: str


_NOT_UTF8 = Fault("is not UTF-8 text", "write it in UTF-8")
_NUL = Fault("holds a NUL character", "remove it")
_TOO_DEEP = Fault("is nested too deep", f"nest lists and tables at most {_MAX_DEPTH} levels deep")


def fault(value: Any) -> Fault | None:
    """Return why ``value``, or a text in it, cannot be a setting; None if it can.

    Python reads a byte of the environment or of the command line that is not UTF-8 as a lone
    surrogate (PEP 383), and JSON can spell one. ``str.encode`` raises a UnicodeEncodeError for it,
    whose ``repr`` holds the whole text. A NUL ends a path in the system's calls.
    """
    level, depth = [value], 0
    seen: set[int] = set()  # YAML's aliases make one list stand in many places
    while level:
        if depth > _MAX_DEPTH:  # as deep, the functions that show a value would recurse too far
            return _TOO_DEEP
        for each in level:
            if isinstance(each, str) and (found := _fault(each)):
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


def _fault(text: str) -> Fault | None:
    # Found, not tried: the UnicodeEncodeError of a try would be the context of a later error.
    if _SURROGATE.search(text):
        return _NOT_UTF8
    return _NUL if "\0" in text else None


def plain(value: Any) -> Any:
    """Return ``value``, or raise a refusal that does not show it: a validator of any field."""
    if found := fault(value):
        raise refusal(*found)
    return value
