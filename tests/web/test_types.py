"""Types for common parameters: the values that they accept, and their errors."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gizmopy.web import Header
from gizmopy.web.decorators import Route
from gizmopy.web.types import (
    Int64,
    ISODate,
    Truthy,
    UInt64,
    parse_date_range,
    parse_full_day_range,
    parse_iso_date,
)
from tests.web.support import serve


async def endpoint(id: Int64, since: ISODate, size: UInt64 = 0, all: Truthy = False) -> list[str]:
    """Return the arguments."""
    return [repr(value) for value in (id, since, size, all)]


async def days(day: list[ISODate], until: ISODate | None = None) -> list[str]:
    """Return the days."""
    return [f"{each:%d.%m.%Y}" for each in day]


@pytest.mark.parametrize(
    ("path", "given"),
    [
        (
            "/cats/-9223372036854775808/2024-02-29?size=18446744073709551615&all=on",
            "18446744073709551615 True",
        ),
        ("/cats/-9223372036854775808/2024-02-29?all=No", "0 False"),
        ("/cats/-9223372036854775808/2024-02-29?all=T", "0 True"),
        ("/cats/-9223372036854775808/2024-02-29?all=", "0 False"),
        ("/cats/-9223372036854775808/2024-02-29?all", "0 False"),
        ("/cats/-9223372036854775808/2024-02-29", "0 False"),
    ],
)
async def test_the_types_validate_parameters(path: str, given: str) -> None:
    """The types can be used in a signature, for the path and the query."""
    async with serve(Route("GET", "/cats/{id}/{since}", endpoint)) as client:
        async with client.get(path) as response:
            values = await response.json()

    expected = ["-9223372036854775808", "datetime.date(2024, 2, 29)", *given.split()]
    assert values == expected


@pytest.mark.parametrize(
    ("path", "field", "kind"),
    [
        ("/cats/9223372036854775808/2024-02-29", "id", "less_than_equal"),
        ("/cats/-9223372036854775809/2024-02-29", "id", "greater_than_equal"),
        ("/cats/1/2024-02-29?size=-1", "size", "greater_than_equal"),
        ("/cats/1/2024-02-29?size=18446744073709551616", "size", "less_than_equal"),
        ("/cats/1/2024-02-30", "since", "date_parsing"),
        ("/cats/1/20240229", "since", "date_parsing"),
        ("/cats/1/1709164800", "since", "date_parsing"),
        ("/cats/1/2024-02-29?all=perhaps", "all", "bool_parsing"),
    ],
)
async def test_wrong_values_are_refused(path: str, field: str, kind: str) -> None:
    """An error names the field, and does not repeat the value."""
    async with serve(Route("GET", "/cats/{id}/{since}", endpoint)) as client:
        async with client.get(path) as response:
            problem = await response.json()

    assert response.status == 422
    assert [(error["field"], error["type"]) for error in problem["errors"]] == [(field, kind)]
    assert "20240229" not in str(problem["errors"])


async def test_values_may_be_repeated_or_absent() -> None:
    """The types can be used in a list or a union."""
    async with serve(Route("GET", "/days", days)) as client:
        async with client.get("/days?day=2024-02-29&day=2025-01-02") as response:
            assert await response.json() == ["29.02.2024", "02.01.2025"]
        async with client.get("/days?day=2024-02-29&day=2025-1-2&until=tomorrow") as response:
            errors = (await response.json())["errors"]

    assert [error["field"] for error in errors] == ["day.1", "until"]


def test_the_types_describe_themselves() -> None:
    """Their JSON schemas have the limits and formats."""
    assert TypeAdapter(Int64).json_schema() == {
        "type": "integer",
        "format": "int64",
        "minimum": -(2**63),
        "maximum": 2**63 - 1,
    }
    assert TypeAdapter(UInt64).json_schema()["format"] == "uint64"
    assert TypeAdapter(ISODate).json_schema() == {"type": "string", "format": "date"}
    assert TypeAdapter(Truthy).json_schema() == {"type": "boolean"}


@given(st.dates())
def test_every_date_survives_formatting_and_parsing(day: date) -> None:
    """Parsing the ISO form of a date returns the date."""
    assert parse_iso_date(day.isoformat()) == day


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024",
        "2024-2-9",
        "20240229",
        "2024-W09-4",
        "2024-02-30",
        "0000-01-01",
        " 2024-02-29",
        "2024-02-29\n",
        "2024-02-29T00:00:00",
        "\N{ARABIC-INDIC DIGIT TWO}024-02-29",
    ],
)
def test_only_one_form_is_a_date(text: str) -> None:
    """Only YYYY-MM-DD is accepted, and the error says so."""
    with pytest.raises(ValueError, match="is not a date; write YYYY-MM-DD, such as 2024-02-29"):
        parse_iso_date(text)


def test_a_range_has_at_least_one_day() -> None:
    """A range that ends before it starts raises ValueError."""
    day = date(2024, 2, 29)

    assert parse_date_range("2024-02-29", "2024-02-29") == (day, day)
    with pytest.raises(ValueError, match=r"ends on 2024-02-29, before it starts on 2024-03-01"):
        parse_date_range("2024-03-01", "2024-02-29")
    with pytest.raises(ValueError, match="'today' is not a date"):
        parse_full_day_range("2024-03-01", "today")


def test_a_full_day_is_in_utc_by_default() -> None:
    """A range of full days begins at midnight and ends a microsecond before the next."""
    first, last = parse_full_day_range("2024-02-28", "2024-02-29")

    assert first == datetime(2024, 2, 28, tzinfo=UTC)
    assert last == datetime(2024, 3, 1, tzinfo=UTC) - timedelta(microseconds=1)
    assert first.tzinfo is last.tzinfo is UTC


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2024-03-31", 23),
        ("Europe/Berlin", "2024-10-27", 25),
        ("America/Santiago", "2024-04-06", 25),
        ("America/Santiago", "2024-09-08", 23),
        ("America/Havana", "2024-11-03", 25),
    ],
)
def test_a_full_day_is_complete_if_clocks_change(zone: str, day: str, hours: int) -> None:
    """A day of 23 or 25 hours is included to its end, even if clocks change at midnight."""
    first, last = parse_full_day_range(day, day, ZoneInfo(zone))

    covered = last.astimezone(UTC) - first.astimezone(UTC)
    assert covered == timedelta(hours=hours) - timedelta(microseconds=1)


async def test_the_types_validate_headers() -> None:
    """A header is validated like any other parameter."""

    async def limit(size: Annotated[UInt64, Header("X-Size")]) -> web.Response:
        return web.Response(text=str(size + 1))

    async with serve(Route("GET", "/", limit)) as client:
        async with client.get("/", headers={"X-Size": "41"}) as response:
            assert await response.text() == "42"
