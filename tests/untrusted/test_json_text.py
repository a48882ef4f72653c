"""JSON has finite numbers only, whatever a type does with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    JsonValue,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

from gizmopy.errors import UndecodableMessage
from gizmopy.pubsub.codecs import codec_for
from gizmopy.untrusted.early_stop import json_validator
from gizmopy.untrusted.json_text import finite_validator, read_json

_SIZES = (0, 600, 20_000)
"""Spaces after a text: there is a validator for each size."""


class Model(BaseModel):
    x: float = 0


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")


class Tree(BaseModel):
    value: float = 0
    children: list[Tree] = []
    other: Any = None


class Allowing(BaseModel):
    model_config = ConfigDict(allow_inf_nan=True)
    x: float


class Typed(TypedDict):
    x: float


@dataclass
class Data:
    x: float = 0
    other: Any = None


def _same(value: Any) -> Any:
    return value


_TYPES: list[tuple[Any, str]] = [
    (float, "%s"),
    (Annotated[float, Field(gt=-1e400)], "%s"),
    (complex, "%s"),
    (Decimal, "%s"),
    (int, "%s"),
    (Literal[1], "%s"),
    (Any, "%s"),
    (object, "%s"),
    (Annotated[Any, AfterValidator(_same)], "%s"),
    (Annotated[Any, BeforeValidator(_same)], "[%s]"),
    (list, "[%s]"),
    (list[Any], "[1, [%s]]"),
    (list[float | None], "[null, %s]"),
    (tuple[float, ...], "[1, %s]"),
    (set[float], "[1, %s]"),
    (Sequence[Any], "[%s]"),
    (dict, '{"a": %s}'),
    (dict[str, Any], '{"a": [{"b": %s}]}'),
    (Mapping[str, Any], '{"a": %s}'),
    (JsonValue, '{"a": [%s]}'),
    (Json, '"%s"'),
    (Json[float], '"%s"'),
    (float | str, "%s"),
    (Model, '{"x": %s}'),
    (Extra, '{"x": [%s]}'),
    (Tree, '{"children": [{"value": %s}]}'),
    (Tree, '{"children": [{"other": [%s]}]}'),
    (Typed, '{"x": %s}'),
    (Data, '{"x": %s}'),
    (Data, '{"other": %s}'),
    (dict[str, Any] | Model, '{"x": %s}'),
]


def _validate(type_: Any, text: str) -> Any:
    adapter = TypeAdapter(type_)
    return json_validator(adapter, adapter.validate_json)(text.encode())


@pytest.mark.parametrize(("type_", "text"), _TYPES)
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("size", _SIZES)
def test_no_type_accepts_a_number_that_is_not_finite(
    type_: Any, text: str, number: str, size: int
) -> None:
    """Wherever the number is, and however long the body."""
    with pytest.raises(ValidationError):
        _validate(type_, text % number + " " * size)
    with pytest.raises(UndecodableMessage):
        codec_for(type_).decode((text % number + " " * size).encode())


@pytest.mark.parametrize(("type_", "text"), _TYPES)
@pytest.mark.parametrize("size", _SIZES)
def test_every_type_accepts_finite_numbers(type_: Any, text: str, size: int) -> None:
    """The value is the one that pydantic's own validator returns."""
    whole = text % 1 + " " * size
    assert _validate(type_, whole) == TypeAdapter(type_).validate_json(whole)


@pytest.mark.parametrize("text", ['{"x": %s}', '{"x": 1, "unknown": [%s]}'])
@pytest.mark.parametrize("number", ["NaN", "-Infinity"])
def test_a_field_that_is_ignored_has_to_be_json(text: str, number: str) -> None:
    """NaN in an unknown field makes the body malformed, too."""
    with pytest.raises(ValidationError, match="NaN and Infinity are not JSON"):
        _validate(Model, text % number)


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (Allowing, '{"x": %s}'),
        (Annotated[float, Field(allow_inf_nan=True)], "%s"),
        (list[Allowing], '[{"x": %s}]'),
    ],
)
@pytest.mark.parametrize("size", _SIZES)
def test_a_type_may_allow_them(type_: Any, text: str, size: int) -> None:
    """``allow_inf_nan=True`` of a model or a field has its meaning in pydantic."""
    for number in ("NaN", "Infinity", "1e999"):
        _validate(type_, text % number + " " * size)


@pytest.mark.parametrize("size", _SIZES)
def test_text_with_these_words_is_no_number(size: int) -> None:
    """Nor is a text that is malformed in another way reported as one with NaN."""
    value = {"NaN": ["NaN", "Infinity", "\\NaN", '"NaN']}
    text = TypeAdapter(Any).dump_json(value).decode() + " " * size
    assert _validate(dict[str, Any], text) == value
    assert read_json(text) == value
    with pytest.raises(ValidationError, match="trailing comma"):
        _validate(dict[str, Any], '{"a": NaN,}' + " " * size)


@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("type_", [Any, dict[str, int], Model])
def test_a_byte_order_mark_is_skipped(type_: Any, size: int) -> None:
    """RFC 8259 section 8.1 allows a parser to do so; a second one is malformed."""
    text = '{"x": 1}' + " " * size
    assert _validate(type_, "\ufeff" + text) == _validate(type_, text)
    assert read_json("\ufeff" + text) == read_json(("\ufeff" + text).encode()) == {"x": 1}
    with pytest.raises(ValidationError):
        _validate(type_, "\ufeff\ufeff" + text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[NaN]", "NaN and Infinity are not JSON"),
        ("[-Infinity]", "NaN and Infinity are not JSON"),
        ('{"a": [1e999]}', "too large"),
        ("[1.0" + "0" * 10 + "e999]", "too large"),
        ("[1,]", "trailing comma"),
        (r'["\ud800"]', "hex escape"),
        ("", "EOF"),
    ],
)
def test_the_reason_is_named(text: str, reason: str) -> None:
    """A client learns why its text is not JSON."""
    with pytest.raises(ValueError, match=reason):
        read_json(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "1e999"])
def test_texts_of_parameters_follow_the_same_rule(text: str) -> None:
    """A float in a query is finite, unless its type allows others."""
    with pytest.raises(ValidationError, match="finite"):
        finite_validator(TypeAdapter(float)).validate_strings(text)
    allowing = Annotated[float, Field(allow_inf_nan=True)]
    finite_validator(TypeAdapter(allowing)).validate_strings(text)


@pytest.mark.parametrize(
    "body", [b'{"a": 1}', b'{"a": "1"}', b"[1]", b'["1"]', b'{"a": {"b": []}}', b"1", b"null"]
)
@pytest.mark.parametrize(
    "type_",
    [
        dict[str, Any] | Model,
        Model | dict[str, Any],
        list[Any] | list[int],
        list[int] | list[Any],
        dict[str, Any] | list[Any] | int | None,
    ],
)
def test_a_union_chooses_the_same_member(type_: Any, body: bytes) -> None:
    """The check of the numbers changes nothing for pydantic's choice."""
    adapter = TypeAdapter(type_)
    outcomes: list[Any] = []
    for validate in (adapter.validate_json, json_validator(adapter, adapter.validate_json)):
        try:
            outcomes.append(repr(validate(body)))
        except ValidationError as error:
            outcomes.append(error.error_count())
    assert outcomes[0] == outcomes[1]
