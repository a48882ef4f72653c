"""Durations in Go's notation, as in Gizmo's settings: ``1m30s``, ``500ms``."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Annotated, TypeGuard

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from gizmopy.config.validation import validation_error
from gizmopy.untrusted.durations import DurationLike as DurationLike
from gizmopy.untrusted.durations import read_duration

REMEDY = "write it like '1m30s', or as seconds"
"""The remedy for a text that is not a duration."""


def parse_duration(text: str) -> timedelta:
    """Return the duration in ``text``, to the nearest microsecond.

    Accepts Go's notation (``1h2m3s``, ``1.5h``, ``500ms``; units ns us µs ms s m h) and seconds
    (``30``, ``0.5``), of at most 64 characters. Raises ValueError with the remedy for any other
    text, for one that is negative and for one that is too long; the error quotes at most the first
    64 characters.
    """
    try:
        return read_duration(text)
    except ValueError as error:
        raise validation_error(str(error), REMEDY) from None


def format_duration(duration: timedelta) -> str:
    """Return ``duration`` in Go's notation without parts that are zero: ``1m30s``, ``1.5ms``.

    ``parse_duration`` is the inverse. Raises ValueError if ``duration`` is negative.
    """
    if duration < timedelta(0):
        raise validation_error(f"{duration} is negative", REMEDY)
    microseconds = duration // timedelta(microseconds=1)
    if 0 < microseconds < 1_000:
        return f"{microseconds}µs"
    if 0 < microseconds < 1_000_000:
        return f"{_decimal(microseconds, 1_000)}ms"
    minutes, rest = divmod(microseconds, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")
    return text + (f"{_decimal(rest, 1_000_000)}s" if rest or not text else "")


def _decimal(count: int, unit: int) -> str:
    whole, rest = divmod(count, unit)
    return f"{whole}.{rest:0{len(str(unit)) - 1}}".rstrip("0").rstrip(".") if rest else str(whole)


def _to_timedelta(value: object) -> timedelta:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, timedelta):
        duration = value
    elif _is_number(value):
        try:
            duration = timedelta(seconds=value)
        except OverflowError:
            raise validation_error("is longer than 999999999 days, the maximum", REMEDY) from None
    else:
        # The repr of an object from outside may have any size: only that of a small one is quoted.
        small = value is None or isinstance(value, (bool, float))
        quoted = repr(value) if small else f"an object of type {type(value).__name__}"
        raise validation_error(f"{quoted} is not a duration", REMEDY)
    if duration < timedelta(0):
        raise validation_error(f"{value} is negative", REMEDY)
    return duration


def _is_number(value: object) -> TypeGuard[int | float]:
    if isinstance(value, float):
        return math.isfinite(value)  # not for an int: math.isfinite(10**400) raises OverflowError
    return isinstance(value, int) and not isinstance(value, bool)


Duration = Annotated[
    timedelta,
    BeforeValidator(_to_timedelta),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["1m30s"]}),
]
"""A timedelta that is written as ``1m30s`` or as a number of seconds. It is never negative."""


def _positive(duration: timedelta) -> timedelta:
    if not duration:
        raise validation_error("must be above 0", "write a duration like 30s")
    return duration


PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
"""A ``Duration`` above zero."""
