"""The memory of messages and of remembered keys is bounded by bytes."""

from __future__ import annotations

import pytest

from gizmopy.pubsub.engine.sizes import MESSAGE_BYTES, size_of, size_of_attributes, size_of_text
from tests.pubsub.support import message


def test_a_message_without_anything_has_a_size() -> None:
    """A flood of tombstones is bounded, too."""
    assert size_of(message(None)) == MESSAGE_BYTES


@pytest.mark.parametrize("text", ["", "x", "x" * 1024, "x" * 1025, "ä" * 2000, "猫" * 2000])
def test_a_text_has_its_length_at_least(text: str) -> None:
    """Short texts count by characters, long ones by the memory that they take."""
    assert len(text) <= size_of_text(text) <= 4 * len(text) + 100
    assert size_of_attributes({text: text}) >= 2 * size_of_text(text)
