"""Codecs: what goes in comes out, and what cannot be read says why without quoting the body."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from pydantic import BaseModel
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
    ],
)
def test_what_goes_in_comes_out(type_: Any, value: object, content_type: str) -> None:
    """Each kind of value is encoded by its own type and decoded by the handler's."""
    body, said = encode(value)
    assert said == content_type == codec_for(type_).content_type
    assert body is not None
    assert codec_for(type_).decode(body) == value


def test_a_list_of_models_is_validated() -> None:
    """The items of a list are the declared type."""
    cats = codec_for(list[Cat]).decode(b'[{"name": "Tom", "born": "2020-01-02T00:00:00Z"}]')
    assert cats == [Cat(name="Tom", born=BORN)]


def test_none_is_a_tombstone() -> None:
    """None has neither a body nor a content type."""
    assert encode(None) == (None, "")


@pytest.mark.parametrize("value", [bytearray(b"x"), memoryview(b"x")])
def test_what_holds_bytes_is_sent_as_bytes(value: object) -> None:
    """A bytearray that changes afterwards does not change the message."""
    assert encode(value) == (b"x", "application/octet-stream")


@pytest.mark.parametrize(
    ("type_", "body", "reason"),
    [
        (Cat, b'{"name": 5, "born": "2020-01-02"}', "name: Input should be a valid string"),
        (Cat, b"{secret", "body: Invalid JSON"),
        (list[int], b'[1, "secret"]', "1: Input should be a valid integer"),
        (str, b"secret\xff", "not UTF-8 at byte 6"),
        (StringValue, b"\xffsecret", "not a serialized StringValue"),
    ],
)
def test_the_undecodable_says_why_and_never_quotes_the_body(
    type_: Any, body: bytes, reason: str
) -> None:
    """Neither the text nor the traceback of the error holds what the message held."""
    with pytest.raises(UndecodableMessage, match=reason) as caught:
        codec_for(type_).decode(body)
    trace = "".join(traceback.format_exception(caught.value))
    assert "secret" not in trace


def test_a_codec_is_made_once() -> None:
    """The same type gives the same codec: its validator is compiled once."""
    assert codec_for(Cat) is codec_for(Cat)


def test_a_protobuf_message_that_is_incomplete_is_refused() -> None:
    """What protobuf cannot serialize is a mistake of the caller."""

    class Incomplete:
        def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
            raise ValueError("missing required fields: name")

        @classmethod
        def FromString(cls, body: bytes) -> Incomplete:  # noqa: N802 - protobuf's name
            raise NotImplementedError

    with pytest.raises(UsageError, match="Incomplete cannot be published: missing"):
        encode(Incomplete())
