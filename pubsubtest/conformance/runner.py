"""Run the checks, each bounded in time and looked after: the one place where that is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Literal, NamedTuple

from gizmopy.errors import GizmoError
from pubsubtest.conformance import closing, consuming, handling, ordering, publishing, settling
from pubsubtest.conformance.bench import opened
from pubsubtest.conformance.checking import Check, CheckFailed, Harness

_GRACE = 5.0
"""Seconds that a check which is cancelled may take to end."""

Outcome = Literal["passed", "failed", "not applicable"]


class Result(NamedTuple):
    """How one check ended."""

    check: Check
    outcome: Outcome
    reason: str = ""
    """Why it failed, or what it needs that is not there."""
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
    files = (publishing, consuming, settling, ordering, handling, closing)
    return tuple(check for file in files for check in file.check.all)


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

    Never raises: whatever the driver does to a check is its result.
    """
    if missing := check.missing(harness, harness.open().capabilities):
        return Result(check, "not applicable", f"needs {missing}")
    begun = perf_counter()
    before = asyncio.all_tasks()
    running = asyncio.create_task(_run(check, harness, timeout / 4), name=check.name)
    await asyncio.wait((running,), timeout=timeout)
    if not running.done():
        running.cancel()
        await asyncio.wait((running,), timeout=_GRACE)
        reason = f"it took longer than {timeout:g} s"
    elif not (reason := _reason(running)):
        reason = await _left_behind(before)
    return Result(check, "failed" if reason else "passed", reason, perf_counter() - begun)


async def _run(check: Check, harness: Harness, patience: float) -> None:
    async with opened(harness, patience) as bench:
        await check.function(bench)


def _reason(ended: asyncio.Task[None]) -> str:
    """Return why a check that has ended failed, or an empty string."""
    if ended.cancelled():
        return "it was cancelled by the driver"
    error = ended.exception()
    if isinstance(error, CheckFailed):
        return str(error)
    if isinstance(error, GizmoError | OSError):
        return f"{type(error).__name__}: {error}"
    return "" if error is None else f"it raised {error!r}"


async def _left_behind(before: set[asyncio.Task[object]]) -> str:
    """Return which tasks a check has left running, or an empty string."""
    left = asyncio.all_tasks() - before
    if left:
        _, left = await asyncio.wait(left, timeout=1.0)
    names = ", ".join(sorted(task.get_name() for task in left))
    return f"tasks are left running after all was closed: {names}" if left else ""
