"""The times of each regular expression and each parser, for the worst of its texts."""

from __future__ import annotations

from tests.linear_time.hostile_texts import ANYWHERE, Times, worst
from tests.linear_time.parsers import PARSERS
from tests.linear_time.patterns import PATTERNS, runner


def times_of_pattern(name: str) -> Times:
    """Return the times of the worst text for a pattern."""
    pattern = PATTERNS[name]
    others = () if pattern.is_compiled else ANYWHERE
    return worst(runner(name, pattern.use), [*pattern.hostiles, *others])


def times_of_parser(name: str) -> Times:
    """Return the times of the worst text for a parser."""
    parser, hostiles = PARSERS[name]
    return worst(parser, [*hostiles, *ANYWHERE])
