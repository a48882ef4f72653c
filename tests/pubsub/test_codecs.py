"""Codecs: round trips, and errors that do not quote the body."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, NewType
from uuid import UUID

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from pydantic import AfterValidator, BaseModel, Field, RootModel, StringConstraints
from typing_extensions import TypedDict

from gizmopy.errors import UndecodableMessage, UsageError
from gizmopy.pubsub.codecs import codec_for, encode


class Cat(BaseModel):
    name: str
    born: datetime


@dataclass
class Dog:
    name: str
    tags: list[str]


class Bird(TypedDict):
    name: str


class Tags(RootModel[list[str]]):
    pass


class Renamed(BaseModel):
    class_: str = Field(alias="class")


class Color(str, Enum):  # noqa: UP042 - the test needs an enum that is a str
    RED = "red"


class Size(IntEnum):
    SMALL = 1


class Name(str):
    __slots__ = ()


class Blob(bytes):
    __slots__ = ()


UserId = NewType("UserId", str)
ShortText = Annotated[str, StringConstraints(max_length=3)]
ShortBytes = Annotated[bytes, Field(max_length=3)]

BORN = datetime(2020, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("type_", "value", "content_type"),
    [
        (Cat, Cat(name="Tom", born=BORN), "application/json"),
        (Dog, Dog("Rex", ["a", "ö"]), "application/json"),
        (Bird, {"name": "Tweety"}, "application/json"),
        (dict, {"a": [1, None]}, "application/json"),
        (list, [1, "x"], "application/json"),
        (int, 7, "application/json"),
        (bytes, b"\xff\x00", "application/octet-stream"),
        (bytes, b"", "application/octet-stream"),
        (str, "Grüße", "text/plain; charset=utf-8"),
        (StringValue, StringValue(value="Tom"), "application/x-protobuf"),
        (StringValue, StringValue(), "application/x-protobuf"),
        (Tags, Tags(["a"]), "application/json"),
        (Renamed, Renamed(**{"class": "x"}), "application/json"),
        (Color, Color.RED, "application/json"),
        (Size, Size.SMALL, "application/json"),
        (datetime, BORN, "application/json"),
        (date, date(2020, 1, 2), "application/json"),
        (timedelta, timedelta(seconds=1.5), "application/json"),
        (Decimal, Decimal("1.10"), "application/json"),
        (UUID, UUID(int=1), "application/json"),
        (set[int], {1, 2}, "application/json"),
        (tuple[int, str], (1, "x"), "application/json"),
        (Name, Name("x"), "text/plain; charset=utf-8"),
        (UserId, UserId("x"), "text/plain; charset=utf-8"),
        (ShortText, "abc", "text/plain; charset=utf-8"),
        (ShortBytes, b"\xff", "application/octet-stream"),
        (Blob, Blob(b"\xff"), "application/octet-stream"),
        (bytearray, bytearray(b"x"), "application/octet-stream"),
        (memoryview, memoryview(b"x"), "application/octet-stream"),
    ],
)
def test_a_value_is_decoded_as_it_was_encoded(type_: Any, value: object, content_type: str) -> None:
    """Each kind of value is encoded by its type and decoded by the handler's."""
    body, said = encode(value)
    assert said == content_type == codec_for(type_).content_type
    assert body is not None
    decoded = codec_for(type_).decode(body)
    assert decoded == value
    assert type(decoded) is type(value)


def test_a_list_of_models_is_validated() -> None:
    """The items of a list have the declared type."""
    cats = codec_for(list[Cat]).decode(b'[{"name": "Tom", "born": "2020-01-02T00:00:00Z"}]')
    assert cats == [Cat(name="Tom", born=BORN)]


def test_none_is_a_tombstone() -> None:
    """None has neither a body nor a content type."""
    assert encode(None) == (None, "")


@pytest.mark.parametrize("value", [bytearray(b"ac"), memoryview(b"abcd")[::2]])
def test_buffers_are_sent_as_bytes(value: object) -> None:
    """A later change of a bytearray does not change the message; a strided memoryview is copied."""
    body, content_type = encode(value)
    assert (type(body), body, content_type) == (bytes, b"ac", "application/octet-stream")


@pytest.mark.parametrize(
    ("type_", "body", "reason"),
    [
        (Cat, b'{"name": 5, "born": "2020-01-02"}', "name: Input should be a valid string"),
        (Cat, b"{secret", "body: Invalid JSON"),
        (list[int], b'[1, "secret"]', "1: Input should be a valid integer"),
        (str, b"secret\xff", "not UTF-8 at byte 6"),
        (StringValue, b"\xffsecret", "not a serialized StringValue"),
        (ShortText, b"secret", "body: String should have at most 3 characters"),
        (ShortBytes, b"secret", "body: Data should have at most 3 bytes"),
    ],
)
def test_an_undecodable_body_is_explained_without_quoting_it(
    type_: Any, body: bytes, reason: str
) -> None:
    """Neither the text nor the traceback of the error contains the body."""
    with pytest.raises(UndecodableMessage, match=reason) as caught:
        codec_for(type_).decode(body)
    trace = "".join(traceback.format_exception(caught.value))
    assert "secret" not in trace


def test_many_wrong_values_are_counted() -> None:
    """More than a hundred wrong values are counted instead of listed; up to a hundred are cut."""
    with pytest.raises(UndecodableMessage) as caught:
        codec_for(list[int]).decode(b"[" + b"[]," * 100 + b"[]]")
    assert str(caught.value) == "101 values are wrong in list[int], too many to list"
    with pytest.raises(UndecodableMessage) as caught:
        codec_for(list[int]).decode(b"[" + b"[]," * 99 + b"[]]")
    assert str(caught.value).startswith("0: Input should be a valid integer; 1: Input")
    assert len(str(caught.value)) < 1100


@pytest.mark.parametrize("type_", [dict[str, int], ShortText])
def test_an_undecodable_body_keeps_no_error_of_pydantic(type_: Any) -> None:
    """The error has no context: the error of pydantic may hold hundreds of megabytes."""
    with pytest.raises(UndecodableMessage) as caught:
        codec_for(type_).decode(b'{"a": "x"}')
    assert caught.value.__context__ is None


def test_the_name_of_a_wrong_field_is_cut() -> None:
    """The sender chooses the keys of a dict, and the values that a validator quotes."""

    def refuse(value: str) -> str:
        raise ValueError(f"{value} is wrong")

    for type_, body in (
        (dict[str, int], b'{"' + b"k" * 10**5 + b'": "x"}'),
        (dict[str, Annotated[str, AfterValidator(refuse)]], b'{"k": "' + b"x" * 10**5 + b'"}'),
    ):
        with pytest.raises(UndecodableMessage) as caught:
            codec_for(type_).decode(body)
        assert len(str(caught.value)) < 1100


def test_an_alias_is_used_both_ways() -> None:
    """A field with an alias uses it for encoding and decoding."""
    assert encode(Renamed(**{"class": "x"})) == (b'{"class":"x"}', "application/json")


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (CIRCLE, "Circular reference"),
        ({"a": b"\xff"}, "invalid utf-8"),
        ((n for n in [1]), "generator has no codec"),
        (Cat, "ModelMetaclass has no codec"),
    ],
)
def test_a_value_that_cannot_be_encoded_is_explained(value: object, reason: str) -> None:
    """The error has the type and the reason."""
    with pytest.raises(UsageError, match=reason):
        encode(value)


def test_a_codec_is_made_once() -> None:
    """The same type has the same codec: its validator is compiled once."""
    assert codec_for(Cat) is codec_for(Cat)


def test_an_incomplete_protobuf_message_is_rejected() -> None:
    """A message that protobuf cannot serialize raises UsageError."""

    class Incomplete:
        def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
            raise ValueError("missing required fields: name")

        @classmethod
        def FromString(cls, body: bytes) -> Incomplete:  # noqa: N802 - protobuf's name
            raise NotImplementedError

    with pytest.raises(UsageError, match="Incomplete cannot be published: missing"):
        encode(Incomplete())
