"""Durations: parsed from Go's notation or seconds, formatted in Go's notation."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from gizmopy.config import Duration
from gizmopy.config.duration import format_duration, parse_duration

ADAPTER: TypeAdapter[timedelta] = TypeAdapter(Duration)
REMEDY = "write it like '1m30s', or as seconds"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1m30s", timedelta(seconds=90)),
        ("500ms", timedelta(milliseconds=500)),
        ("1.5h", timedelta(minutes=90)),
        ("10s", timedelta(seconds=10)),
        ("1h2m3s", timedelta(hours=1, minutes=2, seconds=3)),
        ("1.5h30m", timedelta(hours=2)),
        ("250us", timedelta(microseconds=250)),
        ("250\u00b5s", timedelta(microseconds=250)),
        ("250\u03bcs", timedelta(microseconds=250)),
        ("2000ns", timedelta(microseconds=2)),
        (".5s", timedelta(milliseconds=500)),
        ("5.s", timedelta(seconds=5)),
        ("+5s", timedelta(seconds=5)),
        ("0", timedelta(0)),
        ("30", timedelta(seconds=30)),
        ("0.5", timedelta(milliseconds=500)),
        (" 10s ", timedelta(seconds=10)),
        ("1.1s", timedelta(seconds=1, microseconds=100_000)),
        ("2540400h10m10s", timedelta(hours=2540400, minutes=10, seconds=10)),
    ],
)
def test_text_is_parsed(text: str, expected: timedelta) -> None:
    """Go's notation and plain seconds give the same duration alone and in a model."""
    assert parse_duration(text) == expected
    assert ADAPTER.validate_python(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "abc", "10x", "1m 30s", "s", ".", ".s", "1,5s", "1e3", "10S", "PT10S", "\u0663s"],
)
def test_other_text_is_an_error_with_the_remedy(text: str) -> None:
    """The error quotes the text and has an example of a duration."""
    with pytest.raises(ValueError, match="is not a duration") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)
    assert REMEDY in str(caught.value)


@pytest.mark.parametrize("text", ["inf", "nan", "-inf", "Infinity"])
def test_text_that_only_python_parses_as_a_number_is_an_error(text: str) -> None:
    """Text for infinity and not-a-number is not a duration."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("value", ["-5s", "-5", "-1m30s", -1, -0.5, timedelta(seconds=-1)])
def test_the_error_for_a_negative_duration_says_so(value: Any) -> None:
    """A negative text, number or timedelta is reported as negative."""
    with pytest.raises(ValidationError, match="is negative"):
        ADAPTER.validate_python(value)


@pytest.mark.parametrize("value", ["9" * 30 + "h", "9" * 60, 10**30, 10**400, 1e300])
def test_durations_beyond_the_range_of_timedelta_are_errors(value: Any) -> None:
    """The error is a ValueError with a reason, and not an OverflowError."""
    with pytest.raises(ValidationError, match="is longer than 999999999 days"):
        ADAPTER.validate_python(value)


@pytest.mark.parametrize(
    "text", ["1111s" * 13 + "!", "1" * 65, "1." + "0" * 63, "1s" * 33, "-" + "1" * 65, "x" * 2**20]
)
def test_text_that_is_too_long_is_not_parsed_and_not_quoted_in_full(text: str) -> None:
    """A duration has at most 64 characters, and the error quotes no more than those."""
    with pytest.raises(ValueError, match="is not a duration: it is too long") as caught:
        parse_duration(text)
    assert f"{text[:64]}… ({len(text)} characters)" in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [["x" * 2**20], {"x" * 2**20: 1}, b"1" * 2**20, (10**5000,)])
def test_an_error_quotes_only_the_type_of_an_object(value: Any) -> None:
    """The error does not quote an object, because its sender chooses its size."""
    with pytest.raises(ValidationError, match=r"of type \w+ is not a duration") as caught:
        ADAPTER.validate_python(value)
    assert len(caught.value.errors(include_input=False)[0]["msg"]) < 200


@given(st.integers(min_value=1, max_value=12), st.sampled_from(["1111s", "1.5h", "11", ".1m"]))
def test_the_time_to_parse_a_text_is_linear_in_its_length(parts: int, part: str) -> None:
    """The parser does not try each way to split the digits of a text that does not match."""
    began = time.process_time()
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(part * parts + "!")
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (30, timedelta(seconds=30)),
        (0.5, timedelta(milliseconds=500)),
        (0, timedelta(0)),
        (timedelta(hours=1), timedelta(hours=1)),
    ],
)
def test_numbers_are_seconds(value: Any, expected: timedelta) -> None:
    """A number is a number of seconds, and a timedelta is not changed."""
    assert ADAPTER.validate_python(value) == expected


@pytest.mark.parametrize("value", [True, None, float("inf"), float("nan"), b"10s", [10], object()])
def test_other_values_are_errors(value: Any) -> None:
    """Booleans, infinities and other objects are errors with the remedy."""
    with pytest.raises(ValidationError, match="is not a duration") as caught:
        ADAPTER.validate_python(value)
    assert REMEDY in str(caught.value)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (timedelta(0), "0s"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(seconds=120), "2m"),
        (timedelta(hours=1), "1h"),
        (timedelta(hours=1, seconds=1), "1h1s"),
        (timedelta(days=2), "48h"),
        (timedelta(milliseconds=500), "500ms"),
        (timedelta(microseconds=1500), "1.5ms"),
        (timedelta(microseconds=7), "7\u00b5s"),
        (timedelta(seconds=1, microseconds=20), "1.00002s"),
        (timedelta(minutes=1, milliseconds=100), "1m0.1s"),
    ],
)
def test_durations_are_formatted_in_gos_notation(duration: timedelta, expected: str) -> None:
    """The largest units are first, and parts that are zero are left out."""
    assert format_duration(duration) == expected


def test_a_negative_duration_cannot_be_formatted() -> None:
    """Formatting raises an error if parsing the result would."""
    with pytest.raises(ValueError, match="is negative"):
        format_duration(timedelta(seconds=-1))


@given(st.timedeltas(min_value=timedelta(0)))
def test_parsing_is_the_inverse_of_formatting(duration: timedelta) -> None:
    """Every duration is the same, to the microsecond, after formatting and parsing."""
    assert parse_duration(format_duration(duration)) == duration


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    """No text makes the parser raise another error than its own ValueError."""
    try:
        duration = parse_duration(text)
    except ValueError as error:
        message = str(error)
    else:
        message = REMEDY if duration >= timedelta(0) else "negative"
    assert REMEDY in message


def test_a_duration_is_text_in_json() -> None:
    """JSON has the text in Go's notation, and the JSON schema has the type string."""
    assert ADAPTER.dump_json(timedelta(seconds=90)) == b'"1m30s"'
    assert ADAPTER.json_schema()["type"] == "string"
