"""Consume one subscription: its tasks, and the deadline and report of its drain.

The life of a message is in ``engine.pipeline``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple
from warnings import warn

from gizmopy._aio import Deadline, cancel_and_wait, is_being_cancelled
from gizmopy.errors import PubSubError, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub.driver import Capabilities, Receiver
from gizmopy.pubsub.engine.dead_letter import DeadLetter
from gizmopy.pubsub.engine.measuring import Measuring
from gizmopy.pubsub.engine.metrics import SubscriberGauges, SubscriberMetrics
from gizmopy.pubsub.engine.observer import Observer, Observers, SettleCallback
from gizmopy.pubsub.engine.outcome import DrainReport, OnSettle
from gizmopy.pubsub.engine.phase import EnginePhase
from gizmopy.pubsub.engine.pipeline import Pipeline
from gizmopy.pubsub.engine.settler import Tally
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.error_text import describe_error

logger = logging.getLogger(__name__)

_GRACE = 2.0
"""Seconds past the deadline of a drain for each of: cancelled handlers, settling, closing."""
_IDLE_INTERVAL = 0.1
"""Seconds between two looks of ``idle`` at a queue that other subscribers empty too."""


class _Tasks(NamedTuple):
    """The tasks of a running subscriber, besides its workers."""

    receive: asyncio.Task[None]
    settle: asyncio.Task[None]
    leases: asyncio.Task[None]
    measure: asyncio.Task[None]
    watch: asyncio.Task[None]


class Subscriber:
    """Handle the messages of one subscription; enter it as a context manager, then ``run`` it.

    ``receiver`` is the driver's end, ``capabilities`` its broker's. ``dead_letter`` publishes
    messages that failed for good. Without it they are kept: an ordered subscription stops at such a
    message, an unordered one receives it again and again.

    ``on_settle`` is called with each outcome, ``observers`` with every event. ``sleep`` waits
    before a retry. Raises StartError if the broker cannot keep the order of the subscription.
    """

    def __init__(
        self,
        receiver: Receiver,
        subscription: Subscription,
        *,
        topic: str,
        capabilities: Capabilities,
        metrics: Metrics,
        dead_letter: DeadLetter | None = None,
        on_settle: OnSettle | None = None,
        observers: Sequence[Observer] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.topic = topic
        self.subscription = subscription
        self.name = f"{topic}/{subscription.subscription}"
        """Its topic and subscription; the name of the handler is ``subscription.name``."""
        self._receiver = receiver
        self._process_local = capabilities.process_local
        labels = (topic, subscription.subscription)
        self._gauges = SubscriberGauges(metrics, *labels)
        callbacks = [] if on_settle is None else [SettleCallback(on_settle)]
        self._pipeline = Pipeline(
            receiver,
            subscription,
            capabilities,
            Observers([SubscriberMetrics(metrics, *labels), *callbacks, *observers]),
            name=self.name,
            dead_letter=dead_letter,
            sleep=sleep,
            spawn=self._spawn,
        )
        self._measuring = Measuring(receiver, name=self.name, sleep=sleep)
        self._workers: set[asyncio.Task[None]] = set()
        self._tasks: _Tasks | None = None
        self._error: BaseException | None = None
        self._created_at = perf_counter()
        self._deadline = Deadline()
        self._drain_lock = asyncio.Lock()
        self._before_drain: Tally | None = None
        self._report: DrainReport | None = None
        if subscription.start_paused:
            self.pause()

    async def __aenter__(self) -> Subscriber:
        """Connect. ``run`` retries if the broker cannot be reached; other errors are raised."""
        try:
            await self._pipeline.intake.connect()
        except PubSubError as error:
            if not error.transient:
                raise
            logger.warning("cannot reach the broker of %s yet: %s", self.name, error)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain(0)

    async def run(self) -> None:
        """Handle messages until ``drain`` has ended. Raises the error that ends the engine."""
        self._start()
        try:
            await self._pipeline.lifecycle.ended.wait()
        finally:
            await self.drain(0)
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        pipeline = self._pipeline
        if self._tasks is not None or pipeline.lifecycle.phase >= EnginePhase.CLOSED:
            raise UsageError(f"the subscriber of {self.name} runs only once; make a new one")
        for number, worker in enumerate(pipeline.workers):
            self._workers.add(self._spawn(worker.run(), f"worker {number}"))
        self._tasks = _Tasks(
            settle=self._spawn(pipeline.settler.run(), "settle"),
            leases=self._spawn(pipeline.leases.run(), "leases"),
            receive=self._spawn(pipeline.intake.run(), "receive"),
            measure=self._spawn(self._measuring.run(lambda: self.connected), "measure"),
            watch=self._spawn(pipeline.loop_watch.run(), "watch"),
        )

    def _spawn(self, job: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(job, name=f"{self.name} {name}")
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """End the engine if one of its tasks fails: the others would wait for it forever."""
        error: BaseException | None
        if task.cancelled():
            # The drain cancels tasks, and a lost message its retry. Any other cancellation, by a
            # handler that cancels all tasks for example, would leave an engine that does nothing.
            permanent = task in self._workers or task in (self._tasks or ())
            by_others = permanent and self._pipeline.lifecycle.phase < EnginePhase.FINISHING
            error = UsageError(f"{task.get_name()}: cancelled by others") if by_others else None
        else:
            error = task.exception()
        if error is not None and self._error is None:
            self._error = error
            self._pipeline.end()

    # Look: progress and health.

    @property
    def ended(self) -> bool:
        """Whether this was drained, or has ended with an error."""
        return self._pipeline.lifecycle.ended.is_set()

    @property
    def connected(self) -> bool:
        """Whether the broker was reached."""
        return self._pipeline.intake.connected

    @property
    def problem(self) -> str:
        """Why nothing is received now, or messages come again and again; empty if all is well."""
        pipeline = self._pipeline
        problem = pipeline.intake.problem or self._receiver.status().problem
        return problem or pipeline.loop_watch.problem

    @property
    def stall(self) -> str:
        """Why nothing will ever be received again; empty if all is well."""
        return self._pipeline.intake.stall or self._receiver.status().stalled

    @property
    def age(self) -> float:
        """The seconds since this was made."""
        return perf_counter() - self._created_at

    @property
    def stuck(self) -> int:
        """How many messages failed for good, and are kept because they have no dead letter."""
        return self._pipeline.failures.stuck

    @property
    def waiting_problem(self) -> str:
        """Why a partition is not received: too many of its messages wait. Empty if none is."""
        return self._pipeline.waiting_problem

    def measure(self) -> None:
        """Set the gauges; call this before they are read."""
        status = self._receiver.status()
        self._pipeline.measure(self._gauges, status)
        self._gauges.set_backlog(status, self._measuring.latest, self._measuring.age)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight, nor queued as far as the driver knows; or this has ended.

        Once nothing is received any more, queued messages do not count; nor do they during a pause.
        """
        receiving = self._pipeline.lifecycle.phase < EnginePhase.STOPPED
        if self.paused:
            return self.ended or len(self._pipeline.in_flight) <= self._pipeline.turns.held
        busy = self._pipeline.in_flight or (receiving and self._receiver.status().backlog)
        return self.ended or not busy

    async def idle(self) -> None:
        """Wait until ``is_idle``."""
        while not self.is_idle:
            # At intervals: another subscriber may empty the queue, and then nothing changes here.
            await self._pipeline.in_flight.wait_until(lambda: self.is_idle, _IDLE_INTERVAL)

    async def revoke(self, partitions: Collection[Hashable], seconds: float) -> None:
        """Give up ``partitions`` within about ``seconds``; see ``driver.Revoke``."""
        await self._pipeline.revoke(partitions, seconds)

    # Pause.

    @property
    def paused(self) -> bool:
        """Whether no message is received or handled until ``resume``."""
        return self._pipeline.intake.paused

    def pause(self) -> None:
        """Handle no further message until ``resume``; may be called at any time.

        Handlers that run go on. Messages that were received and that no handler has are given back
        if the broker takes them, else kept.
        """
        if not self.paused and self._pipeline.lifecycle.phase < EnginePhase.STOPPED:
            self._pipeline.intake.pause()
            self._pipeline.turns.pause()
            self._pipeline.in_flight.changed.set()

    def resume(self) -> None:
        """Receive and handle messages again."""
        if self.paused:
            self._pipeline.turns.resume()
            self._pipeline.intake.resume()

    # Drain: stop receiving, release, finish, cancel, flush, close.

    def stop_receiving(self) -> None:
        """Receive no more; messages that a pending receive still returns are given back."""
        self._pipeline.stop_receiving()

    def begin_drain(self) -> None:
        """Count outcomes for the report of the drain from now on; ``drain`` does so by itself."""
        # The queue of a broker in this process ends with it: its messages would be lost.
        if self._process_local and self.paused:
            logger.warning("the pause of %s ends: its queue is emptied by the drain", self.name)
            self.resume()
        if self._before_drain is None:
            self._before_drain = replace(self._pipeline.settler.tally)

    def shorten_deadline(self, seconds: float) -> None:
        """Have the drain that runs, or comes, end within ``seconds``."""
        self._deadline.shorten(seconds)

    def hurry(self, seconds: float) -> None:
        """Call ``shorten_deadline``: the old name, until 0.3."""
        warn("Subscriber.hurry is now shorten_deadline", DeprecationWarning, stacklevel=2)
        self.shorten_deadline(seconds)

    async def drain(self, timeout: float) -> DrainReport:
        """End within ``timeout`` seconds, and a little more if handlers must be cancelled.

        Messages that no handler has are given back at once. Handlers have until the deadline; then
        they are cancelled, and their messages are given back. The queue of a broker in this process
        is emptied first, because its messages end with the process.

        A second call waits for the first one and returns its report.
        """
        self.begin_drain()
        async with self._drain_lock:
            if self._report is None:
                self._report = await self._drain(timeout)
        return self._report

    async def _drain(self, timeout: float) -> DrainReport:
        self._deadline.shorten(timeout)
        pipeline = self._pipeline
        if self._process_local and self._tasks and pipeline.lifecycle.phase < EnginePhase.FINISHING:
            await self._empty_queue()
        pipeline.stop_receiving()
        await pipeline.release_unstarted(_GRACE)
        await self._finish_running()
        await self._flush()
        await self._close_receiver()
        pipeline.end()
        tally, before = pipeline.settler.tally, self._before_drain or Tally()
        return tally.report_since(before, unsettled=len(pipeline.in_flight))

    async def _empty_queue(self) -> None:
        """Handle the messages that are left in the queue of a broker in this process."""
        try:
            await self._deadline.wait_for(self.idle())
        except TimeoutError:
            logger.warning("the queue of %s is not empty at the deadline of its drain", self.name)
        status = self._receiver.status()
        if status.delayed:
            logger.warning(
                "%d messages of %s were published with a delay and are not due yet: they are lost, "
                "because this broker is in the process",
                status.delayed,
                self.name,
            )
        self._pipeline.settler.tally.released += (status.backlog or 0) + (status.delayed or 0)

    async def _finish_running(self) -> None:
        """Wait for handlers and dead letters until the deadline, then cancel them."""
        with suppress(TimeoutError):
            # Again, because a handler that fails at last may begin a dead letter.
            while running := self._running():
                await self._deadline.wait_for(asyncio.wait(running))
        running = self._running()
        if ignoring := await self._pipeline.cancel_running(running, _GRACE):
            names = ", ".join(worker.get_name() for worker in ignoring)
            logger.error("handlers ignore their cancellation: %s", names)

    def _running(self) -> set[asyncio.Task[Any]]:
        workers = {worker for worker in self._workers if not worker.done()}
        return workers | self._pipeline.dead_letters

    async def _flush(self) -> None:
        """Wait for the last settles; leases are kept meanwhile."""
        self._pipeline.close()
        if self._tasks is not None:
            self._tasks.measure.cancel()
            await asyncio.wait((self._tasks.settle,), timeout=_GRACE)
            ending = [self._tasks.settle, self._tasks.leases, self._tasks.measure]
            ending.append(self._tasks.watch)
            await cancel_and_wait(ending, _GRACE)

    async def _close_receiver(self) -> None:
        """Close the receiver, which ends a pending receive."""
        try:
            async with asyncio.timeout(_GRACE):
                await self._receiver.aclose()
        except (Exception, asyncio.CancelledError) as error:
            # A driver may let a cancellation of its own escape. The engine ends all the same; only
            # if it is this task that is cancelled, the caller has to know.
            if is_being_cancelled():
                raise
            logger.warning(
                "closing the receiver of %s failed: %s", self.name, describe_error(error)
            )
        if self._tasks is not None:
            # Without a pending receive, the task waits for room or before a retry, without end.
            grace = _GRACE if self._pipeline.intake.is_receiving else 0
            await asyncio.wait((self._tasks.receive,), timeout=grace)
            await cancel_and_wait([self._tasks.receive], _GRACE)
