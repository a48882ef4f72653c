"""Run the checks, each bounded in time and looked after: the one place where that is done."""

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
    closing,
    consuming,
    draining,
    handling,
    ordering,
    portable_publisher,
    publishing,
    settling,
)
from pubsubtest.conformance.checking import Check, CheckFailed, Harness
from pubsubtest.conformance.context import Bench, bounded

_GRACE = 5.0
"""Seconds that a check which is cancelled may take to end."""
_FILES = (
    publishing,
    consuming,
    settling,
    ordering,
    handling,
    draining,
    portable_publisher,
    closing,
)

Outcome = Literal["passed", "failed", "not applicable"]


class Result(NamedTuple):
    """How one check ended."""

    check: Check
    outcome: Outcome
    reason: str = ""
    """Why it failed, a line for each thing that went wrong; or what it needs that is not there."""
    seconds: float = 0.0


class Report(NamedTuple):
    """How all of them ended."""

    results: tuple[Result, ...]

    def count(self, outcome: Outcome) -> int:
        """Return how many ended so."""
        return sum(result.outcome == outcome for result in self.results)

    def __str__(self) -> str:
        """Return the last line of a report."""
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
    """Run the checks (those named in ``only``, or all), and ``tell`` of each as it ends.

    Each has ``timeout`` seconds, and waits at most a quarter of that for anything single.
    """
    results = []
    for check in checks():
        if not only or check.name in only:
            results.append(await run_check(check, harness, timeout=timeout))
            tell(results[-1])
    return Report(tuple(results))


async def run_check(check: Check, harness: Harness, *, timeout: float = 60.0) -> Result:
    """Run one check, for at most ``timeout`` seconds and a few more where it has to be cancelled.

    Never raises: whatever the driver does to a check is its result. A check that does not heed its
    cancellation is left behind. Only what blocks the event loop itself cannot be bounded from here.
    """
    begun = perf_counter()
    before = asyncio.all_tasks()
    trial = _Trial(check, harness, patience=timeout / 4)
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
        trial.failures += await _left_behind(before)
    return trial.result(perf_counter() - begun)


@dataclass
class _Trial:
    """One check at work, and what is wrong so far."""

    check: Check
    harness: Harness
    patience: float
    lacks: str = ""
    failures: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Open a driver, run the check if it applies, then close and remove all of it."""
        try:
            async with AsyncExitStack() as topics, AsyncExitStack() as ends:
                driver = self.harness.open()
                ends.push_async_callback(bounded, driver.aclose, self.patience)
                self.lacks = self.check.missing(self.harness, driver.capabilities)
                if not self.lacks:
                    bench = Bench(self.harness, driver, self.patience, topics, ends)
                    await self._check(bench)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises is a result
            self._note(error)

    async def _check(self, bench: Bench) -> None:
        """Run the check; what it fails of is kept, as closing may fail too."""
        try:
            await bench.make(bench.topic)
            await self.check.function(bench)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises is a result
            self._note(error)

    def _note(self, error: Exception) -> None:
        """Keep what went wrong, once: a close may fail of the same."""
        if (told := _told(error)) not in self.failures:
            self.failures.append(told)

    def result(self, seconds: float) -> Result:
        """Return how it ended."""
        if self.failures:
            return Result(self.check, "failed", "\n".join(self.failures), seconds)
        if self.lacks:
            return Result(self.check, "not applicable", f"needs {self.lacks}", seconds)
        return Result(self.check, "passed", "", seconds)


def _told(error: Exception) -> str:
    """Return what went wrong, and where, if it is no more than the check's own words."""
    while isinstance(error, ExceptionGroup):  # of the tasks of a check, the first to fail
        error = error.exceptions[0]
    if isinstance(error, CheckFailed):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}" if isinstance(error, GizmoError) else repr(error)
    return f"{what}, raised in {last.name} ({Path(last.filename).name}:{last.lineno})"


def _waits_in(coroutine: Any) -> str:
    """Return the innermost function that a coroutine waits in, asyncio's own left out."""
    where = "a call that cannot be seen from here"
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        file = Path(frame.f_code.co_filename)
        if file.parent.name != "asyncio":
            where = f"{frame.f_code.co_qualname} ({file.name}:{frame.f_lineno})"
        coroutine = coroutine.cr_await
    return where


async def _left_behind(before: set[asyncio.Task[object]]) -> list[str]:
    """Return which tasks a check has left running."""
    left = asyncio.all_tasks() - before
    if left:
        _, left = await asyncio.wait(left, timeout=1.0)
    names = ", ".join(sorted(task.get_name() for task in left))
    return [f"tasks are left running after all was closed: {names}"] if left else []
