"""Send messages in batches: one call of the sender at a time, each key's messages in order.

If no other message is being sent, a message is passed to the sender directly. Messages that arrive
during a send wait in a bounded buffer, and the next send takes as many of them as the broker
allows. Messages that failed for a transient reason are sent again; one that waits for its retry
holds back the later messages of its key, and no others.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum
from functools import partial
from time import perf_counter

from gizmopy._aio import cancel_and_wait, is_being_cancelled
from gizmopy.errors import PubSubError
from gizmopy.observe.metrics import GaugeChild
from gizmopy.pubsub.driver import Capabilities, Limits, Results, results_for
from gizmopy.pubsub.engine.observer import Observers, PublishFailure
from gizmopy.pubsub.engine.send_buffer import KeyQueue, PendingMessage, SendBuffer
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.untrusted.error_text import text_of


class BatcherPhase(Enum):
    """The life of a Batcher, in this order."""

    OPEN = "open"
    CLOSING = "closing"
    """Send the messages that wait; no batch waits to become full."""
    STOPPED = "stopped"
    """Fail the messages that wait."""


_OPEN = (
    BatcherPhase.OPEN
)  # a global is read faster than an attribute of an Enum, once for each message


class Batcher:
    """Send messages to ``topic`` through ``send``, which is the method of a Sender.

    ``retry`` applies to transient failures. With ``linger``, a batch waits up to that many seconds
    to become full. The buffer holds ``max_messages`` and ``max_bytes``, or one message that is
    larger; further calls wait for room, in the order in which they came. ``sleep`` waits for
    retries and for ``linger``.

    The owner rejects new messages before it calls ``aclose``.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Message]], Awaitable[Results]],
        topic: str,
        *,
        limits: Capabilities,
        retry: RetryPolicy,
        linger: float,
        max_messages: int,
        max_bytes: int,
        gauge: GaugeChild,
        observers: Observers,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._send = send
        self._topic = topic
        self._retry = retry
        self._linger = linger
        self._observers = observers
        self._published = observers.published
        self._sleep = sleep
        self._buffer = SendBuffer(
            limits, max_messages=max_messages, max_bytes=max_bytes, gauge=gauge
        )
        self.problem = ""
        """The last transient failure, until a message is confirmed; empty without one."""
        self._phase = _OPEN
        self._calls = 0
        """Calls that wait for room, or for messages of theirs in the buffer."""
        self._sending_since = 0.0
        """When the send began that is using the sender, by ``perf_counter``; 0 if none is."""
        self._admission = asyncio.Lock()
        """Its holder puts the next message into the buffer, and may wait for room."""
        self._changed = asyncio.Event()
        """Set when there is a message, room, a queue to send again, or nothing left to do."""
        self._tasks: set[asyncio.Future[None]] = set()
        """The flusher, and the timers of queues that wait for a retry."""

    async def send(self, message: Message) -> None:
        """Send ``message`` and return when the broker has confirmed it, else raise the reason."""
        started_at = perf_counter()
        # An earlier message of this key may wait in the buffer, so only a message that no other
        # precedes may skip it. That saves a task and a future: a publish to memory:// takes
        # 1.5 µs of CPU instead of 5 µs (benchmarks/publish.py).
        if self._sending_since or self._calls or self._linger:
            await self._send_buffered(message, started_at)
            return
        self._sending_since = started_at
        try:
            results = await self._send((message,))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised below
            results = [self._failure(error)]
        finally:
            self._sending_since = 0.0
            if self._buffer.count or self._phase is not _OPEN:
                self._start_flusher()
        if len(results) == 1 and results[0] is None:
            self.problem = ""
            self._published(message, perf_counter() - started_at)
        else:
            await self._finish_direct(message, started_at, results)

    async def send_many(self, messages: Iterable[Message | Exception]) -> Results:
        """Send messages; return for each, in order, None or the reason why it was not sent.

        An exception among ``messages`` is returned in its place. The next message is taken from
        the iterable when the one before has found room.
        """
        outcomes: list[asyncio.Future[None] | Exception] = []
        self._calls += 1
        try:
            for message in messages:
                async with self._admission:  # other calls take turns with this one
                    if isinstance(message, Exception):
                        outcomes.append(message)
                    else:
                        outcomes.append((await self._put(message, perf_counter())).confirmed)
            return [await _result(outcome) for outcome in outcomes]
        finally:
            for outcome in outcomes:
                if not isinstance(outcome, Exception):
                    outcome.cancel()  # no effect on a message that is confirmed
            self._end_call()

    def limit(self, limits: Limits) -> None:
        """Form the next batches within ``limits``."""
        self._buffer.limit(limits)

    @property
    def is_busy(self) -> bool:
        """Whether a message waits, is being sent, or is to be sent again."""
        return bool(self._sending_since or self._calls or self._buffer.count)

    def seconds(self) -> float:
        """Return how long the present send has waited for the broker; 0 if nothing is sent."""
        return perf_counter() - self._sending_since if self._sending_since else 0.0

    async def aclose(self, timeout: float) -> bool:
        """Send the messages that wait, for at most ``timeout`` seconds; fail the others.

        Return whether all were sent.
        """
        if self._phase is _OPEN:
            self._phase = BatcherPhase.CLOSING
        self._changed.set()
        try:
            async with asyncio.timeout(timeout):
                while self._calls or self._sending_since:
                    await self._change()
        except TimeoutError:
            return False
        finally:
            await self._stop()
        return True

    async def _stop(self) -> None:
        """Cancel the flusher and the timers, then fail the messages that are left."""
        self._phase = BatcherPhase.STOPPED
        # First the tasks end, then the messages fail. The flusher settles its own batch when it is
        # cancelled, and a timer releases its queue: only then can take() return all messages.
        await cancel_and_wait(list(self._tasks))
        self._sending_since = 0.0
        while batch := self._buffer.take():
            self._settle(batch, batch, [self._stopped()] * len(batch))

    async def _change(self) -> None:
        """Wait until something changes. Others may wait too, so the caller checks and repeats."""
        self._changed.clear()
        await self._changed.wait()

    # Into the buffer.

    async def _send_buffered(self, message: Message, started_at: float) -> None:
        self._calls += 1
        try:
            async with self._admission:
                pending = await self._put(message, started_at)
            await pending.confirmed
        finally:
            self._end_call()

    async def _put(self, message: Message, started_at: float) -> PendingMessage:
        """Put a message into the buffer when there is room; the caller holds ``_admission``.

        The message takes up room until it is settled, even if its caller is cancelled.
        """
        pending = PendingMessage(message, started_at)
        while not (self._buffer.has_room(pending.size) or self._phase is BatcherPhase.STOPPED):
            self._changed.set()  # the flusher stops lingering, since _admission is locked
            await self._change()
        if self._phase is BatcherPhase.STOPPED:
            self._fail(pending, self._stopped(), "closed")
            return pending
        self._buffer.put(pending)
        self._changed.set()
        if not self._sending_since:
            self._start_flusher()
        return pending

    async def _finish_direct(self, message: Message, started_at: float, results: Results) -> None:
        """Retry or fail a message whose direct send failed, as if it came from the buffer."""
        pending = PendingMessage(message, started_at)
        self._buffer.put_sent(pending)
        self._settle([pending], [pending], results_for([message], results))
        if not self._sending_since:
            self._start_flusher()
        self._calls += 1
        try:
            await pending.confirmed
        finally:
            self._end_call()

    def _end_call(self) -> None:
        self._calls -= 1
        if self._phase is not _OPEN:
            self._changed.set()

    # Out of the buffer: the flusher.

    def _start_flusher(self) -> None:
        """Send the buffered messages in a task, which ends when there are none."""
        if self._buffer.count:
            self._sending_since = perf_counter()
            flusher = asyncio.create_task(self._flush(), name=f"publish {self._topic}")
            self._tasks.add(flusher)
            flusher.add_done_callback(self._tasks.discard)
        elif self._phase is not _OPEN:
            self._changed.set()

    async def _flush(self) -> None:
        try:
            while self._buffer.count:
                first = self._buffer.first()
                if first is None:  # every queue waits for a retry
                    await self._change()
                    continue
                if self._linger:
                    await self._fill(first)
                await self._send_batch(self._buffer.take())
        finally:
            self._sending_since = 0.0
            if self._phase is not _OPEN:
                self._changed.set()

    async def _fill(self, first: PendingMessage) -> None:
        """Wait until there is a full batch, or ``first`` is ``linger`` seconds old."""
        seconds = first.started_at + self._linger - perf_counter()
        if seconds <= 0 or self._is_full():
            return
        timer = asyncio.ensure_future(self._sleep(seconds))
        self._when_over(timer, self._changed.set)
        while not (timer.done() or self._is_full()):
            await self._change()
        timer.cancel()

    def _is_full(self) -> bool:
        """Return whether waiting longer would not help: no more fits, or the batcher closes."""
        is_blocked = self._admission.locked() or self._phase is not _OPEN
        return is_blocked or self._buffer.holds_a_batch()

    async def _send_batch(self, batch: Sequence[PendingMessage]) -> None:
        """Send a batch, without the messages whose callers were cancelled, and settle all of it."""
        sent = [pending for pending in batch if not pending.confirmed.cancelled()]
        results: Results = [self._stopped()] * len(sent)  # if this task is cancelled
        self._sending_since = perf_counter()
        try:
            if sent:
                results = await self._try_send([pending.message for pending in sent])
        finally:
            self._settle(batch, sent, results)

    async def _try_send(self, messages: Sequence[Message]) -> Results:
        """Send, and return a result for each message; an error of the call counts for each."""
        try:
            results = await self._send(messages)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - callers raise it
            return [self._failure(error)] * len(messages)
        return results_for(messages, results)

    def _failure(self, error: Exception | asyncio.CancelledError) -> Exception:
        """Return the error of a send, or raise it if this task is the one that was cancelled.

        A driver's own task may be cancelled too, for example when its client shuts down. If that
        CancelledError were passed on, it would end a caller's task that was not cancelled.
        """
        if not isinstance(error, asyncio.CancelledError):
            return error
        if is_being_cancelled():
            raise error
        return self._stopped()

    def _stopped(self) -> PubSubError:
        reason = f"sending to {self._topic!r} was stopped; the message may or may not arrive"
        return PubSubError(reason, transient=False)

    # Settling: confirm, fail, or send again.

    def _settle(
        self, batch: Sequence[PendingMessage], sent: Sequence[PendingMessage], results: Results
    ) -> None:
        """Report results to the callers, and free the room of messages that are not retried."""
        retried = self._report(sent, results)
        for queue in self._buffer.settle(batch, retried):
            delay = self._retry.delay(max(1, queue.messages[0].attempts), random.random)
            timer = asyncio.ensure_future(self._sleep(delay))
            self._when_over(timer, partial(self._release, queue))
        self._changed.set()

    def _report(self, sent: Sequence[PendingMessage], results: Results) -> list[PendingMessage]:
        """Report results to the callers; return the messages that are to be sent again."""
        now = perf_counter()
        retried: list[PendingMessage] = []
        refused: set[KeyQueue] = set()
        for pending, error in zip(sent, results, strict=True):
            # With ordered_batches a driver also fails the messages behind a refused one of the same
            # key. They were not sent, so their failure does not count as an attempt: else five
            # refused messages would use up the attempts of a good one behind them.
            if pending.queue not in refused:
                pending.attempts += 1
            if error is None:
                self.problem = ""
                self._published(pending.message, now - pending.started_at)
                if not pending.confirmed.done():
                    pending.confirmed.set_result(None)
                continue
            is_transient = isinstance(error, PubSubError) and error.transient
            if is_transient:
                self.problem = text_of(error)
                if self._may_retry(pending):
                    retried.append(pending)
                    continue
            else:
                refused.add(pending.queue)
            self._fail(pending, error, "transient" if is_transient else "permanent")
        return retried

    def _may_retry(self, pending: PendingMessage) -> bool:
        is_over = self._phase is BatcherPhase.STOPPED or pending.confirmed.done()
        return not is_over and pending.attempts < self._retry.attempts

    def _fail(self, pending: PendingMessage, error: Exception, kind: PublishFailure) -> None:
        kind = "closed" if self._phase is BatcherPhase.STOPPED else kind
        self._observers.publish_failed(self._topic, kind)
        if not pending.confirmed.done():
            pending.confirmed.set_exception(error)

    def _release(self, queue: KeyQueue) -> None:
        self._buffer.release(queue)
        self._changed.set()

    def _when_over(self, timer: asyncio.Future[None], callback: Callable[[], None]) -> None:
        """Call ``callback`` when ``timer`` is over or cancelled."""

        def end(_: asyncio.Future[None]) -> None:
            self._tasks.discard(timer)
            callback()

        self._tasks.add(timer)
        timer.add_done_callback(end)


async def _result(outcome: asyncio.Future[None] | Exception) -> Exception | None:
    """Return the result of one message: unlike ``await outcome``, it does not raise it."""
    if isinstance(outcome, Exception):
        return outcome
    if not outcome.done():
        await asyncio.wait([outcome])
    error = outcome.exception()
    assert error is None or isinstance(error, Exception)
    return error
