"""A context of its own without a task of its own: everything else is as if it were awaited."""

from __future__ import annotations

import asyncio
import types
import weakref
from collections.abc import Coroutine, Generator
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from gizmopy.pubsub.engine.worker import ENDED, ContextRunner
from tests.pubsub.support import turns

variable: ContextVar[str] = ContextVar("variable", default="clean")


async def isolated(coroutine: Coroutine[Any, Any, None]) -> None:
    """Await a coroutine in a context of its own, as a worker does."""
    run, runner = copy_context().run, ContextRunner()
    awaited = run(runner.begin, coroutine)
    if awaited is not ENDED:
        waiting, awaited = runner.rest(run, awaited), None  # it may hold an error
        await waiting


class Traced(Exception):
    """An error that can be watched."""


@types.coroutine
def pause(value: object = None) -> Generator[object, None, None]:
    """Yield ``value`` to whoever drives the coroutine."""
    yield value


async def test_a_token_resets_in_a_later_step() -> None:
    """All steps of a coroutine run in one context, and nobody else sees it."""

    async def body() -> None:
        token = variable.set("mine")
        await asyncio.sleep(0)
        variable.reset(token)
        assert variable.get() == "clean"
        variable.set("left behind")

    await isolated(body())
    assert variable.get() == "clean"


async def test_it_runs_in_the_task_of_its_caller() -> None:
    """What is done already does not suspend it, and the current task is the caller's."""
    done = asyncio.get_running_loop().create_future()
    done.set_result("result")
    tasks = []

    async def body() -> None:
        assert await done == "result"
        tasks.append(asyncio.current_task())

    await isolated(body())
    assert tasks == [asyncio.current_task()]


async def test_an_error_passes_as_it_is() -> None:
    """Neither its traceback nor its context holds more than the frames it went through."""

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


async def test_what_is_no_future_is_refused_by_the_loop() -> None:
    """A coroutine that yields something else gets the loop's own error."""

    async def body() -> None:
        await pause(42)

    with pytest.raises(RuntimeError, match="bad yield: 42"):
        await isolated(body())


def test_closing_it_closes_the_coroutine() -> None:
    """The coroutine's clean-up runs when it is closed; ignoring that is the usual error."""
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
    """While the coroutine waits for the next thing, the last error is free to go."""
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


async def test_one_that_raises_does_not_end_the_others() -> None:
    """A runner goes on after an error, with the result of each."""
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
