"""Match the variables in one segment of a path, in linear time.

Variables without a pattern are matched from the right: first the last literal between two of them
is searched for, then the one before it. The result is that of one greedy pattern, ``(.+)-(.+)``:
each variable takes as much as it can, the first one first. But if a segment does not match, such a
pattern tries every way to place the literals: 2.3 s for 16,000 dashes (issue 11).

Variables with patterns are matched by ``re``: adjacent ones by one pattern, together with the end
of the variable before them. If such a pattern backtracks, the length of the segment is limited.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gizmopy.web.backtracking import Growth, growth

MAX_BACKTRACKING = 256
"""The maximum length of a segment whose pattern backtracks; a longer one does not match."""

Variable = tuple[str, str | None]
"""The name of a variable, and its pattern if it has one."""

_ANY = ".+"
_WORST_FIRST: tuple[Growth, ...] = ("exponential", "polynomial", "")


class _Step:
    """Match one variable, or several adjacent ones with patterns, and the literal after it."""

    __slots__ = ("groups", "literal", "matches_literal_before", "regex")

    def __init__(
        self,
        literal: str,
        regex: re.Pattern[str] | None,
        groups: list[int],
        *,
        matches_literal_before: bool = False,
    ) -> None:
        self.literal = literal
        self.regex = regex
        """None if the variable has no pattern."""
        self.groups = groups
        """The groups of the values, from the right."""
        self.matches_literal_before = matches_literal_before
        """Whether ``regex`` begins with a group for the text up to the literal before this step."""


class SegmentPattern:
    """Match a segment that has ``variables``, with ``literals`` before, between and after them.

    Raises ValueError if the pattern of a variable is not a regular expression.
    """

    __slots__ = ("_max_length", "_prefix", "_steps", "growth", "regexes", "text")

    def __init__(self, literals: Sequence[str], variables: Sequence[Variable]) -> None:
        self._prefix = literals[0]
        self._steps: list[_Step] = []
        """The steps in the order of matching, from the right."""
        self.regexes: list[str] = []
        """The regular expressions of the steps."""
        index = 0
        while index < len(variables):
            step, index = self._parse(literals, variables, index)
            self._steps.append(step)
        self._steps.reverse()
        parts = zip(variables, literals[1:], strict=True)
        self.text = re.escape(literals[0]) + "".join(
            f"({pattern or _ANY}){re.escape(literal)}" for (_, pattern), literal in parts
        )
        """One pattern that matches the same segments: templates are compared by it."""
        self.growth: Growth = min(map(growth, self.regexes), key=_WORST_FIRST.index, default="")
        """How the time to match grows with the segment; empty if linear, or unknown."""
        self._max_length = MAX_BACKTRACKING if self.growth else math.inf

    def _parse(
        self, literals: Sequence[str], variables: Sequence[Variable], start: int
    ) -> tuple[_Step, int]:
        """Return the step that begins at variable ``start``, and the index of the next variable."""
        if _is_any(variables[start]):
            return _Step(literals[start + 1], None, []), start + 1
        is_first = start == 0
        source = re.escape(literals[0]) if is_first else f"({_ANY}){re.escape(literals[start])}"
        groups: list[int] = []
        count, index = int(not is_first), start
        while index < len(variables) and not _is_any(variables[index]):
            pattern = variables[index][1] or _ANY
            groups.insert(0, count + 1)
            count += 1 + _groups_in(*variables[index])
            source += f"({pattern}){re.escape(literals[index + 1])}"
            index += 1
        self.regexes.append(source if index == len(variables) else f"{source}{_ANY}")
        try:
            regex = re.compile(source, re.DOTALL)
        except re.error as error:
            # Each pattern is valid, but not the sum: their flags or the names of groups conflict.
            raise ValueError(f"has an invalid regex in {source!r}: {error}") from error
        step = _Step(literals[index], regex, groups, matches_literal_before=not is_first)
        return step, index

    def match(self, segment: str) -> tuple[str, ...] | None:
        """Return the values of the variables in ``segment``, or None if it does not match."""
        if len(segment) > self._max_length:
            return None
        values: list[str] = []  # from the right
        # The text before ``limit`` is not matched yet. ``end`` is the end of a value whose start is
        # not known yet, or -1. ``found_at`` is the index of the next literal, if the step before
        # has matched it already, or -1.
        limit = len(segment)
        end = found_at = -1
        for number, step in enumerate(self._steps):
            if step.regex is None:
                literal = step.literal
                if found_at >= 0:
                    begin, found_at = found_at, -1
                elif number == 0:
                    begin = limit - len(literal) if segment.endswith(literal) else -1
                else:
                    begin = segment.rfind(literal, 0, limit)
                if begin < 1:
                    return None
                if end >= 0:
                    values.append(segment[begin + len(literal) : end])
                end, limit = begin, begin - 1
                continue
            match = step.regex.match
            found = step.regex.fullmatch(segment) if number == 0 else match(segment, 0, limit)
            if found is None:
                return None
            if end >= 0:
                values.append(segment[found.end() : end])
            values.extend([found[group] for group in step.groups])
            end, found_at = -1, found.end(1) if step.matches_literal_before else -1
        if end >= 0:
            if limit < len(self._prefix) or not segment.startswith(self._prefix):
                return None
            values.append(segment[len(self._prefix) : end])
        values.reverse()
        return tuple(values)


def _is_any(variable: Variable) -> bool:
    return variable[1] is None or variable[1] == _ANY


def _groups_in(name: str, pattern: str | None) -> int:
    try:
        return re.compile(pattern or _ANY).groups
    except re.error as error:
        raise ValueError(f"has an invalid regex for {name!r}: {error}") from error
