"""Match the variables in one segment of a path, in linear time.

Variables without a pattern of their own are found from the right: the last literal between them
first, then the last one before it. One greedy pattern would find the same, ``(.+)-(.+)``: each
variable takes as much as it can, the first one first. But such a pattern tries all ways to place
the literals if the segment does not match: 2.3 s for 16,000 dashes (issue 11).

Variables with patterns are matched by ``re``, adjacent ones by one pattern, together with the end
of the variable before them. If such a pattern backtracks, the segment is bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gizmopy.web.backtracking import Growth, growth

MAX_BACKTRACKING = 256
"""How many characters a segment may have if its pattern backtracks; a longer one does not match."""

Variable = tuple[str, str | None]
"""The name of a variable, and its pattern if it has one."""

_ANY = ".+"
_GROWTHS: tuple[Growth, ...] = ("exponential", "polynomial", "")


class _Step:
    """Find a variable, or adjacent ones that have patterns, and the literal behind."""

    __slots__ = ("groups", "literal", "placed", "regex")

    def __init__(self, literal: str, regex: re.Pattern[str] | None, groups: list[int]) -> None:
        self.literal = literal
        self.regex = regex
        """None finds a variable that has no pattern."""
        self.groups = groups
        """The groups that hold the values, from the right."""
        self.placed = False
        """Whether the first group is the text up to the literal ahead of this step."""


class SegmentPattern:
    """Match a segment that holds ``variables``, with ``literals`` ahead, between and behind.

    Raises ValueError if the pattern of a variable is no regular expression.
    """

    __slots__ = ("_longest", "_prefix", "_steps", "growth", "regexes", "text")

    def __init__(self, literals: Sequence[str], variables: Sequence[Variable]) -> None:
        self._prefix = literals[0]
        self._steps: list[_Step] = []
        """From the right."""
        self.regexes: list[str] = []
        """The regular expressions that segments are matched with."""
        index = 0
        while index < len(variables):
            step, index = self._parse(literals, variables, index)
            self._steps.append(step)
        self._steps.reverse()
        parts = zip(variables, literals[1:], strict=True)
        self.text = re.escape(literals[0]) + "".join(
            f"({pattern or _ANY}){re.escape(literal)}" for (_, pattern), literal in parts
        )
        """One pattern that matches alike, by which segments of templates are compared."""
        self.growth: Growth = min(map(growth, self.regexes), key=_GROWTHS.index, default="")
        """How the time to match grows with the segment; empty: linear, as far as is known."""
        self._longest = MAX_BACKTRACKING if self.growth else math.inf

    def _parse(
        self, literals: Sequence[str], variables: Sequence[Variable], start: int
    ) -> tuple[_Step, int]:
        """Return the step that begins with a variable, and the index of the next variable."""
        if _is_any(variables[start]):
            return _Step(literals[start + 1], None, []), start + 1
        placed = start > 0
        source = f"({_ANY}){re.escape(literals[start])}" if placed else re.escape(literals[0])
        groups: list[int] = []
        count, index = int(placed), start
        while index < len(variables) and not _is_any(variables[index]):
            pattern = variables[index][1] or _ANY
            groups.insert(0, count + 1)
            count += 1 + _groups_in(*variables[index])
            source += f"({pattern}){re.escape(literals[index + 1])}"
            index += 1
        self.regexes.append(source if index == len(variables) else f"{source}{_ANY}")
        try:
            regex = re.compile(source, re.DOTALL)
        except re.error as error:  # each is valid by itself: flags or names that clash
            raise ValueError(f"has no valid regex in {source!r}: {error}") from error
        step = _Step(literals[index], regex, groups)
        step.placed = placed
        return step, index

    def match(self, segment: str) -> tuple[str, ...] | None:
        """Return the values of the variables in ``segment``, or None if it does not match."""
        if len(segment) > self._longest:
            return None
        values: list[str] = []  # from the right
        limit = len(segment)  # the text that is looked for ends here at the latest
        end = -1  # where the value ends whose beginning is looked for
        placed = -1  # where the literal stands that is looked for, if that is known
        for number, step in enumerate(self._steps):
            if step.regex is None:
                literal = step.literal
                if placed >= 0:
                    begin, placed = placed, -1
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
            end, placed = -1, found.end(1) if step.placed else -1
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
        raise ValueError(f"has no valid regex for {name!r}: {error}") from error
