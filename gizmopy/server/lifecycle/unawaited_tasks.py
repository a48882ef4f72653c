"""Log the error of a task that lifespan has started and nothing awaits.

asyncio logs such an error when the task is collected. A service that keeps the task, so that it is
not collected while it runs, would never see it: the daemon goes on without its background work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from gizmopy.untrusted.error_text import describe_error

logger = logging.getLogger("gizmopy.server.tasks")

_PATIENCE_SECONDS = 0.1
"""The time that an owner has to take the error: a TaskGroup, asyncio.gather, an await."""

_is_watching: ContextVar[bool] = ContextVar("is_watching", default=False)


class WatchedLifespan(AbstractAsyncContextManager[None]):
    """Enter and leave ``lifespan``, and watch the tasks that it creates then, as long as they run.

    Tasks of others that begin meanwhile, such as requests, are not watched.
    """

    def __init__(self, lifespan: AbstractAsyncContextManager[None]) -> None:
        self._lifespan = lifespan
        self._failed: set[asyncio.Future[Any]] = set()
        """Tasks whose owner may still take the error."""

    async def __aenter__(self) -> None:
        with self._watching():
            await self._lifespan.__aenter__()

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with self._watching():
                await self._lifespan.__aexit__(error_type, error, traceback)
        finally:
            for task in list(self._failed):  # the loop may end before the owner's time has passed
                self._look(task)

    @contextmanager
    def _watching(self) -> Iterator[None]:
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
                task.add_done_callback(self._look_later)
            return task

        # Not for longer: a factory in Python would cost each request a hundredth of its time.
        loop.set_task_factory(create)
        token = _is_watching.set(True)
        try:
            yield
        finally:
            _is_watching.reset(token)
            if loop.get_task_factory() is create:  # else the service has set its own
                loop.set_task_factory(before)

    def _look_later(self, task: asyncio.Future[Any]) -> None:
        if not task.cancelled() and _is_unawaited(task):
            self._failed.add(task)
            task.get_loop().call_later(_PATIENCE_SECONDS, self._look, task)

    def _look(self, task: asyncio.Future[Any]) -> None:
        self._failed.discard(task)
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


def _is_unawaited(task: asyncio.Future[Any]) -> bool:
    # asyncio's own mark of an error that nothing has taken, which has no public name.
    return bool(getattr(task, "_log_traceback", False))
