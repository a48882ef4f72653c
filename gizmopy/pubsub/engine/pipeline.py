"""The life of a message from the broker to its settle.

    intake → admit → turns → worker → handler returns → turns.ack → settler
                                             └ raises → failure_handling → turns: again, in place
                                                                         → settler: nack
                                                                         → dead letter, then ack

Each step has a module of that name; this one connects them, and ends them in a drain or a revoke.

Nothing is lost: a message is acked when its handler has returned, or when the broker has confirmed
its dead letter; never because of a cancellation, a shutdown, or an unforeseen error.

There is no task for each message. One task receives (``intake``), N workers run handlers
(``worker``), one settles the messages that they have finished (``settler``), one extends leases
(``leases``). Only a message that waits for a retry has a task, while it waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from gizmopy._aio import cancel_and_wait
from gizmopy.pubsub.driver import Capabilities, Receiver, Status
from gizmopy.pubsub.engine.dead_letter import DeadLetter
from gizmopy.pubsub.engine.failure_handling import FailureHandler, Spawn
from gizmopy.pubsub.engine.failures import Failures
from gizmopy.pubsub.engine.in_flight import InFlight
from gizmopy.pubsub.engine.intake import Intake
from gizmopy.pubsub.engine.leases import Leases
from gizmopy.pubsub.engine.loop_watch import LoopWatch
from gizmopy.pubsub.engine.metrics import SubscriberGauges
from gizmopy.pubsub.engine.observer import Observers
from gizmopy.pubsub.engine.phase import EnginePhase, Lifecycle
from gizmopy.pubsub.engine.settler import Settler
from gizmopy.pubsub.engine.turns import Turns, check_order
from gizmopy.pubsub.engine.waiting_room import WaitingRoom
from gizmopy.pubsub.engine.worker import Worker
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.text import cut

logger = logging.getLogger("gizmopy.pubsub.pipeline")

_partition = attrgetter("partition")


class Pipeline:
    """Take messages from ``receiver`` through the handler of ``subscription`` to their settle.

    The owner runs ``intake``, ``workers``, ``settler`` and ``leases``, each in a task, and drains
    by the methods from ``stop_receiving`` to ``close``, in this order. Raises StartError if the
    broker cannot keep the order that the subscription asks for.
    """

    def __init__(
        self,
        receiver: Receiver,
        subscription: Subscription,
        capabilities: Capabilities,
        events: Observers,
        *,
        name: str,
        dead_letter: DeadLetter | None,
        sleep: Callable[[float], Awaitable[None]],
        spawn: Spawn,
    ) -> None:
        check_order(subscription, capabilities)
        self.lifecycle = lifecycle = Lifecycle()
        self.in_flight = in_flight = InFlight(
            subscription.max_in_flight,
            subscription.max_in_flight_bytes,
            WaitingRoom(
                subscription.max_waiting,
                subscription.max_waiting_bytes,
                # Only a broker that keeps positions has a bounded number of partitions. Elsewhere
                # each key may be one: a room for each would be no bound at all.
                by_partition=capabilities.positions,
            ),
        )
        self.settler = Settler(receiver, capabilities, in_flight, events, name=name, sleep=sleep)
        self.leases = Leases(receiver, capabilities, in_flight, events, self._lease_lost)
        self.loop_watch = LoopWatch(capabilities, events, name=name, handler=subscription.name)
        self.failures = Failures(subscription, name)
        self.turns = turns = Turns(
            subscription, capabilities, in_flight, self.settler, self.failures, events, name=name
        )
        self.intake = Intake(
            receiver,
            capabilities,
            turns,
            lifecycle,
            name=name,
            max_in_flight=subscription.max_in_flight,
            admit=self._admit,
            revoke=self.revoke,
            sleep=sleep,
        )
        self._failure_handler = FailureHandler(
            subscription,
            capabilities,
            turns,
            lifecycle,
            events,
            dead_letter=dead_letter,
            sleep=sleep,
            spawn=spawn,
        )
        self.workers = [
            Worker(subscription, turns, lifecycle, events, on_failure=self._handler_failed)
            for _ in range(subscription.concurrency)
        ]
        self._subscription_name = subscription.subscription
        self._events = events
        self._name = name

    # A message comes in, and its handler fails.

    def _admit(self, batch: Sequence[Message]) -> None:
        """Count received messages, and begin their turns."""
        self.in_flight.add(batch)
        self._events.received(batch)
        if self.settler.positions is not None:
            for partition, messages in groupby(batch, _partition):
                self.settler.positions.received(partition, *messages)
        extend, subscription = self.leases.extend, self._subscription_name
        for message in batch:
            message._extend = extend
            message.subscription = subscription
        if self.lifecycle.phase < EnginePhase.STOPPED:
            self.turns.begin(batch)
        else:
            for message in batch:
                self.settler.release(message, "released")

    def _handler_failed(self, message: Message, error: BaseException) -> None:
        """Settle or retry a message whose handler raised ``error``."""
        if message not in self.in_flight:
            self.turns.end_stale(message)
        elif self.lifecycle.phase >= EnginePhase.CANCELLING:
            # The drain cancelled the handler. Whichever error that raised in its clean-up, the
            # message has not failed: as a failure, a shutdown would dead-letter it (dapr#9604).
            self.turns.stop(message)
        else:
            self._failure_handler.handle(message, error)

    # A message is lost: the broker delivers it again, and it is not settled here.

    def _lease_lost(self, message: Message, reason: str) -> None:
        """Remove a message whose lease is lost, unless it is about to be settled."""
        if message in self.settler.pending() or message not in self.in_flight:
            return
        logger.warning(
            "message %s of %s was lost, the broker delivers it again: %s",
            cut(message.id),
            self._name,
            reason,
        )
        self._remove_lost(message)

    def _remove_lost(self, message: Message) -> None:
        self.in_flight.remove((message,))
        waits_for_retry = self._failure_handler.cancel_retry(message)
        self.turns.remove_lost(message, waits_for_retry=waits_for_retry)
        self._events.lost(message)

    # The broker takes partitions back.

    async def revoke(self, partitions: Collection[Hashable], seconds: float) -> None:
        """Give up ``partitions``: remove messages that have not started, finish or cancel the rest.

        Returns within about ``seconds``, once the last acks are handed over. A handler that ends
        later is not acked. The driver awaits this before it commits.
        """
        revoked = set(partitions)
        # Handlers get most of the time. A member that is late is evicted from its group, which
        # costs all of its partitions: to cancel handlers is the smaller harm.
        #
        # A driver that waits no longer cancels this; on a busy machine both times end in one turn
        # of the loop. A partition that is half revoked is never committed again: messages that were
        # removed here would stay unfinished below the marks of its next assignment.
        try:
            try:
                await self._wait_until(lambda: not self._remove_unstarted(revoked), 0.8 * seconds)
            finally:
                for task in self._tasks_on(revoked):
                    task.cancel()
                for message in self._held(revoked):
                    self._remove_lost(message)
            await self._wait_until(lambda: not self._tasks_on(revoked), 0.1 * seconds)
        finally:
            if self.settler.positions is not None:
                self.settler.positions.revoke(revoked)

    def _remove_unstarted(self, partitions: set[Hashable]) -> list[Message]:
        """Remove messages that no worker has, those that wait for a retry too; return the rest."""
        started = self.settler.pending().union(self._failure_handler.publishing)
        started.update(*(worker.running for worker in self.workers))
        for message in self._held(partitions):
            if message not in started:
                self._remove_lost(message)
        return self._held(partitions)

    def _held(self, partitions: set[Hashable]) -> list[Message]:
        return [message for message in self.in_flight if message.partition in partitions]

    def _tasks_on(self, partitions: set[Hashable]) -> list[asyncio.Task[Any]]:
        """Return the tasks that handle messages of ``partitions`` or publish their dead letters."""
        publishing = self._failure_handler.publishing.items()
        tasks = [task for message, task in publishing if message.partition in partitions]
        for worker in self.workers:
            if any(message.partition in partitions for message in worker.running):
                assert worker.task is not None
                tasks.append(worker.task)
        return tasks

    async def _wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until ``condition`` is true or the engine has ended, at most ``seconds``."""
        ended = self.lifecycle.ended
        await self.in_flight.wait_until(lambda: condition() or ended.is_set(), seconds)

    # Drain, in this order.

    def stop_receiving(self) -> None:
        """Receive no more; messages that a pending receive still returns are released."""
        self.lifecycle.advance(EnginePhase.STOPPED)
        self.in_flight.changed.set()

    async def release_unstarted(self, grace: float) -> None:
        """Give back all messages that no worker has; workers end when their handler does."""
        self.lifecycle.advance(EnginePhase.FINISHING)
        # At once and not at the deadline: another instance handles them while handlers finish here.
        for message in (*self.turns.take_unstarted(), *self._failure_handler.waiting()):
            if message in self.in_flight:
                self.settler.release(message, "released")
        await self._failure_handler.cancel_retries(grace)

    @property
    def dead_letters(self) -> set[asyncio.Task[Any]]:
        """The tasks that publish dead letters now; a drain waits for them as for handlers."""
        return {*self._failure_handler.publishing.values()}

    async def cancel_running(
        self, tasks: Collection[asyncio.Task[Any]], grace: float
    ) -> set[asyncio.Task[Any]]:
        """Cancel tasks and give their messages back; return those that run after ``grace``."""
        self.lifecycle.advance(EnginePhase.CANCELLING)
        return await cancel_and_wait(tasks, grace)

    def close(self) -> None:
        """Have the settler return once all is settled; nothing is admitted any more."""
        self.lifecycle.advance(EnginePhase.CLOSED)
        self.settler.close()

    def end(self) -> None:
        """End all waits for messages to be settled: the engine is drained, or has failed."""
        self.lifecycle.ended.set()
        self.in_flight.changed.set()

    # Look.

    @property
    def waiting_problem(self) -> str:
        """Why some partitions are not received; empty if all of them have room to wait."""
        room = self.in_flight.waiting
        if not room.full:
            return ""
        where = "" if None in room.full else f" of partition {', '.join(map(str, room.full))}"
        return (
            f"{room.messages} messages ({room.bytes} bytes) wait for their turn, their retry or "
            f"their dead letter, so no more{where} is received; correct their failure, or raise "
            "max_waiting= or max_waiting_bytes="
        )

    def measure(self, gauges: SubscriberGauges, status: Status) -> None:
        """Set the gauges from the messages here, and from the ``status`` of the receiver."""
        gauges.in_flight.value = len(self.in_flight)
        gauges.in_flight_bytes.value = self.in_flight.bytes
        gauges.oldest_in_flight_seconds.value = self.in_flight.oldest_age
        gauges.paused.value = self.intake.paused
        gauges.waiting.value = self.in_flight.waiting.messages
        gauges.waiting_bytes.value = self.in_flight.waiting.bytes
        gauges.waiting_in_order.value = self.turns.lanes.waiting
        if self.settler.positions is not None:
            gauges.commit_lag.value = self.settler.positions.above_mark
        gauges.set_consumer_lag(status.lag)
        gauges.assigned_partitions.value = status.assigned or 0
