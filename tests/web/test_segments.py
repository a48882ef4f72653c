"""Segments with several variables: their values, and the cost of patterns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gizmopy.web.router import RouteNotFound, Router
from gizmopy.web.segments import MAX_BACKTRACKING, SegmentPattern

LITERALS = ("", "", "-", ".", "--", "a", "a-")
PATTERNS = (None, None, None, "[0-9]+", "a*", "[-a]+", "(-|a)+?", "(x)?a")


@given(
    st.lists(
        st.tuples(st.sampled_from(PATTERNS), st.sampled_from(LITERALS)), min_size=1, max_size=5
    ),
    st.sampled_from(LITERALS),
    st.text("-.a0", max_size=12),
)
def test_variables_match_as_in_one_greedy_pattern(
    parts: list[tuple[str | None, str]], prefix: str, segment: str
) -> None:
    """Each variable takes as much as it can, the first one first, as in ``(.+)-(.+)``."""
    literals = [prefix, *(literal for _, literal in parts)]
    variables = [(f"v{number}", pattern) for number, (pattern, _) in enumerate(parts)]
    whole = re.escape(prefix) + "".join(
        f"(?P<v{number}>{pattern or '.+'}){re.escape(literal)}"
        for number, (pattern, literal) in enumerate(parts)
    )
    expected = re.fullmatch(whole, segment, re.DOTALL)
    found = SegmentPattern(literals, variables).match(segment)
    assert found == (None if expected is None else tuple(expected[name] for name, _ in variables))


@pytest.mark.parametrize(
    ("template", "segment", "values"),
    [
        ("/{name}-{version}.{ext}", "a-b-1.2.tar.gz", ("a-b", "1.2.tar", "gz")),
        ("/{name}-{version:[0-9.]+}.{ext}", "a-b-1.2.tar.gz", ("a-b", "1.2", "tar.gz")),
        ("/{name:[^-]+}-{version}", "a-b-1", ("a", "b-1")),
        ("/{a}{b}", "xyz", ("xy", "z")),
        ("/{a:.+}-{b:.+}", "x-y-z", ("x-y", "z")),
    ],
)
def test_examples_of_greedy_variables(template: str, segment: str, values: tuple[str, ...]) -> None:
    """A variable ends at the last literal after it that leaves text for each other variable."""
    router: Router[None] = Router()
    router.add("GET", template, None)
    assert tuple(router.match("GET", f"/{segment}")[1].values()) == values


def test_a_pattern_that_backtracks_does_not_match_a_long_segment() -> None:
    """The length of a segment is limited only if its pattern backtracks."""
    router: Router[str] = Router()
    router.add("GET", "/slow/{id:(a|b+)+}", "slow")
    router.add("GET", "/quick/{id:[ab]+}", "quick")
    assert router.match("GET", f"/slow/{'a' * MAX_BACKTRACKING}")[0] == "slow"
    with pytest.raises(RouteNotFound):
        router.match("GET", f"/slow/{'a' * (MAX_BACKTRACKING + 1)}")
    assert router.match("GET", f"/quick/{'a' * 10_000}")[0] == "quick"


@pytest.mark.parametrize("template", ["/{a:(?i)x}", "/{a:(?P<x>1)}-{b:(?P<x>2)}", "/{a:*}"])
def test_patterns_that_python_cannot_combine_are_refused(template: str) -> None:
    """A pattern that Python cannot compile in its place raises ValueError, not ``re.error``."""
    with pytest.raises(ValueError, match="has an invalid regex"):
        Router[None]().add("GET", template, None)
