"""Faults of a broker, for any driver: at random with a seed, or exactly as a test plans them.

No fault loses a confirmed message, except ``Faults.drop_next``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, Protocol

from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub import Message
from pubsubtest.clock import Clock

Call = Literal["connect", "send", "receive", "ack", "nack", "extend"]
"""The calls of a driver that can fail; ``connect`` is that of senders and receivers."""

When = Callable[[Message], bool]
"""Whether a fault applies to a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The rates of random faults, from 0 (never, the default) to 1 (always).

    All failures are transient ``PubSubError``s. A connect fails only if a test plans it, or in an
    outage. Raises UsageError on a rate outside of this range.
    """

    fail: float = 0.0
    """A message's send, ack, nack or extend fails without effect, or a receive fails."""
    unconfirmed: float = 0.0
    """A message's send, ack, nack or extend takes effect, but returns an error."""
    duplicate: float = 0.0
    """A message arrives twice."""
    lose: float = 0.0
    """A lease is over when it is extended or its message acked; the message is delivered again."""
    delay: float = 0.0
    """A call begins up to ``longest_delay`` seconds late."""
    outage: float = 0.0
    """A call begins an outage of up to ``longest_outage`` seconds."""

    def __post_init__(self) -> None:
        for field in fields(self):
            rate = getattr(self, field.name)
            if not 0 <= rate <= 1:
                raise UsageError(f"Rates({field.name}={rate}): use a rate from 0 to 1")


class Fault(NamedTuple):
    """The fault of one message: whether the call takes effect, and the error that it returns."""

    takes_effect: bool = True
    error: Exception | None = None


NO_FAULT = Fault()


@dataclass(slots=True)
class _PlannedFault:
    """A fault for the next ``times`` messages."""

    kind: str
    times: int
    when: When
    fault: Fault = NO_FAULT

    def __post_init__(self) -> None:
        if self.times < 1:
            raise UsageError(f"times={self.times} plans no fault; use 1 or more")


class Breakable(Protocol):
    """A receiver whose connection an outage breaks."""

    async def break_connection(self) -> None:
        """Break the connection: the broker takes back the messages of the receiver."""


class Faults:
    """Decide which calls fail. The same ``seed`` and order of calls give the same faults.

    ``rates`` are those of random faults. ``longest_delay`` and ``longest_outage`` bound them, in
    seconds of ``clock`` or of the event loop. Several drivers may share one ``Faults``, and then
    have their outages together.
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
        self._planned: list[_PlannedFault] = []
        self._outages = 0
        self._outage_ends_at = 0.0
        """The end of the last random outage."""
        self._hanging: set[Call] = set()
        self._changed = asyncio.Event()
        self._receivers: list[Breakable] = []

    # Planned faults: called by tests.

    def fail_next(
        self,
        call: Call,
        error: Exception | None = None,
        *,
        times: int = 1,
        done: bool = False,
        when: When = lambda _: True,
    ) -> None:
        """Make ``call`` fail for the next ``times`` messages for which ``when`` is true.

        ``error`` is their result (default: a transient PubSubError). With ``done`` the call takes
        effect nevertheless: a message whose send failed arrives. ``connect`` and ``receive`` have
        no messages: the call itself raises. Raises UsageError on ``times`` below 1, as the other
        methods do.
        """
        fault = Fault(done, error or failure(call))
        self._planned.append(_PlannedFault(call, times, when, fault))

    def duplicate_next(self, times: int = 1, *, when: When = lambda _: True) -> None:
        """Make the next ``times`` sent messages for which ``when`` is true arrive twice."""
        self._planned.append(_PlannedFault("duplicate", times, when))

    def lose_next(self, times: int = 1, *, when: When = lambda _: True) -> None:
        """End the leases of the next ``times`` messages before they are acked or extended.

        The broker then refuses the call, and delivers the message again.
        """
        self._planned.append(_PlannedFault("lose", times, when))

    def drop_next(self, times: int = 1, *, when: When = lambda _: True) -> None:
        """Lose the next ``times`` sent messages, although the broker confirms them.

        This tests code that detects losses. No rate does it.
        """
        self._planned.append(_PlannedFault("send", times, when, Fault(takes_effect=False)))

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """Make every call raise a transient PubSubError while the context lasts.

        Connections break: a pending receive raises the error, and the messages that are held are
        given back and can no longer be settled. The connections of a broker that keeps positions do
        not break: a pending receive ends after its wait, and its messages are received later.
        """
        self._outages += 1
        await self._break_connections()
        try:
            yield
        finally:
            self._outages -= 1

    @asynccontextmanager
    async def hanging(self, call: Call) -> AsyncIterator[None]:
        """Make each ``call`` hang without effect while the context lasts.

        Closing a receiver still ends its calls.
        """
        self._hanging.add(call)
        try:
            yield
        finally:
            self._hanging.discard(call)
            self.wake_hanging_calls()

    def stop(self) -> None:
        """Cancel planned faults, set all rates to 0, and end a random outage."""
        self._rates = Rates()
        self._planned.clear()
        self._outage_ends_at = 0.0

    # Decisions: called by FaultyDriver.

    @property
    def is_out(self) -> bool:
        """Whether there is an outage."""
        return self._outages > 0 or self._time() < self._outage_ends_at

    def add(self, receiver: Breakable) -> None:
        """Register a receiver whose connection an outage breaks."""
        self._receivers.append(receiver)

    def remove(self, receiver: Breakable) -> None:
        """Forget a receiver that is closed."""
        if receiver in self._receivers:
            self._receivers.remove(receiver)

    async def begin(self, call: Call, is_closed: Callable[[], bool] = lambda: False) -> None:
        """Delay the begin of a call. Raises PubSubError in an outage."""
        await self.hang(call, is_closed)
        if call != "connect":
            await self._maybe_delay()
            await self._maybe_begin_outage()
        self.check_outage(call)

    async def hang(self, call: Call, is_closed: Callable[[], bool] = lambda: False) -> None:
        """Wait while ``call`` hangs and the caller is not closed."""
        while call in self._hanging and not is_closed():
            await self._changed.wait()

    def wake_hanging_calls(self) -> None:
        """Wake hanging calls, so that they check whether they still hang."""
        self._changed.set()
        self._changed.clear()

    def check_outage(self, call: Call) -> None:
        """Raise PubSubError during an outage."""
        if self.is_out:
            raise failure(call, "the broker is unreachable")

    def check_call(self, call: Call) -> None:
        """Raise the error that is planned for a call without messages, if any."""
        fault = self._take_planned(call, None)
        if fault is not None and fault.error is not None:
            raise fault.error.with_traceback(None)  # without the traceback of an earlier raise
        if call == "receive" and self._happens(self._rates.fail):
            raise failure(call)

    def decide(self, call: Call, batch: Sequence[Message]) -> list[Fault]:
        """Return the fault of each message of a call.

        If a message is not sent or not confirmed, the later ones of its key are not sent: the
        publisher sends it again, and they must stay behind it.
        """
        failed_keys: dict[str | None, Fault] = {}
        faults = []
        for message in batch:
            fault = failed_keys.get(message.key) or self._decide(call, message)
            if call == "send" and fault.error is not None and message.key is not None:
                failed_keys[message.key] = Fault(takes_effect=False, error=fault.error)
            faults.append(fault)
        return faults

    def _decide(self, call: Call, message: Message) -> Fault:
        if (fault := self._take_planned(call, message)) is not None:
            return fault
        if self._happens(self._rates.fail):
            return Fault(takes_effect=False, error=failure(call))
        if self._happens(self._rates.unconfirmed):
            return Fault(takes_effect=True, error=failure(call))
        return NO_FAULT

    def is_duplicated(self, message: Message) -> bool:
        """Return whether a message arrives twice."""
        scripted = self._take_planned("duplicate", message) is not None
        return scripted or self._happens(self._rates.duplicate)

    def is_lost(self, message: Message) -> bool:
        """Return whether the lease of a message is over."""
        scripted = self._take_planned("lose", message) is not None
        return scripted or self._happens(self._rates.lose)

    def _take_planned(self, kind: str, message: Message | None) -> Fault | None:
        for script in self._planned:
            if script.kind == kind and (message is None or script.when(message)):
                script.times -= 1
                if not script.times:
                    self._planned.remove(script)
                return script.fault
        return None

    def _happens(self, rate: float) -> bool:
        return rate > 0 and self._chance.random() < rate

    async def _maybe_delay(self) -> None:
        if self._happens(self._rates.delay):
            sleep = self._clock.sleep if self._clock else asyncio.sleep
            await sleep(self._chance.uniform(0, self._longest_delay))

    async def _maybe_begin_outage(self) -> None:
        if self._happens(self._rates.outage) and not self.is_out:
            self._outage_ends_at = self._time() + self._chance.uniform(0, self._longest_outage)
            await self._break_connections()

    def _time(self) -> float:
        return self._clock.time() if self._clock else asyncio.get_running_loop().time()

    async def _break_connections(self) -> None:
        for receiver in list(self._receivers):
            await receiver.break_connection()


def failure(call: Call, reason: str = "it failed") -> PubSubError:
    """Return the error of a fault."""
    return PubSubError(f"{call}: {reason}, because of a planned or random fault", transient=True)
