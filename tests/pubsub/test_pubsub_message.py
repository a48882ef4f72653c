"""The message itself."""

from __future__ import annotations

import pytest

from gizmopy.errors import UsageError
from gizmopy.pubsub import Message


def test_a_messages_repr_has_no_body() -> None:
    """It may end in a log."""
    text = repr(Message("t", b"secret", id="7", key="k"))
    assert text == "<Message 7 of t, key 'k', 6 bytes>"
    assert "tombstone" in repr(Message("t", None))


async def test_only_a_received_message_has_a_lease() -> None:
    """Extending what nobody received is a mistake."""
    with pytest.raises(UsageError, match="not received"):
        await Message("t", b"").extend(1)


def test_a_message_takes_no_other_attributes() -> None:
    """A slip of the pen is an error."""
    with pytest.raises(AttributeError):
        Message("t", b"").boddy = b""  # type: ignore[attr-defined]  # that is the test
