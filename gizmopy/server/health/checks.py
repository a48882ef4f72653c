"""Decide whether the daemon is ready, from health checks that run in the background.

A probe is answered from the last results: Kubernetes waits one second for a response, so a slow
database must not delay it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Self, TypeVar, get_args, overload

from gizmopy.declaration import add_mark, declared_methods, read_signature
from gizmopy.errors import DeclarationError, source_of
from gizmopy.untrusted.durations import DurationLike, as_seconds
from gizmopy.untrusted.error_text import describe_error

logger = logging.getLogger("gizmopy.server.health")

F = TypeVar("F", bound=Callable[..., Awaitable[None]])
Group = Literal["ready", "startup"]

_MARK = "__gizmo_health_check__"
_NOT_RUN = "not run yet"
_STARTUP_SECONDS = 1.0
"""The longest pause between two runs until the critical startup checks have passed."""
_END_SECONDS = 1.0
"""The time for cancelled checks to end."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A check: an async function without arguments that raises if the daemon is unhealthy."""

    name: str
    function: Callable[[], Awaitable[None]]
    critical: bool
    timeout: float
    group: Group = "ready"
    on_demand: bool = False
    """Whether it runs for each probe instead of in the background; it must not wait then."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The last result of a check."""

    name: str
    critical: bool
    failure: str | None
    """None if it passed, else ``failed``, ``timed out`` or ``not run yet``.

    It is never the text of the error, which may hold a secret and is sent to any client that asks.
    The log has the text.
    """
    time: float
    """The time of the result, in seconds since 1970."""


@overload
def health_check(function: F, /) -> F: ...
@overload
def health_check(
    *, critical: bool = False, timeout: DurationLike = 2.0, group: Group = "ready"
) -> Callable[[F], F]: ...
def health_check(
    function: F | None = None,
    /,
    *,
    critical: bool = False,
    timeout: DurationLike = 2.0,
    group: Group = "ready",
) -> F | Callable[[F], F]:
    """Mark an async method without arguments as a health check, named after the method.

    It passes if it returns, and fails if it raises or takes longer than ``timeout``, a number of
    seconds, a text such as ``500ms``, or a timedelta. The
    daemon is not ready while a ``critical`` check fails. Other checks are only reported, by
    ``/readyz?verbose``: one shared database must not take every replica out of service at once. A
    check of the group ``startup`` counts until it has passed once, and does not run again.
    """

    def mark(method: F) -> F:
        try:
            seconds = as_seconds(timeout)
        except ValueError as error:
            raise DeclarationError(method, f"timeout: {error}") from None
        add_mark(method, _MARK, (critical, seconds, group))
        return method

    return mark if function is None else mark(function)


_BUILT_IN = ("brokers", "publishers")


def collect_health_checks(service: object, mounts: Iterable[object] = ()) -> list[HealthCheck]:
    """Return the health checks that ``service`` and ``mounts`` declare, by name.

    Raises DeclarationError if a check is not async or takes an argument, if its timeout is not
    above 0, if its group is unknown, and if its name is that of a built-in check, or of another.
    """
    found: dict[str, HealthCheck] = {}
    for owner in (service, *mounts):
        for name, function, marks in declared_methods(owner, _MARK):
            check = HealthCheck(name, function, *marks[0])
            _validate(check)
            if (other := found.setdefault(name, check)) is not check:
                where = source_of(other.function)
                reason = f"another health check is called {name!r}: {where}; rename one of them"
                raise DeclarationError(function, reason)
    return [found[name] for name in sorted(found)]


def _validate(check: HealthCheck) -> None:
    if read_signature(check.function).parameters:
        raise DeclarationError(check.function, "a health check takes no arguments")
    if check.name in _BUILT_IN:
        raise DeclarationError(check.function, f"{check.name!r} is a built-in check; rename it")
    if not check.timeout > 0:
        reason = f"timeout={check.timeout:g} lets no check pass; use seconds above 0"
        raise DeclarationError(check.function, reason)
    if check.group not in get_args(Group):
        reason = f"group={check.group!r} is unknown; use 'ready' or 'startup'"
        raise DeclarationError(check.function, reason)


class Health:
    """Run health checks, keep their last results, and know whether the daemon accepts work.

    Enter it after the resources that the checks use are open. While the context lasts, a task runs
    each check every ``interval`` seconds. A check that has not ended is not started again, and
    delays no other. A change from passing to failing, and back, is logged once. ``clock`` returns
    the seconds since 1970.
    """

    def __init__(
        self,
        checks: Iterable[HealthCheck],
        *,
        interval: float = 10.0,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.accepting = False
        self.reason = "starting"
        """Why the daemon is not ready while ``accepting`` is false."""
        self._checks = tuple(checks)
        self._interval = interval
        self._clock = clock
        self._sleep = sleep
        self._results = {check: self._result(check, _NOT_RUN) for check in self._checks}
        self._running: dict[HealthCheck, asyncio.Task[Exception | None]] = {}
        self._not_run = {check for check in self._checks if not check.on_demand}
        self._all_have_run = asyncio.Event()
        if not self._not_run:
            self._all_have_run.set()

    async def __aenter__(self) -> Self:
        self._refresher = asyncio.create_task(self._refresh(), name="gizmopy-health")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._refresher.cancel()
        # The refresher cancels the checks that run. A check may ignore that: do not wait for ever.
        await asyncio.wait((self._refresher, *self._running.values()), timeout=_END_SECONDS)
        for check in self._running:
            logger.error("health check %s ignores its cancellation and still runs", check.name)

    def reasons(self, results: Iterable[CheckResult]) -> list[str]:
        """Return why the daemon is not ready, if only ``results`` count; empty if it is ready."""
        if not self.accepting:
            return [self.reason]
        return [f"{each.name} {each.failure}" for each in results if each.critical and each.failure]

    async def results(self) -> list[CheckResult]:
        """Return the last result of each check.

        While the daemon accepts work, it waits until each check has run once.
        """
        # While the daemon refuses work, the response does not depend on the checks. One of them may
        # wait for a dependency that is down, and the probe must not time out.
        if self.accepting:
            await self._all_have_run.wait()
        for check in self._checks:
            if check.on_demand:
                self._record(check, await _attempt(check))
        return list(self._results.values())

    async def _refresh(self) -> None:
        """Start the checks that are due, again and again."""
        # One task for each check, so that a slow check delays no other.
        async with asyncio.TaskGroup() as runs:
            while True:
                for check in self._due():
                    runs.create_task(self._run(check), name=f"gizmopy-health {check.name}")
                await self._sleep(self._pause())

    def _due(self) -> list[HealthCheck]:
        background = (check for check in self._checks if not check.on_demand)
        return [c for c in background if c not in self._running and not self._is_over(c)]

    def _is_over(self, check: HealthCheck) -> bool:
        """Return whether ``check`` is a startup check that has passed."""
        return check.group == "startup" and self._results[check].failure is None

    def _pause(self) -> float:
        startup = (check for check in self._checks if check.critical and check.group == "startup")
        if all(map(self._is_over, startup)):
            return self._interval
        return min(self._interval, _STARTUP_SECONDS)

    async def _run(self, check: HealthCheck) -> None:
        """Run a check, and record its result."""
        # In a task of its own, and not in asyncio.timeout(): a check that ignores its cancellation
        # would never return, and its failure would never be recorded.
        task = asyncio.create_task(_attempt(check), name=f"health check {check.name}")
        self._running[check] = task
        task.add_done_callback(lambda _: self._running.pop(check))
        try:
            await asyncio.wait((task,), timeout=check.timeout)
        finally:
            task.cancel()
        self._record(check, _error(task, check.timeout))
        self._not_run.discard(check)
        if not self._not_run:
            self._all_have_run.set()

    def _record(self, check: HealthCheck, error: BaseException | None) -> None:
        """Keep the result of a check, and log a change."""
        had_failed = self._results[check].failure not in (None, _NOT_RUN)
        if error is None:
            self._results[check] = self._result(check, None)
            if had_failed:
                logger.info("health check %s passes again", check.name)
            return
        failure = "timed out" if isinstance(error, TimeoutError) else "failed"
        self._results[check] = self._result(check, failure)
        if not had_failed:
            logger.warning("health check %s %s: %s", check.name, failure, describe_error(error))

    def _result(self, check: HealthCheck, failure: str | None) -> CheckResult:
        return CheckResult(check.name, check.critical, failure, self._clock())


def _error(task: asyncio.Task[Exception | None], timeout: float) -> BaseException | None:
    """Return the error of a check that had ``timeout`` seconds; None if it passed."""
    if not task.done():
        return TimeoutError(f"it took longer than {timeout:g} s")
    return asyncio.CancelledError() if task.cancelled() else task.result()


async def _attempt(check: HealthCheck) -> Exception | None:
    """Run a check, and return the exception that it raises."""
    try:
        await check.function()
    except Exception as error:  # noqa: BLE001 -- any exception means that the check failed
        return error
    return None
