"""Settle what is handled: what ends while one call to the broker is in flight goes with the next.

Where the broker keeps positions, an ack hands over how far each partition is handled without a gap,
and what was given back is simply not acked.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import chain, count, groupby
from operator import attrgetter
from typing import NamedTuple

from gizmopy.errors import PubSubError
from gizmopy.pubsub.driver import Capabilities, Receiver, Results, results_for
from gizmopy.pubsub.engine.in_flight import InFlight
from gizmopy.pubsub.engine.metrics import SubscriberMetrics
from gizmopy.pubsub.engine.outcome import OnSettle
from gizmopy.pubsub.engine.positions import Positions
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.untrusted.error_text import text_of
from gizmopy.untrusted.text import cut

logger = logging.getLogger("gizmopy.pubsub.settling")

_RETRY = RetryPolicy()
_partition = attrgetter("partition")


class Stopped(asyncio.CancelledError):
    """The drain has cancelled the handling of a message, which is no failure."""


class _Note(NamedTuple):
    """What there is to say of a message that was not simply handled."""

    outcome: str
    error: BaseException | None


@dataclass(slots=True)
class Tally:
    """Count what became of messages, for the report of a drain."""

    finished: int = 0
    released: int = 0
    cancelled: int = 0
    failed_to_settle: int = 0


class Settler:
    """Ack and nack for one subscriber, in batches, from one task."""

    def __init__(
        self,
        receiver: Receiver,
        can: Capabilities,
        in_flight: InFlight,
        metrics: SubscriberMetrics,
        *,
        name: str,
        on_settle: OnSettle | None,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.tally = Tally()
        self.positions: Positions[Message] | None = Positions() if can.positions else None
        self._receiver = receiver
        self._can = can
        self._in_flight = in_flight
        self._metrics = metrics
        self._name = name
        self._on_settle = on_settle
        self._sleep = sleep
        self._handled: list[Message] = []
        """To be acked."""
        self._returned: dict[float, list[Message]] = {}
        """To be nacked, by delay."""
        self._lot: Sequence[Message] = ()
        """What is being settled, one call after the other."""
        self._notes: dict[Message, _Note] = {}
        self._work = asyncio.Event()
        self._closed = False

    def ack(self, message: Message, buried: BaseException | None = None) -> None:
        """Settle a message that was handled, or ``buried`` because of an error, and confirmed."""
        if buried is not None:
            self._notes[message] = _Note("dead_letter", buried)
        if not self._handled:
            self._work.set()
        self._handled.append(message)

    def ack_all(self, messages: Sequence[Message]) -> None:
        """Settle messages that were handled."""
        if messages:
            self._handled.extend(messages)
            self._work.set()

    def give_back(
        self, message: Message, outcome: str, error: BaseException | None = None, delay: float = 0.0
    ) -> None:
        """Have a message delivered again after ``delay``."""
        self._notes[message] = _Note(outcome, error)
        self._returned.setdefault(delay, []).append(message)
        self._work.set()

    def pending(self) -> set[Message]:
        """Return what is about to be settled."""
        return {*self._handled, *chain.from_iterable(self._returned.values()), *self._lot}

    async def run(self) -> None:
        """Settle until ``close``, and what there is to settle then."""
        while not self._closed or self._handled or self._returned:
            await self._work.wait()
            self._work.clear()
            handled, self._handled = self._handled, []
            returned, self._returned = self._returned, {}
            self._lot = [*handled, *chain.from_iterable(returned.values())]
            if handled:
                await self._settle(handled, self._ack)
            for delay, messages in returned.items():
                await self._settle(messages, self._nack(delay))
            self._lot = handled = []  # to be let go of now, not with the next lot

    def close(self) -> None:
        """Settle what there is, and no more."""
        self._closed = True
        self._work.set()

    def _nack(self, delay: float) -> Callable[[Sequence[Message]], Awaitable[Results]]:
        async def nack(batch: Sequence[Message]) -> Results:
            if not self._can.can_nack:
                return [None] * len(batch)  # what is not acked comes again
            return await self._receiver.nack(batch, delay)

        return nack

    async def _ack(self, batch: Sequence[Message]) -> Results:
        if self.positions is None:
            return await self._receiver.ack(batch)
        return await self._commit(self.positions, batch)

    async def _commit(self, positions: Positions[Message], batch: Sequence[Message]) -> Results:
        """Hand over how far each partition is handled; a commit that fails is the partition's."""
        for partition, messages in groupby(batch, _partition):
            positions.completed(partition, *messages)
        marks = positions.take_marks()
        try:
            last = [mark for _, mark in marks]
            results = results_for(last, await self._receiver.ack(last)) if marks else []
        except PubSubError as error:
            results = [error] * len(marks)
        if not any(results):
            return [None] * len(batch)
        failed = {p: error for (p, _), error in zip(marks, results, strict=True) if error}
        positions.put_back([mark for mark in marks if mark[0] in failed])
        return [failed.get(message.partition) for message in batch]

    async def _settle(
        self, messages: list[Message], call: Callable[[Sequence[Message]], Awaitable[Results]]
    ) -> None:
        """Settle in batches that the broker takes; the items that fail for now are tried again."""
        most = len(messages) if self.positions is not None else self._can.batch_messages
        for start in range(0, len(messages), most):
            batch = messages[start : start + most]
            for attempt in count(1):
                batch = await self._call(batch, call, last=attempt >= _RETRY.attempts)
                if not batch:
                    break
                await self._sleep(_RETRY.delay(attempt, random.random))

    async def _call(
        self,
        batch: list[Message],
        call: Callable[[Sequence[Message]], Awaitable[Results]],
        *,
        last: bool,
    ) -> list[Message]:
        """Settle one batch, and return the items to try again."""
        try:
            results = results_for(batch, await call(batch))
        except PubSubError as error:
            results = [error] * len(batch)
        if not any(results):
            self._confirmed(batch)
            return []
        pairs = list(zip(batch, results, strict=True))
        self._confirmed([message for message, error in pairs if error is None])
        self._refused([(m, e) for m, e in pairs if e and (last or not _is_transient(e))])
        return [] if last else [message for message, error in pairs if _is_transient(error)]

    def _confirmed(self, batch: list[Message]) -> None:
        """Forget what the broker has settled, and tell who wants to know."""
        lost = self._in_flight.remove(batch)  # and told so
        if lost:
            batch = [message for message in batch if message not in lost]
            for message in lost:
                self._notes.pop(message, None)
        if not self._notes and self._on_settle is None:
            self._metrics.settled["ack"].value += len(batch)
            self.tally.finished += len(batch)
            return
        for message in batch:
            outcome, error = self._notes.pop(message, _HANDLED)
            self._metrics.settled[outcome].value += 1
            if isinstance(error, Stopped):
                self.tally.cancelled += 1
            elif outcome == "released":
                self.tally.released += 1
            else:
                self.tally.finished += 1
            if self._on_settle is not None:
                self._on_settle(message, outcome, error)

    def _refused(self, pairs: Sequence[tuple[Message, Exception]]) -> None:
        """Forget what the broker has not settled: it comes again."""
        lost = self._in_flight.remove([message for message, _ in pairs])  # and told so
        for message, error in pairs:
            outcome = self._notes.pop(message, _HANDLED).outcome
            if message in lost:
                continue
            self._metrics.settle_failures.value += 1
            self.tally.failed_to_settle += 1
            logger.warning(
                "the %s of message %s of %s failed, it will come again: %s",
                outcome,
                cut(message.id),
                self._name,
                text_of(error),
            )


_HANDLED = _Note("ack", None)


def _is_transient(error: Exception | None) -> bool:
    return isinstance(error, PubSubError) and error.transient
