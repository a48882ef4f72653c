"""Workers: concurrency, a context for each handler without a task for each, and cancellations."""

from __future__ import annotations

import asyncio
import types
import weakref
from collections.abc import Coroutine, Generator
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from gizmopy.errors import Reject, Retry
from gizmopy.observe.context import message_id, request_id
from gizmopy.pubsub import Message
from gizmopy.pubsub.engine.worker import ENDED, ContextRunner
from tests.pubsub.support import Gate, always, failing, message, nothing, running, turns, until

variable: ContextVar[str] = ContextVar("variable", default="clean")


async def isolated(coroutine: Coroutine[Any, Any, None]) -> None:
    """Await a coroutine in a context of its own, as a worker does."""
    run, runner = copy_context().run, ContextRunner()
    awaited = run(runner.begin, coroutine)
    if awaited is not ENDED:
        waiting, awaited = runner.rest(run, awaited), None  # it may hold an error
        await waiting


class Traced(Exception):
    """An error that a test can watch."""


@types.coroutine
def pause(value: object = None) -> Generator[object, None, None]:
    """Yield ``value`` to the caller that drives the coroutine."""
    yield value


async def test_a_token_resets_in_a_later_step() -> None:
    """All steps of a coroutine run in one context, which no other coroutine sees."""

    async def body() -> None:
        token = variable.set("mine")
        await asyncio.sleep(0)
        variable.reset(token)
        assert variable.get() == "clean"
        variable.set("left behind")

    await isolated(body())
    assert variable.get() == "clean"


async def test_it_runs_in_the_task_of_its_caller() -> None:
    """A future that is done does not suspend it, and the current task is the caller's."""
    done = asyncio.get_running_loop().create_future()
    done.set_result("result")
    tasks = []

    async def body() -> None:
        assert await done == "result"
        tasks.append(asyncio.current_task())

    await isolated(body())
    assert tasks == [asyncio.current_task()]


async def test_an_error_is_raised_unchanged() -> None:
    """Its traceback and its context have no frames but those it went through."""

    async def body() -> None:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            pass
        raise Traced

    with pytest.raises(Traced) as caught:
        await isolated(body())
    assert caught.value.__context__ is None
    assert [entry.name for entry in caught.traceback][1:] == [
        "isolated",
        "rest",
        "_await_each",
        "body",
    ]


async def test_a_coroutine_that_yields_no_future_gets_the_error_of_the_loop() -> None:
    """The error is the same as in a task."""

    async def body() -> None:
        await pause(42)

    with pytest.raises(RuntimeError, match="bad yield: 42"):
        await isolated(body())


def test_closing_it_closes_the_coroutine() -> None:
    """Its clean-up runs; if it ignores GeneratorExit, the usual RuntimeError is raised."""
    log = []

    async def body(ignore: bool) -> None:
        try:
            await pause()
        except GeneratorExit:
            log.append("closed")
            if ignore:
                await pause()

    for ignore in (False, True):
        running = isolated(body(ignore))
        running.send(None)
        if ignore:
            with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
                running.close()
        else:
            running.close()
    assert log == ["closed", "closed"]


async def test_an_error_that_was_handled_is_not_kept() -> None:
    """While the coroutine waits for the next future, the last error can be collected."""
    first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    last = asyncio.Event()

    async def body(future: asyncio.Future[None]) -> None:
        try:
            await future
        except Traced:
            del future
        await last.wait()

    async def run(future: asyncio.Future[None]) -> None:
        running = isolated(body(future))
        del future
        await running

    task = asyncio.create_task(run(first))
    await turns(2)
    error = Traced()
    watched = weakref.ref(error)
    first.set_exception(error)
    del error, first
    await turns(3)
    assert watched() is None
    last.set()
    await task


async def test_a_coroutine_that_raises_does_not_end_the_runner() -> None:
    """The runner runs the next one, and has the result of each."""
    runner = ContextRunner()

    async def body(number: int) -> int:
        if not number:
            raise Traced
        return number

    assert copy_context().run(runner.begin, body(1)) is ENDED
    assert runner.result == 1
    with pytest.raises(Traced):
        copy_context().run(runner.begin, body(0))
    assert copy_context().run(runner.begin, body(2)) is ENDED
    assert runner.result == 2


async def test_a_handler_that_raises_cancelled_error_is_retried() -> None:
    """A stray CancelledError never acks, and never dead-letters, however often it is raised."""
    attempts: list[int] = []

    async def handler(received: Message) -> None:
        attempts.append(received.attempt)
        if received.id == "1" and len(attempts) < 20:
            raise asyncio.CancelledError

    async with running(handler, order="key", max_deliveries=2, dead_letter=True) as bench:
        bench.receiver.put(message(id="1", key="k"), message(id="2", key="k"))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "ack"), ("2", "ack")]
    assert attempts == [*range(1, 21), 1]


async def test_a_cancelled_message_goes_back_to_a_broker_that_can_nack() -> None:
    """After its attempts it is nacked, at its last delivery too."""
    error = asyncio.CancelledError()
    async with running(always(error), max_deliveries=2, dead_letter=True) as bench:
        bench.receiver.put(message(delivery=9))
        await until(lambda: bench.settled)
    assert bench.settled == [("1", "nack", error)]
    assert not bench.dead


async def test_a_handler_that_cancels_its_own_task_does_not_affect_later_ones() -> None:
    """The worker undoes the cancellation before the next handler runs."""
    seen = []

    async def handler(received: Message) -> None:
        task = asyncio.current_task()
        assert task is not None
        seen.append(task.cancelling())
        if len(seen) == 1:
            task.cancel()
            await asyncio.sleep(0)

    async with running(handler) as bench:
        bench.receiver.put(message(id="1"))
        await until(lambda: bench.settled)
        bench.receiver.put(message(id="2"))
        await until(lambda: ("2", "ack") in bench.outcomes)
    assert set(seen) == {0}


async def _cancel_and(ending: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    if ending == "raise":
        raise Reject("no")
    if ending == "swallow":
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


@pytest.mark.parametrize("ending", ["return", "raise", "swallow"])
async def test_a_cancellation_that_a_handler_leaves_behind_is_undone(ending: str) -> None:
    """The worker continues, idle or not, and a later handler's task group works."""
    groups = []

    async def handler(received: Message) -> None:
        if received.id == "1":
            return await _cancel_and(ending)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(always(ValueError("in a group"))(received))
                await asyncio.Event().wait()
        except* ValueError:
            groups.append(received.id)

    async with running(handler, dead_letter=True) as bench:
        bench.receiver.put(message(id="1"))
        await until(lambda: bench.settled)
        await turns()
        bench.receiver.put(message(id="2"))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "dead_letter" if ending == "raise" else "ack"), ("2", "ack")]
    assert groups == ["2"]
    assert bench.metric("retries") == 0


async def test_concurrency_is_reached_and_never_exceeded() -> None:
    """Exactly as many handlers run as the subscription asks for."""
    gate = Gate()
    async with running(gate, concurrency=3) as bench:
        bench.receiver.put(*(message(id=str(n)) for n in range(5)))
        await until(lambda: len(gate.started) == 3)
        await turns()
        assert len(gate.started) == 3
        gate.open.set()
        await until(lambda: len(bench.settled) == 5)


async def test_context_variables_of_a_handler_are_invisible_to_the_next() -> None:
    """Each handler starts with the same context, although the worker is the same task."""
    variable: ContextVar[str] = ContextVar("variable", default="clean")
    seen = []
    tasks = set()

    async def handler(received: Message) -> None:
        tasks.add(asyncio.current_task())
        seen.append((variable.get(), message_id.get(), request_id.get()))
        variable.set(received.id)
        await asyncio.sleep(0)
        assert variable.get() == received.id
        child = await asyncio.create_task(_get(variable))
        assert child == received.id

    request_id.set("outer")
    async with running(handler) as bench:
        bench.receiver.put(message(id="1"), message(id="2"))
        await until(lambda: len(bench.settled) == 2)
    assert seen == [("clean", "1", ""), ("clean", "2", "")]
    assert len(tasks) == 1
    assert bench.outcomes == [("1", "ack"), ("2", "ack")]


async def _get(variable: ContextVar[str]) -> str:
    return variable.get()


async def test_timeouts_and_task_groups_work_inside_a_handler() -> None:
    """The separate context does not affect structured concurrency."""
    log: list[str] = []

    async def handler(received: Message) -> None:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            log.append("timeout")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(nothing(received))
                group.create_task(always(ValueError("in a group"))(received))
                await asyncio.Event().wait()
        except* ValueError:
            log.append("group")

    async with running(handler) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert log == ["timeout", "group"]
    assert bench.outcomes == [("1", "ack")]


async def test_the_wait_in_the_queue_is_observed_once_for_a_message() -> None:
    """An attempt after a postponement is not a second wait."""
    async with running(failing(Retry(counted=False), Retry(counted=False))) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
        waits = bench.metrics.histogram("gizmo_pubsub_queue_wait_seconds", "")
        assert sum(waits.child("t", "s").counts) == 1
