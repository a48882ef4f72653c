"""Find patterns whose time to match grows faster than the text: they backtrack.

Python's ``re`` tries the ways to match one after the other. If a text has many ways to match a part
of a pattern, and the rest fails, it tries them all. Which patterns have such texts is known from
their automata (Weideman et al., "Analyzing Matching Time Behavior of Backtracking Regular
Expression Matchers by Using Ambiguity of NFA", 2016):

- exponential: a state leads back to itself in two ways with one text, as in ``(a+)+``
- polynomial: one text leads from a state to itself, to another state, and from that one to itself,
  as in ``a+a+b``

The automaton is that of positions (Glushkov): each character class of the pattern is a state.

The parser of ``re`` is private: ``re._parser`` since Python 3.11. If it changes, ``growth`` finds
nothing, and its tests fail.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

Growth = Literal["", "exponential", "polynomial"]

_SOME = [*map(chr, range(256)), "\u0131", "\u0663", "\u03bc", "\u2003", "\u4e2d", "\U0001f408"]
"""Characters that stand for all: classes meet if one of these, or of the pattern, is in both."""
_MAX_STATES = 256
_MAX_STEPS = 30_000
"""Bounds the work for a pattern to some 30 ms. A larger one is not judged."""
_UNROLLED = 48
"""How many states a counted repeat may be written out to; a longer one counts as a loop."""
_LONG = 1024
"""The bound of a repeat that is as good as none, since a segment may be as long."""
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

Edge = tuple[int, int]
Graph = dict[Any, set[Any]]


class _Unknown(Exception):
    """Report a pattern that is too large, or that this Python's parser describes otherwise."""


@lru_cache(256)
def growth(pattern: str) -> Growth:
    """Return how the time to match ``pattern`` grows with a text that it does not match.

    Empty is linear, or not known: the pattern is too large to judge, or uses a part of ``re`` that
    is not followed here. ``pattern`` is matched against the whole of a text, and its dot matches a
    newline. Raises ``re.error`` if it is no pattern.
    """
    re.compile(pattern, re.DOTALL)
    try:
        automaton = _Automaton(pattern)
        whole = automaton.build(_parsed(pattern), 0)
        return automaton.growth(whole)
    except (_Unknown, AttributeError, TypeError, ValueError, LookupError, RecursionError):
        return ""


def _parsed(pattern: str) -> Any:
    return re._parser.parse(pattern, re.DOTALL)  # type: ignore[attr-defined]


@dataclass(slots=True)
class _Part:
    """A part of the pattern: the states that it may begin and end with.

    A state that it may begin or end with in several ways is there twice.
    """

    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    empty: int = 1
    """In how many ways it matches the empty text; 2: or more."""


@dataclass(slots=True)
class _Loops:
    """The edges between states, and those of repeats that have an upper bound."""

    edges: Counter[Edge] = field(default_factory=Counter)
    bounded: set[Edge] = field(default_factory=set)


class _Automaton:
    def __init__(self, pattern: str) -> None:
        self._alphabet = list(dict.fromkeys((*_SOME, *pattern)))
        self._all = (1 << len(self._alphabet)) - 1
        self._known: dict[tuple[str, str, int], int] = {}
        self._classes: list[int] = []
        """The characters of each state, one bit for each of the alphabet."""
        self._atoms: list[frozenset[int]] = []
        """The atomic groups that each state is in."""
        self._atom: frozenset[int] = frozenset()
        self._loops = _Loops()
        self._depth = 0
        """How many loops there are around the part at hand."""
        self._worst: set[Growth] = set()
        """The growths of parts of their own: lookaheads."""
        self._steps = 0

    # The automaton.

    def build(self, nodes: Iterable[tuple[Any, Any]], flags: int) -> _Part:
        whole = _Part()
        for operator, argument in nodes:
            whole = self._sequence(whole, self._node(str(operator), argument, flags))
        return whole

    def _node(self, operator: str, argument: Any, flags: int) -> _Part:
        match operator:
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                return self._state(self._class(operator, argument, flags & re.IGNORECASE))
            case "SUBPATTERN":
                _, added, removed, nodes = argument
                return self.build(nodes, (flags | added) & ~removed)
            case "BRANCH":
                return self._choice([self.build(nodes, flags) for nodes in argument[1]])
            case "MAX_REPEAT" | "MIN_REPEAT":
                return self._repeat(argument, flags)
            case "POSSESSIVE_REPEAT":
                return self._atomic(lambda: self._repeat(argument, flags))
            case "ATOMIC_GROUP":
                return self._atomic(lambda: self.build(argument, flags))
            case "AT":
                return _Part()
            case "ASSERT" | "ASSERT_NOT":
                self._assertion(argument[1], flags)
                return _Part()
            case "GROUPREF_EXISTS":
                _, yes, no = argument
                return self._choice([self.build(yes, flags), self.build(no or (), flags)])
            case "GROUPREF":
                return self._any_text()
        raise _Unknown(operator)

    def _state(self, characters: int) -> _Part:
        state = len(self._classes)
        if state == _MAX_STATES:
            raise _Unknown
        self._classes.append(characters)
        self._atoms.append(self._atom)
        return _Part((state,), (state,), empty=0)

    def _sequence(self, left: _Part, right: _Part) -> _Part:
        self._join(left, right)
        return _Part(
            _twice(left.first + right.first * left.empty),
            _twice(right.last + left.last * right.empty),
            min(left.empty * right.empty, 2),
        )

    def _join(self, left: _Part, right: _Part, *, bounded: bool = False) -> None:
        for edge in ((one, other) for one in left.last for other in right.first):
            self._loops.edges[edge] += 1
            if bounded:
                self._loops.bounded.add(edge)

    def _choice(self, parts: list[_Part]) -> _Part:
        return _Part(
            _twice(state for part in parts for state in part.first),
            _twice(state for part in parts for state in part.last),
            min(sum(part.empty for part in parts), 2),
        )

    def _repeat(self, argument: tuple[int, int, Any], flags: int) -> _Part:
        """Write a repeat out if that takes few states, or else take it for a loop."""
        least, most, nodes = argument
        if most == 0:
            return _Part()
        if most == 1:
            part = self.build(nodes, flags)
            return _Part(part.first, part.last, min(part.empty + (least == 0), 2))
        bounded = most < _LONG
        before = len(self._classes)
        self._depth += 1
        part = self.build(nodes, flags)
        copies = most if bounded else max(least, 1)
        if copies * (len(self._classes) - before) > _UNROLLED:
            shortest, longest = nodes.getwidth()
            # A text of one length, so many times, matches in one way: two copies stand for all.
            copies = 2 if least == most and shortest == longest else 1
        parts = [part, *(self.build(nodes, flags) for _ in range(copies - 1))]
        self._depth -= 1
        if copies == 1 or not bounded:
            self._join(parts[-1], parts[-1], bounded=bounded)
        whole = _Part()
        for number in reversed(range(copies)):  # x(x(x)?)?, not xx?x?, which is ambiguous
            whole = self._sequence(parts[number], whole)
            whole = _Part(whole.first, whole.last, min(whole.empty + (number >= least), 2))
        return whole

    def _any_text(self) -> _Part:
        """Return the stand-in for a group that is repeated by its number."""
        part = self._state(self._all)
        self._join(part, part, bounded=True)
        return _Part(part.first, part.last, empty=1)

    def _atomic(self, build: Callable[[], _Part]) -> _Part:
        outer, self._atom = self._atom, self._atom | {len(self._classes)}
        part = build()
        self._atom = outer
        return part

    def _assertion(self, nodes: Any, flags: int) -> None:
        """Judge a lookahead by itself; one that may read on to the end is slow within a loop."""
        outer, self._loops = self._loops, _Loops()
        depth, self._depth = self._depth, 0
        part = self.build(nodes, flags)
        self._worst.add(self.growth(part))
        if depth and any(_cycles(_graph(self._loops.edges.keys() - self._loops.bounded))):
            self._worst.add("polynomial")
        self._loops, self._depth = outer, depth

    # Its character classes.

    def _class(self, operator: str, argument: Any, ignore_case: int) -> int:
        if operator == "ANY":
            return self._all
        key = (operator, repr(argument), ignore_case)
        if key not in self._known:
            self._known[key] = self._characters(operator, argument, ignore_case)
        return self._known[key]

    def _characters(self, operator: str, argument: Any, ignore_case: int) -> int:
        items = argument if operator == "IN" else [("LITERAL", argument)]
        negated = operator == "NOT_LITERAL" or (items and str(items[0][0]) == "NEGATE")
        characters = 0
        for index, character in enumerate(self._alphabet):
            variants = {character}
            if ignore_case:
                variants |= {character.lower(), character.upper()}
            if any(_is_in(variant, items) for variant in variants):
                characters |= 1 << index
        return self._all ^ characters if negated else characters

    # The search for ambiguous states.

    def growth(self, whole: _Part) -> Growth:
        edges, bounded = self._loops.edges, self._loops.bounded
        if any(self._is_exponential(cycle) for cycle in _cycles(_graph(edges))):
            self._worst.add("exponential")
        elif self._is_polynomial(_graph(edges.keys() - bounded), set(whole.last)):
            self._worst.add("polynomial")
        return "exponential" if "exponential" in self._worst else max(self._worst, default="")

    def _is_exponential(self, cycle: frozenset[int]) -> bool:
        edges = [edge for edge in self._loops.edges if cycle.issuperset(edge)]
        if any(self._loops.edges[edge] > 1 for edge in edges):
            return True
        graph = _graph(edges)
        pairs: Graph = {}
        waiting = [(state, state) for state in cycle]
        while waiting:
            pair = waiting.pop()
            if pair not in pairs:
                pairs[pair] = set(self._next(graph, pair))
                waiting.extend(pairs[pair])
        return any(
            len({one == other for one, other in component}) == 2 for component in _cycles(pairs)
        )

    def _is_polynomial(self, graph: Graph, last: set[int]) -> bool:
        of = {state: cycle for cycle in _cycles(graph) for state in cycle}
        return any(
            of[one] is not of[other] and self._leads_on(graph, of, one, other)
            for one in of
            for other in of
            if not self._is_last_and_any(graph, other, last) and self._may_give_back(one, other)
        )

    def _is_last_and_any(self, graph: Graph, state: int, last: set[int]) -> bool:
        """Whether a state takes all that is left, so that the states before it never fail."""
        return state in last and state in graph[state] and self._classes[state] == self._all

    def _may_give_back(self, one: int, other: int) -> bool:
        return self._atoms[one] <= self._atoms[other]

    def _leads_on(self, graph: Graph, of: dict[int, frozenset[int]], one: int, other: int) -> bool:
        """Whether a text leads from ``one`` to itself and to ``other``, and from that to itself."""
        seen: set[tuple[int, ...]] = set()
        waiting: list[tuple[int, ...]] = [(one, one, other)]
        while waiting:
            for found in self._next(graph, waiting.pop()):
                if found == (one, other, other):
                    return True
                if found not in seen and found[0] in of[one] and found[2] in of[other]:
                    seen.add(found)
                    waiting.append(found)
        return False

    def _next(self, graph: Graph, states: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Yield where states lead together, with one character."""
        found: list[tuple[tuple[int, ...], int]] = [((), self._all)]
        for state in states:
            found = [
                ((*before, target), shared & self._classes[target])
                for before, shared in found
                for target in graph.get(state, ())
                if shared & self._classes[target]
            ]
            self._steps += len(found) + 1
            if self._steps > _MAX_STEPS:
                raise _Unknown
        yield from (targets for targets, _ in found)


def _twice(states: Iterable[int]) -> tuple[int, ...]:
    """Return each state no more than twice."""
    return tuple(state for state, count in Counter(states).items() for _ in range(min(count, 2)))


def _is_in(character: str, items: Iterable[tuple[Any, Any]]) -> bool:
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


def _graph(edges: Iterable[Edge]) -> Graph:
    graph: Graph = {}
    for one, other in edges:
        graph.setdefault(one, set()).add(other)
    return graph


def _cycles(graph: Graph) -> list[frozenset[Any]]:
    """Return the strongly connected components that have an edge within (Tarjan, 1972)."""
    order: dict[Any, int] = {}
    lowest: dict[Any, int] = {}
    open_: dict[Any, None] = {}
    found = []
    for root in graph:
        work = [] if root in order else [(root, iter(graph[root]))]
        if work:
            order[root] = lowest[root] = len(order)
            open_[root] = None
        while work:
            node, targets = work[-1]
            target = next(targets, None)
            if target is None:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[node])
                if lowest[node] == order[node]:
                    component: list[Any] = []
                    while not component or component[-1] != node:
                        component.append(open_.popitem()[0])
                    if len(component) > 1 or node in graph.get(node, ()):
                        found.append(frozenset(component))
            elif target not in order:
                order[target] = lowest[target] = len(order)
                open_[target] = None
                work.append((target, iter(graph.get(target, ()))))
            elif target in open_:
                lowest[node] = min(lowest[node], order[target])
    return found
