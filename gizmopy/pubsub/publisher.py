"""The way out: encode, refuse what is too large, send in batches, try again, keep each key's order.

What is published while nothing else is being sent goes out directly. What comes meanwhile waits in
a bounded buffer and goes out together, in one call of the sender at a time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from time import perf_counter
from types import MappingProxyType
from typing import Any, Self

from gizmopy.errors import PubSubError, UsageError
from gizmopy.observe.context import new_id, propagated_attributes
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub.codecs import BytesCodec, encode
from gizmopy.pubsub.driver import Capabilities, Results, Sender
from gizmopy.pubsub.engine.batcher import Item, Lane, SendBuffer
from gizmopy.pubsub.engine.metrics import PublisherMetrics
from gizmopy.pubsub.message import CONTENT_TYPE, NO_ATTRIBUTES, Message
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.untrusted.error_text import text_of
from gizmopy.untrusted.text import cut

logger = logging.getLogger(__name__)

_BUFFERED = 1000
_BUFFERED_BYTES = 64 * 1024 * 1024
_FLUSH_SECONDS = 3.0


class Publisher:
    """Publish to one topic through ``sender``; use it as an async context manager.

    ``limits`` are the broker's. ``retry`` is for transient failures, where the broker's client does
    not retry by itself. A batch waits up to ``linger`` seconds to be full; with 0, what comes while
    one is being sent goes out with the next. At most ``buffered`` messages and ``buffered_bytes``
    wait to be sent, or one that is larger; who publishes more waits for room. ``sleep`` waits for
    what lingers, and between attempts.
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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.topic = topic
        self._sender = sender
        self._retry = retry
        self._attempts = 1 if limits.client_retries else retry.attempts
        self._message_bytes = limits.message_bytes
        self._linger = linger
        self._sleep = sleep
        self._metrics = PublisherMetrics(metrics, topic)
        self._observe = self._metrics.seconds.observe
        self._buffer = SendBuffer(limits)
        self._buffered = buffered
        self._buffered_bytes = buffered_bytes
        self.problem = ""
        """Why the last message could not be sent, where the broker is to blame; else empty."""
        self._entrance = asyncio.Lock()
        """Who holds it comes next into the buffer, and may wait for room."""
        self._room = asyncio.Event()
        self._callers = 0
        """How many calls wait for the buffer, or for what is in it."""
        self._sending = False
        self._flusher: asyncio.Task[None] | None = None
        self._work = asyncio.Event()
        self._timers: set[asyncio.Future[None]] = set()
        self._quiet = asyncio.Event()
        self._closing = False
        """Take nothing more."""
        self._gave_up = False
        """Send nothing more."""
        self._close_lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def connect(self) -> None:
        """Get ready to send. Raises TopicNotFound if the topic does not exist, PubSubError else."""
        await self._sender.connect()

    async def publish(
        self,
        value: object,
        *,
        key: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Publish ``value``, and return when the broker has confirmed it.

        ``value`` is a pydantic model, a dataclass, a dict, a list or the like (sent as JSON), a
        protobuf message, str, bytes, or None (a tombstone). A Message is sent on as it stands:
        body, key and attributes, with ``key`` and ``attributes`` added where given. Messages with
        the same ``key`` are sent in the order of their calls. The attributes
        in ``observe.context.propagated_attributes`` are added, unless the message has them.

        Raises UsageError on a closed publisher and on what cannot be encoded, and PubSubError where
        the message is too large or the broker does not take it, transient failures having been
        tried again. If the call is cancelled, whether the message is sent is open.
        """
        if self._closing:
            raise self._is_closed()
        message = self._compose(value, key, attributes)
        started = perf_counter()
        if self._sending or self._callers or self._linger:
            await self._send_with_others(message, started)
            return
        self._sending = True
        try:
            results = await self._sender.send((message,))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it is raised below
            results = [self._reason(error)]
        finally:
            self._sending = False
            if self._buffer.messages or self._closing:
                self._go_on()
        if len(results) == 1 and results[0] is None:
            self.problem = ""
            self._observe(perf_counter() - started)
        else:
            await self._send_again(message, started, results)

    async def publish_many(
        self,
        values: Iterable[Any],
        *,
        key: Callable[[Any], str | None] | str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Results:
        """Publish each of ``values`` and return for each, in order, None or why it is not sent.

        ``key`` is the key of all, or gives the key of a value, as in ``sorted``. Values, keys and
        attributes are those of :meth:`publish`; where attributes differ too, the values are
        Messages. A value is taken from ``values`` when there is room for the one before; while
        there is none, other calls have their turn too.

        Raises UsageError on a closed publisher, and what ``values`` raises; never for an item. If
        the call is cancelled, or ``values`` raises, which messages are sent is open.
        """
        if self._closing:
            raise self._is_closed()
        self._callers += 1
        outcomes: list[asyncio.Future[None] | Exception] = []
        try:
            for value in values:
                async with self._entrance:
                    outcomes.append(await self._accept(value, key, attributes))
            return [await _result(outcome) for outcome in outcomes]
        finally:
            for outcome in outcomes:
                if not isinstance(outcome, Exception):
                    outcome.cancel()  # does nothing to what is confirmed
            self._callers -= 1
            self._notice_quiet()

    async def aclose(self, timeout: float = _FLUSH_SECONDS) -> None:
        """Send what is waiting, for at most ``timeout`` seconds, then close the sender.

        What is not confirmed by then raises PubSubError in its caller. A second call does nothing.
        """
        self._closing = True
        self._work.set()  # nothing lingers any longer
        async with self._close_lock:
            try:
                async with asyncio.timeout(timeout):
                    await self._sent_all()
            except TimeoutError:
                logger.warning("not all messages for %r were sent in %g s", self.topic, timeout)
            finally:
                await self._give_up()
            await self._sender.aclose()

    async def _sent_all(self) -> None:
        while self._callers or self._sending:
            self._quiet.clear()
            await self._quiet.wait()

    async def _give_up(self) -> None:
        """End what still sends, and tell the callers that still wait."""
        self._gave_up = True
        tasks = [*self._timers, self._flusher] if self._flusher is not None else []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._sending = False
        while batch := self._buffer.take():
            self._settle(batch, batch, [self._stopped()] * len(batch))

    def _notice_quiet(self) -> None:
        if self._closing and not (self._callers or self._sending):
            self._quiet.set()

    def _is_closed(self) -> UsageError:
        self._metrics.failures["closed"].value += 1
        return UsageError(f"the publisher to {self.topic!r} is closed; publish before aclose")

    def _stopped(self) -> PubSubError:
        reason = f"sending to {self.topic!r} was stopped; whether the message arrives is open"
        return PubSubError(reason, transient=False)

    # What is sent: a message that the broker takes.

    def _compose(
        self, value: object, key: str | None, attributes: Mapping[str, str] | None
    ) -> Message:
        """Return the message for a value. Raises what publish says on what cannot be sent."""
        try:
            known: Mapping[str, str]
            body: bytes | None
            if type(value) is bytes:
                body, known = value, _OCTETS
            elif isinstance(value, Message):
                body, known = _checked_body(value), _checked(value.attributes, "surrogateescape")
                key = value.key if key is None else key
            else:
                body, content_type = encode(value)
                known = _content_type(content_type)
            if key is not None:
                _check_key(key)
            if along := propagated_attributes.get():
                known = {**along, **known}
            if attributes:
                known = {**known, **_checked(attributes)}
        except UsageError:
            self._metrics.failures["encode"].value += 1
            raise
        message = Message(self.topic, body)
        message.key = key  # not by keyword: that takes Python nearly as long as all the rest
        message.attributes = known
        message.id = new_id()
        if self._message_bytes is not None:
            self._check_size(message, self._message_bytes)
        return message

    def _check_size(self, message: Message, limit: int) -> None:
        """Refuse a message that the broker would refuse, before the wire."""
        if (size := _size(message)) > limit:
            self._metrics.failures["oversize"].value += 1
            raise PubSubError(
                f"a message for {self.topic!r} has {size} bytes, and the broker takes "
                f"{limit}; publish a reference to where the value is stored",
                transient=False,
            )

    # Into the buffer, and out of it once it is settled.

    async def _send_with_others(self, message: Message, started: float) -> None:
        """Put a message in the buffer, in its turn, and wait until it is confirmed."""
        self._callers += 1
        try:
            async with self._entrance:
                item = await self._put(message, started)
            await item.confirmed
        finally:
            self._callers -= 1
            self._notice_quiet()

    async def _send_again(self, message: Message, started: float, results: Results) -> None:
        """Settle a message that was sent alone without success, as if it came from the buffer."""
        item = Item(message, _size(message), started)
        self._buffer.put_taken(item)
        self._metrics.buffered.value += 1
        self._settle([item], [item], self._complete(results, 1))
        if not self._sending:
            self._go_on()
        self._callers += 1
        try:
            await item.confirmed
        finally:
            self._callers -= 1
            self._notice_quiet()

    async def _accept(
        self,
        value: object,
        key: Callable[[Any], str | None] | str | None,
        attributes: Mapping[str, str] | None,
    ) -> asyncio.Future[None] | Exception:
        """Put a value in the buffer, or return why it cannot be sent."""
        try:
            message = self._compose(value, key(value) if callable(key) else key, attributes)
            item = await self._put(message, perf_counter())
            return item.confirmed
        except Exception as error:  # noqa: BLE001 - it is the result of this item
            return error

    async def _put(self, message: Message, started: float) -> Item:
        """Put a message in the buffer once there is room; whoever calls it holds the entrance.

        It takes up room until it is settled, even if its caller waits no longer.
        """
        item = Item(message, _size(message), started)
        while not (self._has_room(item.size) or self._gave_up):
            self._room.clear()
            self._work.set()  # nothing lingers while others wait for its room
            await self._room.wait()
        if self._gave_up:
            self._metrics.failures["closed"].value += 1
            raise self._stopped()
        self._buffer.put(item)
        self._metrics.buffered.value += 1
        self._work.set()
        if not self._sending:
            self._go_on()
        return item

    def _has_room(self, size: int) -> bool:
        buffer = self._buffer
        if not buffer.messages:
            return True
        return buffer.messages < self._buffered and buffer.bytes + size <= self._buffered_bytes

    def _settle(self, batch: Sequence[Item], sent: Sequence[Item], results: Results) -> None:
        """Tell who waits for what was sent, and let the batch go, but for what is sent again."""
        again = self._confirm(sent, results)
        for lane in self._buffer.settle(batch, again):
            delay = self._retry.delay(max(1, lane.waiting[0].attempts), random.random)
            timer = asyncio.ensure_future(self._sleep(delay))
            self._when_over(timer, partial(self._offer, lane))
        self._metrics.buffered.value -= len(batch) - len(again)
        self._room.set()

    def _confirm(self, sent: Sequence[Item], results: Results) -> list[Item]:
        """Tell who waits what became of the messages; return those that are sent again."""
        now = perf_counter()
        again: list[Item] = []
        refused: set[Lane] = set()
        for item, error in zip(sent, results, strict=True):
            if item.lane not in refused:  # else it failed because of the one before
                item.attempts += 1
            if error is not None and _is_transient(error):
                self.problem = text_of(error)
            if error is None:
                self.problem = ""
                self._observe(now - item.started)
                if not item.confirmed.done():
                    item.confirmed.set_result(None)
            elif self._is_sent_again(item, error):
                again.append(item)
            else:
                if not _is_transient(error):
                    refused.add(item.lane)
                self._count_failure(error)
                if not item.confirmed.done():
                    item.confirmed.set_exception(error)
        return again

    def _is_sent_again(self, item: Item, error: Exception) -> bool:
        over = self._gave_up or item.confirmed.done() or item.attempts >= self._attempts
        return _is_transient(error) and not over

    def _count_failure(self, error: Exception) -> None:
        kind = "transient" if _is_transient(error) else "permanent"
        self._metrics.failures["closed" if self._gave_up else kind].value += 1

    def _offer(self, lane: Lane) -> None:
        self._buffer.let_go(lane)
        self._work.set()

    def _when_over(self, timer: asyncio.Future[None], call: Callable[[], None]) -> None:
        """Call ``call`` when ``timer`` is over, or cancelled."""

        def end(_: asyncio.Future[None]) -> None:
            self._timers.remove(timer)
            call()

        self._timers.add(timer)
        timer.add_done_callback(end)

    # Out: one call of the sender at a time.

    def _go_on(self) -> None:
        """Send what is in the buffer, in a task that lasts as long as there is any."""
        if self._buffer.messages:
            self._sending = True
            self._flusher = asyncio.create_task(self._flush(), name=f"publish {self.topic}")
        self._notice_quiet()

    async def _flush(self) -> None:
        """Send until nothing is left, neither to be sent nor to be sent again."""
        try:
            while self._buffer.messages or self._timers:
                front = self._buffer.front()
                if front is None:
                    self._work.clear()
                    await self._work.wait()
                    continue
                if self._linger:
                    await self._fill(front)
                await self._send_batch(self._buffer.take())
        finally:
            self._sending = False
            self._notice_quiet()

    async def _fill(self, front: Item) -> None:
        """Wait until a batch is full, or its first message has waited for as long as it may."""
        seconds = front.started + self._linger - perf_counter()
        if seconds <= 0 or self._is_full():
            return
        timer = asyncio.ensure_future(self._sleep(seconds))
        self._when_over(timer, self._work.set)
        while not (timer.done() or self._is_full()):
            self._work.clear()
            await self._work.wait()
        timer.cancel()

    def _is_full(self) -> bool:
        return self._buffer.holds_a_batch() or self._entrance.locked() or self._closing

    async def _send_batch(self, batch: Sequence[Item]) -> None:
        """Send what somebody still waits for, and settle all of it."""
        sent = [item for item in batch if not item.confirmed.cancelled()]
        results: Results = [self._stopped()] * len(sent)
        try:
            if sent:
                results = await self._try_send([item.message for item in sent])
        finally:
            self._settle(batch, sent, results)

    async def _try_send(self, batch: Sequence[Message]) -> Results:
        """Send, and return what became of each message; a failed call has failed for each."""
        try:
            results = await self._sender.send(batch)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - callers raise it
            return [self._reason(error)] * len(batch)
        return self._complete(results, len(batch))

    def _reason(self, error: Exception | asyncio.CancelledError) -> Exception:
        """Return why a call of the sender failed; raise where it is us who were cancelled."""
        if not isinstance(error, asyncio.CancelledError):
            return error
        if _is_cancelled():
            raise error
        return self._stopped()  # the driver's own affair

    def _complete(self, results: Results, count: int) -> Results:
        """Return ``count`` results, whatever the driver gave."""
        if len(results) == count:
            return results
        reason = f"the driver answered {len(results)} of {count} messages for {self.topic!r}"
        return [PubSubError(reason, transient=False)] * count


async def _result(outcome: asyncio.Future[None] | Exception) -> Exception | None:
    if isinstance(outcome, Exception):
        return outcome
    if not outcome.done():
        await asyncio.wait([outcome])
    error = outcome.exception()
    assert error is None or isinstance(error, Exception)
    return error


def _is_transient(error: Exception) -> bool:
    return isinstance(error, PubSubError) and error.transient


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@lru_cache(maxsize=64)
def _content_type(content_type: str) -> Mapping[str, str]:
    return MappingProxyType({CONTENT_TYPE: content_type}) if content_type else NO_ATTRIBUTES


_OCTETS = _content_type(BytesCodec.content_type)


def _check_key(key: Any) -> None:
    """Refuse a key that is no text, or cannot be written as bytes."""
    if not isinstance(key, str):
        raise UsageError(f"key={cut(repr(key))} is no text; use str(...)")
    try:
        key.isascii() or key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UsageError(f"key={cut(repr(key))} is not UTF-8 text; encode it, say as hex") from None


def _checked_body(message: Message) -> bytes | None:
    body: Any = message.body
    if body is not None and not isinstance(body, bytes):
        raise UsageError(f"the body of {cut(message.id)!r} is no bytes but {type(body).__name__}")
    return message.body


def _checked(attributes: Mapping[Any, Any], errors: str = "strict") -> Mapping[str, str]:
    """Return attributes that every broker can carry: text that can be written as UTF-8.

    With ``errors="surrogateescape"`` a text may hold the bytes that another client sent.
    """
    for name, text in attributes.items():
        if not isinstance(name, str) or not isinstance(text, str):
            given = f"{cut(repr(name))}={cut(repr(text))}"
            raise UsageError(f"attribute {given} is no text; use str(...)")
        try:
            name.encode()
            text.encode("utf-8", errors)
        except UnicodeEncodeError:
            raise UsageError(
                f"attribute {cut(name)!r} is not UTF-8 text; encode it, say as hex"
            ) from None
    return attributes


def _size(message: Message) -> int:
    """Return the bytes that a message has on the wire, without the broker's own."""
    size = len(message.body or b"")
    if message.key is not None:
        size += len(message.key.encode("utf-8", "surrogateescape"))
    for name, text in message.attributes.items():
        size += len(name.encode("utf-8", "surrogateescape"))
        size += len(text.encode("utf-8", "surrogateescape"))
    return size
