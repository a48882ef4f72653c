"""Each parser of text from outside takes linear time, on 16 KB of hostile text (issue 11)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gizmopy
import pubsubtest
from tests.linear_time.hostile_texts import MAX_RATIO, pumps, worst
from tests.linear_time.measurements import times_of_parser, times_of_pattern
from tests.linear_time.parsers import PARSERS
from tests.linear_time.pattern_search import patterns_in
from tests.linear_time.patterns import PATTERNS


def test_every_pattern_has_its_hostile_texts() -> None:
    """A regular expression in the packages without an entry in ``PATTERNS`` fails the tests."""
    found = [
        name for package in (gizmopy, pubsubtest) for name in patterns_in(Path(*package.__path__))
    ]
    assert found, "the search finds no pattern"
    assert sorted(found) == sorted(PATTERNS), "add new patterns, and remove deleted ones"
    assert all(pattern.hostiles for pattern in PATTERNS.values())


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_matches_in_linear_time(name: str) -> None:
    """Four times the text takes no more than six times as long."""
    times = times_of_pattern(name)
    assert times.ratio <= MAX_RATIO, times


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_reads_in_linear_time(name: str) -> None:
    """Four times the text takes no more than six times as long."""
    times = times_of_parser(name)
    assert times.ratio <= MAX_RATIO, times


@pytest.mark.parametrize(
    ("pattern", "pump"), [(r"(?:[0-9]+\.?[0-9]*s)+", "1111s"), (r"[0-9]+\.?[0-9]*", "1")]
)
def test_the_measurement_detects_slow_patterns(pattern: str, pump: str) -> None:
    """An exponential and a quadratic pattern fail: two former patterns of durations."""
    with pytest.raises(AssertionError):
        assert worst(re.compile(pattern).fullmatch, pumps(pump)).ratio <= MAX_RATIO


def test_the_search_finds_every_use_of_a_pattern(tmp_path: Path) -> None:
    """Patterns are found under another name, in functions, in classes and as arguments."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import re as r, fnmatch\n"
        "from re import compile as c\n"
        "ONE = r.compile('a').fullmatch\n"
        "TWO: object = c('a')\n"
        "MANY = map(r.compile, 'ab')\n"
        "class Kind:\n"
        "    THREE = c('a')\n"
        "    def method(self):\n"
        "        x = r.sub('a', 'b', 'c')\n"
        "        return [fnmatch.translate(x), r.escape(x)]\n"
    )
    assert patterns_in(package) == [
        "package:ONE",
        "package:TWO",
        "package:MANY",
        "package:Kind.THREE",
        "package:Kind.method",
        "package:Kind.method#2",
    ]
