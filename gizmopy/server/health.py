"""Say whether the daemon lives and whether it is ready, to whoever asks.

``/livez`` never looks at what the daemon depends on: restarting a process does not mend its
database. ``/readyz`` and Gizmo's ``/status.txt`` are red while the daemon starts or drains, and
while a critical check fails.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, overload

from gizmopy.declaration import read_signature
from gizmopy.errors import DeclarationError, PubSubError
from gizmopy.pubsub import Channels, Subscription

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Awaitable[None]])

_MARK = "__gizmo_health_check__"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One check: an async function without arguments that raises when it is ill."""

    name: str
    function: Callable[[], Awaitable[None]]
    critical: bool
    timeout: float


@overload
def health_check(function: F, /) -> F: ...
@overload
def health_check(*, critical: bool = False, timeout: float = 2.0) -> Callable[[F], F]: ...
def health_check(
    function: F | None = None, /, *, critical: bool = False, timeout: float = 2.0
) -> F | Callable[[F], F]:
    """Mark an async method without arguments as a health check, named after the method.

    It is healthy when it returns, ill when it raises or takes longer than ``timeout`` seconds. A
    ``critical`` check that fails makes the daemon unready. Others are reported only, by
    ``/readyz?verbose``: one shared database must not take every replica out of service at once.
    """

    def mark(method: F) -> F:
        setattr(method, _MARK, (critical, timeout))
        return method

    return mark if function is None else mark(function)


def collect_health_checks(service: object) -> list[HealthCheck]:
    """Return the health checks that ``service`` declares, by name.

    Raises DeclarationError where a check is not async or takes an argument.
    """
    checks = []
    for name, function in inspect.getmembers_static(type(service), inspect.isfunction):
        options: Any = getattr(function, _MARK, None)
        if options is not None:
            method = getattr(service, name)
            if read_signature(method).parameters:
                raise DeclarationError(method, "a health check takes no arguments")
            checks.append(HealthCheck(name, method, *options))
    return checks


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

    checks = [HealthCheck("brokers", reached, critical=True, timeout=1.0)] if subscriptions else []
    for each in subscriptions:
        name = f"{each.channel}/{each.subscription}"
        red = critical or each.critical
        checks.append(HealthCheck(name, partial(consumed, each), critical=red, timeout=1.0))
        if each.order != "none" and not each.dead_letter:
            checks.append(HealthCheck(f"{name} order", partial(flowing, each), False, timeout=1.0))
    return checks


class Health:
    """Run the checks and hold whether the server wants work (``accepting``)."""

    def __init__(self, checks: list[HealthCheck]) -> None:
        self._checks = checks
        self.accepting = False
        self.reason = "starting"
        """Why the server wants no work, where it wants none."""

    async def problems(self) -> list[str]:
        """Return why the daemon is not ready; an empty list where it is.

        Critical checks run at the same time, each within its own timeout.
        """
        if not self.accepting:
            return [self.reason]
        critical = [check for check in self._checks if check.critical]
        found = await asyncio.gather(*map(_failure, critical))
        return [failure for failure in found if failure]

    async def report(self) -> list[tuple[str, str]]:
        """Return every check's name with ``ok`` or why it failed."""
        found = await asyncio.gather(*map(_failure, self._checks))
        pairs = zip(self._checks, found, strict=True)
        return [(check.name, failure or "ok") for check, failure in pairs]


async def _failure(check: HealthCheck) -> str:
    """Return how ``check`` failed, without the error's text, or an empty string.

    The text is for the log: it may hold what a stranger must not read.
    """
    try:
        async with asyncio.timeout(check.timeout):
            await check.function()
    except TimeoutError:
        logger.warning("health check %s took longer than %gs", check.name, check.timeout)
        return f"{check.name} timed out"
    except Exception as error:  # noqa: BLE001 -- whatever a check raises means ill
        logger.warning("health check %s failed: %r", check.name, error)
        return f"{check.name} failed"
    return ""
