"""Run a coroutine in a context of its own, without a task of its own.

``run = copy_context().run`` makes the context, and ``run(coroutine.send, None)`` begins the
coroutine in it: a StopIteration carries the result of one that never waits. Else it returns what
the coroutine waits for, and ``await rest(coroutine, run, ...)`` of that goes on from there.

What the coroutine sets in context variables is seen by what it awaits and by the tasks it starts,
and by nobody after it. The task stays the caller's, so that timeouts, task groups and cancellation
work as ever. This costs about 0.3 µs and 0.2 µs for each time it waits; a task costs 5 to 8.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


@types.coroutine
def rest(
    coroutine: Coroutine[Any, Any, ResultT], run: Callable[..., Any], awaited: object
) -> Generator[Any, Any, ResultT]:
    """Await the rest of a coroutine that waits for ``awaited``, and return its result."""
    step: Callable[[Any], Any]
    argument: Any
    while True:
        try:
            step, argument = coroutine.send, (yield awaited)
        except BaseException as error:  # noqa: BLE001 - it is the coroutine's to handle
            step, argument = coroutine.throw, error
        try:
            awaited = run(step, argument)
        except StopIteration as end:
            result: ResultT = end.value
            return result
        finally:
            argument = None  # an error would keep this frame alive, and the frame the error


async def uncancel(task: asyncio.Task[Any]) -> None:
    """Undo the cancellations that a coroutine has left on the task that it ran in."""
    if not task.cancelling():
        return
    while task.uncancel():
        pass
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)  # before 3.13, one that is on its way is still to come
