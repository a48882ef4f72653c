"""Say whether the daemon is ready, from checks that run in the background.

A probe is answered from what the checks said last: Kubernetes gives it a second, and a database
that is slow to answer must not make it late.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self, TypeVar, get_args, overload

from gizmopy.declaration import read_signature
from gizmopy.errors import DeclarationError, PubSubError
from gizmopy.pubsub import Channels, Subscription
from gizmopy.untrusted.error_text import named

logger = logging.getLogger("gizmopy.server.health")

F = TypeVar("F", bound=Callable[..., Awaitable[None]])
Group = Literal["ready", "startup"]

_MARK = "__gizmo_health_check__"
_NOT_RUN = "not run yet"
_STARTUP_SECONDS = 1.0
"""How often the checks run, at least, until the critical ones of the start have passed."""
_END_SECONDS = 1.0
"""How long cancelled checks may take to end."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One check: an async function without arguments that raises when it is ill."""

    name: str
    function: Callable[[], Awaitable[None]]
    critical: bool
    timeout: float
    group: Group = "ready"
    live: bool = False
    """Whether it runs at each question instead of in the background; it must not wait then."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a check said."""

    name: str
    critical: bool
    failure: str
    """Empty where it is well, else ``failed``, ``timed out`` or ``not run yet``.

    It is never the error's text, which may hold what a stranger must not read; the log has it.
    """
    time: float
    """When it said so, in seconds since 1970."""


@overload
def health_check(function: F, /) -> F: ...
@overload
def health_check(
    *, critical: bool = False, timeout: float = 2.0, group: Group = "ready"
) -> Callable[[F], F]: ...
def health_check(
    function: F | None = None,
    /,
    *,
    critical: bool = False,
    timeout: float = 2.0,
    group: Group = "ready",
) -> F | Callable[[F], F]:
    """Mark an async method without arguments as a health check, named after the method.

    It is healthy when it returns, ill when it raises or takes longer than ``timeout`` seconds. A
    ``critical`` check that fails makes the daemon unready. Others are reported only, by
    ``/readyz?verbose``: one shared database must not take every replica out of service at once.
    One of the group ``startup`` counts until it has passed once, and is not run again then.
    """

    def mark(method: F) -> F:
        setattr(method, _MARK, (critical, timeout, group))
        return method

    return mark if function is None else mark(function)


_BUILT_IN = ("brokers", "publishers")


def collect_health_checks(service: object) -> list[HealthCheck]:
    """Return the health checks that ``service`` declares, by name.

    Raises DeclarationError where a check is not async or takes an argument, where its timeout is
    not above 0, and where its group is none.
    """
    checks = []
    for name, function in inspect.getmembers_static(type(service), inspect.isfunction):
        options: Any = getattr(function, _MARK, None)
        if options is not None:
            checks.append(_checked(HealthCheck(name, getattr(service, name), *options)))
    return checks


def _checked(check: HealthCheck) -> HealthCheck:
    if read_signature(check.function).parameters:
        raise DeclarationError(check.function, "a health check takes no arguments")
    if check.name in _BUILT_IN:
        raise DeclarationError(check.function, f"{check.name!r} is a built-in check; rename it")
    if not check.timeout > 0:
        reason = f"timeout={check.timeout!r} lets no check pass; give seconds above 0"
        raise DeclarationError(check.function, reason)
    if check.group not in get_args(Group):
        reason = f"group={check.group!r} is unknown; use 'ready' or 'startup'"
        raise DeclarationError(check.function, reason)
    return check


def subscription_checks(
    channels: Channels, subscriptions: Sequence[Subscription], *, critical: bool
) -> list[HealthCheck]:
    """Return the checks of what is consumed.

    Until every broker was reached once, the daemon is not ready. After that a subscription that
    does not work makes it so only where it says ``critical``, or where all of them are
    (``critical``): a broker's outage must not take every replica out of HTTP.
    """

    async def reached() -> None:
        if problems := channels.unreached():
            raise PubSubError("; ".join(problems), transient=True)

    async def consumed(subscription: Subscription) -> None:
        if problem := channels.problem(subscription):
            raise PubSubError(problem, transient=True)

    async def flowing(subscription: Subscription) -> None:
        if stuck := channels.stuck(subscription):
            reason = f"{stuck} messages hold up their lanes; give it dead_letter="
            raise PubSubError(reason, transient=False)

    live = partial(HealthCheck, timeout=1.0, live=True)
    checks = [live("brokers", reached, critical=True)] if subscriptions else []
    for each in subscriptions:
        name = f"{each.channel}/{each.subscription}"
        checks.append(live(name, partial(consumed, each), critical=critical or each.critical))
        if each.order != "none" and not each.dead_letter:
            checks.append(live(f"{name} order", partial(flowing, each), critical=False))
    return checks


def publisher_check(channels: Channels) -> HealthCheck:
    """Return the check of what is published: ill while a broker takes no messages.

    It is not critical: a broker's outage must not take every replica out of HTTP.
    """

    async def sent() -> None:
        if problems := channels.unpublished():
            raise PubSubError("; ".join(problems), transient=True)

    return HealthCheck("publishers", sent, critical=False, timeout=1.0, live=True)


class Health:
    """Know what the checks said last, and hold whether the server wants work (``accepting``).

    Enter it once what the checks look at is open. While the context lasts, a task of its own runs
    them every ``interval`` seconds, each by itself: one that has not ended is not begun again, and
    holds no other up; before that they have not run. A check's change from well to ill and back is
    logged once. ``clock`` tells the seconds since 1970.
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
        """Why the server wants no work, where it wants none."""
        self._checks = tuple(checks)
        self._interval = interval
        self._clock = clock
        self._sleep = sleep
        self._results = {check: self._result(check, _NOT_RUN) for check in self._checks}
        self._running: dict[HealthCheck, asyncio.Task[Exception | None]] = {}
        self._unheard = {check for check in self._checks if not check.live}
        self._all_heard = asyncio.Event()
        """Set once every check in the background has said something."""
        if not self._unheard:
            self._all_heard.set()

    async def __aenter__(self) -> Self:
        self._refresher = asyncio.create_task(self._refresh(), name="gizmopy-health")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._refresher.cancel()
        await asyncio.wait((self._refresher, *self._running.values()), timeout=_END_SECONDS)
        for check in self._running:
            logger.error("health check %s was cancelled, and goes on", check.name)

    def reasons(self, results: Iterable[Result]) -> list[str]:
        """Return why the daemon is not ready, if ``results`` are all that counts."""
        if not self.accepting:
            return [self.reason]
        return [_problem(each) for each in results if each.critical and each.failure]

    async def results(self) -> list[Result]:
        """Return what each check said last.

        Nothing is waited for but the first run, and that only where the server wants work.
        """
        if self.accepting:
            await self._all_heard.wait()
        for check in self._checks:
            if check.live:
                self._hear(check, await _attempt(check))
        return list(self._results.values())

    async def _refresh(self) -> None:
        """Run what is due, again and again, without waiting for it."""
        async with asyncio.TaskGroup() as runs:
            while True:
                for check in self._due():
                    runs.create_task(self._run(check), name=f"gizmopy-health {check.name}")
                await self._sleep(self._pause())

    def _due(self) -> list[HealthCheck]:
        background = (check for check in self._checks if not check.live)
        return [c for c in background if c not in self._running and not self._is_over(c)]

    def _is_over(self, check: HealthCheck) -> bool:
        """Say whether a check of the start has passed."""
        return check.group == "startup" and not self._results[check].failure

    def _pause(self) -> float:
        start = (check for check in self._checks if check.critical and check.group == "startup")
        if all(map(self._is_over, start)):
            return self._interval
        return min(self._interval, _STARTUP_SECONDS)

    async def _run(self, check: HealthCheck) -> None:
        """Run a check in a task of its own, which is left alone where it ignores cancellation."""
        task = asyncio.create_task(_attempt(check), name=f"health check {check.name}")
        self._running[check] = task
        task.add_done_callback(lambda _: self._running.pop(check))
        try:
            await asyncio.wait((task,), timeout=check.timeout)
        finally:
            task.cancel()
        self._hear(check, _error(task, check.timeout))
        self._unheard.discard(check)
        if not self._unheard:
            self._all_heard.set()

    def _hear(self, check: HealthCheck, error: BaseException | None) -> None:
        """Keep what a check said, and log it where that is news."""
        was_ill = self._results[check].failure not in ("", _NOT_RUN)
        if error is None:
            self._results[check] = self._result(check, "")
            if was_ill:
                logger.info("health check %s is well again", check.name)
            return
        failure = "timed out" if isinstance(error, TimeoutError) else "failed"
        self._results[check] = self._result(check, failure)
        if not was_ill:
            logger.warning("health check %s %s: %s", check.name, failure, named(error))

    def _result(self, check: HealthCheck, failure: str) -> Result:
        return Result(check.name, check.critical, failure, self._clock())


def _problem(result: Result) -> str:
    return f"{result.name} {result.failure}"


def _error(task: asyncio.Task[Exception | None], timeout: float) -> BaseException | None:
    """Return what is wrong with a check that was given ``timeout`` seconds."""
    if not task.done():
        return TimeoutError(f"it took longer than {timeout:g} s")
    return asyncio.CancelledError() if task.cancelled() else task.result()


async def _attempt(check: HealthCheck) -> Exception | None:
    """Run a check, and return what it raises: whatever that is, it means ill."""
    try:
        await check.function()
    except Exception as error:  # noqa: BLE001 -- see above
        return error
    return None
