"""Count the memory that a message takes: all that its sender chooses, and a constant.

With bodies alone, 300 messages that had 1 MB in an attribute counted as nothing, and took 289 MiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from sys import getsizeof

from gizmopy.pubsub.message import NO_ATTRIBUTES, Message

MESSAGE_BYTES = 1024
"""The bytes of a message without its body, key and attributes: 0.8 KiB with a Kafka record."""
ATTRIBUTE_BYTES = 256
"""The bytes of an attribute without its name and value: two strings, an entry, a copy."""

LONG = 1024
"""The length from which a text is measured; below it a character counts as a byte."""


def size_of(message: Message) -> int:
    """Return the bytes that ``message`` takes, as it is now."""
    size = MESSAGE_BYTES + len(message.body or b"") + size_of_attributes(message.attributes)
    return size if message.key is None else size + size_of_text(message.key)


def size_of_attributes(attributes: Mapping[str, str]) -> int:
    """Return the bytes that the names and values of ``attributes`` take."""
    if attributes is NO_ATTRIBUTES:
        return 0
    size = 0
    for name, text in attributes.items():
        size += len(name) + len(text)
    if size > LONG:
        size = sum(map(size_of_text, (*attributes, *attributes.values())))
    return size + ATTRIBUTE_BYTES * len(attributes)


def size_of_text(text: str) -> int:
    """Return the bytes that a text takes: up to four for each character, if one of them is wide."""
    return len(text) if len(text) <= LONG else getsizeof(text)
