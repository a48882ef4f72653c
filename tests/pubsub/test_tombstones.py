"""Which handlers take None: the type of the payload is asked, however it is written."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NewType

import pytest
from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypeAliasType

from gizmopy.errors import UndecodableMessage
from gizmopy.pubsub import Message
from gizmopy.pubsub.handlers import compile_batch_method, compile_method


class Cat(BaseModel):
    name: str


class MaybeRoot(RootModel[Cat | None]): ...


Alias = TypeAliasType("Alias", Cat | None)
Cats = TypeAliasType("Cats", list[Cat])
Named = NewType("Named", Cat)
Annotation = Annotated[Cat | None, Field(description="a cat")]

NONE = [
    Cat | None,
    Annotation,
    Alias,
    Any,
    MaybeRoot,
    bytes | None,
    str | None,
    Annotated[str | None, 1],
]


def _taking(type_: Any, taken: list[Any]) -> Callable[..., Coroutine[Any, Any, None]]:
    async def on_value(value: Any) -> None:
        taken.append(value)

    on_value.__annotations__ = {"value": type_, "return": None}
    return on_value


@pytest.mark.parametrize("type_", NONE, ids=str)
async def test_a_type_with_none_takes_a_tombstone(type_: Any) -> None:
    """Also one that hides it in an alias, in Annotated, in Any or in a root model."""
    taken: list[Any] = []
    compiled = compile_method(_taking(type_, taken), ())
    await compiled.handler(Message("t", None))
    assert taken == [MaybeRoot(None) if type_ is MaybeRoot else None]


@pytest.mark.parametrize("type_", [Cat | None, Annotation, Alias, Any, MaybeRoot], ids=str)
async def test_a_type_with_none_takes_the_null_of_json(type_: Any) -> None:
    """``b"null"`` is a value of the type."""
    taken: list[Any] = []
    compiled = compile_method(_taking(type_, taken), ())
    await compiled.handler(Message("t", b"null"))
    assert taken == [MaybeRoot(None) if type_ is MaybeRoot else None]


@pytest.mark.parametrize("type_", [Cat, Named, bytes, str, list[Cat]], ids=str)
async def test_a_type_without_none_refuses_a_tombstone(type_: Any) -> None:
    """The message is undecodable."""
    compiled = compile_method(_taking(type_, []), ())
    with pytest.raises(UndecodableMessage, match="tombstone"):
        await compiled.handler(Message("t", None))


@pytest.mark.parametrize("type_", [list[Cat], Annotated[list[Cat], 1], Cats], ids=str)
async def test_a_batch_may_be_an_alias_or_annotated(type_: Any) -> None:
    """The items of the list decide."""
    taken: list[Any] = []
    compiled = compile_batch_method(_taking(type_, taken))
    assert compiled.batch_handler is not None
    await compiled.batch_handler([Message("t", b'{"name": "Tom"}')])
    assert taken == [[Cat(name="Tom")]]


async def test_bytes_in_an_alias_are_not_json() -> None:
    """The codec is that of the type inside."""
    taken: list[Any] = []
    compiled = compile_method(_taking(TypeAliasType("Raw", bytes | None), taken), ())
    await compiled.handler(Message("t", b"raw"))
    assert taken == [b"raw"]
