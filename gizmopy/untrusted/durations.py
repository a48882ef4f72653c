"""Read durations: texts in Go's notation, and all that a caller may give as a duration."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from fractions import Fraction

from gizmopy.untrusted.text import cut, escape

DurationLike = float | str | timedelta
"""A duration in the source of a service: seconds as a number, a text such as ``1m30s``, or a
timedelta."""
HOW_TO_WRITE = "write a number of seconds, a text like '1m30s', or a timedelta"

_MICROSECONDS = {
    "ns": Fraction(1, 1000),
    "us": Fraction(1),
    "µs": Fraction(1),  # U+00B5, the micro sign
    "μs": Fraction(1),  # U+03BC, the Greek letter
    "ms": Fraction(1_000),
    "s": Fraction(1_000_000),
    "m": Fraction(60_000_000),
    "h": Fraction(3_600_000_000),
}
# A text must match in at most one way. "[0-9]+\.?[0-9]*" matches n digits in n ways, and "(?:…)+"
# multiplies them: 65 bytes of a request header held the GIL for 8 s (issue 11).
_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_PART = re.compile(rf"({_NUMBER})({'|'.join(_MICROSECONDS)})")
_PARTS = re.compile(rf"\+?(?:{_PART.pattern})+")
_SECONDS = re.compile(rf"\+?({_NUMBER})")
_MAX_CHARACTERS = 64  # format_duration returns at most 25


def read_duration(text: str) -> timedelta:
    """Return the duration in ``text``, to the nearest microsecond.

    Raises ValueError if it is no duration, negative, or longer than 64 characters.
    """
    stripped = text.strip()
    if len(stripped) > _MAX_CHARACTERS:
        reason = f"{cut(stripped, _MAX_CHARACTERS)!r} is not a duration: it is too long"
        raise ValueError(reason)
    if _SECONDS.fullmatch(stripped):
        stripped += "s"
    if not _PARTS.fullmatch(stripped):
        negative = stripped.startswith("-") and _PARTS.fullmatch(
            stripped[1:].removesuffix("s") + "s"
        )
        quoted = cut(text, _MAX_CHARACTERS)  # it may have any number of blanks around it
        raise ValueError(f"{quoted!r} is {'negative' if negative else 'not a duration'}")
    try:
        parts = (Fraction(n) * _MICROSECONDS[unit] for n, unit in _PART.findall(stripped))
        return timedelta(microseconds=round(sum(parts, Fraction(0))))
    except OverflowError:
        raise ValueError("is longer than 999999999 days, the maximum") from None


def as_seconds(value: object) -> float:
    """Return a ``DurationLike`` in seconds; a number or a timedelta may be negative.

    Raises ValueError, with the remedy, for any other value, and for a number that is not finite.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        try:
            return read_duration(value).total_seconds()
        except ValueError as error:
            raise ValueError(f"{error}; {HOW_TO_WRITE}") from None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        if is_number and math.isfinite(seconds := float(value)):  # type: ignore[arg-type]  # it is
            return seconds
    except OverflowError:  # an int of 400 digits
        pass
    raise ValueError(f"{cut(escape(repr(value)), 100)} is not a duration; {HOW_TO_WRITE}")
