"""How a broker carries the attributes of CloudEvents: the binding, which its driver chooses.

Handlers see one form on every broker: attributes ``ce-type`` and so on, and ``content-type``. Each
broker has its own on the wire. Kafka's is ``ce_type``; HTTP's is ``ce-type`` with percent-encoded
values. The engine translates, and a driver only says in its capabilities which binding applies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from gizmopy.errors import UndecodableMessage
from gizmopy.pubsub.message import RepeatedAttributes
from gizmopy.untrusted.text import cut, is_utf8

PREFIX = "ce-"
"""The beginning of the attributes of an event, as handlers see them."""
OTHER_PREFIX = "ce_"
"""The beginning of their names on Kafka."""
VERSION = f"{PREFIX}specversion"
"""The attribute that makes a message an event in binary mode."""
_OTHER_VERSION = f"{OTHER_PREFIX}specversion"
STRUCTURED = "application/cloudevents"
"""The beginning of the content types of events in structured mode."""
_UNRESERVED = "".join(chr(each) for each in range(0x21, 0x7F) if chr(each) not in '"%')
_ESCAPED = re.compile(r"\\(.)")


def is_structured(content_type: str) -> bool:
    """Return whether the content type is that of an event in structured mode, or of a batch."""
    return content_type[: len(STRUCTURED)].lower() == STRUCTURED


def is_event(attributes: Mapping[str, str]) -> bool:
    """Return whether the attributes are those of an event in binary mode, by any binding."""
    return VERSION in attributes or _OTHER_VERSION in attributes


@dataclass(frozen=True, slots=True)
class EventBinding:
    """The form of an event's attributes on the wire of one broker.

    ``prefix`` begins their names, ``"ce-"`` or ``"ce_"``. With ``percent_encoded`` their values are
    ASCII, as the HTTP binding has them. A message that would have more than ``max_attributes`` is
    sent in structured mode, where all of them are in the body.
    """

    prefix: str = PREFIX
    percent_encoded: bool = False
    max_attributes: int | None = None

    @property
    def changes_received(self) -> bool:
        """Whether ``from_wire`` changes the attributes of an event."""
        return self.prefix != PREFIX or self.percent_encoded

    def to_wire(
        self, body: bytes | None, attributes: Mapping[str, str], limit: int | None = None
    ) -> tuple[bytes | None, Mapping[str, str]]:
        """Return body and attributes as the broker carries them; only an event is changed.

        ``limit`` is how many attributes the broker takes; default: ``max_attributes``.
        """
        if not is_event(attributes):
            return body, attributes
        limit = self.max_attributes if limit is None else limit
        if limit is not None and len(attributes.items()) > limit:
            # Imported here, because few programs use CloudEvents.
            from gizmopy.pubsub.event_json import as_structured

            return as_structured(body, renamed(attributes, OTHER_PREFIX, PREFIX))
        other = OTHER_PREFIX if self.prefix == PREFIX else PREFIX
        attributes = renamed(attributes, other, self.prefix)
        if self.percent_encoded:
            attributes = {
                name: quote(text, safe=_UNRESERVED) if name.startswith(PREFIX) else text
                for name, text in attributes.items()
            }
        return body, attributes

    def from_wire(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        """Return the attributes as handlers see them; only those of an event are changed.

        Attributes in the general form are read on every broker: earlier versions sent them
        to Kafka. Raises UndecodableMessage if a percent-encoded value is not UTF-8.
        """
        if self.prefix != PREFIX and f"{self.prefix}specversion" in attributes:
            attributes = renamed(attributes, self.prefix, PREFIX)
        if self.percent_encoded:
            attributes = {name.lower(): text for name, text in attributes.items()}
            if VERSION in attributes:
                attributes = {
                    name: _percent_decoded(name, text) if name.startswith(PREFIX) else text
                    for name, text in attributes.items()
                }
        return attributes


PLAIN = EventBinding()
"""``ce-type``, in any text: memory, Pub/Sub, and every broker without a binding of its own."""
KAFKA = EventBinding(prefix=OTHER_PREFIX)
"""The Kafka protocol binding of CloudEvents 1.0: ``ce_type``."""
HTTP = EventBinding(percent_encoded=True)
"""The HTTP protocol binding of CloudEvents 1.0: ``ce-type``, percent-encoded."""
SQS = EventBinding(max_attributes=10)
"""SNS and SQS, which have no official binding: ``ce-type``, and at most 10 attributes a message."""


def renamed(attributes: Mapping[str, str], old: str, new: str) -> Mapping[str, str]:
    """Return attributes with the prefix ``new`` in place of ``old``, in the same order.

    An event that has both forms of one attribute is left as it is: neither may be lost.
    """
    names = {name: new + name[len(old) :] for name in attributes if name.startswith(old)}
    if not names or any(name in attributes for name in names.values()):
        return attributes
    pairs = [(names.get(name, name), text) for name, text in attributes.items()]
    return RepeatedAttributes(pairs) if isinstance(attributes, RepeatedAttributes) else dict(pairs)


def _percent_decoded(name: str, text: str) -> str:
    """Return a header's value decoded, as section 3.1.3.2 of the HTTP binding demands."""
    if len(text) > 1 and text[0] == text[-1] == '"':  # older senders quote a value with spaces
        text = _ESCAPED.sub(r"\1", text[1:-1])
    data: Any = unquote_to_bytes(text.encode("utf-8", "surrogateescape"))
    if not is_utf8(data):
        raise UndecodableMessage(f"{cut(name)}={cut(text)!r} is not percent-encoded UTF-8")
    return str(data, "utf-8")
