"""Marked methods under inheritance: each is found, or refused with both places."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any, Protocol

import pytest

from gizmopy.declaration import add_mark, declared_methods
from gizmopy.errors import DeclarationError
from gizmopy.pubsub import collect_subscriptions, subscribe
from gizmopy.server.health.checks import collect_health_checks, health_check
from gizmopy.web import get, post
from gizmopy.web.decorators import collect_routes

MARK = "__gizmo_test__"


def mark(name: str) -> Callable[[Any], Any]:
    """Return a decorator that marks a function with ``name``."""

    def decorate(function: Any) -> Any:
        # Each mark is an object of its own, as those of the real decorators are.
        add_mark(function, MARK, [name])
        return function

    return decorate


async def found(owner: object) -> list[tuple[str, str]]:
    """Return each mark of ``owner``, and the result of its method."""
    methods = list(declared_methods(owner, MARK))
    return [(each, await method()) for _, method, marks in methods for (each,) in marks]


def refusal(owner: object) -> str:
    """Return the error, which begins with a file and a line."""
    with pytest.raises(DeclarationError, match=rf"^{__file__}:\d+: ") as refused:
        list(declared_methods(owner, MARK))
    return str(refused.value)


def count_places(text: str) -> int:
    """Return how many places of this file a text names."""
    return text.count(f"{__file__}:")


class A:
    @mark("a")
    async def list(self) -> str:
        return "A"


class B:
    @mark("b")
    async def list(self) -> str:
        return "B"


class Helper:
    def list(self) -> str:
        return "helper"


def test_two_bases_with_one_name_are_refused() -> None:
    """Python keeps one of the two, so the other would be lost."""

    class Both(A, B):
        pass

    text = refusal(Both())
    assert "A.list: hides 'list' of B, an unrelated base of " in text
    assert "B.list" in text
    assert "rename one of them, or define 'list' in Both" in text
    assert count_places(text) == 2


@pytest.mark.parametrize("bases", [(A, Helper), (Helper, A)])
def test_a_helper_of_an_unrelated_base_is_refused(bases: tuple[type, ...]) -> None:
    """Either the mark would belong to the helper, or the helper's class would call the endpoint."""
    text = refusal(type("Both", bases, {})())
    assert "an unrelated base of Both" in text
    assert count_places(text) == 2


def test_an_attribute_of_an_unrelated_base_is_refused() -> None:
    """A base may have an attribute of the name."""

    class Attribute:
        list: Any = {}  # noqa: RUF012 - the mistake in question

    class One(Attribute, A):
        pass

    class Other(A, Attribute):
        pass

    assert "Attribute: hides 'list' of A, an unrelated base of One" in refusal(One())
    assert "A.list: hides 'list' of Attribute, an unrelated base of Other" in refusal(Other())


async def test_the_class_itself_may_decide() -> None:
    """An override in the class that joins the bases is a decision, not an accident."""

    class Decided(A, B):
        @mark("own")
        async def list(self) -> str:
            return "own"

    class Removed(A, B):
        list = None

    class OverHelper(Helper, A):
        async def list(self) -> str:  # type: ignore[override]  # it overrides both
            return "own"

    assert await found(Decided()) == [("own", "own")]
    assert await found(Removed()) == []
    assert await found(OverHelper()) == [("a", "own")]


def test_an_override_of_two_needs_a_mark_of_its_own() -> None:
    """An override takes over the marks of one base, not of two."""

    class Undecided(A, B):
        async def list(self) -> str:
            return "own"

    text = refusal(Undecided())
    assert "overrides both A.list (" in text
    assert "; decorate it" in text
    assert count_places(text) == 3


async def test_overrides_of_a_common_base_are_no_conflict() -> None:
    """In a diamond Python calls the first override, which may call the next by ``super()``."""

    class Left(A):
        async def list(self) -> str:
            return f"left {await super().list()}"

    class Right(A):
        async def list(self) -> str:
            return f"right {await super().list()}"

    class Both(Left, Right):
        pass

    assert await found(Both()) == [("a", "left right A")]


def test_a_diamond_loses_no_mark() -> None:
    """If one side of a diamond has a mark of its own, it would hide that of the other."""

    class Left(A):
        @mark("left")
        async def list(self) -> str:
            return "left"

    class Right(A):
        @mark("right")
        async def list(self) -> str:
            return "right"

    class Plain(A):
        async def list(self) -> str:
            return "plain"

    for bases in ((Left, Right), (Left, Plain), (Plain, Right)):
        assert "an unrelated base of Both" in refusal(type("Both", bases, {})())


async def test_an_abstract_method_may_be_hidden() -> None:
    """A base may ask for a method that another base provides."""

    class Asks(abc.ABC):
        @abc.abstractmethod
        async def list(self) -> str: ...

    class Shape(Protocol):
        async def list(self) -> str: ...

    class Both(A, Asks, Shape):
        pass

    assert await found(Both()) == [("a", "A")]


async def test_static_and_class_methods_are_found() -> None:
    """The mark may be above or below ``staticmethod`` and ``classmethod``."""

    class Each:
        @staticmethod
        @mark("static below")
        async def a() -> str:
            return "a"

        @mark("static above")
        @staticmethod
        async def b() -> str:
            return "b"

        @classmethod
        @mark("class below")
        async def c(cls) -> str:
            return cls.__name__

        @mark("class above")
        @classmethod
        async def d(cls) -> str:
            return cls.__name__

        @mark("top")
        @staticmethod
        @mark("bottom")
        async def e() -> str:
            return "e"

    assert await found(Each()) == [
        ("static below", "a"),
        ("static above", "b"),
        ("class below", "Each"),
        ("class above", "Each"),
        ("top", "e"),
        ("bottom", "e"),
    ]


def test_a_name_used_twice_in_one_class_is_refused() -> None:
    """The second definition replaces the first, whether it is marked or not."""

    class Twice:
        @mark("one")
        async def list(self) -> str:
            return "one"

        @mark("two")  # type: ignore[no-redef]
        async def list(self) -> str:  # noqa: F811 - the mistake
            return "two"

    class Helped:
        @mark("one")
        async def list(self) -> str:
            return "one"

        def list(self) -> str:  # type: ignore[no-redef]  # noqa: F811 - the mistake
            return "helper"

    class Replaced:
        @mark("one")
        async def list(self) -> str:
            return "one"

        list = 5  # noqa: F811 - the mistake

    for owner in (Twice(), Helped()):
        text = refusal(owner)
        assert "which has the same name; rename one of them" in text
        assert count_places(text) == 2
    assert "its declaration is lost, because 'list' is now 5" in refusal(Replaced())


def test_a_decorator_that_hides_the_mark_is_refused() -> None:
    """A decorator above the mark must keep it, as functools.wraps does."""

    def hiding(function: Any) -> Any:
        async def call(*args: Any) -> Any:
            return await function(*args)

        return call

    class Hidden:
        @hiding
        @mark("one")
        async def list(self) -> str:
            return "one"

    class Property:
        @property
        @mark("one")
        async def list(self) -> str:
            return "one"

    for owner in (Hidden(), Property()):
        text = refusal(owner)
        assert "its declaration is lost" in text
        assert "functools.wraps" in text
        assert count_places(text) == 2


async def test_a_decorator_with_wraps_keeps_the_mark() -> None:
    """functools.wraps copies the mark."""

    def keeping(function: Any) -> Any:
        @functools.wraps(function)
        async def call(*args: Any) -> Any:
            return f"kept {await function(*args)}"

        return call

    class Kept:
        @keeping
        @mark("one")
        async def list(self) -> str:
            return "one"

    assert await found(Kept()) == [("one", "kept one")]


def test_an_attribute_of_the_object_that_hides_a_method_is_refused() -> None:
    """``self.list = []`` in ``__init__`` would hide the method, also if it is None."""

    class Hiding(A):
        def __init__(self, value: object) -> None:
            self.list = value

    values: tuple[object, ...] = ([], None)
    for value in values:
        text = refusal(Hiding(value))
        assert "A.list: is hidden by the attribute 'list', set in __init__; rename one" in text


async def test_a_method_may_be_wrapped_in_the_object() -> None:
    """An object may replace its method by another function: nothing is lost."""

    class Wrapping(A):
        def __init__(self) -> None:
            original = self.list

            async def wrapped() -> str:
                return f"wrapped {await original()}"

            self.list = wrapped
            self.alias = original

    assert await found(Wrapping()) == [("a", "wrapped A")]


def test_a_marked_function_in_an_attribute_of_the_object_is_refused() -> None:
    """gizmopy reads the declarations of classes."""

    class Late:
        def __init__(self) -> None:
            @mark("late")
            async def function() -> str:
                return "late"

            self.late = function

    assert "is set as the attribute 'late' of an object; define it in the class" in refusal(Late())


def test_a_property_cannot_be_marked() -> None:
    """The error says that a method was expected."""
    with pytest.raises(DeclarationError, match=r"is a property; decorate an async method"):

        class Service:
            @mark("one")  # type: ignore[prop-decorator]
            @property
            async def list(self) -> str:
                return "one"


def test_every_kind_of_declaration_is_kept() -> None:
    """Endpoints, subscriptions and health checks are collected in the same way."""

    class One:
        @get("/one")
        async def it(self) -> None: ...

        @staticmethod
        @subscribe("static")
        async def on_static(body: bytes) -> None: ...

        @classmethod
        @subscribe("class")
        async def on_class(cls, body: bytes) -> None: ...

        @post("/above")
        @staticmethod
        async def above() -> None: ...

        @staticmethod
        @health_check
        async def check() -> None: ...

    class Two:
        @subscribe("two")
        async def it(self, body: bytes) -> None: ...

    class Three:
        @health_check
        async def it(self) -> None: ...

    assert [each.path for each in collect_routes(One())] == ["/one", "/above"]
    assert [(each.channel, each.name) for each in collect_subscriptions(One(), "s")] == [
        ("static", "One.on_static"),
        ("class", "One.on_class"),
    ]
    assert [each.name for each in collect_health_checks(One())] == ["check"]
    for other in (Two, Three):
        both = type("Both", (One, other), {})()
        with pytest.raises(DeclarationError, match="an unrelated base of Both"):
            collect_routes(both)
    with pytest.raises(DeclarationError, match="an unrelated base of Both"):
        collect_subscriptions(type("Both", (Two, One), {})(), "s")
    with pytest.raises(DeclarationError, match="an unrelated base of Both"):
        collect_health_checks(type("Both", (Three, Two), {})())


def test_a_table_of_an_unrelated_base_is_not_lost() -> None:
    """``endpoints()`` of one base hides that of the other, unless it calls ``super()``."""

    async def endpoint() -> None: ...

    class Base:
        def endpoints(self) -> dict[str, Any]:
            return {}

    class One(Base):
        def endpoints(self) -> dict[str, Any]:
            return {"/one": {"GET": endpoint}}

    class Two(Base):
        def endpoints(self) -> dict[str, Any]:
            return {"/two": {"GET": endpoint}}

    class Calling(Base):
        def endpoints(self) -> dict[str, Any]:
            return {"/calling": {"GET": endpoint}, **super().endpoints()}

    class Merged(One, Two):
        def endpoints(self) -> dict[str, Any]:
            return {**One.endpoints(self), **Two.endpoints(self)}

    with pytest.raises(DeclarationError) as refused:
        collect_routes(type("Both", (One, Two), {})())
    text = str(refused.value)
    assert "hides GET '/two' in the table of Two, an unrelated base of Both" in text
    assert count_places(text) == 2
    both = type("Both", (Calling, Two), {})()
    assert {each.path for each in collect_routes(both)} == {"/calling", "/two"}
    assert {each.path for each in collect_routes(Merged())} == {"/one", "/two"}
