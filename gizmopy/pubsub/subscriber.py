"""How consuming begins and ends: connect, run, let go of what the broker takes back, drain.

What becomes of each message in between stands in pipeline.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Any

from gizmopy.errors import PubSubError, StartError, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub.driver import Capabilities, Receiver
from gizmopy.pubsub.engine.dead_letter import DeadLetter
from gizmopy.pubsub.engine.metrics import SubscriberMetrics
from gizmopy.pubsub.engine.outcome import DrainReport, OnSettle
from gizmopy.pubsub.engine.pipeline import WAIT, Pipeline
from gizmopy.pubsub.engine.settler import Tally
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.error_text import named

logger = logging.getLogger(__name__)

_GRACE = 2.0
"""Seconds past the deadline of a drain for each of: cancelled handlers, settling, closing."""
_LOOK_AGAIN = 0.1
"""Seconds after which who waits for an empty queue looks at it, though nothing was settled here."""
_WORKS_AGAIN = 1.0
"""Seconds that a receive waits, after others have failed, until it is believed."""
_OVERDUE = 30.0
"""Seconds that a receive may take longer than it was asked to wait."""


class Subscriber:
    """Handle the messages of one subscription; use it as an async context manager that ``run``s.

    ``receiver`` is the driver's end, ``capabilities`` what the driver can do. ``dead_letter``
    publishes what cannot be handled; without it such a message stays: it blocks its lane where
    order is kept, and comes again and again where not. ``on_settle`` is told of every settling;
    ``sleep`` waits before another try.

    Raises StartError where the broker cannot keep the order that the subscription asks for.
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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        _check(subscription, capabilities)
        self.topic = topic
        self.subscription = subscription
        self.name = f"{topic}/{subscription.subscription}"
        self._receiver = receiver
        self._metrics = SubscriberMetrics(metrics, topic, subscription.subscription)
        self._pipeline = Pipeline(
            receiver,
            subscription,
            capabilities,
            self._metrics,
            name=self.name,
            dead_letter=dead_letter,
            on_settle=on_settle,
            sleep=sleep,
            spawn=self._spawn,
        )
        self._workers: set[asyncio.Task[None]] = set()
        self._receive_task: asyncio.Task[None] | None = None
        self._settle_task: asyncio.Task[None] | None = None
        self._lease_task: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._error: BaseException | None = None
        self._drain_lock = asyncio.Lock()
        self._deadline = math.inf
        self._bound: asyncio.Timeout | None = None
        self._made = perf_counter()
        self._before_drain: Tally | None = None
        self._left = 0
        """Found in the queue of a broker in this process when its time was over."""
        self._report: DrainReport | None = None

    async def __aenter__(self) -> Subscriber:
        """Connect. A broker that cannot be reached is tried again by ``run``."""
        try:
            await self._pipeline.connect(self.revoke)
        except PubSubError as error:
            if not error.transient:
                raise
            self._pipeline.trouble = f"the broker is not reached yet: {error}"
            logger.warning("cannot reach the broker of %s yet: %s", self.name, error)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain(0)

    async def run(self) -> None:
        """Handle messages until ``drain`` has ended. Raises what the engine dies of."""
        self._start()
        try:
            await self._ended.wait()
        finally:
            await self.drain(0)
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        pipeline = self._pipeline
        if self._receive_task is not None or pipeline.closed:
            raise UsageError(f"the subscriber of {self.name} runs once; make a new one")
        self._settle_task = self._spawn(pipeline.settler.run(), "settle")
        for number in range(self.subscription.concurrency):
            self._workers.add(self._spawn(pipeline.work(), f"worker {number}"))
        self._lease_task = self._spawn(pipeline.leases.keep(), "leases")
        self._receive_task = self._spawn(pipeline.receive(self.revoke), "receive")

    def _spawn(self, job: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(job, name=f"{self.name} {name}")
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """Let the engine die if one of its tasks does."""
        error: BaseException | None
        if task.cancelled():
            jobs = (*self._workers, self._receive_task, self._settle_task, self._lease_task)
            by_others = task in jobs and not self._pipeline.ending
            error = UsageError(f"{task.get_name()}: cancelled by others") if by_others else None
        else:
            error = task.exception()
        if error is not None and self._error is None:
            self._error = error
            self._ended.set()
            self._pipeline.in_flight.changed.set()

    # Look: what is going on.

    @property
    def ended(self) -> bool:
        """Whether it was drained, or has died."""
        return self._ended.is_set()

    @property
    def connected(self) -> bool:
        """Whether the broker was reached."""
        return self._pipeline.connected

    @property
    def problem(self) -> str:
        """Why nothing is received now; empty where all is well.

        A receive that fails does so at once: one that waits by now is a sign that it works again.
        """
        since = self._pipeline.receiving_since
        works = since is not None and perf_counter() - since > _WORKS_AGAIN
        trouble = "" if works else self._pipeline.trouble
        return trouble or self._receiver.status().problem

    @property
    def age(self) -> float:
        """Return the seconds since this was made."""
        return perf_counter() - self._made

    @property
    def stuck(self) -> int:
        """How many messages hold up their lanes, given up and without dead letters to go to."""
        return len(self._pipeline.failures.stuck)

    @property
    def stall(self) -> str:
        """Why nothing is received and never will be; empty where all is well."""
        since = self._pipeline.receiving_since
        if since is not None and perf_counter() - since > WAIT + _OVERDUE:
            return f"a receive has not returned for {perf_counter() - since:.0f} s"
        return self._receiver.status().stalled

    def measure(self) -> None:
        """Set the gauges; to be called when somebody looks at them."""
        self._pipeline.in_flight.measure()
        self._metrics.waiting_in_order.value = self._pipeline.lanes.waiting
        status = self._receiver.status()
        self._metrics.set_consumer_lag(status.lag)
        self._metrics.assigned_partitions.value = status.assigned or 0
        if self._pipeline.settler.positions is not None:
            self._metrics.commit_lag.value = self._pipeline.settler.positions.above_mark

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight, nor queued as far as the driver knows; or it has ended.

        What is queued does not count for who receives no more.
        """
        if self._ended.is_set():
            return True
        receiving = not self._pipeline.stopped
        return not (
            self._pipeline.in_flight.since or (receiving and self._receiver.status().backlog)
        )

    async def idle(self) -> None:
        """Wait until ``is_idle``."""
        changed = self._pipeline.in_flight.changed
        while not self.is_idle:
            changed.clear()
            with suppress(TimeoutError):  # others may have emptied the queue that we share
                async with asyncio.timeout(_LOOK_AGAIN):
                    await changed.wait()

    # Revoke: let go of partitions, in order.

    async def revoke(self, partitions: Collection[Hashable], seconds: float) -> None:
        """Let go of ``partitions``: drop what is not started, finish or cancel what is.

        Returns within about ``seconds``, when the last acks are handed over; what ends later is not
        acked. The driver awaits it before it commits.
        """
        gone = set(partitions)
        pipeline = self._pipeline
        await self._until_none(lambda: self._drop_unstarted(gone), 0.8 * seconds)
        for worker in self._started(gone):
            worker.cancel()
        for message in self._held(gone):
            pipeline.drop(message)
        await self._until_none(lambda: self._started(gone), 0.1 * seconds)
        if pipeline.settler.positions is not None:
            pipeline.settler.positions.revoke(gone)

    def _held(self, partitions: set[Hashable]) -> list[Message]:
        return [m for m in self._pipeline.in_flight.since if m.partition in partitions]

    def _drop_unstarted(self, partitions: set[Hashable]) -> list[Message]:
        """Drop what no handler is at work on, waiting for a retry included; return the rest."""
        started = self._pipeline.settler.pending()
        started.update(*self._pipeline.at_work.values())
        for message in self._held(partitions):
            if message not in started:
                self._pipeline.drop(message)
        return self._held(partitions)

    def _started(self, partitions: set[Hashable]) -> list[asyncio.Task[Any]]:
        at_work = self._pipeline.at_work.items()
        return [
            worker for worker, batch in at_work if any(m.partition in partitions for m in batch)
        ]

    async def _until_none(self, look: Callable[[], Collection[object]], seconds: float) -> None:
        """Wait until ``look`` finds nothing, or the seconds or the subscriber are over."""
        changed = self._pipeline.in_flight.changed
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while look() and not self._ended.is_set():
                    changed.clear()
                    await changed.wait()

    # Drain: stop receiving, release, wait, cancel, flush, close.

    def stop_receiving(self) -> None:
        """Receive no more; what a pending receive still brings is given back."""
        self._pipeline.stopped = True
        self._pipeline.in_flight.changed.set()

    def begin_drain(self) -> None:
        """Count for the drain's report from here on; ``drain`` does so by itself."""
        if self._before_drain is None:
            self._before_drain = replace(self._pipeline.settler.tally)

    async def drain(self, timeout: float) -> DrainReport:
        """End within ``timeout`` seconds, and a little more for what has to be cancelled.

        What is not started is given back; what is has until the deadline, then it is cancelled and
        given back. A broker in this process is emptied first, as its messages would be gone.
        A second call waits for the first and returns its report.
        """
        self.begin_drain()
        async with self._drain_lock:
            if self._report is None:
                self._report = await self._drain(timeout)
        return self._report

    def hurry(self, seconds: float) -> None:
        """Have the drain that runs, or comes, end within ``seconds``."""
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + seconds)
        if self._bound is not None:
            self._bound.reschedule(self._deadline)

    async def _until_deadline(self, awaited: Awaitable[object]) -> None:
        """Wait at most until the drain's deadline. Raises TimeoutError when it comes."""
        try:
            async with asyncio.timeout_at(self._deadline) as self._bound:
                await awaited
        finally:
            self._bound = None

    async def _drain(self, timeout: float) -> DrainReport:
        self.hurry(timeout)
        pipeline = self._pipeline
        if pipeline.can.process_local and self._receive_task is not None and not pipeline.ending:
            await self._wait_idle()
            self._left = self._receiver.status().backlog or 0
        self.stop_receiving()
        self._release_unstarted()
        await self._finish_started()
        await self._flush()
        await self._close()
        before, tally = self._before_drain or Tally(), pipeline.settler.tally
        return DrainReport(
            finished=tally.finished - before.finished,
            released=tally.released - before.released + self._left,
            cancelled=tally.cancelled,
            failed_to_settle=tally.failed_to_settle
            - before.failed_to_settle
            + len(pipeline.in_flight.since),
        )

    async def _wait_idle(self) -> None:
        try:
            await self._until_deadline(self.idle())
        except TimeoutError:
            logger.warning("%s is not empty at the deadline of its drain", self.name)

    def _release_unstarted(self) -> None:
        """Give back at once what no handler is at work on."""
        pipeline = self._pipeline
        pipeline.ending = True
        unstarted = [*pipeline.ready.end(), *pipeline.lanes.clear_waiting(), *pipeline.waiting]
        for message in unstarted:
            if message in pipeline.in_flight.since:
                pipeline.settler.give_back(message, "released")

    async def _finish_started(self) -> None:
        """Wait for the handlers until the deadline, then cancel them."""
        waiting = list(self._pipeline.waiting.values())
        self._pipeline.waiting.clear()
        await _cancel(waiting)
        if self._workers:
            with suppress(TimeoutError):
                await self._until_deadline(asyncio.wait(self._workers))
        running = {worker for worker in self._workers if not worker.done()}
        self._pipeline.cancelling = True
        for worker in running:
            worker.cancel()
        if stuck := await _wait(running, _GRACE):
            names = ", ".join(worker.get_name() for worker in stuck)
            logger.error("handlers do not heed their cancellation: %s", names)

    async def _flush(self) -> None:
        """Have the last settlements confirmed, while their leases are kept."""
        self._pipeline.closed = True
        self._pipeline.settler.close()
        if self._settle_task is not None:
            await _cancel(await _wait([self._settle_task], _GRACE))
        if self._lease_task is not None:
            await _cancel([self._lease_task])

    async def _close(self) -> None:
        """Close the receiver, which ends a pending receive."""
        try:
            async with asyncio.timeout(_GRACE):
                await self._receiver.aclose()
        except (Exception, asyncio.CancelledError) as error:  # the engine has ended all the same
            if _is_cancelled():
                raise
            logger.warning("closing the receiver of %s failed: %s", self.name, named(error))
        if self._receive_task is not None:
            receiving = self._pipeline.receiving_since is not None
            grace = _GRACE if receiving else 0  # else it waits for room, or to try again
            await _cancel(await _wait([self._receive_task], grace))
        self._ended.set()
        self._pipeline.in_flight.changed.set()


def _check(subscription: Subscription, capabilities: Capabilities) -> None:
    """Refuse what would be promised and not kept."""
    if subscription.order != "none" and not capabilities.ordering:
        raise StartError(
            f"{subscription.name}: order={subscription.order!r} of channel "
            f"{subscription.channel!r} needs a broker that keeps order; use order='none' or "
            "another broker"
        )


def _is_cancelled() -> bool:
    """Return whether it is us who are cancelled, and not something that a driver awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _wait(tasks: Collection[asyncio.Task[None]], timeout: float) -> set[asyncio.Task[None]]:
    """Wait for tasks, and return those that have not ended in time."""
    if not tasks:
        return set()
    _, pending = await asyncio.wait(tasks, timeout=max(0.0, timeout))
    return pending


async def _cancel(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for them; what they raise is noticed by ``_task_ended``."""
    for task in tasks:
        task.cancel()
    await _wait(tasks, _GRACE)
