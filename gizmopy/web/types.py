"""Types and functions for what parameters often say: whole numbers, dates, yes and no.

The types stand in a signature: ``async def cats(self, since: ISODate, all: Truthy = False)``.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, tzinfo
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

_WRITTEN_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII).fullmatch


def parse_iso_date(text: str) -> date:
    """Return the day that ``text`` names, as ``YYYY-MM-DD``; ValueError for anything else."""
    if _WRITTEN_DATE(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass  # a 30th of February
    raise ValueError(f"{text[:40]!r} is no date; write YYYY-MM-DD, such as 2024-02-29")


def parse_date_range(start: str, end: str) -> tuple[date, date]:
    """Return the first and the last day of a range; both may be the same.

    Raises ValueError where one is no date, or the last comes before the first.
    """
    first, last = parse_iso_date(start), parse_iso_date(end)
    if last < first:
        raise ValueError(f"the range ends on {end}, before it starts on {start}; swap them")
    return first, last


def parse_full_day_range(start: str, end: str, zone: tzinfo = UTC) -> tuple[datetime, datetime]:
    """Return the first instant of the day ``start`` and the last one of ``end``, in ``zone``.

    Raises ValueError as ``parse_date_range`` does.
    """
    first, last = parse_date_range(start, end)
    # Where clocks go back over midnight, a day ends the second time that it is 23:59.
    return (
        datetime.combine(first, time.min, zone),
        datetime.combine(last, time.max.replace(fold=1), zone),
    )


def _iso_date(value: object) -> object:
    """Read a text; what is wrong is told without what was sent, as of every parameter."""
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
"""A whole number that databases and other languages can hold."""

UInt64 = Annotated[int, Field(ge=0, le=2**64 - 1, json_schema_extra={"format": "uint64"})]
"""A whole number of 64 bits without a sign."""

ISODate = Annotated[date, BeforeValidator(_iso_date)]
"""A day written ``YYYY-MM-DD``, and no timestamp, which a plain ``date`` takes as well."""

Truthy = Annotated[bool, BeforeValidator(_empty_is_false)]
"""Yes or no, where nobody has agreed how to write it: true, t, yes, y, on, 1 and their opposites,
in any case; empty, as in ``?all=``, is no."""
