"""Run a coroutine in a context of its own, without a task of its own."""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any


@types.coroutine
def isolated(coroutine: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    """Await ``coroutine`` in a copy of the current context.

    What it sets in context variables is seen by what it awaits and by the tasks it starts, and by
    nobody after it. The task stays the caller's, so that timeouts, task groups and cancellation
    work as ever. This costs about 0.5 µs and 0.2 µs for each time it waits; a task costs 5 to 8.
    """
    run = copy_context().run
    step, argument = coroutine.send, None
    try:
        while True:
            try:
                awaited = run(step, argument)
            except StopIteration:
                return
            step, argument = coroutine.send, None
            try:
                argument = yield awaited
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to handle
                step, argument = coroutine.throw, error
    finally:
        argument = None  # an error would keep this frame alive, and the frame the error
