"""Match paths with templates: a trie of path segments.

A template is made of segments between slashes. In order of precedence, a segment is:

- ``cats``: static text
- ``{id:[0-9]+}``, ``v{a}.{b}``: a pattern within one segment. Patterns are tried in order of
  declaration; of several variables, the first takes as much as it can
- ``{id}``: any one segment that is not empty
- ``{path:.*}``: the rest of the path, slashes included; only as the last segment

Paths are compared decoded, segment by segment: an encoded slash (``%2F``) is part of a value, not a
separator. Empty segments and a trailing slash are segments like any other.

A value that would leave a folder if it was joined to the folder's path is refused; see
``is_path_traversal``.
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

# A regular expression in a variable may have a quantifier, such as {2,3}: one level of braces.
_VARIABLE = r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}"
_SEGMENT = re.compile(rf"/((?:[^/{{}}]|{_VARIABLE})*)")
_VARIABLES = re.compile(f"({_VARIABLE})")
_DOT_SEGMENTS = frozenset((".", ".."))
_UNESCAPED = "!$&'()*+,;=:@~"
"""The reserved characters that clients do not percent-encode in a segment (RFC 3986, 3.3)."""


class RouteNotFound(LookupError):
    """Report that no template matches a path."""


class MethodNotAllowed(LookupError):
    """Report that a path is served, but not for this method; ``allow`` lists the methods."""

    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__(allow)
        self.allow = allow


class RouteConflict(ValueError):
    """Report a template that matches the same paths as another; ``target`` is the other's."""

    def __init__(self, message: str, target: Any) -> None:
        super().__init__(message)
        self.target = target


class SegmentKind(Enum):
    """How a segment of a template matches."""

    STATIC = "static"
    PATTERN = "pattern"
    VARIABLE = "variable"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a template; ``text`` is decoded static text, or the source of a pattern."""

    kind: SegmentKind
    text: str = ""
    names: tuple[str, ...] = ()
    pattern: SegmentPattern | None = field(default=None, compare=False)


def parse_template(template: str) -> tuple[Segment, ...]:
    """Return the segments of a path template. Raises ValueError if it is malformed."""
    texts = _SEGMENT.findall(template)
    if not texts or "".join(f"/{text}" for text in texts) != template:
        raise ValueError("is not a path template: begin with '/', and close every '{' with a '}'")
    segments = tuple(_parse_segment(text) for text in texts)
    counts = Counter(name for segment in segments for name in segment.names)
    for name, count in counts.items():
        if count > 1:
            raise ValueError(f"has two variables named {name!r}; rename one")
    if any(segment.kind is SegmentKind.REST for segment in segments[:-1]):
        raise ValueError("has a segment after {name:.*}, which takes the rest; move it to the end")
    return segments


def _parse_segment(text: str) -> Segment:
    pieces = _VARIABLES.split(text)
    literals = [_parse_literal(piece) for piece in pieces[::2]]
    variables = [_parse_variable(piece) for piece in pieces[1::2]]
    if not variables:
        return Segment(SegmentKind.STATIC, literals[0])
    if literals == ["", ""]:
        name, pattern = variables[0]
        if pattern is None:
            return Segment(SegmentKind.VARIABLE, names=(name,))
        if pattern == ".*":
            return Segment(SegmentKind.REST, names=(name,))
    matcher = SegmentPattern(literals, variables)
    return Segment(SegmentKind.PATTERN, matcher.text, tuple(name for name, _ in variables), matcher)


def _parse_literal(text: str) -> str:
    if "?" in text or "#" in text:
        raise ValueError("has a query or a fragment; write the path only")
    return unquote(text)


def _parse_variable(text: str) -> tuple[str, str | None]:
    name, colon, pattern = text[1:-1].partition(":")
    if not name.isidentifier() or (colon and not pattern):
        raise ValueError(f"has the malformed variable {text}; write {{name}} or {{name:regex}}")
    return name, pattern or None


class _Leaf(Generic[T]):
    """The targets of one template, by method."""

    __slots__ = ("names", "targets", "template", "unsafe")

    def __init__(self, template: str, names: tuple[str, ...]) -> None:
        self.template = template
        self.names = names
        self.targets: dict[str, T] = {}
        self.unsafe: set[str] = set()
        """The methods whose targets accept any value."""

    def serves(self, method: str) -> str | None:
        """Return the method whose target serves ``method``: GET's serves HEAD, too. Else None."""
        if method in self.targets:
            return method
        return "GET" if method == "HEAD" and "GET" in self.targets else None

    def add(self, method: str, template: str, target: T, *, unsafe: bool) -> None:
        other = next(iter(self.targets.values()), None)
        if template != self.template:
            message = f"matches the same paths as {self.template!r}: use the same template"
            raise RouteConflict(message, other)
        if method in self.targets:
            raise RouteConflict(f"is declared for {method} already", self.targets[method])
        self.targets[method] = target
        if unsafe:
            self.unsafe.add(method)

    def check_values(self, method: str, values: Sequence[str]) -> None:
        """Raise Problem (400) for a path traversal, unless the target accepts any value.

        One of ``values`` is a path traversal.
        """
        if method not in self.unsafe:
            name = next(n for n, v in zip(self.names, values, strict=True) if is_path_traversal(v))
            reason = "it is an absolute path, or contains a dot segment or NUL"
            raise Problem(400, f"The path has an invalid value for {name!r}: {reason}.")


class _Node(Generic[T]):
    """A node of the trie: the segments that may follow, and the template that ends here."""

    __slots__ = ("leaf", "patterns", "rest", "static", "variable")

    def __init__(self) -> None:
        self.static: dict[str, _Node[T]] = {}
        self.patterns: dict[str, tuple[SegmentPattern, _Node[T]]] = {}
        self.variable: _Node[T] | None = None
        self.rest: _Node[T] | None = None
        self.leaf: _Leaf[T] | None = None

    def follow(self, segment: Segment) -> _Node[T]:
        """Return the child node for ``segment``; make it if there is none."""
        match segment.kind:
            case SegmentKind.STATIC:
                return self.static.setdefault(segment.text, _Node())
            case SegmentKind.PATTERN:
                assert segment.pattern is not None
                return self.patterns.setdefault(segment.text, (segment.pattern, _Node()))[1]
            case SegmentKind.VARIABLE:
                self.variable = self.variable or _Node()
                return self.variable
            case SegmentKind.REST:
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

        The methods of templates that match, but do not serve ``method``, are added to ``allow``.
        Each node is visited at most once, because its depth in the trie is fixed: the time is
        bounded by the number of templates, for a path that matches none, too.
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
    """Map methods and paths to targets.

    The cost of a match does not grow with their number, except for patterns in one place of a path.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._static: dict[str, _Leaf[T]] = {}

    def add(self, method: str, template: str, target: T, *, unsafe: bool = False) -> None:
        """Serve ``method`` at every path that ``template`` matches.

        ``unsafe`` accepts any value of its variables, also a path traversal. Raises ValueError if
        the template is malformed, and its subclass RouteConflict if this method and template were
        added before, or a template that differs only in the names of variables.
        """
        segments = parse_template(template)
        node = self._root
        for segment in segments:
            node = node.follow(segment)
        if node.leaf is None:
            node.leaf = _Leaf(template, tuple(name for each in segments for name in each.names))
        node.leaf.add(method, template, target, unsafe=unsafe)
        if all(segment.kind is SegmentKind.STATIC for segment in segments):
            raw = "".join(f"/{quote(segment.text, safe=_UNESCAPED)}" for segment in segments)
            self._static[raw] = node.leaf

    def match(self, method: str, raw_path: str) -> tuple[T, dict[str, str]]:
        """Return the target for a percent-encoded path, and the decoded values of its variables.

        GET's target serves HEAD if no target is declared for HEAD. Raises RouteNotFound if no
        template matches, or the path is not UTF-8; MethodNotAllowed if templates match, but none
        serves ``method``; and Problem (400) if the value of a variable is a path traversal.
        """
        leaf = self._static.get(raw_path)
        if leaf is not None and method in leaf.targets:
            return leaf.targets[method], {}
        if (quick := self._match_first_choices(method, raw_path)) is not None:
            return quick
        allow: set[str] = set()
        found = self._root.find(_segments(raw_path), 0, (), method, allow)
        if found is not None:
            leaf, served, values = found
            # A raw path without these characters has no value that is a path traversal: five
            # searches in one text are faster than a check of each value.
            if (
                "." in raw_path
                or "%" in raw_path
                or "//" in raw_path
                or "\\" in raw_path
                or "\0" in raw_path
            ) and any(map(is_path_traversal, values)):
                leaf.check_values(served, values)
            return leaf.targets[served], dict(zip(leaf.names, values, strict=True))
        if not allow:
            raise RouteNotFound(raw_path)
        if "GET" in allow:
            allow.add("HEAD")
        raise MethodNotAllowed(tuple(sorted(allow)))

    def allowed(self, raw_path: str) -> tuple[str, ...]:
        """Return the methods that a path is served for, HEAD with GET; none for an unknown path."""
        try:
            self.match("", raw_path)
        except MethodNotAllowed as error:
            return error.allow
        except RouteNotFound:
            pass
        return ()

    def _match_first_choices(self, method: str, raw_path: str) -> tuple[T, dict[str, str]] | None:
        """Return the result of ``match`` for most paths, faster; None if ``find`` has to decide.

        It takes the first choice in each node, static text before a variable, without a recursive
        call for each segment. ``find`` decides if the first choice fails, a pattern or an encoded
        character is involved, or a value could be a path traversal.
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


def is_path_traversal(value: str) -> bool:
    """Return whether ``value``, joined to a folder's path, could name a file outside the folder.

    An absolute path could, and one with a dot segment (RFC 3986, 3.3) or with NUL, which ends a
    string in C. A backslash counts as a slash, as on Windows and in some proxies. ``value`` has
    been decoded once: text that was encoded twice is still encoded once, and is not checked.
    """
    if "\\" in value:
        value = value.replace("\\", "/")
    if "/" not in value:
        return value in _DOT_SEGMENTS or "\0" in value
    return value[0] == "/" or "\0" in value or not _DOT_SEGMENTS.isdisjoint(value.split("/"))


def _segments(raw_path: str) -> list[str]:
    """Return the decoded segments of a path."""
    # Targets without a path: "*" (OPTIONS) and host:port (CONNECT), RFC 9112 section 3.2.
    if not raw_path.startswith("/"):
        raise RouteNotFound(raw_path)
    segments = raw_path[1:].split("/")
    if "%" not in raw_path:
        return segments
    try:
        return [unquote(segment, errors="strict") for segment in segments]
    except UnicodeDecodeError as error:
        raise RouteNotFound(raw_path) from error
