"""The way out: encode, refuse what is too large, send in batches, try again, keep each key's order.

What is published while nothing else is being sent goes out directly. What comes meanwhile waits in
a bounded buffer and goes out together, in one call of the sender at a time. A batch holds at most
one message of a key, so that a failed one can hold its successors back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from time import perf_counter
from types import MappingProxyType
from typing import Any, Self

from gizmopy.errors import PubSubError, UsageError
from gizmopy.observe.context import new_id
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub.codecs import encode
from gizmopy.pubsub.driver import Capabilities, Results, Sender
from gizmopy.pubsub.lanes import Lanes
from gizmopy.pubsub.message import CONTENT_TYPE, NO_ATTRIBUTES, Message
from gizmopy.pubsub.metrics import PublisherMetrics
from gizmopy.pubsub.retry import RetryPolicy

logger = logging.getLogger(__name__)

_BUFFERED = 1000
_FLUSH_SECONDS = 3.0


class Publisher:
    """Publish to one topic through ``sender``; use it as an async context manager.

    ``limits`` are the broker's, ``retry`` is for transient failures. At most ``buffered`` messages
    wait to be sent; who publishes more waits for room. ``sleep`` waits between attempts.
    """

    def __init__(
        self,
        sender: Sender,
        topic: str,
        *,
        metrics: Metrics,
        limits: Capabilities,
        retry: RetryPolicy = RetryPolicy(attempts=5),  # noqa: B008 - it is frozen
        buffered: int = _BUFFERED,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.topic = topic
        self._sender = sender
        self._limits = limits
        self._retry = retry
        self._sleep = sleep
        self._metrics = PublisherMetrics(metrics, topic)
        self._room = asyncio.Semaphore(buffered)
        self._lanes: Lanes[_Item] = Lanes()
        self._buffer: deque[_Item] = deque()
        """What may be sent now: of each key only the message in front."""
        self._retries: set[asyncio.Future[None]] = set()
        self._flusher: asyncio.Task[None] | None = None
        self._sending = False
        self._calls = 0
        self._work = asyncio.Event()
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
        """Get ready to send. Raises NotFound where the topic does not exist, PubSubError else."""
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
        the same ``key`` are sent in the order of their calls.

        Raises UsageError on a closed publisher and on what cannot be encoded, and PubSubError where
        the message is too large or the broker does not take it, transient failures having been
        tried again. If the call is cancelled, whether the message is sent is open.
        """
        if self._closing:
            raise UsageError(f"the publisher to {self.topic!r} is closed; publish before aclose")
        message = _compose(self.topic, value, key, attributes)
        self._check_size(message)
        started = perf_counter()
        self._calls += 1
        try:
            if self._calls == 1 and not self._sending:
                await self._send_directly(message)
            else:
                await self._send_with_others(message)
        except Exception as error:
            self._metrics.count_failure(error)
            raise
        else:
            self._metrics.seconds.observe(perf_counter() - started)
        finally:
            self._calls -= 1
            self._notice_quiet()

    async def aclose(self, timeout: float = _FLUSH_SECONDS) -> None:
        """Send what is waiting, for at most ``timeout`` seconds, then close the sender.

        What is not confirmed by then raises PubSubError in its caller. A second call does nothing.
        """
        self._closing = True
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
        while self._calls or self._sending:
            self._quiet.clear()
            await self._quiet.wait()

    async def _give_up(self) -> None:
        """End what still sends, and tell the callers that still wait."""
        self._gave_up = True
        tasks = [*self._retries, self._flusher] if self._flusher is not None else []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._sending = False
        for item in [*self._buffer, *self._lanes.clear_waiting()]:
            self._confirm(item, self._stopped())
        self._buffer.clear()

    def _stopped(self) -> PubSubError:
        reason = f"sending to {self.topic!r} was stopped; whether the message arrives is open"
        return PubSubError(reason, transient=False)

    def _notice_quiet(self) -> None:
        if self._closing and not (self._calls or self._sending):
            self._quiet.set()

    def _check_size(self, message: Message) -> None:
        """Refuse a message that the broker would refuse, before the wire."""
        limit = self._limits.message_bytes
        if limit is not None and (size := _size(message)) > limit:
            error = PubSubError(
                f"a message for {self.topic!r} has {size} bytes, and the broker takes {limit}; "
                "publish a reference to where the value is stored",
                transient=False,
            )
            self._metrics.count_failure(error)
            raise error

    # Alone: no task, no future.

    async def _send_directly(self, message: Message) -> None:
        """Send one message while nothing else is being sent."""
        key, item = message.key, None
        self._sending = True
        if key is not None:
            self._lanes.occupy(key)
        try:
            error = (await self._try_send((message,)))[0]
            if error is not None:
                item = self._retried(message, error)
        finally:
            if item is None and key is not None:
                self._next_of(key)
            self._hand_over()
        if item is not None:
            await item.confirmed

    def _retried(self, message: Message, error: Exception) -> _Item:
        """Let the message be tried again among others, or raise its error."""
        item = self._item(message, buffered=False)
        item.attempt = 1
        if not self._try_again(item, error):
            raise error
        return item

    def _hand_over(self) -> None:
        """Send what has come meanwhile, in a task that lasts as long as there is any."""
        self._sending = bool(self._buffer or self._retries)
        if self._sending:
            self._flusher = asyncio.create_task(self._flush(), name=f"publish {self.topic}")

    # Together: a buffer, and one task that sends what is in it.

    async def _send_with_others(self, message: Message) -> None:
        """Put the message in the buffer, in its turn, and wait until it is confirmed.

        It takes up room until it is settled, even if its caller waits no longer.
        """
        await self._room.acquire()
        if self._gave_up:
            self._room.release()
            raise self._stopped()
        item = self._item(message, buffered=True)
        if message.key is None or self._lanes.enter(message.key, item):
            self._offer(item)
        if not self._sending:
            self._hand_over()
        await item.confirmed

    def _item(self, message: Message, *, buffered: bool) -> _Item:
        size = 0 if self._limits.batch_bytes is None else _size(message)
        return _Item(message, size, buffered)

    def _offer(self, item: _Item) -> None:
        """Put what may be sent now in the buffer."""
        self._buffer.append(item)
        self._work.set()

    async def _flush(self) -> None:
        """Send until nothing is waiting, neither to be sent nor to be tried again."""
        try:
            while self._buffer or self._retries:
                await self._work.wait()
                self._work.clear()
                while batch := self._next_batch():
                    await self._send_batch(batch)
        finally:
            self._sending = False
            self._notice_quiet()

    async def _send_batch(self, batch: list[_Item]) -> None:
        results: Results = [self._stopped()] * len(batch)
        try:
            results = await self._try_send([item.message for item in batch])
        finally:
            for item, error in zip(batch, results, strict=True):
                item.attempt += 1
                self._settle(item, error)

    def _next_batch(self) -> list[_Item]:
        """Take as much out of the buffer as one call may hold."""
        batch: list[_Item] = []
        count, size = self._limits.batch_messages, 0
        most = self._limits.batch_bytes
        while self._buffer and len(batch) < count:
            size += self._buffer[0].size
            if batch and most is not None and size > most:
                break
            item = self._buffer.popleft()
            if item.confirmed.cancelled():  # nobody waits for it, and it has not been sent
                self._settle(item, None)
            else:
                batch.append(item)
        return batch

    async def _try_send(self, batch: Sequence[Message]) -> Results:
        """Send, and return what became of each message; a failed call has failed for each."""
        try:
            results = await self._sender.send(batch)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            return [self._stopped()] * len(batch)  # the driver's own affair
        except Exception as error:  # noqa: BLE001 - it is raised in every caller
            return [error] * len(batch)
        if len(results) == len(batch):
            return results
        reason = f"the driver answered {len(results)} of {len(batch)} messages for {self.topic!r}"
        return [PubSubError(reason, transient=False)] * len(batch)

    def _settle(self, item: _Item, error: Exception | None) -> None:
        """Tell the caller, unless the message is tried again, and let its key's next one go."""
        if error is not None and self._try_again(item, error):
            return
        self._confirm(item, error)
        if item.message.key is not None:
            self._next_of(item.message.key)

    def _confirm(self, item: _Item, error: Exception | None) -> None:
        """Tell the caller, if it still waits, and make room."""
        if not item.confirmed.done():
            if error is None:
                item.confirmed.set_result(None)
            else:
                item.confirmed.set_exception(error)
        if item.buffered:
            self._room.release()

    def _next_of(self, key: str) -> None:
        if item := self._lanes.leave(key):
            self._offer(item)

    def _try_again(self, item: _Item, error: Exception) -> bool:
        """Return whether the message will be sent again, later; its key's successors wait."""
        transient = isinstance(error, PubSubError) and error.transient
        over = self._gave_up or item.confirmed.done() or item.attempt >= self._retry.attempts
        if over or not transient:
            return False
        delay = self._retry.delay(item.attempt, random.random)
        retry = asyncio.ensure_future(self._sleep(delay))
        self._retries.add(retry)
        retry.add_done_callback(lambda _: self._offer_again(item, retry))
        return True

    def _offer_again(self, item: _Item, retry: asyncio.Future[None]) -> None:
        self._retries.remove(retry)
        self._offer(item)


class _Item:
    """A message on its way, and the caller that waits for it."""

    __slots__ = ("attempt", "buffered", "confirmed", "message", "size")

    def __init__(self, message: Message, size: int, buffered: bool) -> None:
        self.message = message
        self.size = size
        self.buffered = buffered
        """It takes up room."""
        self.attempt = 0
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _compose(
    topic: str, value: object, key: str | None, attributes: Mapping[str, str] | None
) -> Message:
    """Return the message for a value. Raises UsageError on what cannot be published."""
    if isinstance(value, Message):
        body, known = value.body, value.attributes
        key = value.key if key is None else key
    else:
        body, content_type = encode(value)
        known = _content_type(content_type)
    if key is not None:
        _check_key(key)
    if attributes:
        known = {**known, **_checked(attributes)}
    return Message(topic, body, key=key, attributes=known, id=new_id())


def _check_key(key: Any) -> None:
    """Refuse a key that is no text, or cannot be written as bytes."""
    if not isinstance(key, str):
        raise UsageError(f"key={key!r} is no text; use str(...)")
    try:
        key.isascii() or key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UsageError(f"key={key!r} is not UTF-8 text; encode it, say as hex") from None


@lru_cache(maxsize=64)
def _content_type(content_type: str) -> Mapping[str, str]:
    return MappingProxyType({CONTENT_TYPE: content_type}) if content_type else NO_ATTRIBUTES


def _checked(attributes: Mapping[Any, Any]) -> Mapping[str, str]:
    """Return attributes that every broker can carry: text that can be written as UTF-8."""
    for name, text in attributes.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise UsageError(f"attribute {name!r}={text!r} is no text; use str(...)")
        try:
            (name + text).encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"attribute {name!r} is not UTF-8 text; encode it, say as hex"
            ) from None
    return attributes


def _size(message: Message) -> int:
    """Return the bytes that a message has on the wire, without the broker's own."""
    attributes = sum(len(n.encode()) + len(v.encode()) for n, v in message.attributes.items())
    key = (message.key or "").encode("utf-8", "surrogateescape")
    return len(message.body or b"") + len(key) + attributes
