"""A message: its body, key and attributes, and the facts that the broker adds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from time import time
from types import MappingProxyType
from typing import Any

from gizmopy.errors import UsageError, seconds_from
from gizmopy.observe.context import valid_request_id
from gizmopy.untrusted.durations import DurationLike
from gizmopy.untrusted.text import cut

CONTENT_TYPE = "content-type"
"""The attribute with the media type of the body."""

REQUEST_ID = "request-id"
"""The attribute with the id of the request that the message is a result of."""

NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


@lru_cache(maxsize=64)
def content_type_only(content_type: str) -> Mapping[str, str]:
    """Return attributes that are a content type alone: one object, which many messages share."""
    return MappingProxyType({CONTENT_TYPE: content_type}) if content_type else NO_ATTRIBUTES


class _Null(str):
    """A text without a value."""

    __slots__ = ()


NULL = _Null()
"""The value of an attribute that has none, as a header of Kafka may: equal to an empty text.

It is this object, so that a message that is forwarded, dead-lettered or redriven keeps the null.
"""


class RepeatedAttributes(dict[str, str]):
    """Attributes of which several have one name, as the headers of Kafka may.

    A look-up returns the last one. ``items()`` has all of them, in order, so that a message that is
    forwarded, dead-lettered or redriven keeps them.
    """

    __slots__ = ("pairs",)

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.pairs = tuple(pairs)
        super().__init__(self.pairs)

    def items(self) -> Any:  # a tuple instead of a view: it has more pairs than the dict has keys
        """Return all pairs of name and text."""
        return self.pairs


def merged(attributes: Mapping[str, str], added: Mapping[str, str]) -> Mapping[str, str]:
    """Return ``attributes``, and behind them ``added``, which replace those of their names."""
    if not (isinstance(attributes, RepeatedAttributes) or isinstance(added, RepeatedAttributes)):
        if added.keys().isdisjoint(attributes):
            return {**attributes, **added}
        # Not {**attributes, **added}: the ones that are replaced would keep their old places.
        return {n: text for n, text in attributes.items() if n not in added} | dict(added)
    kept = [pair for pair in attributes.items() if pair[0] not in added]
    return RepeatedAttributes([*kept, *added.items()])


def with_missing(attributes: Mapping[str, str], more: Mapping[str, str]) -> Mapping[str, str]:
    """Return ``attributes``, and behind them those of ``more`` whose names they lack."""
    missing = {name: text for name, text in more.items() if name not in attributes}
    return merged(attributes, missing) if missing else attributes


def removed(attributes: Mapping[str, str], is_removed: Callable[[str], bool]) -> Mapping[str, str]:
    """Return ``attributes`` without those whose name ``is_removed``."""
    kept = [pair for pair in attributes.items() if not is_removed(pair[0])]
    return RepeatedAttributes(kept) if isinstance(attributes, RepeatedAttributes) else dict(kept)


Extend = Callable[["Message", float], Awaitable[None]]
OnExtend = Callable[[float], Awaitable[None]]
_new = object.__new__
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def _as_date(seconds: float) -> datetime:
    """Return the date of ``seconds`` since 1970, or the nearest date that Python supports.

    Kafka's producers choose the timestamp. A date out of range would raise in the handler, and then
    again each time its dead letter is made.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return _LAST if seconds > 0 else _FIRST


class Message:
    """One message, to a broker or from it.

    - ``body``: bytes, or None for a tombstone.
    - ``key``: messages with the same key are handled in order, if order is kept. Bytes that are not
      UTF-8 are preserved with ``surrogateescape``.
    - ``attributes``: text by name. Bytes that are not UTF-8 are preserved with ``surrogateescape``.
      Of several with one name, a look-up returns the last, and ``items()`` has all. One without a
      value is an empty text.
    - ``id``, ``published_at`` (UTC): the broker's, if it has them.
    - ``deliver_at``: the time in UTC before which the message is not delivered; None: at once. Only
      a message that is published has one.
    - ``delivery``: how often the broker has delivered the message, from 1.
    - ``attempt``: how often the handler has run in this delivery, from 1 inside the handler.
    - ``subscription``: the subscription that received it.
    - ``partition``: opaque; None if the broker has no partitions.
    - ``raw``: the broker's own record.
    - ``unreadable``: why the driver could not read part of the message; empty if it could. The
      engine dead-letters such a message without calling the handler.
    - ``on_extend``: a middleware may set it during the handling. It is awaited with the seconds
      whenever the engine extends the lease, so that other locks can last as long.

    A handler may change ``body`` and ``attributes`` for the code that it calls, and nothing else.
    The next attempt, other subscriptions and the dead letter have them as they came.

    Equality is identity: two deliveries of one message are two Messages.
    """

    _lane: Hashable
    """The lane that the message waits in; set when its turn begins, if it is in an order."""
    _received_body: bytes | None
    """The body as it came; set when a subscriber receives the message."""

    __slots__ = (
        "_attributes",
        "_changed_attributes",
        "_extend",
        "_lane",
        "_published_at",
        "_received_body",
        "_size",
        "attempt",
        "body",
        "deliver_at",
        "delivery",
        "id",
        "key",
        "on_extend",
        "partition",
        "raw",
        "subscription",
        "topic",
        "unreadable",
    )

    def __init__(
        self,
        topic: str,
        body: bytes | None,
        *,
        key: str | None = None,
        attributes: Mapping[str, str] = NO_ATTRIBUTES,
        id: str = "",
        published_at: datetime | None = None,
        delivery: int = 1,
        partition: Hashable = None,
        raw: object = None,
        deliver_at: datetime | None = None,
    ) -> None:
        self.topic = topic
        self.body = body
        self.key = key
        self._attributes = attributes
        self._changed_attributes: Mapping[str, str] | None = None
        self.id = id
        self._published_at: datetime | float = time() if published_at is None else published_at
        self.deliver_at = deliver_at
        self.delivery = delivery
        self.partition = partition
        self.raw = raw
        self._set_what_the_engine_adds()

    def _set_what_the_engine_adds(self) -> None:
        """Set the defaults of what a subscriber fills in."""
        self.attempt = 0
        self.subscription = ""
        self.unreadable = ""
        self.on_extend: OnExtend | None = None
        self._extend: Extend | None = None
        self._size = 0

    @property
    def attributes(self) -> Mapping[str, str]:
        """The attributes. The mapping is this message's own, made on first use: few need it."""
        if self._changed_attributes is None:
            original: Any = self._attributes
            is_plain = type(original) in (dict, MappingProxyType)
            self._changed_attributes = original.copy() if is_plain else merged(original, {})
        return self._changed_attributes

    @attributes.setter
    def attributes(self, attributes: Mapping[str, str]) -> None:
        if self._extend is None:  # not received yet: a driver may still change them
            self._attributes, self._changed_attributes = attributes, None
        else:
            self._changed_attributes = attributes

    def as_received(self) -> tuple[bytes | None, Mapping[str, str]]:
        """Return body and attributes as they came, whatever a handler has done to them."""
        if self._extend is not None:
            return self._received_body, self._attributes
        changed = self._changed_attributes  # no subscriber has received it
        return self.body, self._attributes if changed is None else changed

    def restore(self) -> None:
        """Undo what a handler has changed; the engine calls this before the next attempt."""
        self.body = self._received_body
        self._changed_attributes = None

    @property
    def request_id(self) -> str:
        """The id of the request that the message is a result of; empty if there is none.

        It is the attribute ``request-id``, which every message has that is published while a
        request, or another such message, is handled.
        """
        _, attributes = self.as_received()
        return valid_request_id(attributes.get(REQUEST_ID, ""))

    @property
    def origin(self) -> str:
        """The topic that the message is in, as a text that no other topic has, ever; or empty.

        A driver whose ids begin again when a topic is made anew, or are those of another cluster
        too, gives it as the attribute ``origin`` of ``partition``.
        """
        return str(getattr(self.partition, "origin", ""))

    @property
    def published_at(self) -> datetime:
        """When the message was published, in UTC. The date is made on first use: few need it."""
        if isinstance(self._published_at, float):
            self._published_at = _as_date(self._published_at)
        return self._published_at

    def __repr__(self) -> str:
        """Show the message without its body, which must not get into a log."""
        size = "tombstone" if self.body is None else f"{len(self.body)} bytes"
        key = None if self.key is None else cut(self.key)
        return f"<Message {cut(self.id)} of {self.topic}, key {key!r}, {size}>"

    def copy(self, delivery: int, partition: Hashable, raw: object) -> Message:
        """Return another delivery of this message, several times faster than ``Message(...)``."""
        # as_received, written out: the call would be 2 % of a message of memory://.
        body, attributes = self.body, self._changed_attributes
        if attributes is None:
            attributes = self._attributes
        if self._extend is not None:
            body, attributes = self._received_body, self._attributes
        copy = Message.received(
            self.topic,
            body,
            self.key,
            attributes,
            self.id,
            self._published_at,
            partition,
            raw,
        )
        copy.delivery = delivery
        copy.unreadable = self.unreadable
        return copy

    @staticmethod
    def received(
        topic: str,
        body: bytes | None,
        key: str | None,
        attributes: Mapping[str, str],
        id: str,
        published_at: datetime | float,
        partition: Hashable,
        raw: object,
    ) -> Message:
        """Return a message, several times faster than ``Message(...)`` with keywords.

        ``published_at`` may be in seconds since 1970.
        """
        message = _new(Message)
        message.topic = topic
        message.body = body
        message.key = key
        message._attributes = attributes
        message._changed_attributes = None
        message.id = id
        message.subscription = ""
        message._published_at = published_at
        message.deliver_at = None
        message.delivery = 1
        message.attempt = 0
        message.partition = partition
        message.raw = raw
        message.unreadable = ""
        message.on_extend = None
        message._extend = None
        message._size = 0
        return message

    async def extend(self, seconds: DurationLike) -> None:
        """Make the lease of this message last ``seconds``, or a duration, from now.

        The subscriber extends leases by itself; this is for a handler that needs a longer one. Does
        nothing if the broker has no leases. Raises UsageError on a message that no subscriber
        received, and PubSubError if the broker refuses because the lease is lost.
        """
        if self._extend is None:
            raise UsageError(f"{self!r} was not received by a subscriber: it has no lease")
        await self._extend(self, seconds_from("extend()", seconds))
