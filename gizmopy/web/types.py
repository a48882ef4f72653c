"""Types and functions for common parameters: 64-bit integers, dates, and yes or no.

Use the types in a signature: ``async def cats(self, since: ISODate, all: Truthy = False)``.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, tzinfo
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII).fullmatch


def parse_iso_date(text: str) -> date:
    """Return the date in ``text``, ``YYYY-MM-DD``. Raises ValueError for any other text."""
    if _ISO_DATE(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass  # such as February 30
    raise ValueError(f"{text[:40]!r} is not a date; write YYYY-MM-DD, such as 2024-02-29")


def parse_date_range(start: str, end: str) -> tuple[date, date]:
    """Return the first and the last day of a range, which may be the same.

    Raises ValueError if a text is not a date, or the last day is before the first.
    """
    first, last = parse_iso_date(start), parse_iso_date(end)
    if last < first:
        raise ValueError(f"the range ends on {end}, before it starts on {start}; swap them")
    return first, last


def parse_full_day_range(start: str, end: str, zone: tzinfo = UTC) -> tuple[datetime, datetime]:
    """Return the first instant of the day ``start`` and the last of the day ``end``, in ``zone``.

    Raises ValueError as ``parse_date_range`` does.
    """
    first, last = parse_date_range(start, end)
    # If clocks are set back over midnight, 23:59 occurs twice. fold=1 is the second time: the day
    # ends there.
    return (
        datetime.combine(first, time.min, zone),
        datetime.combine(last, time.max.replace(fold=1), zone),
    )


def _read_iso_date(value: object) -> object:
    """Parse a text. The error does not quote it, because a parameter may be a secret."""
    if not isinstance(value, str):
        return value
    try:
        return parse_iso_date(value)
    except ValueError as error:
        message = "Input should be a day that exists, written YYYY-MM-DD"
        raise PydanticCustomError("date_parsing", message) from error


def _empty_is_false(value: object) -> object:
    return False if value == "" else value


Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1, json_schema_extra={"format": "int64"})]
"""A signed 64-bit integer, which databases and other languages can store."""

UInt64 = Annotated[int, Field(ge=0, le=2**64 - 1, json_schema_extra={"format": "uint64"})]
"""An unsigned 64-bit integer."""

ISODate = Annotated[date, BeforeValidator(_read_iso_date)]
"""A day, ``YYYY-MM-DD``. A plain ``date`` would accept a timestamp, too."""

Truthy = Annotated[bool, BeforeValidator(_empty_is_false)]
"""Yes or no in any usual spelling: true, t, yes, y, on, 1 and their opposites, in any case.

An empty text, as in ``?all=``, is no.
"""
