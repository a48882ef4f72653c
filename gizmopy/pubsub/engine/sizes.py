"""Measure messages: the memory that one takes, and the bytes that it has on the wire.

The memory counts everything that the sender chooses. When only bodies counted, 300 messages with
1 MB in an attribute counted as nothing and took 289 MiB.
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
"""The length above which a text is measured; up to it a character counts as a byte."""


def size_of(message: Message) -> int:
    """Return the bytes of memory that ``message`` takes, as it is now."""
    size = MESSAGE_BYTES + len(message.body or b"") + size_of_attributes(attributes_of(message))
    return size if message.key is None else size + size_of_text(message.key)


def size_of_attributes(attributes: Mapping[str, str]) -> int:
    """Return the bytes of memory that the names and values of ``attributes`` take."""
    if attributes is NO_ATTRIBUTES:
        return 0
    size = 0
    for name, text in attributes.items():
        size += len(name) + len(text)
    if size > LONG:
        size = sum(map(size_of_text, (*attributes, *attributes.values())))
    return size + ATTRIBUTE_BYTES * len(attributes)


def size_of_text(text: str) -> int:
    """Return the bytes of memory that a text takes: one wide character makes all of them wide."""
    return len(text) if len(text) <= LONG else getsizeof(text)


def wire_size(message: Message) -> int:
    """Return the bytes of ``message`` on the wire, without the broker's own framing."""
    size = len(message.body or b"")
    if message.key is not None:
        size += len(message.key.encode("utf-8", "surrogateescape"))
    for name, text in attributes_of(message).items():
        size += len(name.encode("utf-8", "surrogateescape"))
        size += len(text.encode("utf-8", "surrogateescape"))
    return size


def attributes_of(message: Message) -> Mapping[str, str]:
    """Return the attributes, without the copy that ``Message.attributes`` makes on first use."""
    changed = message._changed_attributes
    return message._attributes if changed is None else changed
