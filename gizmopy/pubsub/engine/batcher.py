"""What waits to be sent: the messages of each key in a lane of their own, the lanes in turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from math import inf

from gizmopy.pubsub.driver import Capabilities
from gizmopy.pubsub.message import Message


class Lane:
    """The messages of one key, in order; one without a key has a lane to itself."""

    __slots__ = ("key", "waiting")

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.waiting: deque[Item] = deque()


class Item:
    """A message on its way, and the caller that waits for it."""

    __slots__ = ("attempts", "confirmed", "lane", "message", "size", "started")

    lane: Lane

    def __init__(self, message: Message, size: int, started: float) -> None:
        self.message = message
        self.size = size
        self.started = started
        """When it was published, by ``perf_counter``."""
        self.attempts = 0
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class SendBuffer:
    """Keep each key in order, and cut batches that the broker takes.

    A lane is ready until something is taken from it. Then it is away, until all of that is settled:
    nothing else is taken from it while its messages are being sent, or wait to be sent again.
    """

    def __init__(self, limits: Capabilities) -> None:
        self.messages = 0
        """How many are not settled, those that are being sent included."""
        self.bytes = 0
        self._batch_messages = limits.batch_messages
        self._batch_bytes = inf if limits.batch_bytes is None else limits.batch_bytes
        self._ordered_batches = limits.ordered_batches
        self._lanes: dict[str, Lane] = {}
        self._ready: deque[Lane] = deque()

    def put(self, item: Item) -> None:
        """Add a message, after the others of its key."""
        key = item.message.key
        lane = None if key is None else self._lanes.get(key)
        if lane is None:
            lane = Lane(key)
            self._ready.append(lane)
            if key is not None:
                self._lanes[key] = lane
        item.lane = lane
        lane.waiting.append(item)
        self.messages += 1
        self.bytes += item.size

    def put_taken(self, item: Item) -> None:
        """Add a message as if it had been taken out again: the others of its key wait for it."""
        self.put(item)
        item.lane.waiting.pop()
        self._ready.remove(item.lane)

    def front(self) -> Item | None:
        """Return the message that is sent next, if one may be."""
        return self._ready[0].waiting[0] if self._ready else None

    def holds_a_batch(self) -> bool:
        """Return whether there is as much as one send may hold."""
        return self.messages >= self._batch_messages or self.bytes >= self._batch_bytes

    def take(self) -> list[Item]:
        """Take out as much as one send may hold; a message larger than that goes alone."""
        batch: list[Item] = []
        size = 0
        while self._ready and len(batch) < self._batch_messages:
            lane = self._ready[0]
            size += lane.waiting[0].size
            if batch and size > self._batch_bytes:
                break
            batch.append(lane.waiting.popleft())
            if not (lane.waiting and self._ordered_batches):
                self._ready.popleft()
        if batch and self._ready and self._ready[0] is batch[-1].lane:
            self._ready.popleft()  # the batch was full before its lane was empty
        return batch

    def settle(self, batch: Sequence[Item], again: Sequence[Item]) -> list[Lane]:
        """Let go of what was taken, but for what is sent ``again``: that is put back in its place.

        Return the lanes that stay away for it.
        """
        for item in reversed(again):
            item.lane.waiting.appendleft(item)
        away = dict.fromkeys(item.lane for item in again)
        for lane in dict.fromkeys(item.lane for item in batch):
            if lane not in away:
                self.let_go(lane)
        self.messages -= len(batch) - len(again)
        self.bytes -= sum(item.size for item in batch) - sum(item.size for item in again)
        return list(away)

    def let_go(self, lane: Lane) -> None:
        """Make a lane that was away ready again, or forget it where nothing waits in it."""
        if lane.waiting:
            self._ready.append(lane)
        elif lane.key is not None:
            del self._lanes[lane.key]
