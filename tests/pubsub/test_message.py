"""Message: its slots, its date, and its lease."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import pytest

from gizmopy.errors import UsageError
from gizmopy.pubsub import Message
from gizmopy.pubsub.engine.sizes import size_of
from gizmopy.pubsub.message import RepeatedAttributes, merged, with_missing


def test_a_messages_repr_has_no_body() -> None:
    """A repr may get into a log, so it must not show the body."""
    text = repr(Message("t", b"secret", id="7", key="k"))
    assert text == "<Message 7 of t, key 'k', 6 bytes>"
    assert "tombstone" in repr(Message("t", None))


async def test_only_a_received_message_has_a_lease() -> None:
    """Extending a message that was not received raises UsageError."""
    with pytest.raises(UsageError, match="not received"):
        await Message("t", b"").extend(1)


def test_a_message_takes_no_other_attributes() -> None:
    """A misspelt attribute raises AttributeError."""
    with pytest.raises(AttributeError):
        Message("t", b"").boddy = b""  # type: ignore[attr-defined]  # that is the test


def test_message_received_is_equivalent_to_the_constructor() -> None:
    """Message.received sets the same slots, with the defaults of the constructor."""
    raw = object()
    received = Message.received("t", b"x", "k", {"a": "b"}, "7", 1.5, 3, raw)
    published_at = datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)
    made = Message(
        "t",
        b"x",
        key="k",
        attributes={"a": "b"},
        id="7",
        partition=3,
        raw=raw,
        published_at=published_at,
    )
    assert received.published_at == published_at
    assert _slots(received) == _slots(made)


def test_a_delivery_of_a_received_message_has_its_date() -> None:
    """A copy has the date of the message, whether that was read before or not."""
    received = Message.received("t", None, None, {}, "7", 0.25, None, None)
    early = received.copy(2, None, None)
    assert received.published_at == early.published_at
    assert early.published_at == received.copy(3, None, None).published_at


async def test_a_received_message_has_no_lease_before_the_engine_gives_it_one() -> None:
    """A message from a driver belongs to no subscriber yet."""
    with pytest.raises(UsageError, match="not received"):
        await Message.received("t", b"", None, {}, "7", 0.0, None, None).extend(1)


def _slots(message: Message) -> dict[str, object]:
    unset = object()
    found = {name: getattr(message, name, unset) for name in Message.__slots__}
    return {name: value for name, value in found.items() if value is not unset}


def received(**fields: Any) -> Message:
    """Return a message as a subscriber has received it."""
    given = Message("t", b"x", **fields)
    given._received_body = given.body
    given._extend = extend
    return given


async def extend(message: Message, seconds: float) -> None:
    """Extend nothing."""


def change(message: Message) -> None:
    """Change what a handler may change."""
    attributes: Any = message.attributes
    attributes["b"] = "new"
    attributes.pop("a", None)
    message.body = b"changed"


@pytest.mark.parametrize("attributes", [{}, {"a": "1"}, MappingProxyType({"a": "1"})])
def test_a_change_is_undone_by_restore(attributes: Mapping[str, str]) -> None:
    """Of the body, and of the attributes in place."""
    given, before = received(attributes=attributes), dict(attributes)
    change(given)
    assert given.attributes == {"b": "new"}
    given.restore()
    assert (given.body, given.attributes) == (b"x", before)
    assert attributes == before


def test_a_replaced_mapping_is_undone_by_restore() -> None:
    """The attributes may also be assigned."""
    given = received(attributes={"a": "1"})
    given.attributes = {"b": "2"}
    assert given.attributes == {"b": "2"}
    given.restore()
    assert given.attributes == {"a": "1"}


def test_another_delivery_is_as_the_message_came() -> None:
    """Also while a handler still has the first one."""
    given = received(attributes={"a": "1"})
    change(given)
    again = given.copy(2, None, None)
    assert (again.body, again.attributes) == (b"x", {"a": "1"})


def test_copies_share_no_attributes() -> None:
    """What one subscription changes does not reach another."""
    given = Message("t", b"x", attributes={"a": "1"})
    one, other = given.copy(1, None, None), given.copy(1, None, None)
    change(one)
    assert (other.attributes, given.attributes) == ({"a": "1"}, {"a": "1"})


def test_a_message_that_is_not_received_yet_keeps_its_changes() -> None:
    """A driver, and the code that publishes, may build a message step by step."""
    given = Message("t", b"x")
    change(given)
    copy = given.copy(1, None, None)
    assert (copy.body, copy.attributes) == (b"changed", {"b": "new"})
    assert size_of(given) == size_of(copy)


def test_the_attributes_of_another_mapping_are_copied() -> None:
    """A driver may give any Mapping."""

    given = received(attributes=UserDict(a="1"))
    change(given)
    given.restore()
    assert given.attributes == {"a": "1"}


def test_attributes_that_are_replaced_move_to_the_end() -> None:
    """The order of the others stays, and that of the new ones is the order that they have."""
    assert [*merged({"a": "1", "b": "2"}, {"c": "3", "a": "4"}).items()] == [
        ("b", "2"),
        ("c", "3"),
        ("a", "4"),
    ]


def test_attributes_that_are_there_keep_their_places() -> None:
    """Only those that are missing are added, at the end."""
    assert [*with_missing({"a": "1", "b": "2"}, {"b": "3", "c": "4"}).items()] == [
        ("a", "1"),
        ("b", "2"),
        ("c", "4"),
    ]
    attributes = RepeatedAttributes([("a", "1"), ("a", "2")])
    assert with_missing(attributes, {"a": "3"}) is attributes
