"""Find what serves a path: a trie over the segments of path templates.

A template is made of segments between slashes, in order of precedence:

- ``cats``                         itself
- ``{id:[0-9]+}``, ``v{a}.{b}``    a pattern within one segment; several: in order of declaration;
                                 of several variables, the first takes as much as it can
- ``{id}``                         any one segment that is not empty
- ``{path:.*}``                    all that is left, slashes included; only at the end

Paths are compared decoded, segment by segment: an encoded slash (``%2F``) is part of a value, not a
separator. Empty segments and a trailing slash are segments like any other.

Values that lead out of a folder, if one is joined with them, are refused; see ``leads_out``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar
from urllib.parse import quote, unquote

from gizmopy.web.problems import Problem
from gizmopy.web.segments import SegmentPattern

T = TypeVar("T")

_VARIABLE = r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}"  # braces within: a regex's quantifier
_SEGMENT = re.compile(rf"/((?:[^/{{}}]|{_VARIABLE})*)")
_VARIABLES = re.compile(f"({_VARIABLE})")
_DOT_SEGMENTS = frozenset((".", ".."))
_SAFE = "!$&'()*+,;=:@~"  # what clients leave as it is in a segment


class RouteNotFound(LookupError):
    """Report that nothing is served at a path."""


class MethodNotAllowed(LookupError):
    """Report that a path is served, but not by this method; ``allow`` lists those that are."""

    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__(allow)
        self.allow = allow


class RouteConflict(ValueError):
    """Report a template that matches what another one does; ``target`` is the other's."""

    def __init__(self, message: str, target: Any) -> None:
        super().__init__(message)
        self.target = target


class Kind(Enum):
    """How a segment of a template matches."""

    STATIC = "static"
    PATTERN = "pattern"
    VARIABLE = "variable"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a template; ``text`` is static text, decoded, or a pattern's source."""

    kind: Kind
    text: str = ""
    names: tuple[str, ...] = ()
    pattern: SegmentPattern | None = field(default=None, compare=False)


def parse_template(template: str) -> tuple[Segment, ...]:
    """Return the segments of a path template. Raises ValueError where it is malformed."""
    texts = _SEGMENT.findall(template)
    if not texts or "".join(f"/{text}" for text in texts) != template:
        raise ValueError("is no path template: begin with '/', and pair every '{' with a '}'")
    segments = tuple(_parse_segment(text) for text in texts)
    counts = Counter(name for segment in segments for name in segment.names)
    for name, count in counts.items():
        if count > 1:
            raise ValueError(f"has two variables named {name!r}; rename one")
    if any(segment.kind is Kind.REST for segment in segments[:-1]):
        raise ValueError("has more after the variable that takes the rest; move it to the end")
    return segments


def _parse_segment(text: str) -> Segment:
    pieces = _VARIABLES.split(text)
    literals = [_parse_literal(piece) for piece in pieces[::2]]
    variables = [_parse_variable(piece) for piece in pieces[1::2]]
    if not variables:
        return Segment(Kind.STATIC, literals[0])
    if literals == ["", ""]:
        name, pattern = variables[0]
        if pattern is None:
            return Segment(Kind.VARIABLE, names=(name,))
        if pattern == ".*":
            return Segment(Kind.REST, names=(name,))
    matcher = SegmentPattern(literals, variables)
    return Segment(Kind.PATTERN, matcher.text, tuple(name for name, _ in variables), matcher)


def _parse_literal(text: str) -> str:
    if "?" in text or "#" in text:
        raise ValueError("has a query or fragment; a template is a path only")
    return unquote(text)


def _parse_variable(text: str) -> tuple[str, str | None]:
    name, colon, pattern = text[1:-1].partition(":")
    if not name.isidentifier() or (colon and not pattern):
        raise ValueError(f"has the variable {text}; write {{name}} or {{name:regex}}")
    return name, pattern or None


class _Leaf(Generic[T]):
    """What one template serves, by method."""

    __slots__ = ("names", "targets", "template", "unsafe")

    def __init__(self, template: str, names: tuple[str, ...]) -> None:
        self.template = template
        self.names = names
        self.targets: dict[str, T] = {}
        self.unsafe: set[str] = set()
        """The methods whose targets take any value."""

    def serves(self, method: str) -> str | None:
        """Return the method whose target answers ``method``: GET's answers HEAD."""
        if method in self.targets:
            return method
        return "GET" if method == "HEAD" and "GET" in self.targets else None

    def add(self, method: str, template: str, target: T, *, unsafe: bool) -> None:
        other = next(iter(self.targets.values()), None)
        if template != self.template:
            message = f"matches what {self.template!r} matches; write both alike"
            raise RouteConflict(message, other)
        if method in self.targets:
            raise RouteConflict(f"is served by {method} already", self.targets[method])
        self.targets[method] = target
        if unsafe:
            self.unsafe.add(method)

    def refuse(self, method: str, values: Sequence[str]) -> None:
        """Refuse values that lead out of a folder, unless the target of ``method`` takes any."""
        if method not in self.unsafe:
            name = next(n for n, v in zip(self.names, values, strict=True) if leads_out(v))
            reason = "it is absolute, or holds a dot segment or NUL"
            raise Problem(400, f"The path has no valid value for {name!r}: {reason}.")


class _Node(Generic[T]):
    """A place in the trie: what may follow the segments that lead here."""

    __slots__ = ("leaf", "patterns", "rest", "static", "variable")

    def __init__(self) -> None:
        self.static: dict[str, _Node[T]] = {}
        self.patterns: dict[str, tuple[SegmentPattern, _Node[T]]] = {}
        self.variable: _Node[T] | None = None
        self.rest: _Node[T] | None = None
        self.leaf: _Leaf[T] | None = None

    def follow(self, segment: Segment) -> _Node[T]:
        """Return the node that ``segment`` leads to, made where there is none yet."""
        match segment.kind:
            case Kind.STATIC:
                return self.static.setdefault(segment.text, _Node())
            case Kind.PATTERN:
                assert segment.pattern is not None
                return self.patterns.setdefault(segment.text, (segment.pattern, _Node()))[1]
            case Kind.VARIABLE:
                self.variable = self.variable or _Node()
                return self.variable
            case Kind.REST:
                self.rest = self.rest or _Node()
                return self.rest

    def find(
        self,
        segments: Sequence[str],
        depth: int,
        values: tuple[str, ...],
        method: str,
        allow: set[str],
    ) -> tuple[_Leaf[T], str, tuple[str, ...]] | None:
        """Return the best leaf that serves ``method``, its method, and the values of its variables.

        Where templates match that serve other methods only, those are put into ``allow``. Each node
        is entered once at most, as it stands at one depth: no path is slow to refuse.
        """
        if depth == len(segments):
            leaf = self.leaf
            if leaf is None:
                return None
            served = leaf.serves(method)
            if served is not None:
                return leaf, served, values
            allow.update(leaf.targets)
            return None
        segment = segments[depth]
        node = self.static.get(segment)
        if node is not None and (found := node.find(segments, depth + 1, values, method, allow)):
            return found
        for pattern, node in self.patterns.values():
            more = pattern.match(segment)
            if more is not None and (
                found := node.find(segments, depth + 1, values + more, method, allow)
            ):
                return found
        node = self.variable
        if (
            node is not None
            and segment
            and (found := node.find(segments, depth + 1, (*values, segment), method, allow))
        ):
            return found
        if self.rest is None:
            return None
        return self.rest.find((), 0, (*values, "/".join(segments[depth:])), method, allow)


class Router(Generic[T]):
    """Map methods and paths to targets, at a cost that does not grow with their number."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._static: dict[str, _Leaf[T]] = {}

    def add(self, method: str, template: str, target: T, *, unsafe: bool = False) -> None:
        """Serve ``method`` at every path that ``template`` matches.

        ``unsafe`` lets its variables have any value, also one that ``leads_out``.

        Raises ValueError where the template is malformed, and its subclass RouteConflict where the
        same method and template were added before, or one that differs only in names.
        """
        segments = parse_template(template)
        node = self._root
        for segment in segments:
            node = node.follow(segment)
        if node.leaf is None:
            node.leaf = _Leaf(template, tuple(name for each in segments for name in each.names))
        node.leaf.add(method, template, target, unsafe=unsafe)
        if all(segment.kind is Kind.STATIC for segment in segments):
            raw = "".join(f"/{quote(segment.text, safe=_SAFE)}" for segment in segments)
            self._static[raw] = node.leaf

    def match(self, method: str, raw_path: str) -> tuple[T, dict[str, str]]:
        """Return the target for a percent-encoded path, and the decoded values of its variables.

        GET's target serves HEAD if no target is declared for HEAD. Raises RouteNotFound if no
        template matches, or the path is not UTF-8; MethodNotAllowed if templates match, but none
        serves ``method``; and Problem (400) if a value of the route's variables ``leads_out``.
        """
        leaf = self._static.get(raw_path)
        if leaf is not None and method in leaf.targets:
            return leaf.targets[method], {}
        if (plain := self._descend(method, raw_path)) is not None:
            return plain
        allow: set[str] = set()
        found = self._root.find(_segments(raw_path), 0, (), method, allow)
        if found is not None:
            leaf, served, values = found
            if (
                "." in raw_path
                or "%" in raw_path
                or "//" in raw_path
                or "\\" in raw_path
                or "\0" in raw_path
            ) and any(map(leads_out, values)):
                leaf.refuse(served, values)
            return leaf.targets[served], dict(zip(leaf.names, values, strict=True))
        if not allow:
            raise RouteNotFound(raw_path)
        if "GET" in allow:
            allow.add("HEAD")
        raise MethodNotAllowed(tuple(sorted(allow)))

    def allowed(self, raw_path: str) -> tuple[str, ...]:
        """Return the methods that are served at a path, HEAD with GET; none for an unknown one."""
        try:
            self.match("", raw_path)
        except MethodNotAllowed as error:
            return error.allow
        except RouteNotFound:
            pass
        return ()

    def _descend(self, method: str, raw_path: str) -> tuple[T, dict[str, str]] | None:
        """Return what ``find`` would, where its first choice in each node is the right one.

        So it is for nearly every path; None where it is not, or takes a closer look.
        """
        if "%" in raw_path or not raw_path.startswith("/"):
            return None
        if "/." in raw_path or "\\" in raw_path or "\0" in raw_path:
            return None
        node, values = self._root, []
        for segment in raw_path[1:].split("/"):
            following = node.static.get(segment)
            if following is None:
                following = node.variable
                if following is None or node.patterns or not segment:
                    return None
                values.append(segment)
            node = following
        leaf = node.leaf
        if leaf is None or method not in leaf.targets:
            return None
        return leaf.targets[method], dict(zip(leaf.names, values, strict=True))


def leads_out(value: str) -> bool:
    """Whether ``value``, joined to a folder's path, may lead out of the folder, or ends early.

    So does an absolute path, a dot segment (RFC 3986, 3.3), and NUL, which ends a text in C. A
    backslash counts as a slash, as on Windows and in some proxies. The value is decoded once:
    text that was encoded twice stays encoded once.
    """
    if "\\" in value:
        value = value.replace("\\", "/")
    if "/" not in value:
        return value in _DOT_SEGMENTS or "\0" in value
    return value[0] == "/" or "\0" in value or not _DOT_SEGMENTS.isdisjoint(value.split("/"))


def _segments(raw_path: str) -> list[str]:
    """Return the decoded segments of a path."""
    if not raw_path.startswith("/"):  # the "*" of OPTIONS, a CONNECT
        raise RouteNotFound(raw_path)
    segments = raw_path[1:].split("/")
    if "%" not in raw_path:
        return segments
    try:
        return [unquote(segment, errors="strict") for segment in segments]
    except UnicodeDecodeError as error:
        raise RouteNotFound(raw_path) from error
