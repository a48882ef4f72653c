"""The messages of one subscription to a topic in memory: waiting, leased, or delayed."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from math import inf
from time import time
from typing import Any, Protocol

from gizmopy.errors import PubSubError
from gizmopy.pubsub.driver import Capabilities, Results
from gizmopy.pubsub.message import Message
from gizmopy.untrusted.text import cut

_MAX_SETTLED = 1000
"""How many settled messages the timers may keep before they are removed."""

Lease = tuple[float, float]
"""When it ends, and until when it can be extended."""

Leases = dict[Message, Lease]
"""The messages that a receiver holds."""

_SCHEDULED: Leases = {}
"""In the place of the leases of a timer: its messages were published with a delay."""

_NO_LEASE: Lease = (-inf, -inf)

_Timer = tuple[float, int, list[Message], Leases | None]
"""When it ends, a number that makes timers comparable, its messages, and the leases of their
receiver. None: the messages were given back with a delay. _SCHEDULED: they are not due yet."""


class Handle(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Cancel the call."""


class Clock(Protocol):
    """The time in seconds, and calls at a later time: the part of an event loop that is used."""

    def time(self) -> float:
        """Return the time."""

    def call_at(self, when: float, callback: Callable[[], Any], /) -> Handle:
        """Schedule ``callback`` for ``when``."""


class KeyQueue:
    """The messages of one key in an ordered subscription.

    Most keys have one message. An empty deque takes 760 bytes, so it is made for the second one.
    """

    __slots__ = ("first", "in_flight", "rest")

    def __init__(self, first: Message) -> None:
        self.first: Message | None = first
        self.rest: deque[Message] | None = None
        self.in_flight = 0
        """Messages that are leased or delayed: until they are settled, no other is delivered."""

    def append(self, message: Message) -> None:
        """Add a message at the end."""
        if self.first is None:
            self.first = message
        elif self.rest is None:
            self.rest = deque((message,))
        else:
            self.rest.append(message)

    def pop(self) -> Message:
        """Remove the first message."""
        first, self.first = self.first, self.rest.popleft() if self.rest else None
        assert first is not None
        return first

    def put_back(self, message: Message) -> None:
        """Return a message to its place, which is near the front."""
        first, number = self.first, _number(message)
        if first is None:
            self.first = message
            return
        rest = self.rest = self.rest or deque()
        if number < _number(first):
            self.first = message
            rest.appendleft(first)
        else:
            later = (place for place, other in enumerate(rest) if _number(other) > number)
            rest.insert(next(later, len(rest)), message)


class MemorySubscription:
    """Hold messages, lease them to receivers, and deliver again those that are not settled."""

    def __init__(self, clock: Clock, can: Capabilities, ordered: bool) -> None:
        self.clock = clock
        self.ordered = ordered
        self._lease_seconds = can.lease or inf
        self._cap_seconds = can.lease_cap or inf
        self.backlog = 0
        """Messages that no receiver holds: waiting, or given back with a delay."""
        self.scheduled = 0
        """Messages that were published with a delay and are not due yet."""
        self._ready: deque[Message | KeyQueue] = deque()
        self._queues: dict[str, KeyQueue] = {}
        self._timers: list[_Timer] = []
        self._timed = 0
        """Messages that are leased or delayed."""
        self._timer_entries = 0
        """Messages in all timers, including those that are settled or have a newer timer."""
        self._numbers = count()
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def in_flight(self) -> int:
        """Messages that a receiver has, and has not settled."""
        given_back = (batch for _, _, batch, leases in self._timers if leases is None)
        return self._timed - sum(map(len, given_back)) - self.scheduled

    def oldest_age(self) -> float:
        """Return the seconds since the next message was published, 0 if none is ready.

        A message that is given back returns to the front, so the next one is the oldest, or nearly.
        """
        if not self._ready:
            return 0.0
        first = self._ready[0]
        message = first if isinstance(first, Message) else first.first
        assert message is not None
        return max(0.0, time() - message.published_at.timestamp())

    def put(self, batch: Sequence[Message]) -> None:
        """Add copies of published messages, each with its number in this subscription."""
        numbers = self._numbers
        copies = [m.copy(0, m.key, next(numbers)) for m in batch]
        if self.ordered:
            for copy in copies:
                self._append(copy)
        else:
            self._ready.extend(copies)
        self.backlog += len(batch)
        if self._waiters:
            self._wake_one()

    def schedule(self, message: Message, delay: float) -> None:
        """Add a copy of a published message in ``delay`` seconds."""
        copy = message.copy(0, message.key, None)
        self.scheduled += 1
        self._start_timer(self.clock.time() + delay, [copy], _SCHEDULED)

    def _put_scheduled(self, batch: Sequence[Message]) -> None:
        """Put messages that are due behind the others: their place is that of this moment."""
        self.scheduled -= len(batch)
        self.put(batch)

    def take(self, limit: int, leases: Leases) -> list[Message]:
        """Lease up to ``limit`` messages; an ordered subscription takes one of each free key."""
        now = self.clock.time()
        self._end_timers(now)
        batch = self._pop_ready(limit)
        for message in batch:
            message.delivery += 1
        if batch:
            end = now + self._lease_seconds
            leases.update(dict.fromkeys(batch, (end, now + self._cap_seconds)))
            self._start_timer(end, batch[:], leases)  # a copy: the caller may change its list
        self.backlog -= len(batch)
        if self._ready:
            self._wake_one()
        return batch

    def ack(self, batch: Sequence[Message], leases: Leases) -> Results:
        """Delete messages."""
        return self._settle(batch, leases, self._unblock if self.ordered else _do_nothing)

    def release(self, batch: Sequence[Message], leases: Leases, delay: float) -> Results:
        """Make messages ready again, after ``delay`` seconds."""
        delayed: list[Message] = []

        def redeliver(message: Message) -> None:
            self.backlog += 1
            copy = _redelivery(message)
            if delay > 0:
                delayed.append(copy)
            else:
                self._put_back(copy)

        # From the last to the first, because each is put in front of its successors. In the other
        # order a batch that is given back would be delivered again in reverse.
        results = self._settle(batch[::-1], leases, redeliver)[::-1]
        if delayed:
            self._start_timer(self.clock.time() + delay, delayed[::-1], None)
        return results

    def extend(self, batch: Sequence[Message], leases: Leases, seconds: float) -> Results:
        """Make leases end in ``seconds`` from now."""
        now = self.clock.time()
        self._end_timers(now)
        end = now + seconds
        results: list[Exception | None] = [None] * len(batch)
        extended: list[Message] = []
        for place, message in enumerate(batch):
            lease = leases.get(message)
            if lease is None or end > lease[1]:
                results[place] = _refusal(message, lease)
            else:
                leases[message] = (end, lease[1])
                extended.append(message)
        if extended:
            self._timed -= len(extended)
            self._start_timer(end, extended, leases)
        return results

    def _settle(
        self, batch: Sequence[Message], leases: Leases, settle: Callable[[Message], None]
    ) -> Results:
        """End the lease of each message and ``settle`` it; refuse those whose lease is over."""
        self._end_timers(self.clock.time())
        results: list[Exception | None] = [None] * len(batch)
        for place, message in enumerate(batch):
            if leases.pop(message, None) is None:
                results[place] = _refusal(message, None)
            else:
                settle(message)
        self._timed -= results.count(None)
        if self._ready:
            self._wake_one()  # a key is free, or a message is ready again
        return results

    # Order: which messages are ready.

    def _append(self, message: Message) -> None:
        """Add a new message behind the others of its key."""
        if message.key is None:
            self._ready.append(message)
            return
        queue = self._queues.get(message.key)
        if queue is not None:
            queue.append(message)
        else:
            queue = self._queues[message.key] = KeyQueue(message)
            self._ready.append(queue)

    def _pop_ready(self, limit: int) -> list[Message]:
        """Remove up to ``limit`` messages: one of each free key, then the next of each."""
        if not self.ordered:
            messages: deque[Any] = self._ready
            return [messages.popleft() for _ in range(min(limit, len(messages)))]
        batch: list[Message] = []
        ready, taken_from = self._ready, deque[KeyQueue]()
        while len(batch) < limit and (ready or taken_from):
            entry = ready.popleft() if ready else taken_from.popleft()
            if isinstance(entry, Message):
                batch.append(entry)
                continue
            entry.in_flight += 1
            batch.append(entry.pop())
            if entry.first is not None:
                taken_from.append(entry)
        return batch  # the queues in ``taken_from`` are blocked now: _unblock makes them ready

    def _unblock(self, message: Message) -> None:
        """Make the queue of a settled message ready, if none of its messages is in flight."""
        if message.key is None:
            return
        queue = self._queues[message.key]
        queue.in_flight -= 1
        if queue.in_flight:
            return
        if queue.first is not None:
            self._ready.append(queue)
        else:
            del self._queues[message.key]

    def _put_back(self, message: Message) -> None:
        """Return a message to its place."""
        if not self.ordered or message.key is None:
            self._ready.appendleft(message)
            return
        queue = self._queues[message.key]
        queue.put_back(message)
        queue.in_flight -= 1
        if not queue.in_flight:
            self._ready.appendleft(queue)

    # Time: the ends of leases and delays.

    def _start_timer(self, end: float, batch: list[Message], leases: Leases | None) -> None:
        number = next(self._numbers)
        heapq.heappush(self._timers, (end, number, batch, leases))
        self._timed += len(batch)
        self._timer_entries += len(batch)
        if self._timer_entries > 2 * self._timed + _MAX_SETTLED:
            self._remove_settled()
        if self._timers[0][1] == number:
            self.wake_all()  # the first timer ends earlier than the receivers wait

    def _remove_settled(self) -> None:
        """Remove settled messages from the timers.

        A timer is not cancelled when its messages are settled. With long leases, the settled
        messages of half a minute would stay in memory.
        """
        live = [
            (end, number, _live(end, batch, leases), leases)
            for end, number, batch, leases in self._timers
        ]
        self._timers = [timer for timer in live if timer[2]]
        heapq.heapify(self._timers)
        self._timer_entries = self._timed

    def _end_timers(self, now: float) -> None:
        """Make ready the messages whose delay or lease has ended."""
        due: list[Message] = []
        while self._timers and self._timers[0][0] <= now:
            end, _, batch, leases = heapq.heappop(self._timers)
            live = _live(end, batch, leases)
            self._timer_entries -= len(batch)
            self._timed -= len(live)
            if leases is None:
                due += live
                continue
            if leases is _SCHEDULED:
                self._put_scheduled(live)
                continue
            for message in live:
                del leases[message]
                due.append(_redelivery(message))
            self.backlog += len(live)
        for message in reversed(due):
            self._put_back(message)

    # Waiting receives.

    async def wait_for_change(self, deadline: float) -> None:
        """Wait until a message may be ready, or ``deadline``."""
        waiter = asyncio.get_running_loop().create_future()
        when = min(deadline, self._timers[0][0]) if self._timers else deadline
        alarm = self.clock.call_at(when, lambda: _wake(waiter))
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            self._wake_one()  # another receiver takes the message that this one was woken for
            raise
        finally:
            alarm.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wake_one(self) -> None:
        """Wake one pending receive; if it leaves messages, it wakes the next one."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():  # else it is cancelled or awake
                waiter.set_result(None)
                return

    def wake_all(self) -> None:
        """Wake every pending receive."""
        while self._waiters:
            self._wake_one()


def _live(end: float, batch: list[Message], leases: Leases | None) -> list[Message]:
    """Return the messages that are still delayed, or whose lease still ends at ``end``."""
    if leases is None or leases is _SCHEDULED:
        return batch
    return [m for m in batch if leases.get(m, _NO_LEASE)[0] == end]


def _refusal(message: Message, lease: Lease | None) -> PubSubError:
    """Return the error of a message without a lease, or of a ``lease`` that is at its cap."""
    if lease is None:
        reason = f"the lease of {cut(message.id)} is over, or it is settled already"
    else:
        reason = f"the lease of {cut(message.id)} cannot last that long after its receipt"
    return PubSubError(reason, transient=False)


def _do_nothing(message: Message) -> None:
    """Settle a message of an unordered subscription: no other waits for it."""


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _number(message: Message) -> int:
    assert isinstance(message.raw, int)
    return message.raw


def _redelivery(message: Message) -> Message:
    """Return the Message of the next delivery: each delivery is an object of its own."""
    return message.copy(message.delivery, message.partition, message.raw)
