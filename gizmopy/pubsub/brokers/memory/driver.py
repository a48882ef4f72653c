"""The driver of ``memory://``, its sender and its receiver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from time import time
from urllib.parse import parse_qs, urlsplit

from gizmopy.errors import UsageError
from gizmopy.pubsub.brokers.memory.subscription import Clock, Leases, MemorySubscription
from gizmopy.pubsub.driver import Capabilities, Limits, Measured, Results, Revoke, Status
from gizmopy.pubsub.message import Message

_LEASE = 30.0
_ONLY = "the queue"
"""The name of the one subscription to a topic, without fan-out."""


def open_driver(url: str) -> MemoryDriver:
    """Return a new broker. Raises UsageError on an unknown or invalid parameter."""
    given = parse_qs(urlsplit(url).query, keep_blank_values=True)
    if unknown := given.keys() - {"lease", "cap", "fan_out"}:
        reason = f"{min(unknown)} is not a parameter of memory://; use lease, cap or fan_out"
        raise UsageError(f"{url}: {reason}")
    fan_out = given.pop("fan_out", ["true"])[-1]
    if fan_out not in ("true", "false"):
        raise UsageError(f"{url}: fan_out={fan_out} is neither true nor false")
    seconds = {name: _seconds(url, name, values[-1]) for name, values in given.items()}
    return MemoryDriver(
        lease=seconds.get("lease", _LEASE),
        lease_cap=seconds.get("cap"),
        fan_out=fan_out == "true",
    )


def _seconds(url: str, name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UsageError(f"{url}: {name}={text} is not a number of seconds above 0; try {name}=30")
    return seconds


class MemoryDriver:
    """Hold topics and their messages. ``clock`` is the running event loop by default.

    With ``lease=None`` a receiver holds a message until it settles it or closes. With
    ``fan_out=False`` all subscriptions to a topic are one. Raises UsageError if ``lease`` is longer
    than ``lease_cap``.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        lease: float | None = _LEASE,
        lease_cap: float | None = None,
        message_bytes: int | None = None,
        message_attributes: int | None = None,
        attribute_bytes: int | None = None,
        batch_messages: int = 1000,
        fan_out: bool = True,
        send_delay: float | None = inf,
    ) -> None:
        if lease is not None and lease_cap is not None and lease_cap < lease:
            reason = f"cap={lease_cap:g} is shorter than lease={lease:g}"
            raise UsageError(f"memory://: {reason}; a cap is at least as long as the lease")
        self._clock = clock
        self._topics: dict[str, dict[str, MemorySubscription]] = {}
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
            message_attributes=message_attributes,
            attribute_bytes=attribute_bytes,
            ordered_batches=True,  # a send never fails in part
            fan_out=fan_out,
            send_delay=send_delay,
        )

    def sender(self, topic: str) -> MemorySender:
        """Return a sender to ``topic``."""
        return MemorySender(self._topics.setdefault(topic, {}), Limits.of(self.capabilities))

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> MemoryReceiver:
        """Return a receiver. Its ``connect`` makes the subscription if there is none."""
        subscription = subscription if self.capabilities.fan_out else _ONLY

        def join() -> MemorySubscription:
            clock = self._clock or asyncio.get_running_loop()
            subscriptions = self._topics.setdefault(topic, {})
            if subscription not in subscriptions:
                subscriptions[subscription] = MemorySubscription(clock, self.capabilities, ordered)
            joined = subscriptions[subscription]
            if joined.ordered != ordered:
                kind = "ordered" if joined.ordered else "unordered"
                raise UsageError(f"subscription {subscription!r} to {topic!r} is already {kind}")
            return joined

        return MemoryReceiver(join)

    async def aclose(self) -> None:
        """Drop all messages."""
        self._topics.clear()


class MemorySender:
    """Publish to one topic: each subscription gets its own copies."""

    def __init__(self, subscriptions: dict[str, MemorySubscription], limits: Limits) -> None:
        self._subscriptions = subscriptions
        self._limits = limits
        self._is_closed = False

    async def connect(self) -> None:
        """Do nothing: a topic need not exist."""

    def limits(self) -> Limits:
        """Return the limits of the driver: those of all topics."""
        return self._limits

    async def send(self, batch: Sequence[Message]) -> Results:
        """Add the messages to the subscriptions."""
        if self._is_closed:
            raise UsageError("this sender is closed; publish before aclose")
        if len(batch) == 1:  # without a generator, because most batches have one message
            is_delayed = batch[0].deliver_at is not None
        else:
            is_delayed = any(message.deliver_at is not None for message in batch)
        if is_delayed:
            self._send_each(batch)
            return [None] * len(batch)
        for subscription in self._subscriptions.values():
            subscription.put(batch)
        return [None] * len(batch)

    def _send_each(self, batch: Sequence[Message]) -> None:
        """Add messages of which some are to be delivered later."""
        for message in batch:
            due = message.deliver_at
            delay = 0.0 if due is None else due.timestamp() - time()
            for subscription in self._subscriptions.values():
                if delay > 0:
                    subscription.schedule(message, delay)
                else:
                    subscription.put((message,))

    async def aclose(self) -> None:
        """Refuse further messages."""
        self._is_closed = True


class MemoryReceiver:
    """Consume one subscription, which it shares with its other receivers."""

    def __init__(self, join: Callable[[], MemorySubscription]) -> None:
        self._join = join
        self._leases: Leases = {}
        self._subscription: MemorySubscription | None = None
        self._is_closed = False

    @property
    def _joined(self) -> MemorySubscription:
        if self._subscription is None:
            raise UsageError("this receiver is not connected; await connect() first")
        return self._subscription

    async def connect(self, revoke: Revoke) -> None:
        """Make or join the subscription. ``revoke`` is never called."""
        self._subscription = self._join()

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Return the messages that are ready, or wait for a publish or a redelivery."""
        if self._is_closed:
            raise UsageError("this receiver is closed; receive before aclose")
        subscription = self._joined
        batch = subscription.take(limit, self._leases)
        if batch or wait <= 0:
            return batch
        deadline = subscription.clock.time() + wait
        while not batch and subscription.clock.time() < deadline:
            await subscription.wait_for_change(deadline)
            if self._is_closed:
                return []
            batch = subscription.take(limit, self._leases)
        return batch

    async def ack(self, batch: Sequence[Message]) -> Results:
        """Delete messages; refuse those whose lease is over."""
        return self._joined.ack(batch, self._leases)

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        """Give messages back, to be delivered again after ``delay`` seconds."""
        return self._joined.release(batch, self._leases, delay)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Make leases end in ``seconds`` from now."""
        return self._joined.extend(batch, self._leases, seconds)

    def status(self) -> Status:
        """Return the number of messages that wait, including delayed ones, and the oldest one."""
        subscription = self._subscription
        if subscription is None:
            return Status(backlog=0)
        return Status(
            backlog=subscription.backlog,
            oldest=subscription.oldest_age(),
            delayed=subscription.scheduled,
        )

    async def measure(self) -> Measured:
        """Return the figures of all receivers of the subscription."""
        joined = self._joined
        return Measured(
            backlog=joined.backlog,
            in_flight=joined.in_flight,
            delayed=joined.scheduled,
            oldest=joined.oldest_age(),
        )

    async def aclose(self) -> None:
        """Give all messages back, and end a pending receive."""
        self._is_closed = True
        if self._subscription is not None:
            self._subscription.release(list(self._leases), self._leases, 0)
            self._subscription.wake_all()
