"""Errors about wrong values in a request or a message do not quote the values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv6Network
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AfterValidator,
    AnyUrl,
    AwareDatetime,
    Base64Bytes,
    BaseModel,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    ImportString,
    Json,
    NameEmail,
    Tag,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from gizmopy.errors import UndecodableMessage
from gizmopy.pubsub.codecs import codec_for
from gizmopy.untrusted.input_errors import field_of, message_of
from gizmopy.web.problems import field_errors

SECRET = "Qzhunter2"


class Colour(Enum):
    RED = "red"


class Cat(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["cat"] = "cat"
    age: int = 0


class Dog(BaseModel):
    kind: Literal["dog"]


@dataclass
class Fish:
    age: int = 0


class Bird(TypedDict):
    age: int


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
Tagged = Annotated[
    Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")],
    Discriminator(lambda value: value.get("k") if isinstance(value, dict) else None),
]

WRONG: list[tuple[Any, Any]] = [
    *(
        (kind, SECRET)
        for kind in (int, bool, float, Decimal, UUID, date, datetime, time, timedelta)
    ),
    *((kind, SECRET) for kind in (Colour, Literal["a", "b"], IPv4Address, IPv6Network, AnyUrl)),
    *((kind, SECRET) for kind in (ByteSize, ZoneInfo, ImportString, Json[int], AwareDatetime)),
    *((kind, SECRET) for kind in (list[int], dict[str, int], Cat, Fish, Bird, Pet, Tagged)),
    *((kind, f"2024-{SECRET}") for kind in (date, datetime)),
    (UUID, "dddddddd-dddd-4ddd-8ddd-" + SECRET),
    (AnyUrl, f"https://cat:{SECRET}"),
    (ByteSize, f"10{SECRET}"),
    (Base64Bytes, f"{SECRET}!"),
    (Pet, {"kind": SECRET}),
    (Tagged, {"k": SECRET}),
    (Annotated[str, Field(max_length=3)], SECRET),
    (Annotated[str, Field(pattern="^a$")], SECRET),
    (int | bool, SECRET),
    (int, "9" * 5000 + SECRET),
]


def errors_of(kind: Any, value: Any) -> ValidationError:
    """Return pydantic's errors about a value, in a list."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[kind]).validate_python([value])
    return caught.value


@pytest.mark.parametrize(("kind", "value"), WRONG)
def test_no_message_quotes_the_value(kind: Any, value: Any) -> None:
    """Neither an HTTP problem nor an error about a message quotes the value."""
    error = errors_of(kind, value)
    assert "hunter" not in str(field_errors("body", "", error))
    for each in error.errors():
        assert "hunter" not in message_of(each)
        assert message_of(each)


def test_an_email_address_is_not_quoted() -> None:
    """The reason of email-validator contains characters of the address."""
    pytest.importorskip("email_validator")
    error = errors_of(NameEmail, f"cat@{SECRET} x.example")
    assert "hunter" not in str(field_errors("body", "", error))


@pytest.mark.parametrize(
    "custom",
    [
        lambda: PydanticCustomError("union_tag_invalid", "no context"),
        lambda: PydanticCustomError("zoneinfo_str", "{value}", {"value": SECRET}),
    ],
)
def test_a_type_of_pydantics_that_a_validator_raises_has_a_message(
    custom: Callable[[], Exception],
) -> None:
    """A context without a name that the message needs does not raise another error."""

    def refuse(value: str) -> str:
        raise custom()

    (each,) = errors_of(Annotated[str, AfterValidator(refuse)], "x").errors()
    assert message_of(each).startswith("Input should ")


def test_keys_are_escaped_and_cut() -> None:
    """The path of a field contains keys of the sender, so it is escaped."""
    assert field_of(("pets", 0, "name")) == "pets.0.name"
    assert field_of(("a\x1b[31m\u202e\n",)) == r"a\x1b[31m\u202e\n"
    assert len(field_of(("k" * 9000,))) < 1100
    error = errors_of(Cat, {"\x1b[31m": 1})
    (told,) = field_errors("body", "", error)
    assert told["field"] == r"0.\x1b[31m"


def test_the_message_of_a_validator_is_escaped() -> None:
    """The message of a validator may quote the value, so it is escaped."""

    def refuse(value: str) -> str:
        raise ValueError(f"{value} is wrong")

    (told,) = field_errors("body", "", errors_of(Annotated[str, AfterValidator(refuse)], "a\x1b"))
    assert told["message"] == r"Value error, a\x1b is wrong"


def test_the_error_of_an_undecodable_message_quotes_no_value() -> None:
    """The text for the log and the dead letter does not quote the tag of a union."""
    with pytest.raises(UndecodableMessage) as caught:
        codec_for(list[Pet]).decode(b'[{"kind": "%s"}]' % SECRET.encode())
    assert str(caught.value) == "0: Input should have one of the tags 'cat', 'dog' as 'kind'"
    with pytest.raises(UndecodableMessage) as caught:
        codec_for(dict[str, int]).decode(b'{"a\\u001b": "x"}')
    assert str(caught.value).startswith(r"a\x1b: Input should be a valid integer")
