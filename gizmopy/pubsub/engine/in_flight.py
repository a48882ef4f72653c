"""Count the messages that are received and not settled: the room that is left, and the oldest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from time import perf_counter

from gizmopy.pubsub.engine.sizes import LONG, MESSAGE_BYTES, size_of_attributes, size_of_text
from gizmopy.pubsub.engine.waiting_room import WaitingRoom
from gizmopy.pubsub.message import NO_ATTRIBUTES, Message


class InFlight:
    """Hold the messages of one subscriber from their receipt until they are settled or lost."""

    def __init__(
        self, max_messages: int, max_bytes: int, waiting: WaitingRoom | None = None
    ) -> None:
        self.received_at: dict[Message, float] = {}
        """Each message with the time of its receipt (``perf_counter``), the oldest first."""
        self.bytes = 0
        self.changed = asyncio.Event()
        """Set whenever messages leave, and when the ready queue is empty."""
        self.waiting = waiting or WaitingRoom(max_messages, max_bytes, by_partition=False)
        """Those of them that wait without working."""
        self._max_messages = max_messages
        self._max_bytes = max_bytes

    def __contains__(self, message: Message) -> bool:
        return message in self.received_at

    def __iter__(self) -> Iterator[Message]:
        return iter(self.received_at)

    def __len__(self) -> int:
        return len(self.received_at)

    @property
    def room(self) -> int:
        """How many messages may be received beside those that wait.

        None if the others take too many bytes.
        """
        waiting = self.waiting
        if self.bytes - waiting.bytes >= self._max_bytes:
            return 0
        return self._max_messages + waiting.messages - len(self.received_at)

    def add(self, batch: Sequence[Message]) -> None:
        """Add messages that were received."""
        self.received_at.update(dict.fromkeys(batch, perf_counter()))
        total = 0
        known, extra = NO_ATTRIBUTES, 0
        for message in batch:
            # This is sizes.size_of, inlined: a call for each message costs 3 % of its handling.
            # Messages of one publisher in this process share their attributes, so these are
            # measured once.
            attributes = message._attributes
            if attributes is not known:
                known, extra = attributes, size_of_attributes(attributes)
            size = MESSAGE_BYTES + extra
            body = message._received_body = message.body
            if body:
                size += len(body)
            if key := message.key:
                size += len(key) if len(key) <= LONG else size_of_text(key)
            # A handler may replace the body and the attributes. With a size measured again at the
            # settle, `bytes` would drift, and in the end nothing would be received any more.
            message._size = size
            total += size
        self.bytes += total

    def remove(self, batch: Collection[Message]) -> Collection[Message]:
        """Remove messages that were settled or lost; return those that had left before."""
        pop, gone, size = self.received_at.pop, [], 0
        for message in batch:
            if pop(message, None) is None:
                gone.append(message)
            else:
                size += message._size
        self.bytes -= size
        self.changed.set()
        return gone

    def age(self, message: Message) -> float:
        """Return the seconds since the receipt of ``message``."""
        return perf_counter() - self.received_at[message]

    @property
    def oldest_age(self) -> float:
        """The seconds since the receipt of the oldest message; 0 without messages."""
        oldest = next(iter(self.received_at), None)
        return 0.0 if oldest is None else self.age(oldest)

    async def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until ``condition`` is true, at most ``seconds``; it is asked at each change."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    self.changed.clear()
                    await self.changed.wait()
