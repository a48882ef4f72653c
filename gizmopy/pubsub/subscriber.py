"""The way in: the life of a message from the broker to its settling, readable top to bottom.

    receive → admit (order) → worker → handler → ack
                                             └→ failed → again, in place
                                                       → nack: again, by the broker
                                                       → dead letter, confirmed → ack

Nothing is lost: a message is acked when its handler has returned, or when the broker has confirmed
its dead letter; never because of a cancellation, a shutdown, or an error that nobody foresaw.
There is no task for each message: one task receives, N workers handle, one settles what they have
finished, one keeps the leases of what they have not. Only a message that waits to be tried again
has a task while it waits.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from time import perf_counter
from typing import Any, NamedTuple

from gizmopy.errors import PubSubError, Reject, Retry, StartError, UndecodableMessage, UsageError
from gizmopy.observe.context import message_id, request_id
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub.dead_letter import as_dead_letter
from gizmopy.pubsub.driver import Capabilities, Receiver, Results
from gizmopy.pubsub.isolation import isolated
from gizmopy.pubsub.lanes import Lanes
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.metrics import SubscriberMetrics
from gizmopy.pubsub.outcome import DrainReport, OnSettle
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.pubsub.subscription import Subscription

logger = logging.getLogger(__name__)

_WAIT = 10.0
"""Seconds that a receive may wait for messages; closing the receiver ends it sooner."""
_GRACE = 2.0
"""Seconds past the deadline of a drain for each of: cancelled handlers, settling, closing."""
_BURST = 0.01
"""Seconds that a worker whose handlers never wait keeps the event loop at most."""
_LOOK_AGAIN = 0.1
"""Seconds after which who waits for an empty queue looks at it, though nothing was settled here."""
_RECEIVE_RETRY = RetryPolicy(base=0.5)
_SETTLE_RETRY = RetryPolicy()
_STUCK_REMEMBERED = 10_000

DeadLetter = Callable[[Message], Awaitable[None]]
"""Publish a dead letter, and return when the broker has confirmed it."""


class _Stopped(asyncio.CancelledError):
    """The drain has cancelled the handling of a message, which is no failure."""


class _Settlement(NamedTuple):
    message: Message
    outcome: str
    error: BaseException | None
    delay: float


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
        self._receiver = receiver
        self._can = capabilities
        self._dead_letter = dead_letter
        self._on_settle = on_settle
        self._sleep = sleep
        self._metrics = SubscriberMetrics(metrics, topic, subscription.subscription)
        self._stays = not (
            subscription.order == "none" and capabilities.can_nack and capabilities.delivery_count
        )
        """A message that has failed is tried again here, not given back to the broker."""

        self._held: set[Message] = set()
        """Received and not yet handled to the end: their leases are kept."""
        self._unsettled = 0
        """Received and not yet settled; bounded by max_in_flight."""
        self._ready: deque[Message] = deque()
        """What any worker may take."""
        self._lanes: Lanes[Message] = Lanes()
        self._waiting: dict[Message, asyncio.Task[None]] = {}
        """What waits to be tried again, or to be given back after a delay."""
        self._first_failures: dict[Message, datetime] = {}
        self._stuck: set[str] = set()
        self._settlements: list[_Settlement] = []

        self._connected = False
        self._receiving = False
        self._stopped = False
        """Receive no more."""
        self._ending = False
        """Start no more; workers end when they have finished what they handle."""
        self._cancelling = False
        """The time is over: what is cancelled now is given back."""
        self._closed = False
        """Settle what there is, and no more."""
        self._finished = self._released = self._cancelled = self._failed_to_settle = 0
        self._left = 0
        """Found in the queue of a broker in this process when its time was over."""

        self._room = asyncio.Event()
        self._to_settle = asyncio.Event()
        self._quiet = asyncio.Event()
        self._ended = asyncio.Event()
        self._idle_workers: deque[asyncio.Future[None]] = deque()
        self._waking = False
        self._workers: set[asyncio.Task[None]] = set()
        self._receive_task: asyncio.Task[None] | None = None
        self._settle_task: asyncio.Task[None] | None = None
        self._lease_task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._drain_lock = asyncio.Lock()
        self._before_drain: tuple[int, int] | None = None
        self._report: DrainReport | None = None

    async def __aenter__(self) -> Subscriber:
        """Connect. A broker that cannot be reached is tried again by ``run``."""
        try:
            await self._connect()
        except PubSubError as error:
            if not error.transient:
                raise
            logger.warning("cannot reach the broker of %s yet: %s", self._name, error)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain(0)

    @property
    def _name(self) -> str:
        return f"{self.topic}/{self.subscription.subscription}"

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
        if self._receive_task is not None or self._closed:
            raise UsageError(f"the subscriber of {self._name} runs once; make a new one")
        self._settle_task = self._spawn(self._settle(), "settle")
        for number in range(self.subscription.concurrency):
            self._workers.add(self._spawn(self._work(), f"worker {number}"))
        if self._can.lease is not None:
            self._lease_task = self._spawn(self._keep_leases(self._can.lease), "leases")
        self._receive_task = self._spawn(self._receive(), "receive")

    def _spawn(self, job: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(job, name=f"{self._name} {name}")
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """Let the engine die if one of its tasks does."""
        error: BaseException | None
        if task.cancelled():
            error = None if self._ending else UsageError(f"{task.get_name()}: cancelled by others")
        else:
            error = task.exception()
        if error is not None and self._error is None:
            self._error = error
            self._ended.set()
            self._quiet.set()

    # Receive: one task, never cancelled while a receive is pending.

    async def _connect(self) -> None:
        await self._receiver.connect(self._revoke)
        self._connected = True

    async def _revoke(self, partitions: Collection[Hashable], seconds: float) -> None:
        """Refuse: brokers that keep positions, and take partitions away, are refused at start."""
        raise UsageError(f"{self._name} cannot give back partitions: {list(partitions)}")

    async def _receive(self) -> None:
        failures = 0
        while not self._stopped:
            try:
                if not self._connected:
                    await self._connect()
                await self._receive_some()
                failures = 0
            except PubSubError as error:
                if not error.transient:
                    raise
                failures += 1
                delay = _RECEIVE_RETRY.delay(failures, random.random)
                logger.warning(
                    "receiving from %s failed, again in %.1f s: %s", self._name, delay, error
                )
                await self._sleep(delay)

    async def _receive_some(self) -> None:
        """Receive as much as there is room for; no room, no receive."""
        room = self.subscription.max_in_flight - self._unsettled
        if room <= 0:
            self._room.clear()
            await self._room.wait()
            return
        self._receiving = True
        try:
            batch = await self._receiver.receive(room, _WAIT)
        finally:
            self._receiving = False
        if not self._closed:  # else the driver has given them back
            self._admit(batch)

    def _admit(self, batch: Sequence[Message]) -> None:
        """Take messages in: those whose turn it is are ready for any worker."""
        self._unsettled += len(batch)
        self._metrics.received.value += len(batch)
        self._metrics.in_flight.value = self._unsettled
        self._held.update(batch)
        extend = self._extend
        for message in batch:
            message._extend = extend
            if message.delivery > 1:
                self._metrics.redelivered.value += 1
            if self._stopped:
                self._end(message, "released")
            elif (lane := self._lane(message)) is None or self._lanes.enter(lane, message):
                self._ready.append(message)
        if self._ready:
            self._wake_worker()

    def _lane(self, message: Message) -> Hashable:
        """Return what keeps a message in order with others, or None if nothing does."""
        if self.subscription.order == "key":
            return message.key
        return (message.partition,) if self.subscription.order == "partition" else None

    # Handle: N workers, each takes whatever is ready.

    async def _work(self) -> None:
        worker = asyncio.current_task()
        assert worker is not None
        request_id.set("")
        breathe = perf_counter() + _BURST
        while (message := await self._next()) is not None:
            await self._handle(message, worker)
            if perf_counter() > breathe:
                await asyncio.sleep(0)
                breathe = perf_counter() + _BURST

    async def _next(self) -> Message | None:
        """Wait for a message; None at the end."""
        while not self._ready:
            if self._ending:
                return None
            waiter = asyncio.get_running_loop().create_future()
            self._idle_workers.append(waiter)
            await waiter
            self._waking = False
        message = self._ready.popleft()
        if self._ready:
            self._wake_worker()
        return message

    def _wake_worker(self) -> None:
        """Wake one worker, which wakes the next: those that are not needed sleep on."""
        if self._idle_workers and not self._waking:
            self._waking = True
            self._idle_workers.popleft().set_result(None)

    async def _handle(self, message: Message, worker: asyncio.Task[Any]) -> None:
        """Run the handler once, and have the message settled as it ended."""
        error = await self._attempt(message)
        if worker.cancelling() and not self._cancelling:
            await _uncancel(worker)
        if error is None:
            self._finish(message, "ack")
        elif self._cancelling:  # no failure, whatever the handler has made of its cancellation
            self._give_back(message)
        else:
            await self._failed(message, error)

    async def _attempt(self, message: Message) -> BaseException | None:
        """Run the handler, and return what it raised: being cancelled is a failure of its own."""
        message_id.set(message.id)
        message.attempt += 1
        started = perf_counter()
        try:
            await isolated(self.subscription.handler(message))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the handler's door
            return error
        finally:
            self._metrics.process_seconds.observe(perf_counter() - started)
        return None

    def _give_back(self, message: Message) -> None:
        """Give back what the drain has stopped."""
        self._finish(message, "nack" if self._can.can_nack else "released", _Stopped())

    # Fail: again in place, again by the broker, or to the dead letters.

    async def _failed(self, message: Message, error: BaseException) -> None:
        self._first_failures.setdefault(message, datetime.now(UTC))
        if isinstance(error, Reject):
            await self._bury(message, "rejected", error)
        elif isinstance(error, UndecodableMessage):
            await self._bury(message, "undecodable", error)
        else:
            await self._retry(message, error)

    async def _retry(self, message: Message, error: BaseException) -> None:
        """Try again in place; give it back after that; give it up after max_deliveries.

        Where it cannot be given back, each ``attempts`` runs count as one delivery.
        """
        self._metrics.retries.value += 1
        rounds, more = divmod(message.attempt, self.subscription.retry.attempts)
        if more:
            delay = self._delay(message, error)
            self._log_failure(logging.WARNING, message, error, f"again in {delay:.1f} s", None)
            self._try_in_place(message, delay)
        elif message.delivery - 1 + rounds >= self.subscription.max_deliveries:
            await self._bury(message, "exhausted", error)
        else:
            self._log_failure(logging.ERROR, message, error, "to be delivered again", error)
            self._try_again(message, error)

    def _delay(self, message: Message, error: BaseException) -> float:
        if isinstance(error, Retry) and error.after is not None:
            return max(0.0, error.after)
        tries = message.attempt + message.delivery - 1
        return self.subscription.retry.delay(tries, random.random)

    def _log_failure(
        self,
        level: int,
        message: Message,
        error: BaseException,
        then: str,
        trace: BaseException | None,
    ) -> None:
        """Log one failed handling, without the body."""
        logger.log(
            level,
            "%s failed on message %s of %s (delivery %d, attempt %d), %s: %s: %s",
            self.subscription.name,
            message.id,
            self._name,
            message.delivery,
            message.attempt,
            then,
            type(error).__name__,
            error,
            exc_info=trace,
        )

    def _try_again(self, message: Message, error: BaseException) -> None:
        """Bring the message back, later: never skipped, never in silence."""
        delay = self._delay(message, error)
        if self._stays:
            self._try_in_place(message, delay)
        elif self._can.native_delay or self._ending:
            self._finish(message, "nack", error, delay)
        else:
            self._later(message, delay, lambda: self._finish(message, "nack", error))

    def _try_in_place(self, message: Message, delay: float) -> None:
        """Hold the message, its lane and its lease, and hand it to a worker later."""
        if self._ending:
            self._finish(message, "released")
        else:
            self._later(message, delay, lambda: self._resume(message))

    def _resume(self, message: Message) -> None:
        self._ready.append(message)
        self._wake_worker()

    def _later(self, message: Message, delay: float, action: Callable[[], None]) -> None:
        async def wait() -> None:
            await self._sleep(delay)
            del self._waiting[message]
            action()

        self._waiting[message] = self._spawn(wait(), f"retry {message.id}")

    async def _bury(self, message: Message, reason: str, error: BaseException) -> None:
        """Publish the dead letter; only when the broker has confirmed it is the message acked."""
        if self._dead_letter is None:
            self._note_stuck(message, reason, error)
            self._try_again(message, error)
            return
        try:
            handler, first = self.subscription.name, self._first_failures[message]
            await self._dead_letter(as_dead_letter(message, reason, error, handler, first))
        except (Exception, asyncio.CancelledError) as failure:  # noqa: BLE001 - nothing is lost
            if self._cancelling:
                self._give_back(message)
                return
            self._log_failure(
                logging.ERROR, message, error, "and its dead letter was refused", failure
            )
            self._try_again(message, error)
        else:
            trace = None if reason == "undecodable" else error  # its cause may quote the body
            self._log_failure(logging.ERROR, message, error, f"dead-lettered ({reason})", trace)
            self._metrics.count_dead_letter(reason)
            self._finish(message, "dead_letter", error)

    def _note_stuck(self, message: Message, reason: str, error: BaseException) -> None:
        """Say once that a message is stuck for want of a dead letter channel."""
        self._metrics.count_stuck(reason)
        if message.id in self._stuck:
            return
        if len(self._stuck) >= _STUCK_REMEMBERED:
            self._stuck.clear()
        self._stuck.add(message.id)
        trace = None if reason == "undecodable" else error
        then = f"{reason}, and kept: there is no dead_letter= channel to put it"
        self._log_failure(logging.ERROR, message, error, then, trace)

    # Settle: what is finished while one call is in flight goes out with the next.

    def _finish(
        self,
        message: Message,
        outcome: str,
        error: BaseException | None = None,
        delay: float = 0.0,
    ) -> None:
        """End the turn of a message, and have it settled."""
        lane = self._lane(message)
        if lane is not None and (successor := self._lanes.leave(lane)) is not None:
            self._resume(successor)
        self._end(message, outcome, error, delay)

    def _end(
        self,
        message: Message,
        outcome: str,
        error: BaseException | None = None,
        delay: float = 0.0,
    ) -> None:
        """Keep the lease no longer, and have the message settled with what else is to settle."""
        self._held.discard(message)
        if self._first_failures:
            self._first_failures.pop(message, None)
        self._settlements.append(_Settlement(message, outcome, error, delay))
        self._to_settle.set()

    async def _settle(self) -> None:
        while not (self._closed and not self._settlements):
            await self._to_settle.wait()
            self._to_settle.clear()
            batch, self._settlements = self._settlements, []
            groups: dict[tuple[bool, float], list[_Settlement]] = {}
            for item in batch:
                handled = item.outcome in ("ack", "dead_letter")
                groups.setdefault((handled, item.delay), []).append(item)
            for (handled, delay), group in groups.items():
                await self._settle_group(group, handled, delay)

    async def _settle_group(self, group: list[_Settlement], handled: bool, delay: float) -> None:
        """Ack what was handled, nack the rest, in batches that the broker takes."""
        if not handled and not self._can.can_nack:
            self._confirmed(group)  # what is not acked comes again
            return
        most = self._can.batch_messages
        for start in range(0, len(group), most):
            await self._settle_batch(group[start : start + most], handled, delay)

    async def _settle_batch(self, batch: list[_Settlement], handled: bool, delay: float) -> None:
        """Settle one batch; the items that fail for now are tried again."""
        for attempt in count(1):
            messages = [item.message for item in batch]
            errors = await self._call_broker(messages, handled, delay)
            pairs = list(zip(batch, errors, strict=True))
            self._confirmed([item for item, error in pairs if error is None])
            last = attempt >= _SETTLE_RETRY.attempts
            self._unconfirmed([p for p in pairs if p[1] and (last or not _is_transient(p[1]))])
            batch = [item for item, error in pairs if _is_transient(error) and not last]
            if not batch:
                return
            await self._sleep(_SETTLE_RETRY.delay(attempt, random.random))

    async def _call_broker(self, messages: list[Message], handled: bool, delay: float) -> Results:
        try:
            if handled:
                return await self._receiver.ack(messages)
            return await self._receiver.nack(messages, delay)
        except PubSubError as error:
            return [error] * len(messages)

    def _confirmed(self, batch: list[_Settlement]) -> None:
        """Forget what the broker has settled, and tell who wants to know."""
        self._count_settled(len(batch))
        for item in batch:
            self._metrics.settled[item.outcome].value += 1
            if isinstance(item.error, _Stopped):
                self._cancelled += 1
            elif item.outcome == "released":
                self._released += 1
            else:
                self._finished += 1
            if self._on_settle is not None:
                self._on_settle(item.message, item.outcome, item.error)

    def _unconfirmed(self, pairs: list[tuple[_Settlement, Exception | None]]) -> None:
        """Forget what the broker has not settled: it comes again."""
        self._count_settled(len(pairs))
        self._failed_to_settle += len(pairs)
        self._metrics.settle_failures.value += len(pairs)
        for item, error in pairs:
            logger.warning(
                "the %s of message %s of %s failed, it will come again: %s",
                item.outcome,
                item.message.id,
                self._name,
                error,
            )

    def _count_settled(self, number: int) -> None:
        self._unsettled -= number
        self._metrics.in_flight.value = self._unsettled
        self._room.set()
        if not self._unsettled:
            self._quiet.set()

    # Leases: from receipt until the handling has ended.

    async def _keep_leases(self, lease: float) -> None:
        """Extend what is held, when between a quarter and half of its lease has passed."""
        seen: set[Message] = set()
        while True:
            await asyncio.sleep(lease / 4 * random.uniform(0.8, 1.0))
            due = [message for message in self._held if message in seen]
            seen = self._held.difference(due)
            most = self._can.batch_messages
            for start in range(0, len(due), most):
                seen.update(await self._extend_batch(due[start : start + most], lease))

    async def _extend_batch(self, batch: list[Message], lease: float) -> list[Message]:
        """Extend leases, and return those that failed for now: they are due again at once."""
        try:
            results = await self._receiver.extend(batch, lease)
        except PubSubError as error:
            results = [error] * len(batch)
        for message, refusal in zip(batch, results, strict=True):
            self._metrics.count_extension(refusal)
            if refusal is not None and message in self._held:
                logger.warning(
                    "the lease of message %s of %s was not extended: %s",
                    message.id,
                    self._name,
                    refusal,
                )
        return [m for m, refusal in zip(batch, results, strict=True) if _is_transient(refusal)]

    async def _extend(self, message: Message, seconds: float) -> None:
        """Serve ``Message.extend``."""
        if self._can.lease is None:
            return
        (error,) = await self._receiver.extend([message], seconds)
        self._metrics.count_extension(error)
        if error is not None:
            raise error

    # Drain: stop receiving, release, wait, cancel, flush, close.

    def stop_receiving(self) -> None:
        """Receive no more; what a pending receive still brings is given back."""
        self._stopped = True
        self._room.set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight, nor queued as far as the driver knows; or it has ended.

        What is queued does not count for who receives no more.
        """
        if self._ended.is_set():
            return True
        return not (self._unsettled or (not self._stopped and self._receiver.status().backlog))

    async def idle(self) -> None:
        """Wait until ``is_idle``."""
        while not self.is_idle:
            self._quiet.clear()
            with suppress(TimeoutError):  # others may have emptied the queue that we share
                async with asyncio.timeout(_LOOK_AGAIN):
                    await self._quiet.wait()

    def begin_drain(self) -> None:
        """Count for the drain's report from here on; ``drain`` does so by itself."""
        if self._before_drain is None:
            self._before_drain = (self._finished, self._failed_to_settle)

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

    async def _drain(self, timeout: float) -> DrainReport:
        deadline = asyncio.get_running_loop().time() + timeout
        if self._can.process_local and self._receive_task is not None and not self._ending:
            await self._wait_idle(timeout)
            self._left = self._receiver.status().backlog or 0
        self.stop_receiving()
        self._release_unstarted()
        await self._finish_started(deadline)
        await self._flush()
        await self._close()
        finished, failed = self._before_drain or (0, 0)
        return DrainReport(
            finished=self._finished - finished,
            released=self._released + self._left,
            cancelled=self._cancelled,
            failed_to_settle=self._failed_to_settle - failed + self._unsettled,
        )

    async def _wait_idle(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self.idle()
        except TimeoutError:
            logger.warning("%s is not empty at the deadline of its drain", self._name)

    def _release_unstarted(self) -> None:
        """Give back at once what no handler is at work on."""
        self._ending = True
        unstarted = [*self._ready, *self._lanes.clear_waiting(), *self._waiting]
        self._ready.clear()
        for message in unstarted:
            self._end(message, "released")
        while self._idle_workers:
            waiter = self._idle_workers.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def _finish_started(self, deadline: float) -> None:
        """Wait for the handlers until the deadline, then cancel them."""
        waiting = list(self._waiting.values())
        self._waiting.clear()
        await _cancel(waiting)
        running = await _wait(self._workers, deadline - asyncio.get_running_loop().time())
        self._cancelling = True
        for worker in running:
            worker.cancel()
        if stuck := await _wait(running, _GRACE):
            names = ", ".join(worker.get_name() for worker in stuck)
            logger.error("handlers do not heed their cancellation: %s", names)

    async def _flush(self) -> None:
        """Have the last settlements confirmed."""
        if self._lease_task is not None:
            await _cancel([self._lease_task])
        self._closed = True
        self._to_settle.set()
        if self._settle_task is not None:
            await _cancel(await _wait([self._settle_task], _GRACE))

    async def _close(self) -> None:
        """Close the receiver, which ends a pending receive."""
        try:
            async with asyncio.timeout(_GRACE):
                await self._receiver.aclose()
        except Exception as error:  # noqa: BLE001 - the engine has ended all the same
            logger.warning("closing the receiver of %s failed: %r", self._name, error)
        if self._receive_task is not None:
            grace = _GRACE if self._receiving else 0  # else it waits for room, or to try again
            await _cancel(await _wait([self._receive_task], grace))
        self._quiet.set()
        self._ended.set()


def _check(subscription: Subscription, capabilities: Capabilities) -> None:
    """Refuse what would be promised and not kept."""
    if subscription.order != "none" and not capabilities.ordering:
        raise StartError(
            f"{subscription.name}: order={subscription.order!r} of channel "
            f"{subscription.channel!r} needs a broker that keeps order; use order='none' or "
            "another broker"
        )
    if capabilities.positions:
        raise StartError(
            f"{subscription.name}: the broker of channel {subscription.channel!r} keeps positions, "
            "which this version cannot commit safely; use a broker that settles each message"
        )


async def _uncancel(worker: asyncio.Task[Any]) -> None:
    """Undo the cancellations that a handler has left on its worker, which works on."""
    while worker.uncancel():
        pass
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)  # before 3.13, one that is on its way is still to come


def _is_transient(error: Exception | None) -> bool:
    return isinstance(error, PubSubError) and error.transient


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
