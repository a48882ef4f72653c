"""Count what is received and not settled: how much room is left, and how long the oldest waits."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from time import perf_counter

from gizmopy.pubsub.engine.metrics import SubscriberMetrics
from gizmopy.pubsub.engine.sizes import LONG, MESSAGE_BYTES, size_of_attributes, size_of_text
from gizmopy.pubsub.message import NO_ATTRIBUTES, Message


class InFlight:
    """Hold the messages of one subscriber from their receipt until they are settled or lost."""

    def __init__(self, most: int, most_bytes: int, metrics: SubscriberMetrics) -> None:
        self.since: dict[Message, float] = {}
        """Each message with the time of its receipt (``perf_counter``), the oldest first."""
        self.bytes = 0
        self.changed = asyncio.Event()
        """Set whenever messages leave: who waits for something of them looks again."""
        self._most = most
        self._most_bytes = most_bytes
        self._metrics = metrics

    @property
    def room(self) -> int:
        """How many messages may be received; none if those in flight take too many bytes."""
        return self.room_beside(0)

    def room_beside(self, waiting: int) -> int:
        """Return how many messages may be received where ``waiting`` of them do not count."""
        return self._most + waiting - len(self.since) if self.bytes < self._most_bytes else 0

    def add(self, batch: Sequence[Message]) -> None:
        """Take in what is received."""
        self.since.update(dict.fromkeys(batch, perf_counter()))
        total = 0
        known, extra = NO_ATTRIBUTES, 0
        for message in batch:
            # sizes.size_of, written out: a call for each message would cost 3 % of its handling.
            attributes = message.attributes
            if attributes is not known:  # messages of one publisher in this process share them
                known, extra = attributes, size_of_attributes(attributes)
            size = MESSAGE_BYTES + extra
            if body := message.body:
                size += len(body)
            if key := message.key:
                size += len(key) if len(key) <= LONG else size_of_text(key)
            message._size = size  # kept: a handler may change the body and the attributes
            total += size
        self.bytes += total

    def remove(self, batch: Collection[Message]) -> Collection[Message]:
        """Let go of what is settled or lost, and return what was not in here any more."""
        pop, gone, size = self.since.pop, [], 0
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
        return perf_counter() - self.since[message]

    def measure(self) -> None:
        """Set the gauges; called when somebody looks at them."""
        self._metrics.in_flight.value = len(self.since)
        self._metrics.in_flight_bytes.value = self.bytes
        oldest = next(iter(self.since.values()), None)
        age = 0.0 if oldest is None else perf_counter() - oldest
        self._metrics.oldest_in_flight_seconds.value = age
