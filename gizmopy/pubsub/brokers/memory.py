"""A broker in this process: ``memory://``, with the semantics of a real one.

*Delivery*: at least once. A message is leased for 30 s (``memory://?lease=5``), then delivered
again; a late ack is refused. Leases can be extended for ever, or until ``?cap=60`` seconds after
the receipt. A subscription exists from its first receiver on; what is published to a topic without
subscriptions is dropped. *Order*: for ordered receivers a key's later messages are not handed out
while earlier ones are, and a returned message goes back to its place. Each key is a partition of
its own. *Nack*: with delay. *Raw*: the message's number in its subscription.

Each driver opened is a broker of its own, and is gone with it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from math import inf
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub.driver import Capabilities, Results, Revoke, Status
from gizmopy.pubsub.message import Message
from gizmopy.untrusted.text import cut

_LEASE = 30.0
_STALE = 1000
"""Messages that timers may know and that are settled, before they are swept out."""

_Lease = tuple[float, float]
"""When it is over, and until when it can be extended."""

_Held = dict[Message, _Lease]
"""What a receiver holds."""

_NO_LEASE: _Lease = (-inf, -inf)

_Timer = tuple[float, int, list[Message], _Held | None]
"""When it ends, a number to tell equals apart, and whose leases (None: delays) they are."""


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
    """Return a new broker. Raises UsageError on a parameter that is unknown or cannot be."""
    given = parse_qs(urlsplit(url).query, keep_blank_values=True)
    if unknown := given.keys() - {"lease", "cap"}:
        raise UsageError(f"{url}: {min(unknown)} is no parameter of memory://; use lease or cap")
    seconds = {name: _seconds(url, name, values[-1]) for name, values in given.items()}
    return MemoryDriver(lease=seconds.get("lease", _LEASE), lease_cap=seconds.get("cap"))


def _seconds(url: str, name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UsageError(f"{url}: {name}={text} is no number of seconds above 0; try {name}=30")
    return seconds


class MemoryDriver:
    """Hold the topics. ``clock`` is the running event loop unless another is given.

    Without a ``lease`` (None), what a receiver holds is its own until it settles or closes.
    Raises UsageError where a ``lease`` would last longer than its ``lease_cap``.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        lease: float | None = _LEASE,
        lease_cap: float | None = None,
        message_bytes: int | None = None,
        batch_messages: int = 1000,
    ) -> None:
        if lease is not None and lease_cap is not None and lease_cap < lease:
            reason = f"cap={lease_cap:g} is shorter than lease={lease:g}"
            raise UsageError(f"memory://: {reason}; a lease lasts no longer than its cap")
        self._clock = clock
        self._topics: dict[str, dict[str, _Subscription]] = {}
        self.capabilities = Capabilities(
            ordering=True,
            can_nack=True,
            native_delay=True,
            lease=lease,
            lease_cap=lease_cap,
            positions=False,
            delivery_count=True,
            process_local=True,
            batch_messages=batch_messages,
            batch_bytes=None,
            message_bytes=message_bytes,
            ordered_batches=True,  # a send never fails in part
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
                subscriptions[subscription] = _Subscription(clock, self.capabilities, ordered)
            joined = subscriptions[subscription]
            if joined.ordered != ordered:
                kind = "ordered" if joined.ordered else "unordered"
                raise UsageError(f"subscription {subscription!r} to {topic!r} is {kind} already")
            return joined

        return MemoryReceiver(join)

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

    def __init__(self, join: Callable[[], _Subscription]) -> None:
        self._join = join
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
        batch = subscription.take(limit, self._held)
        if batch or wait <= 0:
            return batch
        deadline = subscription.clock.time() + wait
        while not batch and subscription.clock.time() < deadline:
            await subscription.changed(deadline)
            if self._closed:
                return []
            batch = subscription.take(limit, self._held)
        return batch

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
    """The messages of one key in an ordered subscription: mostly one, and deques are large."""

    __slots__ = ("behind", "front", "held")

    def __init__(self, front: Message) -> None:
        self.front: Message | None = front
        self.behind: deque[Message] | None = None
        self.held = 0
        """Handed out, or delayed: while there are any, no other is handed out."""

    def append(self, message: Message) -> None:
        """Put a message at the end."""
        if self.front is None:
            self.front = message
        elif self.behind is None:
            self.behind = deque((message,))
        else:
            self.behind.append(message)

    def pop(self) -> Message:
        """Take the message in front out."""
        front, self.front = self.front, self.behind.popleft() if self.behind else None
        assert front is not None
        return front

    def put_back(self, message: Message) -> None:
        """Put a message back in its place, which is among the first."""
        front, number = self.front, _number(message)
        if front is None:
            self.front = message
            return
        behind = self.behind = self.behind or deque()
        if number < _number(front):
            self.front = message
            behind.appendleft(front)
        else:
            later = (place for place, other in enumerate(behind) if _number(other) > number)
            behind.insert(next(later, len(behind)), message)


class _Subscription:
    """The messages of one subscription: waiting, leased to a receiver, or delayed."""

    def __init__(self, clock: Clock, can: Capabilities, ordered: bool) -> None:
        self.clock = clock
        self.ordered = ordered
        self._lease = can.lease or inf
        self._cap = can.lease_cap or inf
        self.backlog = 0
        """Messages that no receiver holds: waiting and delayed."""
        self._ready: deque[Message | _Lane] = deque()
        self._lanes: dict[str, _Lane] = {}
        # Leases that end (with the receiver's held messages) and delays that end (with None).
        self._timers: list[_Timer] = []
        self._listed = 0
        """Messages in all timers, those included that have left since, or got another one."""
        self._timed = 0
        """Messages that a lease or a delay runs for."""
        self._numbers = count()
        self._waiters: deque[asyncio.Future[None]] = deque()

    def put(self, batch: Sequence[Message]) -> None:
        """Take in what was published, as copies with a number of their own."""
        numbers = self._numbers
        copies = [m.copy(0, m.key, next(numbers)) for m in batch]
        if self.ordered:
            for copy in copies:
                self._line_up(copy)
        else:
            self._ready.extend(copies)
        self.backlog += len(batch)
        if self._waiters:
            self._wake()

    def take(self, limit: int, held: _Held) -> list[Message]:
        """Lease up to ``limit`` messages, in turn from each key that is free."""
        now = self.clock.time()
        self._run_timers(now)
        batch = self._pick(limit)
        for message in batch:
            message.delivery += 1
        if batch:
            end = now + self._lease
            held.update(dict.fromkeys(batch, (end, now + self._cap)))
            self._start_timer(end, batch[:], held)  # the list is the caller's
        self.backlog -= len(batch)
        if self._ready:
            self._wake()
        return batch

    def ack(self, batch: Sequence[Message], held: _Held) -> Results:
        """Forget messages for good."""
        return self._settle(batch, held, self._leave if self.ordered else _forget)

    def give_back(self, batch: Sequence[Message], held: _Held, delay: float) -> Results:
        """Line messages up again, after ``delay`` seconds."""
        delayed: list[Message] = []

        def again(message: Message) -> None:
            self.backlog += 1
            copy = _again(message)
            if delay > 0:
                delayed.append(copy)
            else:
                self._return(copy)

        # From the last to the first, as each goes in front of its successors.
        results = self._settle(batch[::-1], held, again)[::-1]
        if delayed:
            self._start_timer(self.clock.time() + delay, delayed[::-1], None)
        return results

    def extend(self, batch: Sequence[Message], held: _Held, seconds: float) -> Results:
        """Move the end of leases."""
        now = self.clock.time()
        self._run_timers(now)
        end = now + seconds
        results: list[Exception | None] = [None] * len(batch)
        extended: list[Message] = []
        for place, message in enumerate(batch):
            lease = held.get(message)
            if lease is None or end > lease[1]:
                results[place] = _refusal(message, lease)
            else:
                held[message] = (end, lease[1])
                extended.append(message)
        if extended:
            self._timed -= len(extended)
            self._start_timer(end, extended, held)
        return results

    def _settle(
        self, batch: Sequence[Message], held: _Held, settle: Callable[[Message], None]
    ) -> Results:
        """End the lease of each message and ``settle`` it; refuse those whose lease is over."""
        self._run_timers(self.clock.time())
        results: list[Exception | None] = [None] * len(batch)
        for place, message in enumerate(batch):
            if held.pop(message, None) is None:
                results[place] = _refusal(message, None)
            else:
                settle(message)
        self._timed -= results.count(None)
        if self._ready:
            self._wake()  # a key is free again, or a message is back
        return results

    # Order: which message may be handed out.

    def _line_up(self, message: Message) -> None:
        """Put a new message at the end."""
        if message.key is None:
            self._ready.append(message)
            return
        lane = self._lanes.get(message.key)
        if lane is not None:
            lane.append(message)
        else:
            lane = self._lanes[message.key] = _Lane(message)
            self._ready.append(lane)

    def _pick(self, limit: int) -> list[Message]:
        """Take up to ``limit`` messages out, one of each free key, then the next of each."""
        if not self.ordered:
            messages: deque[Any] = self._ready
            return [messages.popleft() for _ in range(min(limit, len(messages)))]
        batch: list[Message] = []
        fresh, again = self._ready, deque[_Lane]()
        while len(batch) < limit and (fresh or again):
            entry = fresh.popleft() if fresh else again.popleft()
            if isinstance(entry, Message):
                batch.append(entry)
                continue
            entry.held += 1
            batch.append(entry.pop())
            if entry.front is not None:
                again.append(entry)
        return batch  # lanes in ``again`` are busy now: _leave lines them up again

    def _leave(self, message: Message) -> None:
        """Free the lane of a message that is settled, if it was the last one handed out."""
        if message.key is None:
            return
        lane = self._lanes[message.key]
        lane.held -= 1
        if lane.held:
            return
        if lane.front is not None:
            self._ready.append(lane)
        else:
            del self._lanes[message.key]

    def _return(self, message: Message) -> None:
        """Put a message back in its place."""
        if not self.ordered or message.key is None:
            self._ready.appendleft(message)
            return
        lane = self._lanes[message.key]
        lane.put_back(message)
        lane.held -= 1
        if not lane.held:
            self._ready.appendleft(lane)

    # Time: leases and delays that end.

    def _start_timer(self, end: float, batch: list[Message], held: _Held | None) -> None:
        number = next(self._numbers)
        heapq.heappush(self._timers, (end, number, batch, held))
        self._timed += len(batch)
        self._listed += len(batch)
        if self._listed > 2 * self._timed + _STALE:
            self._sweep()
        if self._timers[0][1] == number:
            self.wake_all()  # those who wait have to wake earlier

    def _sweep(self) -> None:
        """Forget what is settled: a timer may outlast its messages for long."""
        swept = [
            (end, number, _live(end, batch, held), held)
            for end, number, batch, held in self._timers
        ]
        self._timers = [timer for timer in swept if timer[2]]
        heapq.heapify(self._timers)
        self._listed = self._timed

    def _run_timers(self, now: float) -> None:
        """Line up again what was delayed until now, and what has outlived its lease."""
        due: list[Message] = []
        while self._timers and self._timers[0][0] <= now:
            end, _, batch, held = heapq.heappop(self._timers)
            live = _live(end, batch, held)
            self._listed -= len(batch)
            self._timed -= len(live)
            if held is None:
                due += live
                continue
            for message in live:
                del held[message]
                due.append(_again(message))
            self.backlog += len(live)
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


def _live(end: float, batch: list[Message], held: _Held | None) -> list[Message]:
    """Return the messages whose delay, or lease that ends at ``end``, still stands."""
    if held is None:
        return batch
    return [m for m in batch if held.get(m, _NO_LEASE)[0] == end]


def _refusal(message: Message, lease: _Lease | None) -> PubSubError:
    """Return why a message cannot be settled, or its ``lease`` not be extended that far."""
    if lease is None:
        reason = f"the lease of {cut(message.id)} is over, or it is settled already"
    else:
        reason = f"the lease of {cut(message.id)} cannot last that long after its receipt"
    return PubSubError(reason, transient=False)


def _forget(message: Message) -> None:
    """Do nothing more about a message that is settled."""


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _number(message: Message) -> int:
    assert isinstance(message.raw, int)
    return message.raw


def _again(message: Message) -> Message:
    """Return what is delivered again: a Message of its own."""
    return message.copy(message.delivery, message.partition, message.raw)
