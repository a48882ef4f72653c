"""The length of an error's text is limited, also in a traceback."""

from __future__ import annotations

import traceback

import pytest
from pydantic import TypeAdapter, ValidationError

from gizmopy.untrusted.error_text import describe_error, shortened, text_of, too_many

LIMIT = 1100
"""1,024 characters, and the note that says how many there were."""


def wrong(count: int) -> ValidationError:
    """Return pydantic's error for a list with ``count`` wrong values."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[int]).validate_python(["secret"] * count)
    return caught.value


def written(error: BaseException) -> str:
    """Return the text of an error in the log."""
    return "".join(traceback.format_exception(shortened(error)))


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """Return ``error`` after it was raised."""
    try:
        raise error from cause
    except BaseException as caught:  # noqa: BLE001 - it is returned
        return caught


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_long_text_is_cut() -> None:
    """The text of an error that quotes a megabyte has a kilobyte."""
    assert text_of(ValueError("x" * 10**6)) == "x" * 1024 + "… (1000000 characters)"
    assert describe_error(ValueError("no such cat")) == "ValueError: no such cat"
    assert describe_error(TimeoutError()) == "TimeoutError"


def test_an_error_without_a_text_is_named() -> None:
    """An error whose __str__ fails is still reported."""
    assert describe_error(Speechless()) == "Speechless: (its text is not available)"
    assert "Speechless" in written(Speechless())


def test_many_wrong_values_are_counted() -> None:
    """Up to 100 wrong values are listed; of more, only the number and the type are shown."""
    assert too_many(wrong(100)) == ""
    assert text_of(wrong(101)) == "101 values are wrong in list[int], too many to list"


def test_a_short_error_is_not_changed() -> None:
    """Nothing is copied if every text is short."""
    error = raised(ValueError("short"), raised(KeyError("also short")))
    assert shortened(error) is error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x" * 10**6),
        wrong(1000),
        raised(ValueError("short"), ValueError("x" * 10**6)),
        raised(ValueError("short"), wrong(1000)),
        ExceptionGroup("short", [ValueError("short"), wrong(1000)]),
        ExceptionGroup("x" * 10**6, [ExceptionGroup("short", [ValueError("x" * 10**6)])]),
    ],
)
def test_a_traceback_is_short(error: BaseException) -> None:
    """The text of an error, a cause or a group member does not make a long traceback."""
    text = written(raised(error))
    assert len(text) < 8 * LIMIT


def test_a_shortened_error_keeps_its_tracebacks() -> None:
    """The names, tracebacks and causes of a long error are the same."""
    text = written(raised(LookupError("short"), raised(ValueError("x" * 10**6))))
    assert "\nValueError: xxx" in text
    assert "direct cause" in text
    assert text.endswith("\nLookupError: short\n")
    assert text.count("in raised") == 2


def test_notes_are_cut() -> None:
    """A note that quotes a megabyte is cut as well."""
    error = ValueError("short")
    error.add_note("n" * 10**6)
    assert "ValueError: short\nnnn" in written(error)
    assert len(written(error)) < 2 * LIMIT


def test_a_long_chain_is_cut() -> None:
    """A log has only a part of a chain of ten thousand errors."""
    error = ValueError("first")
    for number in range(10_000):
        last, error = error, ValueError(str(number))
        error.__cause__ = last
    assert written(error).count("ValueError: ") == 100


def test_a_group_is_described_with_its_members() -> None:
    """Its own text says only how many they are."""
    error = ExceptionGroup("two", [ValueError("a"), ExceptionGroup("", [KeyError("b")])])
    assert (
        describe_error(error)
        == "ExceptionGroup: two (2 sub-exceptions): ValueError: a; KeyError: 'b'"
    )
    many = ExceptionGroup("many", [ValueError("x" * 500) for _ in range(1000)])
    assert len(describe_error(many)) <= LIMIT + 1
