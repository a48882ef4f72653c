"""Publish to one topic: encode values, check limits, and hand messages to the batcher."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from time import time
from typing import Any, Self

from pydantic import BaseModel

from gizmopy.errors import PubSubError, UsageError
from gizmopy.observe.context import new_id, propagated_attributes, request_id
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub.codecs import BytesCodec, Encode, encode
from gizmopy.pubsub.driver import Capabilities, Limits, Results, Sender
from gizmopy.pubsub.engine.batcher import Batcher
from gizmopy.pubsub.engine.delays import checked_due, due_at
from gizmopy.pubsub.engine.limits import excess, limits_messages
from gizmopy.pubsub.engine.metrics import PublisherMetrics
from gizmopy.pubsub.engine.observer import Observer, Observers, PublishFailure
from gizmopy.pubsub.event_binding import PREFIX, is_event, is_structured
from gizmopy.pubsub.message import (
    CONTENT_TYPE,
    NO_ATTRIBUTES,
    REQUEST_ID,
    Message,
    content_type_only,
    merged,
    with_missing,
)
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.untrusted.durations import DurationLike
from gizmopy.untrusted.text import cut

logger = logging.getLogger(__name__)

_BUFFERED = 1000
_BUFFERED_BYTES = 64 * 1024 * 1024
_FLUSH_SECONDS = 3.0
_STALL_SECONDS = 5.0


class Publisher:
    """Publish to one topic through ``sender``; use it as an async context manager.

    ``limits`` are the broker's, until ``connect`` learns those of the topic. ``retry`` applies to
    transient failures, unless the broker's client retries by itself. With ``linger``, a batch waits
    up to that many seconds to become full; with 0, the messages that arrive during a send form the
    next batch. At most ``buffered`` messages and ``buffered_bytes`` wait to be sent, or one message
    that is larger; further calls wait for room. ``sleep`` waits for retries and for ``linger``.
    ``observers`` are notified of each message that is published or not. A send that waits longer
    than ``stall`` seconds is a ``problem``. ``encode`` returns the body and the content type of a
    value, or raises UsageError.
    """

    def __init__(
        self,
        sender: Sender,
        topic: str,
        *,
        metrics: Metrics,
        limits: Capabilities,
        retry: RetryPolicy = RetryPolicy(attempts=5),  # noqa: B008 - it is frozen
        linger: float = 0.0,
        buffered: int = _BUFFERED,
        buffered_bytes: int = _BUFFERED_BYTES,
        observers: Sequence[Observer] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        stall: float = _STALL_SECONDS,
        encode: Encode = encode,
    ) -> None:
        self._metrics = own = PublisherMetrics(metrics, topic)
        self.is_process_local = limits.process_local
        self.topic = topic
        self.stall = stall
        self._encode = encode
        self._takes_any = encode is _encode_any
        self._sender = sender
        self._events = limits.events
        self._send_delay = limits.send_delay
        self.limits = Limits.of(limits)
        """The limits of messages and batches: the topic's own, once it is connected."""
        self._is_limited = limits_messages(self.limits)
        self._observers = Observers([own, *observers])
        self._batcher = Batcher(
            sender.send,
            topic,
            limits=limits,
            retry=replace(retry, attempts=1) if limits.client_retries else retry,
            linger=linger,
            max_messages=buffered,
            max_bytes=buffered_bytes,
            gauge=own.buffered,
            observers=self._observers,
            sleep=sleep,
        )
        self._is_closed = False
        self._close_lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @property
    def problem(self) -> str:
        """Why messages are not sent at present; empty if all is well.

        It is the transient failure of the last message that was sent, or that the broker has not
        confirmed a send for ``stall`` seconds.
        """
        if (problem := self._batcher.problem) or (waited := self._batcher.seconds()) <= self.stall:
            return problem
        return f"the broker has not confirmed a send for {waited:.0f} s"

    @property
    def is_busy(self) -> bool:
        """Whether a message is not settled yet."""
        return self._batcher.is_busy

    @property
    def count(self) -> float:
        """How many messages were published to the topic, or not: it changes if this is used."""
        return self._metrics.count

    async def connect(self) -> None:
        """Connect the sender. Raises TopicNotFound if the topic does not exist, or PubSubError."""
        await self._sender.connect()
        if (limits := getattr(self._sender, "limits", None)) is not None:
            self.limits = limits()
            self._is_limited = limits_messages(self.limits)
            self._batcher.limit(self.limits)

    async def publish(
        self,
        value: object,
        *,
        key: str | None = None,
        attributes: Mapping[str, str] | None = None,
        delay: DurationLike | None = None,
        at: datetime | None = None,
    ) -> None:
        """Publish ``value``, and return when the broker has confirmed it.

        ``value`` is a pydantic model, a dataclass, a dict, a list or the like (sent as JSON), a
        protobuf message, str, bytes, or None (a tombstone). A Message is sent with its body, key
        and attributes; ``key`` replaces its key, and ``attributes`` are added to its own. Messages
        with the same ``key`` are sent in the order of the calls. With ``delay`` (seconds, or a
        duration such as ``"5m"``) or ``at`` the broker delivers the message then, or later; it may
        come after later messages of its key. The attributes in
        ``observe.context.propagated_attributes`` and the id of the current request, as
        ``request-id``, are added, unless the message has them already.

        Raises UsageError on a closed publisher, on a value that cannot be encoded, and on a delay
        that the broker does not support. Raises
        PubSubError if the message is too large, or if the broker does not accept it after the
        retries of transient failures. If the call is cancelled, the message may or may not be sent.
        """
        if self._is_closed:
            raise self._closed_error()
        message = self.compose(value, key, attributes)
        if delay is not None or at is not None:
            self.postpone(message, delay, at)
        await self._batcher.send(message)

    async def publish_many(
        self,
        values: Iterable[Any],
        *,
        key: Callable[[Any], str | None] | str | None = None,
        attributes: Mapping[str, str] | None = None,
        delay: DurationLike | None = None,
        at: datetime | None = None,
    ) -> Results:
        """Publish each of ``values``; return for each, in order, None or the error.

        ``key`` is one key for all, or a function that returns the key of a value. Values, keys and
        attributes are those of :meth:`publish`; to give each value its own attributes, pass
        Messages. The next value is taken from ``values`` when the one before has found room in the
        buffer. Other calls take turns with this one.

        Raises UsageError on a closed publisher, on one text, bytes or mapping in place of several
        values, and any error that iterating over ``values``
        raises; never an error of one item. If the call is cancelled, or ``values`` raises, some
        messages may be sent.
        """
        if self._is_closed:
            raise self._closed_error()
        check_several(values)
        return await self._batcher.send_many(self._compose_each(values, key, attributes, delay, at))

    async def aclose(self, timeout: float = _FLUSH_SECONDS) -> None:
        """Send the messages that wait, for at most ``timeout`` seconds, then close the sender.

        The call of a message that is not confirmed by then raises PubSubError. A second call does
        nothing.
        """
        self._is_closed = True
        async with self._close_lock:
            if not await self._batcher.aclose(timeout):
                logger.warning("not all messages for %r were sent within %g s", self.topic, timeout)
            await self._sender.aclose()

    def _closed_error(self) -> UsageError:
        self._observers.publish_failed(self.topic, "closed")
        return UsageError(f"the publisher to {self.topic!r} is closed; publish before aclose")

    def count_unsent(self, error: Exception) -> None:
        """Count a message that was not sent, because connecting failed with ``error``."""
        is_transient = isinstance(error, PubSubError) and error.transient
        kind: PublishFailure = "transient" if is_transient else "permanent"
        self._observers.publish_failed(self.topic, "closed" if self._is_closed else kind)

    # From a value to a message that the broker accepts.

    def _compose_each(
        self,
        values: Iterable[Any],
        key: Callable[[Any], str | None] | str | None,
        attributes: Mapping[str, str] | None,
        delay: DurationLike | None,
        at: datetime | None,
    ) -> Iterator[Message | Exception]:
        """Yield for each value its message, or the error that it cannot be sent with."""
        for value in values:
            message: Message | Exception
            try:
                own_key = key(value) if callable(key) else key
                composed = self.compose(value, own_key, attributes)
                self.postpone(composed, delay, at)
                message = composed
            except Exception as error:  # noqa: BLE001 - it is the result of this value
                message = error
            yield message

    def compose(
        self,
        value: object,
        key: str | None,
        attributes: Mapping[str, str] | None,
    ) -> Message:
        """Return the message for a value. Raises UsageError or PubSubError as publish does."""
        due: datetime | None = None
        try:
            known: Mapping[str, str]
            body: bytes | None
            may_be_event = False
            if type(value) is bytes and self._takes_any:
                body, known = value, _OCTETS
            elif isinstance(value, Message):
                body, known = _checked_body(value), _checked(value.attributes)
                known = merged(known, NO_ATTRIBUTES)  # a copy: the caller may change his
                may_be_event = True
                key = value.key if key is None else key
                due = value.deliver_at
            else:
                body, content_type = self._encode(value)
                known = content_type_only(content_type)
            if key is not None:
                _check_key(key)
            if attributes:
                known = merged(known, _checked(attributes))
                may_be_event = True
                if is_structured(attributes.get(CONTENT_TYPE, "")):
                    _check_structured(value, body)
            if may_be_event and is_event(known):
                key = self._event_key(value, key, known)
                body, known = self._events.to_wire(body, known, self.limits.message_attributes)
            if propagated_attributes.get() or request_id.get():
                known = self._with_context(known)
        except UsageError:
            self._observers.publish_failed(self.topic, "encode")
            raise
        # Not Message(...): its keyword arguments take Python as long as the rest of this function.
        message = Message.received(self.topic, body, key, known, new_id(), time(), None, None)
        if due is not None:
            self.postpone(message, None, due)
        # Brokers answer a message above a limit late, some by closing the connection.
        if self._is_limited and (reason := excess(message, self.limits)):
            self._observers.publish_failed(self.topic, "oversize")
            raise PubSubError(reason, transient=False)
        return message

    def _with_context(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        """Add what the current request or message passes on, as far as the broker has room for it.

        A message that has as many attributes as the broker takes would be refused otherwise.
        """
        more, request = propagated_attributes.get(), request_id.get()
        if request:
            more = {**more, REQUEST_ID: request}
        most = self.limits.message_attributes
        if most is not None:
            missing = [pair for pair in more.items() if pair[0] not in attributes]
            more = dict(missing[: max(0, most - len(attributes.items()))])
        return with_missing(attributes, more)

    def postpone(self, message: Message, delay: DurationLike | None, at: datetime | None) -> None:
        """Set when a message is due. Raises UsageError if the broker cannot keep it until then."""
        try:
            due = due_at(delay, at)
            if due is not None:
                message.deliver_at = checked_due(due, self.topic, self._send_delay)
        except UsageError:
            self._observers.publish_failed(self.topic, "encode")
            raise

    def _event_key(
        self, value: object, key: str | None, attributes: Mapping[str, str]
    ) -> str | None:
        """Return the key of a CloudEvent: its ``partitionkey`` if no key is given.

        A message that is forwarded keeps having no key: another one would change its partition.
        """
        if key is not None or isinstance(value, Message):
            return key
        key = attributes.get(f"{PREFIX}partitionkey") or None
        if key is not None:
            _check_key(key)
        return key


_encode_any = encode


_OCTETS = content_type_only(BytesCodec.content_type)


def check_several(values: object) -> None:
    """Reject one value in place of several: a text would be published letter by letter."""
    one = (str, bytes, bytearray, memoryview, Mapping, Message, BaseModel)
    if isinstance(values, one) or not isinstance(values, Iterable):
        kind = type(values).__name__
        raise UsageError(f"publish_many takes several values, not one {kind}; pass [value]")


def _check_key(key: Any) -> None:
    """Reject a key that is not text, or cannot be encoded."""
    if not isinstance(key, str):
        remedy = "str(...)"
        if isinstance(key, (bytes, bytearray)):  # str(b"a") is "b'a'"
            remedy = 'key.decode("utf-8", "surrogateescape")'
        raise UsageError(f"key={cut(repr(key))} is not text; use {remedy}")
    try:
        key.isascii() or key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        reason = "cannot be encoded as UTF-8; encode it yourself, for example as hex"
        raise UsageError(f"key={cut(repr(key))} {reason}") from None


def _check_structured(value: object, body: bytes | None) -> None:
    """Reject a value that is called a CloudEvent in structured mode, and is none.

    A handler that passes the attributes of an event on with another value would make a message that
    nobody can decode.
    """
    is_raw = isinstance(value, (Message, bytes, bytearray, memoryview))
    if not is_raw and b'"specversion"' not in (body or b""):
        raise UsageError(
            f"content-type says that a {type(value).__name__} is a CloudEvent in structured mode, "
            "which it is not; publish event.structured(value) or the Message that came, or leave "
            "content-type out"
        )


def _checked_body(message: Message) -> bytes | None:
    body: Any = message.body
    if body is not None and not isinstance(body, bytes):
        raise UsageError(f"the body of {cut(message.id)!r} is {type(body).__name__}, not bytes")
    return message.body


def _checked(attributes: Mapping[Any, Any]) -> Mapping[str, str]:
    """Return ``attributes``. Raises UsageError unless every broker can carry them.

    A value may contain bytes that another client sent, as surrogates: it may be forwarded.
    """
    for name, text in attributes.items():
        if not isinstance(name, str) or not isinstance(text, str):
            given = f"{cut(repr(name))}={cut(repr(text))}"
            is_bytes = isinstance(text, (bytes, bytearray))
            remedy = '.decode("utf-8", "surrogateescape")' if is_bytes else "str(...)"
            raise UsageError(f"attribute {given} is not text; use {remedy}")
        try:
            name.encode()
            text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            reason = "cannot be encoded as UTF-8; encode it yourself, for example as hex"
            raise UsageError(f"attribute {cut(name)!r} {reason}") from None
    return attributes
