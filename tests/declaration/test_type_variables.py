"""Type variables in the signatures of generic classes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, Protocol, Union

import pytest
from pydantic import BaseModel
from typing_extensions import TypeAliasType, TypedDict, TypeVar, TypeVarTuple

from gizmopy.declaration import read_signature
from gizmopy.errors import DeclarationError

T = TypeVar("T")
K = TypeVar("K")
B = TypeVar("B", bound=BaseModel)
D = TypeVar("D", default=int)
Ts = TypeVarTuple("Ts")


class Item(BaseModel):
    name: str


class Page(BaseModel, Generic[T]):
    items: list[T]


class Pair(BaseModel, Generic[T, K]):
    one: T
    two: K


@dataclass
class Box(Generic[T]):
    content: T


class Row(TypedDict, Generic[T]):
    cell: T


class Point(NamedTuple, Generic[T]):
    x: T


class Free(BaseModel):
    page: Page[T]  # type: ignore[valid-type]  # the mistake in question


class Reader(Protocol[T]):
    def read(self, value: T) -> T: ...


Many = TypeAliasType("Many", list[T], type_params=(T,))


def types_of(function: Any, owner: object = None) -> dict[str, Any]:
    """Return the type of each parameter, and that of the result."""
    signature = read_signature(function, owner)
    return {each.name: each.annotation for each in signature.parameters} | {"": signature.returns}


class Crud(Generic[T, K]):
    async def plain(self, key: K, item: T) -> T:
        raise NotImplementedError

    async def nested(
        self,
        a: list[T],
        b: dict[str, T | None],
        c: Annotated[T, "mark"],
        d: Page[T],
        e: list[Page[T]],
        f: Page[list[T]],
        g: Many[T],
        h: Box[T],
        i: Pair[K, T],
        j: Row[T],
        k: Point[T],
    ) -> tuple[Literal[201], T] | tuple[int, Page[T]] | None:
        raise NotImplementedError

    @staticmethod
    async def static(item: T) -> AsyncIterator[T]:
        raise NotImplementedError

    @classmethod
    async def klass(cls, item: T) -> T:
        raise NotImplementedError


class ItemCrud(Crud[Item, int]):
    pass


def test_a_subclass_sets_the_type_variables() -> None:
    """The arguments of the base are the types of the parameters and of the result."""
    assert types_of(ItemCrud().plain) == {"key": int, "item": Item, "": Item}


def test_a_type_variable_stands_anywhere_in_a_type() -> None:
    """Collections, unions, metadata, models, aliases, dataclasses, TypedDicts and tuples."""
    assert types_of(ItemCrud().nested) == {
        "a": list[Item],
        "b": dict[str, Item | None],
        "c": Annotated[Item, "mark"],
        "d": Page[Item],
        "e": list[Page[Item]],
        "f": Page[list[Item]],
        "g": Many[Item],
        "h": Box[Item],
        "i": Pair[int, Item],
        "j": Row[Item],
        "k": Point[Item],
        "": Union[tuple[Literal[201], Item], tuple[int, Page[Item]], None],  # noqa: UP007
    }


def test_static_and_class_methods_see_the_types_of_the_owner() -> None:
    """A static method is bound to nothing, so its owner is given."""
    service = ItemCrud()
    assert types_of(service.static, service) == {"item": Item, "": AsyncIterator[Item]}
    assert types_of(service.klass) == {"item": Item, "": Item}


def test_an_object_of_a_subscripted_class_has_its_types() -> None:
    """``Crud[Item, int]()`` needs no subclass."""
    assert types_of(Crud[Item, int]().plain) == {"key": int, "item": Item, "": Item}


def test_types_pass_through_generic_subclasses() -> None:
    """Each class may rename, reorder or wrap the variables of its base."""

    class Swapped(Crud[list[K], T], Generic[T, K]):
        pass

    class Own(Swapped[str, Item]):
        async def plain(self, key: str, item: list[Item]) -> list[Item]:
            return item

    assert types_of(Swapped[str, Item]().plain) == {
        "key": str,
        "item": list[Item],
        "": list[Item],
    }
    assert types_of(Own().plain) == {"key": str, "item": list[Item], "": list[Item]}


def test_a_class_may_be_named_in_quotes() -> None:
    """A forward reference is resolved in the module of the subclass."""

    class Quoted(Crud["Item", "int"]):
        pass

    assert types_of(Quoted().plain) == {"key": int, "item": Item, "": Item}


def test_a_default_counts_if_nothing_else_is_given() -> None:
    """PEP 696: a type variable may have a default."""

    class Defaulted(Generic[D]):
        async def put(self, item: D) -> None: ...

    class Sub(Defaulted):
        pass

    class Text(Defaulted[str]):
        pass

    assert types_of(Sub().put)["item"] is int
    assert types_of(Text().put)["item"] is str


def test_several_types_at_once() -> None:
    """A TypeVarTuple takes all arguments that the other variables leave."""

    class Several(Generic[T, *Ts]):
        async def put(self, item: T, more: tuple[*Ts]) -> None: ...

    class Sub(Several[Item, int, str]):
        pass

    assert types_of(Sub().put) == {"item": Item, "more": tuple[int, str], "": type(None)}


class Unset(Generic[T]):
    async def plain(self, item: T) -> None: ...
    async def many(self, item: list[T]) -> None: ...
    async def page(self, item: Page[T]) -> None: ...
    async def pages(self, item: list[Page[T]]) -> None: ...
    async def half(self, item: Pair[int, T]) -> None: ...
    async def alias(self, item: Many[T]) -> None: ...
    async def box(self, item: Box[T]) -> None: ...
    async def marked(self, item: Annotated[T, "mark"]) -> None: ...
    async def optional(self, item: T | None = None) -> None: ...
    async def bound(self, item: B) -> None: ...
    async def bare(self, item: Page) -> None: ...  # type: ignore[type-arg]  # the mistake
    async def bare_box(self, item: Box) -> None: ...  # type: ignore[type-arg]  # the mistake
    async def free(self, item: Free) -> None: ...
    async def result(self) -> T:
        raise NotImplementedError

    async def status(self) -> tuple[Literal[201], T]:
        raise NotImplementedError


@pytest.mark.parametrize("name", [name for name in vars(Unset) if not name.startswith("_")])
def test_a_type_variable_without_a_type_is_refused(name: str) -> None:
    """The error has the file, the line, the parameter, the variable and the remedy."""
    with pytest.raises(DeclarationError) as refused:
        read_signature(getattr(Unset(), name))
    text = str(refused.value)
    assert re.match(
        rf"{re.escape(__file__)}:\d+: Unset\.{name}: (parameter 'item'|the result)", text
    )
    assert re.search(r"nothing sets the type variable [TB]; (serve a subclass|replace it)", text)


def test_a_bare_base_sets_nothing() -> None:
    """``class Sub(Unset)`` gives no argument."""

    class Sub(Unset):  # type: ignore[type-arg]  # the mistake in question
        pass

    with pytest.raises(DeclarationError, match=r"variable T; .* Sub names its generic base"):
        read_signature(Sub().plain)


def test_a_base_with_two_types_is_refused() -> None:
    """Two bases must not give one variable different types."""

    class One(Crud[Item, int]):
        pass

    class Two(Crud[Item, str]):
        pass

    class Both(One, Two):
        pass

    with pytest.raises(DeclarationError, match=r"inherits Crud with T=Item, K=int and with T=Item"):
        read_signature(Both().plain)


def test_a_protocol_declares_nothing() -> None:
    """The variables of a Protocol validate nothing, so they need no type."""

    async def read() -> Reader: ...  # type: ignore[type-arg, empty-body]  # the case in question

    assert read_signature(read).returns is Reader


def test_names_of_the_class_body_are_known() -> None:
    """With postponed annotations a nested class is found; a method does not hide a built-in."""

    class Nested:
        class Body(BaseModel):
            size: int

        async def put(self, body: Body) -> list[int]:
            return [body.size]

        async def list(self) -> list[int]:
            return []

    assert types_of(Nested().put) == {"body": Nested.Body, "": list[int]}
