"""Run checks, each within a time limit, and report failures and leftover tasks."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple

from gizmopy.errors import GizmoError
from pubsubtest.conformance import (
    browsing,
    closing,
    consuming,
    draining,
    handling,
    ordering,
    portable_publisher,
    publishing,
    settling,
    waiting,
)
from pubsubtest.conformance.checking import Check, CheckFailed, Harness
from pubsubtest.conformance.context import CheckContext, bounded

_GRACE = 5.0
"""Seconds that a cancelled check may take to end."""
_FILES = (
    publishing,
    consuming,
    settling,
    ordering,
    handling,
    waiting,
    browsing,
    draining,
    portable_publisher,
    closing,
)

Outcome = Literal["passed", "failed", "not applicable"]


class Result(NamedTuple):
    """The result of one check."""

    check: Check
    outcome: Outcome
    reason: str = ""
    """The failures, a line each; or the needs that are not met."""
    seconds: float = 0.0


class Report(NamedTuple):
    """The results of all checks."""

    results: tuple[Result, ...]

    def count(self, outcome: Outcome) -> int:
        """Return how many checks ended with ``outcome``."""
        return sum(result.outcome == outcome for result in self.results)

    def __str__(self) -> str:
        """Return the summary line."""
        counts: tuple[Outcome, ...] = ("passed", "failed", "not applicable")
        return ", ".join(f"{self.count(outcome)} {outcome}" for outcome in counts)


def checks() -> tuple[Check, ...]:
    """Return every check, in the order in which they run."""
    return tuple(check for file in _FILES for check in file.check.all)


async def run(
    harness: Harness,
    *,
    only: Sequence[str] = (),
    timeout: float = 60.0,
    tell: Callable[[Result], None] = lambda _: None,
) -> Report:
    """Run the checks (those named in ``only``, or all), and call ``tell`` with each result.

    Each check has ``timeout`` seconds, and a single wait in it at most a quarter of that.
    """
    results = []
    for check in checks():
        if not only or check.name in only:
            results.append(await run_check(check, harness, timeout=timeout))
            tell(results[-1])
    return Report(tuple(results))


async def run_check(check: Check, harness: Harness, *, timeout: float = 60.0) -> Result:
    """Run one check for at most ``timeout`` seconds, and 5 more if it has to be cancelled.

    Never raises: any error of the driver is in the result. A check that ignores its cancellation is
    left running. A driver that blocks the event loop cannot be interrupted.
    """
    begun = perf_counter()
    before = asyncio.all_tasks()
    trial = _Trial(check, harness, max_wait=timeout / 4)
    running = asyncio.create_task(trial.run(), name=check.name)
    try:
        await asyncio.wait((running,), timeout=timeout)
        if not running.done():
            where = _waits_in(running.get_coro())
            trial.failures.append(f"it took longer than {timeout:g} s, and waits in {where}")
    finally:
        running.cancel()
        await asyncio.wait((running,), timeout=_GRACE)
    if not trial.failures and running.cancelled():
        trial.failures.append("it was cancelled by the driver")
    if not trial.failures:
        trial.failures += await _leftover_tasks(before)
    return trial.result(perf_counter() - begun)


@dataclass
class _Trial:
    """One check that is running, and its failures so far."""

    check: Check
    harness: Harness
    max_wait: float
    lacks: str = ""
    failures: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Open a driver, run the check if it applies, then close and remove everything."""
        try:
            async with AsyncExitStack() as topics, AsyncExitStack() as ends:
                driver = self.harness.open()
                ends.push_async_callback(bounded, driver.aclose, self.max_wait)
                self.lacks = self.check.missing(self.harness, driver.capabilities)
                if not self.lacks:
                    context = CheckContext(self.harness, driver, self.max_wait, topics, ends)
                    await self._check(context)
        except Exception as error:  # noqa: BLE001 - any error of a driver is a result
            self._note(error)

    async def _check(self, context: CheckContext) -> None:
        """Run the check, and keep its failure: closing may fail too."""
        try:
            await context.provision(context.topic)
            await self.check.function(context)
        except Exception as error:  # noqa: BLE001 - any error of a driver is a result
            self._note(error)

    def _note(self, error: Exception) -> None:
        """Keep a failure once: a close may repeat it."""
        if (reason := _describe(error)) not in self.failures:
            self.failures.append(reason)

    def result(self, seconds: float) -> Result:
        """Return the result."""
        if self.failures:
            return Result(self.check, "failed", "\n".join(self.failures), seconds)
        if self.lacks:
            return Result(self.check, "not applicable", f"needs {self.lacks}", seconds)
        return Result(self.check, "passed", "", seconds)


def _describe(error: Exception) -> str:
    """Return the text of a failure; for an error that the check did not raise, with its place."""
    while isinstance(error, ExceptionGroup):  # the first failure of a TaskGroup
        error = error.exceptions[0]
    if isinstance(error, CheckFailed):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}" if isinstance(error, GizmoError) else repr(error)
    return f"{what}, raised in {last.name} ({Path(last.filename).name}:{last.lineno})"


def _waits_in(coroutine: Any) -> str:
    """Return the innermost function that a coroutine waits in, asyncio's own left out."""
    where = "a call that is not a coroutine"
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        file = Path(frame.f_code.co_filename)
        if file.parent.name != "asyncio":
            where = f"{frame.f_code.co_qualname} ({file.name}:{frame.f_lineno})"
        coroutine = coroutine.cr_await
    return where


async def _leftover_tasks(before: set[asyncio.Task[object]]) -> list[str]:
    """Return a failure if the check left tasks running."""
    left = asyncio.all_tasks() - before
    if left:
        _, left = await asyncio.wait(left, timeout=1.0)
    names = ", ".join(sorted(task.get_name() for task in left))
    return [f"tasks are left running after all was closed: {names}"] if left else []
