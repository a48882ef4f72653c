"""Find patterns whose time to match grows faster than the text, because they backtrack.

Python's ``re`` tries the ways to match one after the other. If a text matches a part of a pattern
in many ways, and the rest of the pattern fails, ``re`` tries them all. The automaton of a pattern
shows whether such texts exist (Weideman et al., "Analyzing Matching Time Behavior of Backtracking
Regular Expression Matchers by Using Ambiguity of NFA", 2016):

- exponential: a state leads back to itself in two ways with one text, as in ``(a+)+``
- polynomial: one text leads from a state to itself, from there to another state, and from that
  state to itself, as in ``a+a+b``
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Literal

from gizmopy.web.regex_automaton import (
    NOT_BUILT,
    Automaton,
    Expression,
    TooComplex,
    Transition,
    build_automaton,
)

Growth = Literal["", "exponential", "polynomial"]

_MAX_STEPS = 30_000
"""The number of steps of the search for a pattern, some 30 ms. A larger pattern is not analyzed."""

Graph = dict[Any, set[Any]]
"""The targets of each node that has any."""


@lru_cache(256)
def growth(pattern: str) -> Growth:
    """Return how the time to match ``pattern`` grows with a text that it does not match.

    Empty means linear or unknown: the pattern is too large to analyze, or uses a part of ``re``
    that is not supported. ``pattern`` is matched against a whole text, and its dot matches a
    newline. Raises ``re.error`` if it is not a pattern.
    """
    re.compile(pattern, re.DOTALL)
    try:
        automaton = build_automaton(pattern)
        search = _AmbiguitySearch(automaton)
        found = {search.growth(expression) for expression in automaton.expressions}
    except NOT_BUILT:
        return ""
    return "exponential" if "exponential" in found else max(found)


class _AmbiguitySearch:
    """Search the expressions of an automaton for states that a text reaches in several ways."""

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._steps = 0

    def growth(self, expression: Expression) -> Growth:
        transitions = expression.transitions
        if any(self._is_exponential(expression, cycle) for cycle in _cycles_of(transitions.counts)):
            return "exponential"
        # A lookahead that reads on to the end of the text, for each round of a loop, is quadratic.
        if expression.repeated_lookahead and _cycles_of(transitions.unbounded()):
            return "polynomial"
        if self._is_polynomial(_graph(transitions.unbounded()), expression.last):
            return "polynomial"
        return ""

    def _is_exponential(self, expression: Expression, cycle: frozenset[int]) -> bool:
        """Return whether two ways with one text lead from a state of ``cycle`` back to itself."""
        counts = expression.transitions.counts
        within = [transition for transition in counts if cycle.issuperset(transition)]
        if any(counts[transition] > 1 for transition in within):
            return True
        graph = _graph(within)
        pairs: Graph = {}
        waiting = [(state, state) for state in cycle]
        while waiting:
            pair = waiting.pop()
            if pair not in pairs:
                pairs[pair] = set(self._next(graph, pair))
                waiting.extend(pairs[pair])
        # Two ways part and meet again if a cycle of pairs has both equal states and different ones.
        return any(
            len({first == second for first, second in component}) == 2
            for component in _cycles(pairs)
        )

    def _is_polynomial(self, graph: Graph, last: frozenset[int]) -> bool:
        """Return whether one text leads around a cycle, on to another, and around that one."""
        cycle_of = {state: cycle for cycle in _cycles(graph) for state in cycle}
        return any(
            cycle_of[first] is not cycle_of[second]
            and not self._takes_the_rest(graph, second, last)
            and self._can_give_back(first, second)
            and self._is_connected(graph, cycle_of, first, second)
            for first in cycle_of
            for second in cycle_of
        )

    def _takes_the_rest(self, graph: Graph, state: int, last: frozenset[int]) -> bool:
        """Return whether ``state`` matches any rest of a text, so that the whole never fails."""
        matches_all = self._automaton.classes[state] == self._automaton.any_character
        return state in last and state in graph[state] and matches_all

    def _can_give_back(self, first: int, second: int) -> bool:
        """Return whether ``first`` gives characters back if ``second`` fails.

        It does not if the regular expression leaves an atomic group between the two.
        """
        atomic_groups = self._automaton.atomic_groups
        return atomic_groups[first] <= atomic_groups[second]

    def _is_connected(
        self, graph: Graph, cycle_of: dict[int, frozenset[int]], first: int, second: int
    ) -> bool:
        """Return whether a text leads from ``first`` to both, and from ``second`` to itself."""
        seen: set[tuple[int, ...]] = set()
        waiting: list[tuple[int, ...]] = [(first, first, second)]
        while waiting:
            for states in self._next(graph, waiting.pop()):
                if states == (first, second, second):
                    return True
                in_cycles = states[0] in cycle_of[first] and states[2] in cycle_of[second]
                if in_cycles and states not in seen:
                    seen.add(states)
                    waiting.append(states)
        return False

    def _next(self, graph: Graph, states: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Yield the states that one character, the same for all, leads ``states`` to."""
        classes = self._automaton.classes
        found: list[tuple[tuple[int, ...], int]] = [((), self._automaton.any_character)]
        for state in states:
            found = [
                ((*before, target), shared & classes[target])
                for before, shared in found
                for target in graph.get(state, ())
                if shared & classes[target]
            ]
            self._steps += len(found) + 1
            if self._steps > _MAX_STEPS:
                raise TooComplex("too many steps")
        yield from (targets for targets, _ in found)


def _graph(transitions: Iterable[Transition]) -> Graph:
    graph: Graph = {}
    for source, target in transitions:
        graph.setdefault(source, set()).add(target)
    return graph


def _cycles_of(transitions: Iterable[Transition]) -> list[frozenset[Any]]:
    return _cycles(_graph(transitions))


def _cycles(graph: Graph) -> list[frozenset[Any]]:
    """Return the strongly connected components that have a transition within (Tarjan, 1972)."""
    order: dict[Any, int] = {}
    lowest: dict[Any, int] = {}
    open_nodes: dict[Any, None] = {}
    components: list[frozenset[Any]] = []
    for root in graph:
        if root in order:
            continue
        # The explicit stack replaces recursion: a pattern may have more states than Python frames.
        stack = [(root, iter(graph[root]))]
        order[root] = lowest[root] = len(order)
        open_nodes[root] = None
        while stack:
            node, targets = stack[-1]
            target = next(targets, None)
            if target is None:
                stack.pop()
                if stack:
                    parent = stack[-1][0]
                    lowest[parent] = min(lowest[parent], lowest[node])
                if lowest[node] == order[node]:
                    components.append(_close(open_nodes, node))
            elif target not in order:
                order[target] = lowest[target] = len(order)
                open_nodes[target] = None
                stack.append((target, iter(graph.get(target, ()))))
            elif target in open_nodes:
                lowest[node] = min(lowest[node], order[target])
    return [each for each in components if len(each) > 1 or _has_loop(graph, *each)]


def _has_loop(graph: Graph, node: Any) -> bool:
    return node in graph.get(node, ())


def _close(open_nodes: dict[Any, None], root: Any) -> frozenset[Any]:
    """Remove the component of ``root`` from the open nodes, and return it."""
    component = [root]
    while (node := open_nodes.popitem()[0]) != root:
        component.append(node)
    return frozenset(component)
