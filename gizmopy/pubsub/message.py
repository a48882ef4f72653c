"""What travels: a body, an optional key, and attributes, with what the broker says about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from datetime import UTC, datetime
from time import time
from types import MappingProxyType

from gizmopy.errors import UsageError
from gizmopy.untrusted.text import cut

CONTENT_TYPE = "content-type"
"""The attribute that says how a body is encoded."""

NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})

Extend = Callable[["Message", float], Awaitable[None]]
OnExtend = Callable[[float], Awaitable[None]]
_new = object.__new__
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def _as_date(seconds: float) -> datetime:
    """Return the date of ``seconds`` since 1970, the nearest that Python has.

    Kafka's producers choose the timestamp. A date that cannot be had would raise in the handler,
    and then in the making of its dead letter, for ever.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return _LAST if seconds > 0 else _FIRST


class Message:
    """Carry one message, to a broker or from it.

    ``body`` is None for a tombstone. ``key`` puts messages in one line where order is kept; bytes
    that are not UTF-8 survive in it by ``surrogateescape``. ``id`` and ``published_at`` (UTC) are
    the broker's where it gives them. ``delivery`` counts how often the broker has delivered the
    message, from 1; ``attempt`` how often the handler has run in this delivery, from 1 inside it.
    ``subscription`` is the one that it was received by. ``partition`` is opaque, and None where
    the broker has none; ``raw`` is the broker's own record. ``unreadable`` says why a driver could
    not read part of the message, and is empty if it could; the engine sends such a message to the
    dead letters, unhandled.

    ``on_extend`` may be set while a message is handled: it is awaited with the seconds whenever the
    engine prolongs the message's lease, for what has to last as long.

    A handler may change ``body`` and ``attributes`` for what it calls, and nothing else. Equality
    is identity: two deliveries of one message are two Messages.
    """

    __slots__ = (
        "_extend",
        "_published_at",
        "_size",
        "attempt",
        "attributes",
        "body",
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
    ) -> None:
        self.topic = topic
        self.body = body
        self.key = key
        self.attributes = attributes
        self.id = id
        self._published_at: datetime | float = time() if published_at is None else published_at
        self.delivery = delivery
        self.attempt = 0
        self.subscription = ""
        self.partition = partition
        self.raw = raw
        self.unreadable = ""
        self.on_extend: OnExtend | None = None
        self._extend: Extend | None = None
        self._size = 0

    @property
    def published_at(self) -> datetime:
        """When the message was published, in UTC; few ask, so the date is made for who does."""
        if isinstance(self._published_at, float):
            self._published_at = _as_date(self._published_at)
        return self._published_at

    def __repr__(self) -> str:
        """Name the message without its body: it may end in a log."""
        size = "tombstone" if self.body is None else f"{len(self.body)} bytes"
        key = None if self.key is None else cut(self.key)
        return f"<Message {cut(self.id)} of {self.topic}, key {key!r}, {size}>"

    def copy(self, delivery: int, partition: Hashable, raw: object) -> Message:
        """Return this message as another delivery of it, a few times faster than making one."""
        copy = Message.received(
            self.topic,
            self.body,
            self.key,
            self.attributes,
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
        """Return what a broker has delivered, several times faster than by keywords.

        ``published_at`` may be in seconds since 1970: a date is made for who asks for one.
        """
        message = _new(Message)
        message.topic = topic
        message.body = body
        message.key = key
        message.attributes = attributes
        message.id = id
        message.subscription = ""
        message._published_at = published_at
        message.delivery = 1
        message.attempt = 0
        message.partition = partition
        message.raw = raw
        message.unreadable = ""
        message.on_extend = None
        message._extend = None
        message._size = 0
        return message

    async def extend(self, seconds: float) -> None:
        """Keep the broker from delivering this message to others for ``seconds`` from now.

        The subscriber keeps leases alive by itself; this is for a handler that knows better. It
        does nothing where the broker has no leases. Raises UsageError on a message that was not
        received from a subscriber, and PubSubError where the broker refuses (the lease is lost).
        """
        if self._extend is None:
            raise UsageError(f"{self!r} was not received by a subscriber: it has no lease")
        await self._extend(self, seconds)
