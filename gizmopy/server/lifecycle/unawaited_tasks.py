"""Log the error of a task that lifespan has started and nothing awaits.

asyncio logs such an error when the task is collected. A service that keeps the task, so that it is
not collected while it runs, would never see it: the daemon goes on without its background work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from gizmopy.untrusted.error_text import describe_error

logger = logging.getLogger("gizmopy.server.tasks")

_PATIENCE_SECONDS = 0.1
"""The time that an owner has to take the error: a TaskGroup, asyncio.gather, an await."""

_is_watching: ContextVar[bool] = ContextVar("is_watching", default=False)


@contextmanager
def logging_unawaited_tasks() -> Iterator[None]:
    """Watch the tasks that the block creates, directly or by its tasks, as long as they run.

    Tasks of others that begin meanwhile, such as requests, are not watched.
    """
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()

    def create(
        loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Future[Any]:
        task: asyncio.Future[Any] = (
            asyncio.Task(coroutine, loop=loop, **options)
            if before is None
            else before(loop, coroutine, **options)
        )
        if _is_watching.get():
            task.add_done_callback(_look_later)
        return task

    # Only for the block: a factory in Python would cost each request a hundredth of its time.
    loop.set_task_factory(create)
    token = _is_watching.set(True)
    try:
        yield
    finally:
        _is_watching.reset(token)
        if loop.get_task_factory() is create:  # else the service has set its own
            loop.set_task_factory(before)


def _look_later(task: asyncio.Future[Any]) -> None:
    if not task.cancelled() and _is_unawaited(task):
        task.get_loop().call_later(_PATIENCE_SECONDS, _look, task)


def _is_unawaited(task: asyncio.Future[Any]) -> bool:
    # asyncio's own mark of an error that nothing has taken, which has no public name.
    return bool(getattr(task, "_log_traceback", False))


def _look(task: asyncio.Future[Any]) -> None:
    if not _is_unawaited(task):
        return
    error = task.exception()  # takes it, so that asyncio does not log it again
    assert error is not None
    name = task.get_name() if isinstance(task, asyncio.Task) else "of a task factory"
    logger.error(
        "the task %s of lifespan has failed, and nothing awaits it: %s",
        name,
        describe_error(error),
        exc_info=error,
    )
