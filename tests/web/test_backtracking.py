"""The growth of the time to match patterns, compared with measured times."""

from __future__ import annotations

import re
import time

import pytest

from gizmopy.web.backtracking import growth

EXPONENTIAL = [
    (r"(a+)+", "a"),
    (r"(a*)*b", "a"),
    (r"(a|aa)+b", "a"),
    (r"(\w+\s?)*x", "a"),
    (r"([a-z]+-?)+", "a"),
    (r"(.*,)*x", ","),
    (r"(x+x+)+y", "x"),
    (r"(?:[0-9]+\.?[0-9]*s)+", "11s"),
    (r"(a{1,3})*b", "a"),
    (r"(a*b*)*c", "a"),
    (r"(?:a|b|ab)*c", "ab"),
    (r"(?=(a+)+b)a", "a"),
    (r"((a{2,})+)x", "a"),
    (r"([a-z]{1,64}-?){1,64}", "a"),
    (r"(?i:(a|A)+)*b", "a"),
    (r"(?P<x>a+?)+b", "a"),
]
POLYNOMIAL = [
    (r"[0-9]+\.?[0-9]*", "1*!"),
    (r"a+a+b", "a*"),
    (r"(.+)-(.+)\.(.+)", "-*"),
    (r".*a.*b", "a*"),
    (r"([a-z]+)([a-z0-9]+)", "a*!"),
    (r"(.+)-([a-z-]+)", "-*!"),
    (r"(.+)([0-9]+)", "1*!"),
    (r"\s*a?\s*b", " *"),
    (r"(?:(?=[a-z]*x)a)*b", "a*x"),
    (r"a{2,}a*b", "a*"),
    (r"(a+){2}b", "a*"),
    (r"(.+-){3}x", "-*"),
    (r"(?i:[a-z]*[A-F]*-)", "a*"),
]
LINEAR = [
    r"[0-9]+",
    r"[a-z0-9]+(?:-[a-z0-9]+)*",
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    r"[\w.+-]+@[\w-]+\.[\w.-]+",
    r"[\w.-]+\.[a-z]+",
    r"v?\d+(\.\d+)*(-\w+)?",
    r"[a-z]([-a-z0-9]*[a-z0-9])?(\.[a-z]([-a-z0-9]*[a-z0-9])?)*",
    r"(cat|dog)s",
    r".*",
    r"(.+)-([0-9]+)",
    r"(.+)-([0-9.]+)\.(.+)",
    r"\d{4}-\d\d-\d\d",
    r"[A-Za-z0-9_-]{1,64}",
    r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",
    r"(?=.*[a-z])(?=.*\d).+",
    r"a++a+b",
    r"(?>a+)a+b",
    r"(a?)*b",
    r"[a-z]{20}[a-z0-9]*",
    r"([a-z]{20}){20}",
    r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}",
    r"(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}",
    r"(.*)foo(.*)",
    r"(a)?b(?(1)c|d)",
    r"(?<!-)a(?!b)\Z",
]


def seconds(pattern: str, text: str) -> float:
    """Return the least CPU time of five attempts to match ``text``."""
    match, times = re.compile(pattern, re.DOTALL).fullmatch, []
    for _ in range(5):
        began = time.process_time()
        match(text)
        times.append(time.process_time() - began)
    return min(times)


@pytest.mark.parametrize(("pattern", "pump"), EXPONENTIAL)
def test_an_exponential_pattern_is_found(pattern: str, pump: str) -> None:
    """A text of at most a hundred characters takes a millisecond, a thousand times the usual."""
    assert growth(pattern) == "exponential"
    text = pump
    while seconds(pattern, f"{text}!") < 0.001:
        text += pump
        assert len(text) < 100, "the pattern is not exponential"


@pytest.mark.parametrize(("pattern", "text"), POLYNOMIAL)
def test_a_polynomial_pattern_is_found(pattern: str, text: str) -> None:
    """Four times the text takes more than six times as long; 16 times if it is quadratic."""
    assert growth(pattern) == "polynomial"
    length, short = 15, 0.0
    while short < 0.0002:  # a shorter time is mostly noise
        length *= 2
        short = seconds(pattern, text.replace("*", text[0] * length))
    assert seconds(pattern, text.replace("*", text[0] * length * 4)) > 6 * short


@pytest.mark.parametrize("pattern", LINEAR)
def test_a_usual_pattern_is_linear(pattern: str) -> None:
    """The patterns of names, versions, dates and addresses do not backtrack."""
    assert growth(pattern) == ""


def test_a_pattern_that_is_too_large_is_not_analyzed() -> None:
    """The time of the analysis is bounded."""
    began = time.process_time()
    assert growth("|".join(f"(a{n}|b+)*" for n in range(1000))) == ""
    assert growth("(" + "|".join(f"[a-z]{chr(c)}x" for c in range(97, 123)) + ")*") == ""
    assert time.process_time() - began < 2
