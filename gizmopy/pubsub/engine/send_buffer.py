"""The messages that wait to be sent: a queue for each key, and batches within a broker's limits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from math import inf

from gizmopy.observe.metrics import GaugeChild
from gizmopy.pubsub.driver import Capabilities, Limits
from gizmopy.pubsub.engine.sizes import wire_size
from gizmopy.pubsub.message import Message


class KeyQueue:
    """The unsent messages of one key, in order. A message without a key has its own queue."""

    __slots__ = ("key", "messages")

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.messages: deque[PendingMessage] = deque()


class PendingMessage:
    """A message that is not settled, and the future that its caller awaits."""

    __slots__ = ("attempts", "confirmed", "message", "queue", "size", "started_at")

    queue: KeyQueue

    def __init__(self, message: Message, started_at: float) -> None:
        self.message = message
        self.size = wire_size(message)
        self.started_at = started_at
        """The time of the call that publishes it, by ``perf_counter``."""
        self.attempts = 0
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class SendBuffer:
    """Keep each key's messages in order, and form batches within the broker's limits.

    A queue is ready until a batch takes a message from it. Then it is blocked until all messages
    that were taken are settled: otherwise a later message of the key could be confirmed before an
    earlier one that has to be sent again.
    """

    def __init__(
        self, limits: Capabilities, *, max_messages: int, max_bytes: int, gauge: GaugeChild
    ) -> None:
        self.count = 0
        """Messages that are not settled, including those that are being sent."""
        self.bytes = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self.limit(Limits.of(limits))
        self._ordered_batches = limits.ordered_batches
        self._queues: dict[str, KeyQueue] = {}
        self._ready: deque[KeyQueue] = deque()
        self._gauge = gauge
        """Shared by all publishers to a topic, so it changes by differences."""

    def limit(self, limits: Limits) -> None:
        """Form the next batches within ``limits``."""
        self._batch_messages = limits.batch_messages
        self._batch_bytes = inf if limits.batch_bytes is None else limits.batch_bytes

    def has_room(self, size: int) -> bool:
        """Return whether a message of ``size`` bytes fits; an empty buffer takes any message."""
        if not self.count:
            return True
        return self.count < self._max_messages and self.bytes + size <= self._max_bytes

    def put(self, pending: PendingMessage) -> None:
        """Add a message behind the others of its key."""
        key = pending.message.key
        queue = None if key is None else self._queues.get(key)
        if queue is None:
            queue = KeyQueue(key)
            self._ready.append(queue)
            if key is not None:
                self._queues[key] = queue
        pending.queue = queue
        queue.messages.append(pending)
        self.count += 1
        self._gauge.value += 1
        self.bytes += pending.size

    def put_sent(self, pending: PendingMessage) -> None:
        """Add a message that was sent already: later messages of its key wait until it settles."""
        self.put(pending)
        pending.queue.messages.pop()
        self._ready.remove(pending.queue)

    def first(self) -> PendingMessage | None:
        """Return the message that the next batch begins with, or None if no queue is ready."""
        return self._ready[0].messages[0] if self._ready else None

    def holds_a_batch(self) -> bool:
        """Return whether the messages fill the largest batch that the broker takes."""
        return self.count >= self._batch_messages or self.bytes >= self._batch_bytes

    def take(self) -> list[PendingMessage]:
        """Remove the next batch; a message larger than ``batch_bytes`` forms a batch by itself."""
        batch: list[PendingMessage] = []
        size = 0
        while self._ready and len(batch) < self._batch_messages:
            queue = self._ready[0]
            size += queue.messages[0].size
            if batch and size > self._batch_bytes:
                break
            batch.append(queue.messages.popleft())
            if not (queue.messages and self._ordered_batches):
                self._ready.popleft()
        if batch and self._ready and self._ready[0] is batch[-1].queue:
            self._ready.popleft()  # the batch is full, but this queue is not empty
        return batch

    def settle(
        self, batch: Sequence[PendingMessage], retried: Sequence[PendingMessage]
    ) -> list[KeyQueue]:
        """Forget a batch, except the messages to be ``retried``: they return to their places.

        Return the queues that stay blocked for a retry; ``release`` unblocks them.
        """
        for pending in reversed(retried):
            pending.queue.messages.appendleft(pending)
        blocked = dict.fromkeys(pending.queue for pending in retried)
        for queue in dict.fromkeys(pending.queue for pending in batch):
            if queue not in blocked:
                self.release(queue)
        self.count -= len(batch) - len(retried)
        self._gauge.value -= len(batch) - len(retried)
        self.bytes -= sum(p.size for p in batch) - sum(p.size for p in retried)
        return list(blocked)

    def release(self, queue: KeyQueue) -> None:
        """Make a blocked queue ready again, or forget it if it is empty."""
        if queue.messages:
            self._ready.append(queue)
        elif queue.key is not None:
            del self._queues[queue.key]
