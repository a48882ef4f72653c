"""What goes wrong with a broker, on any driver: at random by a seed, or exactly as a test says.

A confirmed message is never lost by any of it, but for ``Faults.drop_next``, which says so.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub import Capabilities, Driver, Message, Receiver, Sender, Status
from gizmopy.pubsub.driver import Results, Revoke
from pubsubtest.clock import Clock

Call = Literal["connect", "send", "receive", "ack", "nack", "extend"]
"""The calls of a driver that can go wrong; ``connect`` is the sender's and the receiver's."""

When = Callable[[Message], bool]
"""Whether a message is one that the fault is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often what goes wrong by itself, from 0 (never, the default) to 1 (always).

    All failures are transient ``PubSubError``s. A connect goes wrong only where a test says so, or
    in an outage. Raises UsageError on a rate that cannot be.
    """

    fail: float = 0.0
    """A message's send, ack, nack or extend fails, and nothing was done; or a receive fails."""
    unconfirmed: float = 0.0
    """A message's send, ack, nack or extend fails, though it was done."""
    duplicate: float = 0.0
    """A message arrives twice."""
    lose: float = 0.0
    """A lease is over when it is to be extended or its message acked; it is delivered again."""
    delay: float = 0.0
    """A call takes up to ``Faults.longest_delay`` seconds before it does anything."""
    outage: float = 0.0
    """A call begins an outage of up to ``Faults.longest_outage`` seconds."""

    def __post_init__(self) -> None:
        for field in fields(self):
            rate = getattr(self, field.name)
            if not 0 <= rate <= 1:
                raise UsageError(f"Rates({field.name}={rate}): use a rate from 0 to 1")


class _Fault(NamedTuple):
    """What goes wrong with one message: whether it is done all the same, and what is said."""

    is_done: bool = True
    error: Exception | None = None


_FINE = _Fault()


@dataclass(slots=True)
class _Script:
    """What goes wrong the next ``times`` times."""

    kind: str
    times: int
    when: When
    fault: _Fault = _FINE

    def __post_init__(self) -> None:
        if self.times < 1:
            raise UsageError(f"times={self.times} lets nothing go wrong; use 1 or more")


class Faults:
    """Decide what goes wrong; one ``seed`` decides alike each time, for calls in the same order.

    ``rates`` say what goes wrong by itself; how long that lasts is bounded in seconds, which are
    those of ``clock`` where one is given. One ``Faults`` may serve many drivers: an outage is then
    everyone's.
    """

    def __init__(
        self,
        seed: int = 0,
        rates: Rates = Rates(),
        *,
        longest_delay: float = 0.01,
        longest_outage: float = 0.1,
        clock: Clock | None = None,
    ) -> None:
        self._rates = rates
        self._longest_delay = longest_delay
        self._longest_outage = longest_outage
        self._clock = clock
        self._chance = random.Random(seed)
        self._scripts: list[_Script] = []
        self._outages = 0
        self._out_until = 0.0
        """When the last outage ends that has begun by itself."""
        self._hanging: set[Call] = set()
        self._changed = asyncio.Event()
        self._receivers: list[_FaultyReceiver] = []

    # Say what goes wrong.

    def fail_next(
        self,
        call: Call,
        error: Exception | None = None,
        *,
        times: int = 1,
        done: bool = False,
        when: When = lambda _: True,
    ) -> None:
        """Let ``call`` fail for the next ``times`` messages for which ``when`` is true.

        ``error`` is what their results are; default: a transient PubSubError. With ``done`` the
        call is done all the same: a message arrives whose send has failed. A ``connect`` and a
        ``receive`` are not about messages: the call as a whole raises. Raises UsageError on
        ``times`` below 1, as do the others.
        """
        fault = _Fault(done, error or _failure(call))
        self._scripts.append(_Script(call, times, when, fault))

    def duplicate_next(self, times: int = 1, *, when: When = lambda _: True) -> None:
        """Let the next ``times`` messages that are sent, and ``when`` is true for, arrive twice."""
        self._scripts.append(_Script("duplicate", times, when))

    def lose_next(self, times: int = 1, *, when: When = lambda _: True) -> None:
        """Let the leases of the next ``times`` messages be over as they are acked or extended.

        The call is then refused as the broker refuses it, and the message delivered again.
        """
        self._scripts.append(_Script("lose", times, when))

    def drop_next(self, times: int = 1, *, when: When = lambda _: True) -> None:
        """Let the next ``times`` messages that are sent be lost, though the broker confirms them.

        No broker should, and no rate does: this is for the test of what watches over losses.
        """
        self._scripts.append(_Script("send", times, when, _Fault(is_done=False)))

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """Let no call through while the context lasts: each raises a transient PubSubError.

        Connections break: a pending receive ends with the error, what is held is given back at
        once, and cannot be settled any more. Those of a broker that keeps positions last: its
        pending receive ends when its wait is over, and what it has got is received later.
        """
        self._outages += 1
        await self._break_connections()
        try:
            yield
        finally:
            self._outages -= 1

    @asynccontextmanager
    async def hanging(self, call: Call) -> AsyncIterator[None]:
        """Let no ``call`` return, nor do anything, while the context lasts.

        Closing a receiver ends its calls all the same.
        """
        self._hanging.add(call)
        try:
            yield
        finally:
            self._hanging.discard(call)
            self.look_again()

    def stop(self) -> None:
        """Let nothing go wrong any more but what is said later; outages by themselves are over."""
        self._rates = Rates()
        self._scripts.clear()
        self._out_until = 0.0

    # Decide: for the driver.

    @property
    def is_out(self) -> bool:
        """Whether there is an outage."""
        return self._outages > 0 or self._time() < self._out_until

    def add(self, receiver: _FaultyReceiver) -> None:
        """Note a receiver whose connection an outage breaks."""
        self._receivers.append(receiver)

    def remove(self, receiver: _FaultyReceiver) -> None:
        """Forget a receiver that is closed."""
        if receiver in self._receivers:
            self._receivers.remove(receiver)

    async def begin(self, call: Call, is_closed: Callable[[], bool] = lambda: False) -> None:
        """Let a call begin, late. Raises PubSubError where it does not come through at all."""
        await self.hang(call, is_closed)
        if call != "connect":
            await self._maybe_delay()
            await self._maybe_break()
        self.check(call)

    async def hang(self, call: Call, is_closed: Callable[[], bool] = lambda: False) -> None:
        """Wait while ``call`` hangs, and who calls is not closed."""
        while call in self._hanging and not is_closed():
            await self._changed.wait()

    def look_again(self) -> None:
        """Let calls that hang look whether they still do."""
        self._changed.set()
        self._changed.clear()

    def check(self, call: Call) -> None:
        """Raise PubSubError while there is an outage."""
        if self.is_out:
            raise _failure(call, "the broker is out")

    def check_whole(self, call: Call) -> None:
        """Raise where a call that is not about messages is to fail."""
        fault = self._scripted(call, None)
        if fault is not None and fault.error is not None:
            raise fault.error.with_traceback(None)  # it may have been raised before
        if call == "receive" and self._happens(self._rates.fail):
            raise _failure(call)

    def decide(self, call: Call, batch: Sequence[Message]) -> list[_Fault]:
        """Return what goes wrong with each message of a call.

        Where a message is not sent or not confirmed, the later ones of its key are not sent: it
        comes again, and they stay behind it.
        """
        failed: dict[str | None, _Fault] = {}
        faults = []
        for message in batch:
            fault = failed.get(message.key) or self._decide(call, message)
            if call == "send" and fault.error is not None and message.key is not None:
                failed[message.key] = _Fault(is_done=False, error=fault.error)
            faults.append(fault)
        return faults

    def _decide(self, call: Call, message: Message) -> _Fault:
        if (fault := self._scripted(call, message)) is not None:
            return fault
        if self._happens(self._rates.fail):
            return _Fault(is_done=False, error=_failure(call))
        if self._happens(self._rates.unconfirmed):
            return _Fault(is_done=True, error=_failure(call))
        return _FINE

    def is_duplicated(self, message: Message) -> bool:
        """Return whether a message arrives twice."""
        scripted = self._scripted("duplicate", message) is not None
        return scripted or self._happens(self._rates.duplicate)

    def is_lost(self, message: Message) -> bool:
        """Return whether the lease of a message is over."""
        scripted = self._scripted("lose", message) is not None
        return scripted or self._happens(self._rates.lose)

    def _scripted(self, kind: str, message: Message | None) -> _Fault | None:
        for script in self._scripts:
            if script.kind == kind and (message is None or script.when(message)):
                script.times -= 1
                if not script.times:
                    self._scripts.remove(script)
                return script.fault
        return None

    def _happens(self, rate: float) -> bool:
        return rate > 0 and self._chance.random() < rate

    async def _maybe_delay(self) -> None:
        if self._happens(self._rates.delay):
            sleep = self._clock.sleep if self._clock else asyncio.sleep
            await sleep(self._chance.uniform(0, self._longest_delay))

    async def _maybe_break(self) -> None:
        if self._happens(self._rates.outage) and not self.is_out:
            self._out_until = self._time() + self._chance.uniform(0, self._longest_outage)
            await self._break_connections()

    def _time(self) -> float:
        return self._clock.time() if self._clock else asyncio.get_running_loop().time()

    async def _break_connections(self) -> None:
        for receiver in list(self._receivers):
            await receiver.cut()


class FaultyDriver:
    """Do as the driver ``inner`` does, but for what ``faults`` let go wrong."""

    def __init__(self, inner: Driver, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    @property
    def capabilities(self) -> Capabilities:
        """What the broker can do, while all is well."""
        return self._inner.capabilities

    def sender(self, topic: str) -> Sender:
        """Return a sender whose sends go wrong."""
        return _FaultySender(self._inner.sender(topic), self._faults)

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        """Return a receiver that connects again after an outage."""

        def make() -> Receiver:
            return self._inner.receiver(topic, subscription, ordered=ordered)

        return _FaultyReceiver(make, self.capabilities, self._faults)

    async def aclose(self) -> None:
        """Close the driver within."""
        await self._inner.aclose()


class _FaultySender:
    def __init__(self, inner: Sender, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    async def connect(self) -> None:
        await self._faults.begin("connect")
        self._faults.check_whole("connect")
        await self._inner.connect()

    async def send(self, batch: Sequence[Message]) -> Results:
        await self._faults.begin("send")
        faults = self._faults.decide("send", batch)
        sent = _done(batch, faults)
        results = await self._inner.send(sent) if sent else []
        twice = [m for m in sent if self._faults.is_duplicated(m)]
        with suppress(PubSubError):
            if twice:
                await self._inner.send(twice)
        self._faults.check("send")
        return _told(faults, results)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _FaultyReceiver:
    """A receiver whose connection can break; then another one takes its place."""

    def __init__(self, make: Callable[[], Receiver], can: Capabilities, faults: Faults) -> None:
        self._make = make
        self._can = can
        self._faults = faults
        self._inner = make()
        self._revoke: Revoke | None = None
        self._is_cut = False
        self._is_closed = False
        self._kept: list[Message] = []
        """Received during an outage, to be handed out after it."""
        self._held: set[Message] = set()
        """What was received on this connection, and not settled; empty for ``positions``."""

    async def connect(self, revoke: Revoke) -> None:
        await self._faults.begin("connect")
        self._faults.check_whole("connect")
        self._revoke = revoke
        await self._inner.connect(self._let_go)
        self._faults.remove(self)
        self._faults.add(self)

    async def _let_go(self, partitions: Collection[Hashable], seconds: float) -> None:
        assert self._revoke is not None
        self._kept = [m for m in self._kept if m.partition not in partitions]
        await self._revoke(partitions, seconds)

    async def cut(self) -> None:
        """Break the connection, so that the broker takes back what is held."""
        if not self._can.positions:
            self._is_cut = True
            self._kept.clear()
            self._held.clear()
            await self._inner.aclose()

    async def _reconnect(self) -> None:
        inner = self._make()
        try:
            await inner.connect(self._let_go)
        except BaseException:
            await inner.aclose()
            raise
        self._inner = inner
        self._is_cut = False
        if self._is_closed:
            await inner.aclose()

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        if self._is_closed:
            return await self._inner.receive(limit, wait)  # which says so
        batch = await self._receive(limit, wait)
        if self._is_closed:
            return []  # the broker has taken back what it had got
        if self._is_cut:
            raise _failure("receive", "the connection is broken")
        self._kept = list(batch)
        self._faults.check("receive")
        batch, self._kept = self._kept[:limit], self._kept[limit:]
        if not self._can.positions:
            self._held.update(batch)
        return batch

    async def _receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Receive, late, and on a new connection where the last one has broken."""
        await self._faults.begin("receive", lambda: self._is_closed)
        self._faults.check_whole("receive")
        if self._is_cut and not self._is_closed:
            await self._reconnect()
        if self._is_closed:
            return []
        batch = self._kept or await self._inner.receive(limit, wait)
        await self._faults.hang("receive", lambda: self._is_closed)
        return batch

    async def ack(self, batch: Sequence[Message]) -> Results:
        return await self._settle("ack", batch, lambda messages: self._inner.ack(messages))

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        return await self._settle("nack", batch, lambda messages: self._inner.nack(messages, delay))

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        return await self._settle(
            "extend", batch, lambda messages: self._inner.extend(messages, seconds)
        )

    async def _settle(
        self,
        call: Call,
        batch: Sequence[Message],
        settle: Callable[[Sequence[Message]], Awaitable[Results]],
    ) -> Results:
        await self._faults.begin(call, lambda: self._is_closed)
        known = [self._can.positions or message in self._held for message in batch]
        ours = [message for message, is_known in zip(batch, known, strict=True) if is_known]
        faults = self._faults.decide(call, ours)
        done = _done(ours, faults)
        if call != "nack":
            await self._lose(done)
        results = await settle(done) if done else []
        self._faults.check(call)
        told = _told(faults, results)
        if call != "extend":
            self._held -= {m for m, error in zip(ours, told, strict=True) if not _is_open(error)}
        answers = iter(told)
        return [
            next(answers) if is_known else _stale(m)
            for m, is_known in zip(batch, known, strict=True)
        ]

    async def _lose(self, messages: Sequence[Message]) -> None:
        """Let the broker deliver again those whose leases are over by a fault."""
        lost = [message for message in messages if self._faults.is_lost(message)]
        if lost and not self._can.can_nack:
            raise UsageError("this driver cannot nack: no lease of it can be lost by a fault")
        if lost:
            await self._inner.nack(lost, 0)

    def status(self) -> Status:
        return self._inner.status()

    async def aclose(self) -> None:
        self._is_closed = True
        self._faults.remove(self)
        self._faults.look_again()
        await self._inner.aclose()


def _done(batch: Sequence[Message], faults: Sequence[_Fault]) -> list[Message]:
    """Return the messages that come through."""
    return [message for message, fault in zip(batch, faults, strict=True) if fault.is_done]


def _told(faults: Sequence[_Fault], results: Results) -> list[Exception | None]:
    """Return what is said of each message, where ``results`` is what is true of those done."""
    answers = iter(results)
    return [(fault.is_done and next(answers)) or fault.error for fault in faults]


def _is_open(error: Exception | None) -> bool:
    """Return whether a settling may be tried again."""
    return isinstance(error, PubSubError) and error.transient


def _stale(message: Message) -> PubSubError:
    reason = f"message {message.id} was received on a connection that has broken, or is settled"
    return PubSubError(reason, transient=False)


def _failure(call: Call, reason: str = "it failed") -> PubSubError:
    return PubSubError(f"{call}: {reason}, by a fault of the test", transient=True)
