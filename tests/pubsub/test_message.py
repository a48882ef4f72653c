"""Message: its slots, its date, and its lease."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gizmopy.errors import UsageError
from gizmopy.pubsub import Message


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
    """Message.received sets all slots, with the defaults of the constructor."""
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
    return {name: getattr(message, name) for name in Message.__slots__}
