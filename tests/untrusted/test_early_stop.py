"""Validation of a large body stops at the first wrong value of each container."""

from __future__ import annotations

import json
import tracemalloc
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

from gizmopy.untrusted.early_stop import LISTED_BYTES, json_validator
from gizmopy.untrusted.input_errors import details_of

T = TypeVar("T")


class Cat(BaseModel):
    name: str
    lives: list[int] = [9]
    toys: dict[str, int] = {}


@dataclass
class Dog:
    tricks: set[int]
    kind: Literal["dog"] = "dog"


class Bird(TypedDict):
    kind: Literal["bird"]
    eggs: tuple[int, ...]


class Point(NamedTuple):
    xs: list[int]


class Page(BaseModel, Generic[T]):
    items: list[T]


class Tree(BaseModel):
    leaves: list[int]
    branches: list[Tree] = []


class Names(BaseModel):
    """A model whose fields have the names of parts of pydantic's schemas."""

    default: list[int]
    fields: list[int] = [1]
    metadata: dict[str, int] = Field(default={"type": 1})
    type: list[int] = [1]
    choices: Any = {"type": "list"}


class Cats(RootModel[list[Cat]]):
    pass


Pet = Annotated[Dog | Bird, Field(discriminator="kind")]
Doubled = Annotated[list[int], BeforeValidator(lambda value: value * 2)]


def validator(type_: Any) -> Callable[[bytes], Any]:
    """Return a validator of bodies for ``type_``."""
    adapter: TypeAdapter[Any] = TypeAdapter(type_)
    return json_validator(adapter, adapter.validate_json)


def large(value: object) -> bytes:
    """Return ``value`` as JSON that is too large to list all wrong values."""
    return json.dumps(value).encode() + b" " * LISTED_BYTES


def wrong(type_: Any, body: bytes) -> list[str]:
    """Return the locations of wrong values."""
    with pytest.raises(ValidationError) as caught:
        validator(type_)(body)
    return [".".join(map(str, error["loc"])) for error in caught.value.errors()]


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (list[int], [1, 2]),
        (Cat, {"name": "Tom", "lives": [1, 2], "toys": {"ball": 1}}),
        (Dog, {"tricks": [1, 2]}),
        (list[Pet], [{"kind": "bird", "eggs": [1]}, {"kind": "dog", "tricks": []}]),
        (Point, {"xs": [1]}),
        (Page[Cat], {"items": [{"name": "Tom"}]}),
        (Page[list[Dog]], {"items": [[{"tricks": [1]}]]}),
        (Tree, {"leaves": [1], "branches": [{"leaves": [2], "branches": []}]}),
        (Names, {"default": [1], "choices": {"type": "dict"}}),
        (Names, {"default": [1]}),
        (Cats, [{"name": "Tom"}]),
        (Doubled, [1, 2]),
        (deque[int], [1, 2]),
        (int | list[str] | dict[str, bool], ["a"]),
        (list[Cat | Dog | None], [None, {"tricks": [1]}, {"name": "Tom"}]),
        (Any, {"a": [1]}),
    ],
)
def test_a_valid_large_body_is_validated_as_usual(type_: Any, value: object) -> None:
    """A large body has the same result as a small one."""
    read = validator(type_)(large(value))
    small = TypeAdapter(type_).validate_json(json.dumps(value))
    assert (read, type(read)) == (small, type(small))


@pytest.mark.parametrize(
    ("type_", "value", "places"),
    [
        (list[int], ["x"] * 9, ["0"]),
        (dict[str, int], {"a": "x", "b": "x"}, ["a"]),
        (dict[str, list[int]], {"a": ["x"] * 9, "b": ["x"]}, ["a.0"]),
        (Cat, {"lives": ["x"] * 9, "toys": {"a": "x", "b": "x"}}, ["name", "lives.0", "toys.a"]),
        (Dog, {"tricks": ["x"] * 9}, ["tricks.0"]),
        (list[Pet], [{"kind": "bird", "eggs": ["x"] * 9}] * 9, ["0.bird.eggs.0"]),
        (Page[Cat], {"items": [{}] * 9}, ["items.0.name"]),
        (Tree, {"leaves": [1], "branches": [{"leaves": ["x"] * 9}] * 9}, ["branches.0.leaves.0"]),
        (Names, {"default": ["x", "x"], "type": ["x", "x"]}, ["default.0", "type.0"]),
        (Cats, [{}] * 9, ["0.name"]),
        (list[int | bool], ["x"] * 9, ["0.int", "0.bool"]),
    ],
)
def test_the_first_wrong_value_of_each_container_is_found(
    type_: Any, value: object, places: list[str]
) -> None:
    """A container has at most one error; all fields of a model are validated."""
    assert wrong(type_, large(value)) == places


def test_all_wrong_values_of_a_small_body_are_found() -> None:
    """The error lists every wrong value of a small body."""
    assert wrong(list[int], json.dumps(["x"] * 3).encode()) == ["0", "1", "2"]


class Wide(BaseModel):
    """A model with required fields of many types, one of them of the model itself."""

    model_config = ConfigDict(from_attributes=True)

    one: int = Field(alias="One")
    two: str
    three: Cat
    four: list[int] | None
    five: Literal["a", "b"]
    six: Dog
    seven: Bird
    eight: Annotated[int, AfterValidator(abs)]
    nine: Pet
    ten: float | bool
    again: Wide | None = None


JUNK: list[list[int]] = [[] for _ in range(60_000)]


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Wide, {"junk": JUNK}),
        (list[Wide], [{"junk": JUNK}]),
        (Wide, {"again": {"again": {"again": {"again": {"again": {"junk": JUNK[:9000]}}}}}}),
    ],
)
def test_errors_of_missing_fields_do_not_copy_the_object(type_: Any, value: object) -> None:
    """pydantic would copy the object once for each missing field: here 20 times the body."""
    body = json.dumps(value, separators=(",", ":")).encode()
    read = validator(type_)
    with pytest.raises(ValidationError):
        read(b'{"again": {}}' + b" " * len(body))  # validators are built when they are first needed
    tracemalloc.start()
    try:
        with pytest.raises(ValidationError) as caught:
            read(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.error_count() >= 10
    assert {each["type"] for each in details_of(caught.value)} == {"missing"}
    assert peak < 1024 * 1024  # 40 MB and more before


@pytest.mark.parametrize("size", [0, 600, LISTED_BYTES])
def test_a_missing_field_has_its_name_in_the_json(size: int) -> None:
    """If the errors copy little, they are the same as pydantic's."""
    with pytest.raises(ValidationError) as caught:
        validator(Wide)(json.dumps({"two": 1, "three": {}}).encode() + b" " * size)
    found = {each["loc"]: each["type"] for each in details_of(caught.value)}
    assert (found["One",], found["two",], found["three", "name"]) == (
        *("missing", "string_type", "missing"),
    )


class Odd(BaseModel):
    """A model whose fields accept any object."""

    one: Any
    two: Annotated[str, BeforeValidator(str)]
    three: Callable[[], int] | int
    four: object


@pytest.mark.parametrize("size", [0, 600, LISTED_BYTES])
def test_a_missing_field_that_accepts_any_object_is_an_error(size: int) -> None:
    """The stand-in for a missing field is never used as its value."""
    with pytest.raises(ValidationError) as caught:
        validator(Odd)(b"{}" + b" " * size)
    assert [each["type"] for each in caught.value.errors()] == ["missing"] * 4


def test_malformed_json_is_an_error() -> None:
    """The error for a large body has pydantic's message, too."""
    with pytest.raises(ValidationError, match="Invalid JSON"):
        validator(list[int])(b"[" * LISTED_BYTES * 2)
