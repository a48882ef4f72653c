"""Run coroutines, each in a context of its own, without a task of its own.

A ``Runner`` runs one after the other. ``run = copy_context().run`` makes a context, and
``run(runner.begin, coroutine)`` begins a coroutine in it. That returns ENDED where the coroutine
has not waited for anything, else what it waits for: ``await runner.rest(run, ...)`` of that goes on
from there. Either way its result is in ``runner.result``, and what it raises comes out.

What the coroutine sets in context variables is seen by what it awaits and by the tasks it starts,
and by nobody after it. The task stays the caller's, so that timeouts, task groups and cancellation
work as ever. This costs about 0.1 µs and 0.2 µs for each time it waits; a task costs 5 to 8.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any

ENDED: Any = object()


class Runner:
    """Run one coroutine after the other.

    They are awaited by one generator that goes on when they end: a coroutine that is driven by hand
    ends with a StopIteration, which costs as much as all the rest of this.
    """

    __slots__ = ("_generator", "result")

    def __init__(self) -> None:
        self.result: Any = None
        self._generator: Any
        self._restart()

    @property
    def begin(self) -> Callable[[Coroutine[Any, Any, Any]], Any]:
        """What begins a coroutine; ask for it again when one has raised."""
        if self._generator.gi_frame is None:
            self._restart()
        begin: Callable[[Coroutine[Any, Any, Any]], Any] = self._generator.send
        return begin

    def _restart(self) -> None:
        self._generator = self._await_each()
        self._generator.send(None)

    @types.coroutine
    def _await_each(self) -> Generator[Any, Any, None]:
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
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to handle
                step, argument = self._generator.throw, error
            try:
                awaited = run(step, argument)
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
