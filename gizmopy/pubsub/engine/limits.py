"""Compare a message with the limits of its topic, before it is sent."""

from __future__ import annotations

from collections.abc import Mapping

from gizmopy.pubsub.driver import Limits
from gizmopy.pubsub.engine.sizes import attributes_of, wire_size
from gizmopy.pubsub.message import Message
from gizmopy.untrusted.text import cut


def limits_messages(limits: Limits) -> bool:
    """Return whether any message could be above ``limits``."""
    return limits != Limits(batch_messages=limits.batch_messages, batch_bytes=limits.batch_bytes)


def excess(message: Message, limits: Limits) -> str:
    """Return why ``message`` is above ``limits``, with the remedy; empty if it is not."""
    most = limits.message_bytes
    if most is not None and (size := wire_size(message)) > most:
        return (
            f"a message for {message.topic!r} has {size} bytes, but the broker accepts at most "
            f"{most}; store the value elsewhere and publish a reference to it"
        )
    attributes = attributes_of(message)
    if not attributes:
        return ""
    most = limits.message_attributes
    if most is not None and (count := len(attributes.items())) > most:
        return (
            f"a message for {message.topic!r} has {count} attributes, but the broker accepts at "
            f"most {most}; put some of them into the body"
        )
    if limits.attribute_name_bytes is limits.attribute_bytes is None:
        return ""
    reason = _long_attribute(attributes, limits)
    return reason and f"a message for {message.topic!r} has {reason}"


def _long_attribute(attributes: Mapping[str, str], limits: Limits) -> str:
    """Return the first attribute whose name or text is too long, with the remedy."""
    name_bytes, text_bytes = limits.attribute_name_bytes, limits.attribute_bytes
    for name, text in attributes.items():
        if name_bytes is not None and (size := _bytes_of(name)) > name_bytes:
            return (
                f"an attribute {cut(name)!r}, whose name has {size} bytes, but the broker accepts "
                f"at most {name_bytes}; shorten it"
            )
        if text_bytes is not None and (size := _bytes_of(text)) > text_bytes:
            return (
                f"an attribute {cut(name)!r} of {size} bytes, but the broker accepts at most "
                f"{text_bytes}; put it into the body"
            )
    return ""


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
