"""Settle messages in batches: those that end during one call to the broker go with the next call.

If the broker keeps positions, an ack hands over how far each partition is handled without a gap,
and messages that were released are simply not acked.
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

from gizmopy._aio import batched
from gizmopy.errors import PubSubError
from gizmopy.pubsub.driver import Capabilities, Receiver, Results, results_for
from gizmopy.pubsub.engine.in_flight import InFlight
from gizmopy.pubsub.engine.observer import Observer
from gizmopy.pubsub.engine.outcome import DrainReport
from gizmopy.pubsub.engine.positions import Positions
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.untrusted.error_text import text_of
from gizmopy.untrusted.text import cut

logger = logging.getLogger("gizmopy.pubsub.settling")

_RETRY = RetryPolicy()
_partition = attrgetter("partition")

_Call = Callable[[Sequence[Message]], Awaitable[Results]]


class Stopped(asyncio.CancelledError):
    """The drain cancelled the handler of a message, which is not a failure of the message."""


class _Outcome(NamedTuple):
    """The outcome that a settle confirms, and the error that led to it."""

    name: str
    error: BaseException | None


_ACK = _Outcome("ack", None)


@dataclass(slots=True)
class Tally:
    """Count outcomes, for the report of a drain."""

    finished: int = 0
    released: int = 0
    cancelled: int = 0
    failed_to_settle: int = 0

    def report_since(self, before: Tally, *, unsettled: int) -> DrainReport:
        """Return the outcomes since ``before``; ``unsettled`` messages have none yet."""
        return DrainReport(
            finished=self.finished - before.finished,
            released=self.released - before.released,
            cancelled=self.cancelled,
            failed_to_settle=self.failed_to_settle - before.failed_to_settle + unsettled,
        )


class Settler:
    """Ack and nack for one subscriber, in batches, from one task."""

    def __init__(
        self,
        receiver: Receiver,
        capabilities: Capabilities,
        in_flight: InFlight,
        events: Observer,
        *,
        name: str,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.tally = Tally()
        self.positions: Positions[Message] | None = Positions() if capabilities.positions else None
        self._receiver = receiver
        self._capabilities = capabilities
        self._in_flight = in_flight
        self._events = events
        self._name = name
        self._sleep = sleep
        self._to_ack: list[Message] = []
        self._to_release: dict[float, list[Message]] = {}
        """The messages to give back, by the delay until they are delivered again."""
        self._settling: Sequence[Message] = ()
        """The messages of the calls to the broker that run now."""
        self._outcomes: dict[Message, _Outcome] = {}
        """The outcome of each message that was not simply handled."""
        self._work = asyncio.Event()
        self._closed = False

    def ack(self, message: Message, dead_lettered: BaseException | None = None) -> None:
        """Ack a message that was handled, or ``dead_lettered`` because of an error."""
        if dead_lettered is not None:
            self._outcomes[message] = _Outcome("dead_letter", dead_lettered)
        if not self._to_ack:
            self._work.set()
        self._to_ack.append(message)

    def ack_all(self, messages: Sequence[Message]) -> None:
        """Ack messages that were handled."""
        if messages:
            self._to_ack.extend(messages)
            self._work.set()

    def release(
        self, message: Message, outcome: str, error: BaseException | None = None, delay: float = 0.0
    ) -> None:
        """Give a message back to the broker, which delivers it again after ``delay`` seconds."""
        self._outcomes[message] = _Outcome(outcome, error)
        self._to_release.setdefault(delay, []).append(message)
        self._work.set()

    def pending(self) -> set[Message]:
        """Return the messages that are about to be settled."""
        return {*self._to_ack, *chain.from_iterable(self._to_release.values()), *self._settling}

    def close(self) -> None:
        """Have ``run`` return once it has settled all messages that it has."""
        self._closed = True
        self._work.set()

    async def run(self) -> None:
        """Settle until ``close``, and then the messages that are left."""
        while not self._closed or self._to_ack or self._to_release:
            await self._work.wait()
            self._work.clear()
            acks, self._to_ack = self._to_ack, []
            releases, self._to_release = self._to_release, {}
            self._settling = [*acks, *chain.from_iterable(releases.values())]
            if acks:
                await self._settle(acks, self._ack)
            for delay, messages in releases.items():
                await self._settle(messages, self._nack(delay))
            # Drop the references now: the next messages may come much later, and these hold bodies.
            self._settling = acks = []

    # One kind of call to the broker: ack, nack, or commit.

    def _nack(self, delay: float) -> _Call:
        async def nack(batch: Sequence[Message]) -> Results:
            if not self._capabilities.can_nack:
                return [None] * len(batch)  # the broker delivers again what is not acked
            return await self._receiver.nack(batch, delay)

        return nack

    async def _ack(self, batch: Sequence[Message]) -> Results:
        if self.positions is None:
            return await self._receiver.ack(batch)
        return await self._commit(self.positions, batch)

    async def _commit(self, positions: Positions[Message], batch: Sequence[Message]) -> Results:
        """Hand over how far each partition is handled; an error counts for its partition."""
        for partition, messages in groupby(batch, _partition):
            positions.completed(partition, *messages)
        marks = positions.take_moved()
        try:
            last = [mark for _, mark in marks]
            results = results_for(last, await self._receiver.ack(last)) if marks else []
        except PubSubError as error:
            results = [error] * len(marks)
        if not any(results):
            return [None] * len(batch)
        # The next ack hands over the marks that failed, even if the messages that moved them are
        # no longer here.
        failed = {p: error for (p, _), error in zip(marks, results, strict=True) if error}
        positions.put_back([mark for mark in marks if mark[0] in failed])
        return [failed.get(message.partition) for message in batch]

    # Settle in batches, and again if it fails for now.

    async def _settle(self, messages: list[Message], call: _Call) -> None:
        """Settle in batches of the size that the broker takes; retry transient errors."""
        # With positions, one message stands for all of its partition, so that a call is small
        # however many messages there are; to split them would only commit more often.
        size = len(messages) if self.positions is not None else self._capabilities.batch_messages
        for batch in batched(messages, size):
            for attempt in count(1):
                batch = await self._settle_batch(batch, call, last=attempt >= _RETRY.attempts)
                if not batch:
                    break
                await self._sleep(_RETRY.delay(attempt, random.random))

    async def _settle_batch(
        self, batch: list[Message], call: _Call, *, last: bool
    ) -> list[Message]:
        """Settle one batch, and return the messages to try again."""
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
        """Forget messages that the broker has settled, and report their outcomes."""
        # Messages that were lost meanwhile were reported as lost: they have no second outcome.
        if lost := self._in_flight.remove(batch):
            batch = [message for message in batch if message not in lost]
            for message in lost:
                self._outcomes.pop(message, None)
        if not batch:
            return
        if not self._outcomes:
            self.tally.finished += len(batch)
            self._events.settled(batch, "ack", None)
            return
        for message in batch:
            outcome = self._outcomes.pop(message, _ACK)
            self._count(outcome)
            self._events.settled((message,), outcome.name, outcome.error)

    def _count(self, outcome: _Outcome) -> None:
        if isinstance(outcome.error, Stopped):
            self.tally.cancelled += 1
        elif outcome.name == "released":
            self.tally.released += 1
        else:
            self.tally.finished += 1

    def _refused(self, pairs: Sequence[tuple[Message, Exception]]) -> None:
        """Forget messages that the broker has not settled: it delivers them again."""
        lost = self._in_flight.remove([message for message, _ in pairs])
        for message, error in pairs:
            outcome = self._outcomes.pop(message, _ACK).name
            if message in lost:
                continue
            self.tally.failed_to_settle += 1
            self._events.settle_failed(message, outcome, error)
            logger.warning(
                "the %s of message %s of %s failed, so the broker delivers it again: %s",
                outcome,
                cut(message.id),
                self._name,
                text_of(error),
            )


def _is_transient(error: Exception | None) -> bool:
    return isinstance(error, PubSubError) and error.transient
