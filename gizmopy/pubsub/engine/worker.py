"""Run handlers: each worker is one task that takes ready messages, one or one batch at a time.

There is no task for each message: a task costs 5 to 8 µs, more than all else that happens to one.
A handler still gets a context of its own, as it would in a task; see ``ContextRunner``.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from time import perf_counter
from typing import Any

from gizmopy.errors import UndecodableMessage
from gizmopy.observe.context import (
    message_id,
    propagated_attributes,
    request_id,
    valid_request_id,
)
from gizmopy.observe.trace import trace_context
from gizmopy.pubsub.engine.observer import Observers
from gizmopy.pubsub.engine.phase import EnginePhase, Lifecycle
from gizmopy.pubsub.engine.turns import Turns
from gizmopy.pubsub.handlers import BatchHandler, BatchResults, Handler
from gizmopy.pubsub.message import NO_ATTRIBUTES, REQUEST_ID, Message
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.text import cut

_BURST = 0.01
"""Seconds that a worker whose handlers never wait keeps the event loop, at most."""
_MAX_IDS = 10
"""How many ids of a batch its log records have."""
_ID_CHARACTERS = 128
_HANDLED: BatchResults = (None,)
"""The results of one message that was handled. Compared by identity."""

_Started = tuple[Sequence[Message], float, Awaitable[Any]]
"""The messages of an attempt, the time of its start, and the rest of it, to be awaited."""

OnFailure = Callable[[Message, BaseException], None]
"""Settle or retry a message whose handler raised an error."""


class Worker:
    """Handle ready messages until the ready queue is closed."""

    def __init__(
        self,
        subscription: Subscription,
        turns: Turns,
        lifecycle: Lifecycle,
        events: Observers,
        *,
        on_failure: OnFailure,
    ) -> None:
        self.task: asyncio.Task[Any] | None = None
        """The task that runs this, once it has started."""
        self.running: Sequence[Message] = ()
        """The messages whose handler runs now."""
        self._subscription = subscription
        self._turns = turns
        self._lifecycle = lifecycle
        self._events = events
        self._on_failure = on_failure
        self._handler = _observed(subscription.handler, events)
        self._batch_handler = _observed_batch(subscription.batch_handler, events)
        self._runner = ContextRunner()

    async def run(self) -> None:
        """Handle messages, one or one batch at a time.

        A handler that waits is awaited here: a coroutine in between would cost 0.4 µs a message.
        """
        self.task = task = asyncio.current_task()
        assert task is not None
        request_id.set("")
        ready, in_batches = self._turns.ready, self._batch_handler is not None
        while ready.messages or await ready.wait():
            started = await self._start_batch() if in_batches else self._start_ready(task)
            if started is None:
                if ready.messages:
                    await asyncio.sleep(0)
                continue
            batch, since, rest = started
            self.running = batch
            results = _HANDLED
            try:
                result = await rest
                if in_batches:
                    results = result
            except KeyboardInterrupt:
                raise  # a person ends the process
            # A SystemExit too: as the end of the daemon it would come again after each restart.
            except BaseException as error:  # noqa: BLE001 - a handler may raise anything
                results = [error] * len(batch)
            self._events.attempts_timed((), (perf_counter() - since,))
            if results is _HANDLED and not task.cancelling():
                self._turns.ack(batch[0])
                self.running = ()
            else:
                await self._finish_all(task, batch, results)
                self.running = ()
                # Many handlers may fail without ever waiting: let the rest of the process run.
                await asyncio.sleep(0)

    async def _finish_all(
        self, task: asyncio.Task[Any], batch: Sequence[Message], results: BatchResults
    ) -> None:
        """Settle or retry each message of an attempt, and make this task fit for the next one."""
        if self._lifecycle.phase < EnginePhase.CANCELLING:
            await _uncancel(task)
        for message, error in zip(batch, results, strict=True):
            if error is None:
                self._turns.ack(message)
            else:
                _set_ids((message,))
                propagated_attributes.set(trace_context(message._attributes))
                self._on_failure(message, error)
        if self._lifecycle.phase < EnginePhase.CANCELLING:
            await _uncancel(task)

    # One message at a time.

    def _start_ready(self, task: asyncio.Task[Any]) -> _Started | None:
        """Handle ready messages one after the other, as long as handlers return without waiting.

        Return the first message whose handler waits or fails, with the rest of its attempt.

        This loop is most of the cost of a message. Work that can be done for many messages at once
        (metrics, acks) is done after it.
        """
        started_and_waits: _Started | None = None
        handled: list[Message] = []
        waits: list[float] = []
        seconds: list[float] = []
        turns, messages = self._turns, self._turns.ready.messages
        received_at, failed = turns.in_flight.received_at, turns.failures.first_failed_at
        handle, begin, ordered = self._handler, self._runner.begin, turns.ordered
        propagated_now, request_now = propagated_attributes.get(), request_id.get()
        attributes_now: Mapping[str, str] | None = None
        started = perf_counter()
        until = started + _BURST
        while messages and started < until:
            message = messages.popleft()
            if message not in failed:
                waits.append(started - received_at[message])
            message_id.set(message.id)
            attributes = message._attributes
            # Messages of memory:// often share their attributes, and so their trace and request.
            if attributes is not attributes_now:
                attributes_now = attributes
                propagated = (
                    trace_context(attributes) if "traceparent" in attributes else NO_ATTRIBUTES
                )
                if propagated is not propagated_now:
                    propagated_attributes.set(propagated)
                    propagated_now = propagated
                given = attributes.get(REQUEST_ID, "")
                if given is not request_now:
                    request_id.set(given and valid_request_id(given))
                    request_now = given
            run = copy_context().run
            try:
                message.attempt += 1
                if message.unreadable:
                    raise UndecodableMessage(message.unreadable)
                awaited = run(begin, handle(message))
            except BaseException as error:  # noqa: BLE001 - a handler may raise anything
                started_and_waits = (message,), started, _raise(error)
                break
            # A handler may cancel its own task and return: that is found where it is awaited.
            if awaited is not ENDED or task.cancelling():
                started_and_waits = (message,), started, self._runner.rest(run, awaited)
                break
            ended = perf_counter()
            seconds.append(ended - started)
            started = ended
            handled.append(message)
            if ordered or failed:
                turns.finish(message)
        if waits or seconds:
            self._events.attempts_timed(waits, seconds)
        if handled:
            turns.settler.ack_all(handled)
        turns.ready.wake_next()
        return started_and_waits

    # Batches.

    async def _start_batch(self) -> _Started | None:
        """Start to handle a batch, once there is one; return None at the end."""
        if not (batch := await self._collect()):
            return None
        started, turns = perf_counter(), self._turns
        received_at, failed = turns.in_flight.received_at, turns.failures.first_failed_at
        waits = [started - received_at[message] for message in batch if message not in failed]
        self._events.attempts_timed(waits, ())
        for message in batch:
            message.attempt += 1
        _set_ids(batch)
        propagated_attributes.set(NO_ATTRIBUTES)
        assert self._batch_handler is not None
        return batch, started, self._run_batch(self._batch_handler(batch))

    async def _collect(self) -> Sequence[Message]:
        """Wait for a message, and then for more of its batch; return () at the end."""
        size, seconds = self._subscription.batch_size, self._subscription.batch_wait
        while batch := await self._turns.ready.collect(size, seconds):
            kept = [message for message in batch if message in self._turns.in_flight]
            for message in batch:
                if message not in kept:  # it was lost during the wait for the batch
                    self._turns.finish(message)
            if kept:
                return kept
        return ()

    async def _run_batch(self, attempt: Coroutine[Any, Any, BatchResults]) -> BatchResults:
        """Await the handler of a batch in a context of its own."""
        run = copy_context().run
        await self._runner.rest(run, run(self._runner.begin, attempt))
        results: BatchResults = self._runner.result
        return results


def _set_ids(batch: Sequence[Message]) -> None:
    """Give log records the ids of messages that are handled together, and of one that failed.

    The request id is that of all of them, or empty if they are results of several requests.
    """
    ids = ", ".join([cut(message.id, _ID_CHARACTERS) for message in batch[:_MAX_IDS]])
    message_id.set(ids if len(batch) <= _MAX_IDS else f"{ids}, … ({len(batch)} messages)")
    requests = {message.request_id for message in batch}
    request_id.set(requests.pop() if len(requests) == 1 else "")


async def _raise(error: BaseException) -> None:
    raise error


async def _uncancel(task: asyncio.Task[Any]) -> None:
    """Undo the cancellations that a handler has left on the worker's task."""
    if not task.cancelling():
        return
    while task.uncancel():
        pass
    # Before Python 3.13, `uncancel` does not take back a CancelledError that is still to be raised.
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)


# Attempts are reported by wrapping the handler, so that without an observer nothing is added.


def _observed(handler: Handler, events: Observers) -> Handler:
    """Return a handler that reports its attempts, if an observer asks for them."""
    if not events.watch_attempts:
        return handler

    async def handle(message: Message) -> None:
        events.attempt_started((message,))
        try:
            await handler(message)
        except BaseException as error:
            events.attempt_ended((message,), (error,))
            raise
        events.attempt_ended((message,), _HANDLED)

    return handle


def _observed_batch(handler: BatchHandler | None, events: Observers) -> BatchHandler | None:
    """Return a batch handler that reports its attempts, if an observer asks for them."""
    if handler is None or not events.watch_attempts:
        return handler

    async def handle(messages: Sequence[Message]) -> BatchResults:
        events.attempt_started(messages)
        try:
            results = await handler(messages)
        except BaseException as error:
            events.attempt_ended(messages, [error] * len(messages))
            raise
        events.attempt_ended(messages, results)
        return results

    return handle


# A context for each handler.

ENDED: Any = object()
"""Returned by ``ContextRunner.begin`` if the coroutine has returned without waiting."""


class ContextRunner:
    """Run coroutines one after the other, each in a context of its own, without a task of its own.

    ``run = copy_context().run`` makes a context, and ``run(runner.begin, coroutine)`` begins a
    coroutine in it. That returns ENDED if the coroutine has returned, else the future that it waits
    for: ``await runner.rest(run, future)`` awaits the rest. Either way its result is in
    ``runner.result``, and an error that it raises propagates.

    Context variables that the coroutine sets are seen by the coroutines that it awaits and the
    tasks that it starts, and by no later handler. The current task stays the worker's, so timeouts,
    task groups and cancellation work as usual. This costs about 0.1 µs, and 0.2 µs for each wait.
    """

    __slots__ = ("_generator", "result")

    def __init__(self) -> None:
        self.result: Any = None
        self._generator: Any
        self._restart()

    @property
    def begin(self) -> Callable[[Coroutine[Any, Any, Any]], Any]:
        """The function that begins a coroutine; read it again after one has raised."""
        if self._generator.gi_frame is None:
            self._restart()
        begin: Callable[[Coroutine[Any, Any, Any]], Any] = self._generator.send
        return begin

    def _restart(self) -> None:
        self._generator = self._await_each()
        self._generator.send(None)

    @types.coroutine
    def _await_each(self) -> Generator[Any, Any, None]:
        # One generator awaits all coroutines. A coroutine that is sent to directly ends with a
        # StopIteration, and catching that costs as much as all the rest of this class.
        while True:
            coroutine = yield ENDED
            self.result = yield from coroutine

    @types.coroutine
    def rest(self, run: Callable[..., Any], awaited: object) -> Generator[Any, Any, None]:
        """Await the rest of a coroutine that waits for ``awaited``."""
        step: Callable[[Any], Any]
        argument: Any
        while awaited is not ENDED:
            try:
                step, argument = self._generator.send, (yield awaited)
            except BaseException as error:  # noqa: BLE001 - the coroutine has to handle it
                step, argument = self._generator.throw, error
            try:
                awaited = run(step, argument)
            finally:
                # An error would keep this frame alive, and the frame the error: a cycle that only
                # the garbage collector ends.
                argument = None
