"""A broker in this process: ``memory://``, with the semantics of a real one.

*Delivery*: at least once. A message is leased for 30 s (``memory://?lease=5``), then delivered
again; a late ack is refused. A subscription exists from its first receiver on; what is published to
a topic without subscriptions is dropped. *Order*: for ordered receivers a key's later messages are
not handed out while earlier ones are, and a returned message goes back to its place. Each key is a
partition of its own. *Nack*: with delay. *Raw*: the message's number in its subscription.

Each driver opened is a broker of its own, and is gone with it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub.driver import Capabilities, Results, Revoke, Status
from gizmopy.pubsub.message import Message

_LEASE = 30.0
_STALE_TIMERS = 64
"""Timers of settled messages that may lie about before they are swept out."""

_Held = dict[Message, float]
"""What a receiver holds, and when each lease is over."""

_Timer = tuple[float, int, Message, _Held | None]
"""When it ends, a number to tell equals apart, and whose lease (None: a delay) it is."""


class Handle(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Take the call back."""


class Clock(Protocol):
    """The time in seconds, and calls that are due later: what every event loop has."""

    def time(self) -> float:
        """Return the time."""

    def call_at(self, when: float, callback: Callable[[], Any], /) -> Handle:
        """Call ``callback`` when it is ``when``."""


def open_driver(url: str) -> MemoryDriver:
    """Return a new broker. Raises UsageError on a lease that is no number of seconds above 0."""
    lease = parse_qs(urlsplit(url).query).get("lease", [str(_LEASE)])[-1]
    try:
        seconds = float(lease)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UsageError(f"{url}: lease={lease} is no number of seconds above 0; try lease=30")
    return MemoryDriver(lease=seconds)


class MemoryDriver:
    """Hold the topics. ``clock`` is the running event loop unless another is given."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        lease: float = _LEASE,
        message_bytes: int | None = None,
        batch_messages: int = 1000,
    ) -> None:
        self._clock = clock
        self._topics: dict[str, dict[str, _Subscription]] = {}
        self.capabilities = Capabilities(
            ordering=True,
            can_nack=True,
            native_delay=True,
            lease=lease,
            positions=False,
            delivery_count=True,
            process_local=True,
            batch_messages=batch_messages,
            batch_bytes=None,
            message_bytes=message_bytes,
        )

    def sender(self, topic: str) -> MemorySender:
        """Return a sender to ``topic``."""
        return MemorySender(self._topics.setdefault(topic, {}))

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> MemoryReceiver:
        """Return a receiver; the subscription begins when it connects."""

        def join() -> _Subscription:
            clock = self._clock or asyncio.get_running_loop()
            subscriptions = self._topics.setdefault(topic, {})
            if subscription not in subscriptions:
                subscriptions[subscription] = _Subscription(clock, ordered)
            joined = subscriptions[subscription]
            if joined.ordered != ordered:
                kind = "ordered" if joined.ordered else "unordered"
                raise UsageError(f"subscription {subscription!r} to {topic!r} is {kind} already")
            return joined

        lease = self.capabilities.lease
        assert lease is not None
        return MemoryReceiver(join, lease)

    async def aclose(self) -> None:
        """Forget every message."""
        self._topics.clear()


class MemorySender:
    """Publish to one topic: every subscription gets its own copy."""

    def __init__(self, subscriptions: dict[str, _Subscription]) -> None:
        self._subscriptions = subscriptions
        self._closed = False

    async def connect(self) -> None:
        """Do nothing: topics need not exist."""

    async def send(self, batch: Sequence[Message]) -> Results:
        """Hand the messages to the subscriptions."""
        if self._closed:
            raise UsageError("this sender is closed; publish before aclose")
        for subscription in self._subscriptions.values():
            subscription.put(batch)
        return [None] * len(batch)

    async def aclose(self) -> None:
        """Refuse what comes from now on."""
        self._closed = True


class MemoryReceiver:
    """Consume one subscription, sharing it with its other receivers."""

    def __init__(self, join: Callable[[], _Subscription], lease: float) -> None:
        self._join = join
        self._lease = lease
        self._held: _Held = {}
        self._subscription: _Subscription | None = None
        self._closed = False

    @property
    def _joined(self) -> _Subscription:
        if self._subscription is None:
            raise UsageError("this receiver is not connected; await connect() first")
        return self._subscription

    async def connect(self, revoke: Revoke) -> None:
        """Begin the subscription, or join it. Nothing is ever revoked."""
        self._subscription = self._join()

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Return what there is, or wait for a publish or a redelivery that is due."""
        if self._closed:
            raise UsageError("this receiver is closed; receive before aclose")
        subscription = self._joined
        deadline = subscription.clock.time() + wait
        while not self._closed:
            batch = subscription.take(limit, self._held, self._lease)
            if batch or subscription.clock.time() >= deadline:
                return batch
            await subscription.changed(deadline)
        return []

    async def ack(self, batch: Sequence[Message]) -> Results:
        """Delete messages; those whose lease is over are refused."""
        return self._joined.ack(batch, self._held)

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        """Give messages back, to be delivered again after ``delay`` seconds."""
        return self._joined.give_back(batch, self._held, delay)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Let leases last ``seconds`` from now."""
        return self._joined.extend(batch, self._held, seconds)

    def status(self) -> Status:
        """Tell how many messages wait, delayed ones included."""
        return Status(backlog=self._subscription.backlog if self._subscription else 0)

    async def aclose(self) -> None:
        """Give back what is held, and end a pending receive."""
        self._closed = True
        if self._subscription is not None:
            self._subscription.give_back(list(self._held), self._held, 0)
            self._subscription.wake_all()


class _Lane:
    """The messages of one key in an ordered subscription."""

    __slots__ = ("held", "key", "waiting")

    def __init__(self, key: str) -> None:
        self.key = key
        self.waiting: deque[Message] = deque()
        self.held = 0
        """Handed out, or delayed: while there are any, no other is handed out."""


class _Subscription:
    """The messages of one subscription: waiting, leased to a receiver, or delayed."""

    def __init__(self, clock: Clock, ordered: bool) -> None:
        self.clock = clock
        self.ordered = ordered
        self.backlog = 0
        """Messages that no receiver holds: waiting and delayed."""
        self._ready: deque[Message | _Lane] = deque()
        self._lanes: dict[str, _Lane] = {}
        # Leases that end (with the receiver's held messages) and delays that end (with None).
        self._timers: list[_Timer] = []
        self._live_timers = 0
        self._numbers = count()
        self._waiters: deque[asyncio.Future[None]] = deque()

    def put(self, batch: Sequence[Message]) -> None:
        """Take in what was published, as copies with a number of their own."""
        for message in batch:
            copy = _copy(message, 0)
            copy.raw = next(self._numbers)
            self._line_up(copy)
        self.backlog += len(batch)
        self._wake()

    def take(self, limit: int, held: _Held, lease: float) -> list[Message]:
        """Lease up to ``limit`` messages, in turn from each key that is free."""
        now = self.clock.time()
        self._run_timers(now)
        batch = self._pick(limit)
        for message in batch:
            message.delivery += 1
            held[message] = now + lease
            self._start_timer(now + lease, message, held)
        self.backlog -= len(batch)
        if self._ready:
            self._wake()
        return batch

    def ack(self, batch: Sequence[Message], held: _Held) -> Results:
        """Forget messages for good."""
        return self._settle(batch, held, self._leave)

    def give_back(self, batch: Sequence[Message], held: _Held, delay: float) -> Results:
        """Line messages up again, after ``delay`` seconds."""

        def again(message: Message) -> None:
            self.backlog += 1
            copy = _copy(message, message.delivery)
            if delay > 0:
                self._start_timer(self.clock.time() + delay, copy, None)
            else:
                self._return(copy)

        # From the last to the first, as each goes in front of its successors.
        return self._settle(batch[::-1], held, again)[::-1]

    def extend(self, batch: Sequence[Message], held: _Held, seconds: float) -> Results:
        """Move the end of leases."""
        end = self.clock.time() + seconds

        def prolong(message: Message) -> None:
            held[message] = end
            self._start_timer(end, message, held)

        return self._settle(batch, held, prolong)

    def _settle(
        self, batch: Sequence[Message], held: _Held, settle: Callable[[Message], None]
    ) -> Results:
        """End the lease of each message and ``settle`` it; refuse those whose lease is over."""
        self._run_timers(self.clock.time())
        results: list[Exception | None] = []
        for message in batch:
            if held.pop(message, None) is None:
                reason = f"the lease of {message.id} is over, or it is settled already"
                results.append(PubSubError(reason, transient=False))
                continue
            self._live_timers -= 1
            settle(message)
            results.append(None)
        if self._ready:
            self._wake()  # a key is free again, or a message is back
        return results

    # Order: which message may be handed out.

    def _line_up(self, message: Message) -> None:
        """Put a new message at the end."""
        if not self.ordered or message.key is None:
            self._ready.append(message)
            return
        lane = self._lanes.get(message.key)
        if lane is None:
            lane = self._lanes[message.key] = _Lane(message.key)
        lane.waiting.append(message)
        if not lane.held and len(lane.waiting) == 1:
            self._ready.append(lane)

    def _pick(self, limit: int) -> list[Message]:
        """Take up to ``limit`` messages out, one of each free key, then the next of each."""
        batch: list[Message] = []
        fresh, again = self._ready, deque[_Lane]()
        while len(batch) < limit and (fresh or again):
            entry = fresh.popleft() if fresh else again.popleft()
            if isinstance(entry, Message):
                batch.append(entry)
                continue
            entry.held += 1
            batch.append(entry.waiting.popleft())
            if entry.waiting:
                again.append(entry)
        return batch  # lanes in ``again`` are busy now: _leave lines them up again

    def _leave(self, message: Message) -> None:
        """Free the lane of a message that is settled, if it was the last one handed out."""
        if not self.ordered or message.key is None:
            return
        lane = self._lanes[message.key]
        lane.held -= 1
        if lane.held:
            return
        if lane.waiting:
            self._ready.append(lane)
        else:
            del self._lanes[message.key]

    def _return(self, message: Message) -> None:
        """Put a message back in its place."""
        if not self.ordered or message.key is None:
            self._ready.appendleft(message)
            return
        lane = self._lanes[message.key]
        waiting = lane.waiting
        place = 0
        while place < len(waiting) and _number(waiting[place]) < _number(message):
            place += 1
        waiting.insert(place, message)
        lane.held -= 1
        if not lane.held:
            self._ready.appendleft(lane)

    # Time: leases and delays that end.

    def _start_timer(self, end: float, message: Message, held: _Held | None) -> None:
        timer = (end, next(self._numbers), message, held)
        heapq.heappush(self._timers, timer)
        self._live_timers += 1
        if len(self._timers) > 2 * self._live_timers + _STALE_TIMERS:
            self._timers = [timer for timer in self._timers if _is_live(timer)]
            heapq.heapify(self._timers)
        if self._timers[0] is timer:
            self.wake_all()  # those who wait have to wake earlier

    def _run_timers(self, now: float) -> None:
        """Line up again what was delayed until now, and what has outlived its lease."""
        due: list[Message] = []
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)
            if not _is_live(timer):
                continue
            self._live_timers -= 1
            _, _, message, held = timer
            if held is not None:
                del held[message]
                self.backlog += 1
                message = _copy(message, message.delivery)
            due.append(message)
        for message in reversed(due):
            self._return(message)

    # Waiting.

    async def changed(self, deadline: float) -> None:
        """Wait until there may be a message to take, or ``deadline``."""
        waiter = asyncio.get_running_loop().create_future()
        when = min(deadline, self._timers[0][0]) if self._timers else deadline
        alarm = self.clock.call_at(when, lambda: _wake(waiter))
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            self._wake()  # what this one was woken for is there for another
            raise
        finally:
            alarm.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        """Let one pending receive look again; it wakes another where it leaves something."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():  # else it is cancelled, or awake
                waiter.set_result(None)
                return

    def wake_all(self) -> None:
        """Let every pending receive look again."""
        while self._waiters:
            self._wake()


def _is_live(timer: _Timer) -> bool:
    """Return whether a delay, or the lease that ends here, still stands."""
    end, _, message, held = timer
    return held is None or held.get(message) == end


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _number(message: Message) -> int:
    assert isinstance(message.raw, int)
    return message.raw


def _copy(message: Message, delivery: int) -> Message:
    return Message(
        message.topic,
        message.body,
        key=message.key,
        attributes=message.attributes,
        id=message.id,
        published_at=message.published_at,
        delivery=delivery,
        partition=message.key,
        raw=message.raw,
    )
