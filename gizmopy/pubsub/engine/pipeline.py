"""The life of a message from the broker to its settling, readable top to bottom.

    receive → admit (order) → worker → handler → ack
                                             └→ verdict → again, in place
                                                        → nack: again, by the broker
                                                        → dead letter, confirmed → ack

Nothing is lost: a message is acked when its handler has returned, or when the broker has confirmed
its dead letter; never because of a cancellation, a shutdown, or an error that nobody foresaw.
There is no task for each message: one task receives, N workers handle, one settles what they have
finished (settling), one keeps the leases of what is not settled (leases). Only a message that waits
to be tried again has a task while it waits. How all of this begins and ends stands in subscriber.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextvars import copy_context
from itertools import groupby
from operator import attrgetter
from time import perf_counter
from typing import Any

from gizmopy.errors import PubSubError, UndecodableMessage
from gizmopy.observe.context import message_id, propagated_attributes, request_id
from gizmopy.observe.trace import trace_context
from gizmopy.pubsub.driver import Capabilities, Receiver, Revoke
from gizmopy.pubsub.engine.dead_letter import DeadLetter
from gizmopy.pubsub.engine.failures import Failures
from gizmopy.pubsub.engine.in_flight import InFlight
from gizmopy.pubsub.engine.lanes import Lanes
from gizmopy.pubsub.engine.leases import Leases
from gizmopy.pubsub.engine.metrics import SubscriberMetrics
from gizmopy.pubsub.engine.outcome import OnSettle
from gizmopy.pubsub.engine.ready_queue import Ready
from gizmopy.pubsub.engine.retry_decision import Action, judge, stays
from gizmopy.pubsub.engine.settler import Settler, Stopped
from gizmopy.pubsub.engine.worker import ENDED, Runner, uncancel
from gizmopy.pubsub.handlers import BatchResults
from gizmopy.pubsub.message import NO_ATTRIBUTES, Message
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.error_text import text_of
from gizmopy.untrusted.text import cut

logger = logging.getLogger("gizmopy.pubsub.pipeline")

WAIT = 10.0
"""Seconds that a receive may wait for messages; closing the receiver ends it sooner."""
_BURST = 0.01
"""Seconds that a worker whose handlers never wait keeps the event loop at most."""
_RECEIVE_RETRY = RetryPolicy(base=0.5)
_HANDLED: BatchResults = (None,)
_partition = attrgetter("partition")
_key = attrgetter("key")
_partition_of_topic = attrgetter("topic", "partition")
"""A lane even where the broker has no partitions."""

_Begun = tuple[Sequence[Message], float, Awaitable[Any]]
"""What is handled, since when, and what is to be awaited of it."""


async def _failing(error: BaseException) -> None:
    raise error


async def _isolated(runner: Runner, coroutine: Coroutine[Any, Any, BatchResults]) -> BatchResults:
    """Await a coroutine in a context of its own."""
    run = copy_context().run
    await runner.rest(run, run(runner.begin, coroutine))
    outcomes: BatchResults = runner.result
    return outcomes


class Pipeline:
    """Take messages from ``receiver`` through the handler of ``subscription`` to their settling."""

    def __init__(
        self,
        receiver: Receiver,
        subscription: Subscription,
        can: Capabilities,
        metrics: SubscriberMetrics,
        *,
        name: str,
        dead_letter: DeadLetter | None,
        on_settle: OnSettle | None,
        sleep: Callable[[float], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
    ) -> None:
        self.receiver = receiver
        self.subscription = subscription
        self.can = can
        self.in_flight = InFlight(
            subscription.max_in_flight, subscription.max_in_flight_bytes, metrics
        )
        self.settler = Settler(
            receiver, can, self.in_flight, metrics, name=name, on_settle=on_settle, sleep=sleep
        )
        self.leases = Leases(receiver, can, self.in_flight, metrics, self.lose)
        self.ready = Ready(self.in_flight.changed.set)
        self.lanes: Lanes[Message] = Lanes()
        self.waiting: dict[Message, asyncio.Task[None]] = {}
        """What waits to be tried again, or to be given back after a delay."""
        self.at_work: dict[asyncio.Task[Any], Sequence[Message]] = {}
        """What each worker handles."""
        self.failures = Failures(subscription, name, metrics)
        self.connected = False
        self.trouble = ""
        """Why nothing is received for now; empty where all is well."""
        self.receiving_since: float | None = None
        # The steps of a drain: receive no more; start no more, workers end when they have finished;
        # what is cancelled now is given back; the driver has taken back what it held.
        self.stopped = self.ending = self.cancelling = self.closed = False
        self._metrics = metrics
        self._name = name
        self._dead_letter = dead_letter
        self._on_settle = on_settle
        self._sleep = sleep
        self._spawn = spawn
        self._some = subscription.max_in_flight // 4
        """How many messages are worth a receive while there is other work."""
        self._ordered = subscription.order != "none"
        self._in_batches = subscription.batch_handler is not None
        self._stays = stays(subscription, can)
        self._lane = _key if subscription.order == "key" else _partition_of_topic

    # Receive: one task, never cancelled while a receive is pending.

    async def connect(self, revoke: Revoke) -> None:
        """Subscribe. Raises what the driver raises."""
        await self.receiver.connect(revoke)
        self.connected = True

    async def receive(self, revoke: Revoke) -> None:
        """Receive until ``stopped``; a broker that is away for now is tried again."""
        failures = 0
        while not self.stopped:
            try:
                if not self.connected:
                    await self.connect(revoke)
                await self._receive_some()
                failures = 0
                self.trouble = ""
            except PubSubError as error:
                if not error.transient:
                    raise
                failures += 1
                self.trouble = f"receiving fails: {text_of(error)}"
                delay = _RECEIVE_RETRY.delay(failures, random.random)
                logger.warning(
                    "receiving from %s failed, again in %.1f s: %s",
                    self._name,
                    delay,
                    text_of(error),
                )
                await self._sleep(delay)

    async def _receive_some(self) -> None:
        """Receive as much as there is room for; no room, no receive.

        To receive a few costs as much as many: while there is other work, it waits for some room.
        """
        # Where there are positions, the driver bounds what waits behind a message of its partition:
        # it takes up no room, but for as long as there is other work to do.
        busy = bool(self.ready.messages)
        waiting = self.lanes.waiting if self.can.positions and not busy else 0
        room = self.in_flight.room_beside(waiting)
        if room <= 0 or (busy and room < self._some):
            self.in_flight.changed.clear()
            await self.in_flight.changed.wait()
            return
        self.receiving_since = perf_counter()
        try:
            batch = await self.receiver.receive(room, WAIT)
        finally:
            self.receiving_since = None
        if batch and not self.closed:  # else the driver has given them back
            self._admit(batch)

    def _admit(self, batch: Sequence[Message]) -> None:
        """Take messages in: those whose turn it is are ready for any worker."""
        self.in_flight.add(batch)
        self._metrics.received.value += len(batch)
        self._metrics.redelivered.value += len([m for m in batch if m.delivery > 1])
        name = self.subscription.subscription
        extend, positions = self.leases.extend, self.settler.positions
        if positions is not None:
            for partition, messages in groupby(batch, _partition):
                positions.received(partition, *messages)
        for message in batch:
            message._extend = extend
            message.subscription = name
        if self.stopped:
            for message in batch:
                self.settler.give_back(message, "released")
        else:
            self.ready.messages.extend(self._in_turn(batch) if self._ordered else batch)
            self.ready.wake()

    def _in_turn(self, batch: Sequence[Message]) -> Iterator[Message]:
        """Yield the messages whose turn it is; the others wait for those before them."""
        lane_of, enter = self._lane, self.lanes.enter
        for message in batch:
            lane = lane_of(message)
            if lane is None or enter(lane, message):
                yield message

    # Handle: N workers, each takes whatever is ready.

    async def work(self) -> None:
        """Handle messages, one or one batch at a time, until there will be no more.

        A handler that waits is awaited here: one more coroutine around it would cost 0.4 µs.
        """
        worker = asyncio.current_task()
        assert worker is not None
        request_id.set("")
        runner = Runner()
        while self.ready.messages or await self.ready.wait():
            if self._in_batches:
                begun = await self._begin_batch(runner)
            else:
                begun = self._handle_ready(worker, runner)
            if begun is None:
                if self.ready.messages:
                    await asyncio.sleep(0)
                continue
            batch, started, rest = begun
            self.at_work[worker] = batch
            errors: BatchResults = _HANDLED
            try:
                result = await rest
                if self._in_batches:
                    errors = result
            except (KeyboardInterrupt, SystemExit):
                raise  # asyncio ends with these, whoever catches them
            except BaseException as error:  # noqa: BLE001 - it is the handler's door
                errors = [error] * len(batch)
            self._metrics.process_seconds.observe(perf_counter() - started)
            if errors is _HANDLED and not worker.cancelling():
                self._handled(batch[0])
                self.at_work[worker] = ()
            else:
                await self._conclude(worker, batch, errors)
                self.at_work[worker] = ()
                await asyncio.sleep(0)  # many may fail without waiting for anything

    def _handle_ready(self, worker: asyncio.Task[Any], runner: Runner) -> _Begun | None:
        """Handle what is ready, one after the other, as long as they end well and never wait.

        Return the first that does otherwise. What stands in the loop is most of what a message
        costs; what can be done for many at once is done after it.
        """
        begun: _Begun | None = None
        handled: list[Message] = []
        waited: list[float] = []
        ran: list[float] = []
        messages, since, failed = self.ready.messages, self.in_flight.since, self.failures.first
        handle, begin = self.subscription.handler, runner.begin
        carries = propagated_attributes.get()
        started = perf_counter()
        until = started + _BURST
        while messages and started < until:
            message = messages.popleft()
            message.attempt += 1
            if message not in failed:
                waited.append(started - since[message])
            message_id.set(message.id)
            attributes = message.attributes
            carry = trace_context(attributes) if "traceparent" in attributes else NO_ATTRIBUTES
            if carry is not carries:
                propagated_attributes.set(carry)
                carries = carry
            run = copy_context().run
            try:
                if message.unreadable:
                    raise UndecodableMessage(message.unreadable)
                awaited = run(begin, handle(message))
            except BaseException as error:  # noqa: BLE001 - it is the handler's door
                begun = (message,), started, _failing(error)
                break
            if awaited is not ENDED or worker.cancelling():
                begun = (message,), started, runner.rest(run, awaited)
                break
            ended = perf_counter()
            ran.append(ended - started)
            started = ended
            handled.append(message)
            if self._ordered or failed:
                self._leave(message)
        if waited:
            self._metrics.queue_wait_seconds.observe_all(waited)
        if handled:
            self._metrics.process_seconds.observe_all(ran)
            self.settler.ack_all(handled)
        self.ready.hand_on()
        return begun

    async def _collect(self) -> Sequence[Message]:
        """Wait for a message, and then for more of its batch; return nothing at the end."""
        size, seconds = self.subscription.batch_size, self.subscription.batch_wait
        while batch := await self.ready.collect(size, seconds):
            ours = [message for message in batch if message in self.in_flight.since]
            for message in batch:
                if message not in ours:  # lost while the batch was waited for
                    self._leave(message)
            if ours:
                return ours
        return ()

    async def _begin_batch(self, runner: Runner) -> _Begun | None:
        """Begin to handle a batch, once there is one; return None at the end."""
        if not (batch := await self._collect()):
            return None
        started, since, failed = perf_counter(), self.in_flight.since, self.failures.first
        waited = [started - since[message] for message in batch if message not in failed]
        self._metrics.queue_wait_seconds.observe_all(waited)
        for message in batch:
            message.attempt += 1
        message_id.set("")
        propagated_attributes.set(NO_ATTRIBUTES)
        assert self.subscription.batch_handler is not None
        return batch, started, _isolated(runner, self.subscription.batch_handler(batch))

    def _handled(self, message: Message, error: BaseException | None = None) -> None:
        """Have a message acked that is done with: handled, or buried because of ``error``."""
        if message not in self.in_flight.since:
            self._too_late(message)
        else:
            if self._ordered or self.failures.first:
                self._leave(message)
            self.settler.ack(message, error)

    async def _conclude(
        self, worker: asyncio.Task[Any], batch: Sequence[Message], errors: BatchResults
    ) -> None:
        """Have messages settled as their handling ended, and the worker work on."""
        if not self.cancelling:
            await uncancel(worker)
        for message, error in zip(batch, errors, strict=True):
            if error is None or message not in self.in_flight.since:
                self._handled(message)
            elif self.cancelling:  # no failure, whatever the handler has made of its cancellation
                self._stop(message)
            else:
                await self._failed(message, error)
        if not self.cancelling:
            await uncancel(worker)

    def _too_late(self, message: Message) -> None:
        """Settle nothing: the message was lost while it was handled, and comes again."""
        logger.warning("message %s of %s was handled too late", cut(message.id), self._name)
        self._metrics.stale_settles.value += 1
        self._leave(message)
        self.in_flight.changed.set()

    def _stop(self, message: Message) -> None:
        """Give back what the drain has stopped."""
        self._leave(message)
        outcome = "nack" if self.can.can_nack else "released"
        self.settler.give_back(message, outcome, Stopped())

    # Fail: again in place, again by the broker, or to the dead letters.

    async def _failed(self, message: Message, error: BaseException) -> None:
        verdict = judge(message, error, self.subscription, self.can, random.random)
        if verdict.action is Action.POSTPONE:
            self._metrics.postponed.value += 1
            self.failures.note_postponed(message)
            message.attempt -= 1
            self._retry_in_place(message, verdict.delay)
            return
        self.failures.note(message)
        if verdict.action is Action.DEAD_LETTER:
            await self._bury(message, verdict.reason, error, verdict.delay)
            return
        self._metrics.retries.value += 1
        in_place = verdict.action is Action.RETRY
        self.failures.tell(message, error, f"again in {verdict.delay:.1f} s", again=in_place)
        if in_place:
            self._retry_in_place(message, verdict.delay)
        else:
            self._try_again(message, error, verdict.delay)

    def _try_again(self, message: Message, error: BaseException, delay: float) -> None:
        """Bring the message back, later: never skipped, never in silence."""
        if self._stays:
            self._retry_in_place(message, delay)
        elif self.can.native_delay or self.ending:
            self._nack(message, error, delay)
        else:
            self._later(message, delay, lambda: self._nack(message, error, 0.0))

    def _nack(self, message: Message, error: BaseException, delay: float) -> None:
        self._leave(message)
        self.settler.give_back(message, "nack", error, delay)

    def _retry_in_place(self, message: Message, delay: float) -> None:
        """Hold the message, its lane and its lease, and hand it to a worker later."""
        if self.ending:
            self._leave(message)
            self.settler.give_back(message, "released")
        else:
            self._later(message, delay, lambda: self.ready.put(message))

    def _later(self, message: Message, delay: float, action: Callable[[], None]) -> None:
        async def wait() -> None:
            await self._sleep(delay)
            del self.waiting[message]
            action()

        self.waiting[message] = self._spawn(wait(), f"retry {cut(message.id)}")

    async def _bury(
        self, message: Message, reason: str, error: BaseException, delay: float
    ) -> None:
        """Publish the dead letter; only when the broker has confirmed it is the message acked."""
        if self._dead_letter is None:
            self.failures.tell_stuck(message, reason, error, blocks=self._stays)
            self._try_again(message, error, delay)
            return
        try:
            await self._dead_letter(self.failures.dead_letter(message, reason, error))
        except (Exception, asyncio.CancelledError) as failure:  # noqa: BLE001 - nothing is lost
            self._not_buried(message, error, delay, failure)
        else:
            self.failures.tell_buried(message, reason, error)
            self._handled(message, error)

    def _not_buried(
        self, message: Message, error: BaseException, delay: float, failure: BaseException
    ) -> None:
        """Keep a message whose dead letter is not confirmed."""
        if self.cancelling:
            self._stop(message)
        elif message not in self.in_flight.since:
            self._too_late(message)
        else:
            self.failures.tell_refused(message, error, failure)
            self._try_again(message, error, delay)

    # Leave: the next of its key may go, and what is lost is not settled.

    def _leave(self, message: Message) -> None:
        """End the turn of a message: the next of its lane may go."""
        if self.failures.first:
            self.failures.forget(message)
        if not self._ordered or (lane := self._lane(message)) is None:
            return
        if (successor := self.lanes.leave(lane)) is not None:
            self.ready.put(successor)

    def lose(self, message: Message, reason: str) -> None:
        """Let go of a message that the broker gives to others: it is not settled any more."""
        if message in self.settler.pending() or message not in self.in_flight.since:
            return
        logger.warning(
            "message %s of %s is lost to others: %s", cut(message.id), self._name, reason
        )
        self.drop(message)

    def drop(self, message: Message) -> None:
        """Let go of a message that comes again, and of what waits behind it: it is first."""
        self._metrics.lost.value += 1
        self.in_flight.remove((message,))
        in_lane = False
        if self._ordered and (lane := self._lane(message)) is not None:
            if self.can.can_nack:
                for follower in self.lanes.cut(lane, message):
                    self.settler.give_back(follower, "released")
            else:  # they would not come again
                in_lane = self.lanes.remove(lane, message)
        if (waiting := self.waiting.pop(message, None)) is not None:
            waiting.cancel()
            self._leave(message)
        elif not in_lane and message in self.ready.messages:
            self.ready.messages.remove(message)
            self._leave(message)
        if self._on_settle is not None:
            self._on_settle(message, "lost", None)
