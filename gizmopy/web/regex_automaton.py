"""Build the position automaton (Glushkov) of a regular expression.

Each character class of the pattern is a state, and a transition leads to each state that may match
the next character. Counted repeats are unrolled if that takes few states, or else become loops.

The parser of ``re`` is private: ``re._parser`` since Python 3.11. Another Python may parse a
pattern to something else; ``build_automaton`` then raises one of ``NOT_BUILT``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

_SAMPLE_CHARACTERS = [
    *map(chr, range(256)),
    *("\u0131", "\u0663", "\u03bc", "\u2003", "\u4e2d", "\U0001f408"),
]
"""Characters that represent all: classes overlap if both have one of these, or of the pattern.

Those above 255 are a letter whose upper case is ASCII, a digit, a letter of two lower cases, a
space, an ideograph, and an emoji outside of the Basic Multilingual Plane.
"""
_MAX_STATES = 256
_MAX_UNROLLED_STATES = 48
"""The number of states that a counted repeat may be unrolled to; a longer one becomes a loop."""
_UNBOUNDED_FROM = 1024
"""A repeat of so many times counts as one without a bound, since a segment may be as long."""
_CATEGORIES = {
    f"CATEGORY_{name}": re.compile(rf"\{letter}").fullmatch
    for name, letter in (
        ("DIGIT", "d"),
        ("NOT_DIGIT", "D"),
        ("SPACE", "s"),
        ("NOT_SPACE", "S"),
        ("WORD", "w"),
        ("NOT_WORD", "W"),
    )
}

Transition = tuple[int, int]


class TooComplex(Exception):
    """Report a pattern with too many states, or with an operator that is not supported."""


NOT_BUILT = (TooComplex, AttributeError, TypeError, ValueError, LookupError, RecursionError)
"""The errors of ``build_automaton``; those of Python are for another form of parsed patterns."""


@dataclass(slots=True)
class Transitions:
    """Transitions between states: how many ways each has, and which are bounded repeats."""

    counts: Counter[Transition] = field(default_factory=Counter)
    bounded: set[Transition] = field(default_factory=set)

    def unbounded(self) -> Iterable[Transition]:
        """Return the transitions that can be repeated without a bound."""
        return self.counts.keys() - self.bounded


@dataclass(frozen=True, slots=True)
class Expression:
    """The transitions of the pattern, or of a lookahead, which is matched by itself."""

    transitions: Transitions
    last: frozenset[int]
    """The states that may end it."""
    repeated_lookahead: bool = False
    """Whether it is a lookahead within a loop."""


@dataclass(slots=True)
class Automaton:
    """The automaton of a pattern."""

    any_character: int
    """The class that contains all characters: a bit for each one of the alphabet."""
    classes: list[int] = field(default_factory=list)
    """The character class of each state, as such bits."""
    atomic_groups: list[frozenset[int]] = field(default_factory=list)
    """The atomic groups that each state is in."""
    expressions: list[Expression] = field(default_factory=list)
    """The lookaheads, and at last the pattern itself."""


def build_automaton(pattern: str) -> Automaton:
    """Return the automaton of a valid ``pattern``. Raises one of NOT_BUILT if it cannot."""
    parsed: Any = re._parser.parse(pattern, re.DOTALL)  # type: ignore[attr-defined]
    builder = _Builder(_Alphabet(pattern))
    whole = builder.build(parsed, 0)
    builder.finish(whole)
    return builder.automaton


@dataclass(frozen=True, slots=True)
class _Fragment:
    """A part of the pattern: the states that may begin and end it.

    A state that may begin or end it in several ways is listed twice.
    """

    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    empty: int = 1
    """The number of ways in which it matches the empty text; 2 means two or more."""


class _Builder:
    def __init__(self, alphabet: _Alphabet) -> None:
        self.automaton = Automaton(alphabet.everything)
        self._alphabet = alphabet
        self._transitions = Transitions()
        self._atomic_groups: frozenset[int] = frozenset()
        self._depth = 0
        """The number of loops around the current part."""

    def finish(self, whole: _Fragment, *, repeated_lookahead: bool = False) -> None:
        """Add the expression whose transitions have been collected."""
        self.automaton.expressions.append(
            Expression(self._transitions, frozenset(whole.last), repeated_lookahead)
        )

    def build(self, nodes: Iterable[tuple[Any, Any]], flags: int) -> _Fragment:
        whole = _Fragment()
        for operator, argument in nodes:
            whole = self._sequence(whole, self._node(str(operator), argument, flags))
        return whole

    def _node(self, operator: str, argument: Any, flags: int) -> _Fragment:
        match operator:
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                ignore_case = bool(flags & re.IGNORECASE)
                return self._state(self._alphabet.class_of(operator, argument, ignore_case))
            case "SUBPATTERN":
                _, added, removed, nodes = argument
                return self.build(nodes, (flags | added) & ~removed)
            case "BRANCH":
                return _choice([self.build(nodes, flags) for nodes in argument[1]])
            case "MAX_REPEAT" | "MIN_REPEAT":
                return self._repeat(argument, flags)
            case "POSSESSIVE_REPEAT":
                return self._atomic(lambda: self._repeat(argument, flags))
            case "ATOMIC_GROUP":
                return self._atomic(lambda: self.build(argument, flags))
            case "AT":
                return _Fragment()
            case "ASSERT" | "ASSERT_NOT":
                self._lookahead(argument[1], flags)
                return _Fragment()
            case "GROUPREF_EXISTS":
                _, yes, no = argument
                return _choice([self.build(yes, flags), self.build(no or (), flags)])
            case "GROUPREF":
                return self._any_text()
        raise TooComplex(operator)

    def _state(self, characters: int) -> _Fragment:
        state = len(self.automaton.classes)
        if state == _MAX_STATES:
            raise TooComplex("too many states")
        self.automaton.classes.append(characters)
        self.automaton.atomic_groups.append(self._atomic_groups)
        return _Fragment((state,), (state,), empty=0)

    def _sequence(self, left: _Fragment, right: _Fragment) -> _Fragment:
        self._connect(left, right)
        return _Fragment(
            _at_most_twice(left.first + right.first * left.empty),
            _at_most_twice(right.last + left.last * right.empty),
            min(left.empty * right.empty, 2),
        )

    def _connect(self, left: _Fragment, right: _Fragment, *, bounded: bool = False) -> None:
        for transition in ((source, target) for source in left.last for target in right.first):
            self._transitions.counts[transition] += 1
            if bounded:
                self._transitions.bounded.add(transition)

    def _repeat(self, argument: tuple[int, int, Any], flags: int) -> _Fragment:
        """Unroll a repeat if that takes few states, or else make a loop of it."""
        least, most, nodes = argument
        if most == 0:
            return _Fragment()
        if most == 1:
            part = self.build(nodes, flags)
            return _Fragment(part.first, part.last, min(part.empty + (least == 0), 2))
        bounded = most < _UNBOUNDED_FROM
        before = len(self.automaton.classes)
        self._depth += 1
        part = self.build(nodes, flags)
        copies = most if bounded else max(least, 1)
        if copies * (len(self.automaton.classes) - before) > _MAX_UNROLLED_STATES:
            # A part of a fixed length, repeated a fixed number of times, matches a text in one way
            # only. Two copies are enough to find ambiguity at the border between two of them.
            shortest, longest = nodes.getwidth()
            copies = 2 if least == most and shortest == longest else 1
        parts = [part, *(self.build(nodes, flags) for _ in range(copies - 1))]
        self._depth -= 1
        if copies == 1 or not bounded:
            self._connect(parts[-1], parts[-1], bounded=bounded)
        return self._nested(parts, least)

    def _nested(self, parts: list[_Fragment], least: int) -> _Fragment:
        """Return the sequence of ``parts``, of which those after the first ``least`` are optional.

        The optional ones are nested, x(x(x)?)?, because xx?x? would match xx in two ways.
        """
        whole = _Fragment()
        for number in reversed(range(len(parts))):
            whole = self._sequence(parts[number], whole)
            whole = _Fragment(whole.first, whole.last, min(whole.empty + (number >= least), 2))
        return whole

    def _any_text(self) -> _Fragment:
        """Return the fragment for a backreference: any text."""
        part = self._state(self._alphabet.everything)
        self._connect(part, part, bounded=True)
        return _Fragment(part.first, part.last, empty=1)

    def _atomic(self, build: Callable[[], _Fragment]) -> _Fragment:
        outer = self._atomic_groups
        self._atomic_groups = outer | {len(self.automaton.classes)}
        part = build()
        self._atomic_groups = outer
        return part

    def _lookahead(self, nodes: Any, flags: int) -> None:
        """Add a lookahead as an expression of its own."""
        outer, self._transitions = self._transitions, Transitions()
        depth, self._depth = self._depth, 0
        self.finish(self.build(nodes, flags), repeated_lookahead=depth > 0)
        self._transitions, self._depth = outer, depth


def _choice(parts: list[_Fragment]) -> _Fragment:
    return _Fragment(
        _at_most_twice(state for part in parts for state in part.first),
        _at_most_twice(state for part in parts for state in part.last),
        min(sum(part.empty for part in parts), 2),
    )


def _at_most_twice(states: Iterable[int]) -> tuple[int, ...]:
    """Return ``states`` with at most two of each."""
    return tuple(state for state, count in Counter(states).items() for _ in range(min(count, 2)))


class _Alphabet:
    """Represent character classes as integers: a bit for each character of the alphabet."""

    def __init__(self, pattern: str) -> None:
        self._characters = list(dict.fromkeys((*_SAMPLE_CHARACTERS, *pattern)))
        self.everything = (1 << len(self._characters)) - 1
        self._cache: dict[tuple[str, str, bool], int] = {}

    def class_of(self, operator: str, argument: Any, ignore_case: bool) -> int:
        """Return the class that a node of the parsed pattern matches."""
        if operator == "ANY":
            return self.everything
        key = (operator, repr(argument), ignore_case)
        if key not in self._cache:
            items = argument if operator == "IN" else [("LITERAL", argument)]
            negated = operator == "NOT_LITERAL" or (items and str(items[0][0]) == "NEGATE")
            characters = self._matching(items, ignore_case)
            self._cache[key] = self.everything ^ characters if negated else characters
        return self._cache[key]

    def _matching(self, items: Any, ignore_case: bool) -> int:
        characters = 0
        for index, character in enumerate(self._characters):
            variants = {character}
            if ignore_case:
                variants |= {character.lower(), character.upper()}
            if any(_is_in(variant, items) for variant in variants):
                characters |= 1 << index
        return characters


def _is_in(character: str, items: Iterable[tuple[Any, Any]]) -> bool:
    # The upper or lower case of a character may be two characters, which no item matches.
    code = ord(character) if len(character) == 1 else -1
    for operator, argument in items:
        match str(operator):
            case "LITERAL" if argument == code:
                return True
            case "RANGE" if argument[0] <= code <= argument[1]:
                return True
            case "CATEGORY" if _CATEGORIES[str(argument)](character):
                return True
    return False
