"""Declare background work by a decorator on an async method, and find what an object declares."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, overload

from gizmopy.config.duration import format_duration
from gizmopy.declaration import (
    add_mark,
    check_async,
    declared_methods,
    read_signature,
    reports_wrong_calls,
)
from gizmopy.errors import DeclarationError
from gizmopy.untrusted.durations import DurationLike, as_seconds

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

_MARK = "__gizmo_job__"
_SHORTEST = 0.001
_LONGEST = 366 * 24 * 3600.0
_JITTER = 0.1
"""The default jitter, as a share of the interval."""
_RESERVED = {
    "workers": "a later version gives it a meaning for daemons of several processes; a daemon has "
    "one process, so remove it",
    "once": "a later version gives it a meaning for several replicas; each replica runs its own "
    "jobs, so remove it, and use a lock in your database or a scheduled job of the platform",
}


@dataclass(frozen=True, slots=True)
class EveryOptions:
    """The options of ``@every``, in seconds."""

    interval: float
    jitter: float
    timeout: float | None
    immediately: bool
    critical: bool

    @property
    def schedule(self) -> str:
        """When it runs, for people: ``every 30s``."""
        return f"every {_duration(self.interval)}"


@dataclass(frozen=True, slots=True)
class BackgroundOptions:
    """The options of ``@background``, in seconds."""

    backoff: float
    max_backoff: float
    critical: bool

    @property
    def schedule(self) -> str:
        """When it runs, for people."""
        return "in the background"


@dataclass(frozen=True, slots=True)
class DeclaredJob:
    """A method that is background work, and its name: ``Orders.expire``."""

    name: str
    method: Callable[[], Awaitable[object]]
    options: EveryOptions | BackgroundOptions


@reports_wrong_calls('@every("30s")', reserved=_RESERVED)
def every(
    interval: DurationLike,
    *,
    timeout: DurationLike | None = None,
    jitter: DurationLike | None = None,
    immediately: bool = False,
    critical: bool = False,
) -> Callable[[F], F]:
    """Run an async method without arguments again and again, once in each ``interval``.

    Durations are seconds, texts like ``"1m30s"``, or timedeltas. The intervals follow one another
    from the moment that the daemon is ready, at a fixed rate and by the monotonic clock. A run
    starts in the last ``jitter`` of its interval (default: a tenth of it), at random. With
    ``immediately`` there is a run at the start as well. Runs never overlap: one that is due while
    another has not ended is skipped and counted. A run that lasts longer than ``timeout`` is
    cancelled (default: no limit).

    An exception is logged and counted, and the next run comes when it is due. Two failures in a row
    are reported by the health, as is a run that makes others be skipped. With ``critical``, the
    daemon is not ready then; with ``immediately`` as well, it is not ready before the first
    success. A drain begins no run, and waits for the one in progress.

    Raises DeclarationError, with file and line, if the method or an option is wrong.
    """
    if callable(interval):
        reason = 'is decorated without an interval; write @every("30s")'
        raise DeclarationError(interval, reason)

    def mark(method: F) -> F:
        seconds = _seconds(method, "interval", interval)
        spread = (
            seconds * _JITTER if jitter is None else _seconds(method, "jitter", jitter, least=0)
        )
        if spread > seconds:
            reason = f"jitter={jitter!r} is longer than the interval; use at most {interval!r}"
            raise DeclarationError(method, reason)
        limit = None if timeout is None else _seconds(method, "timeout", timeout)
        _check_flags(method, immediately=immediately, critical=critical)
        return _mark(method, EveryOptions(seconds, spread, limit, immediately, critical))

    return mark


@overload
def background(function: F, /) -> F: ...
@overload
def background(
    *,
    backoff: DurationLike = "1s",
    max_backoff: DurationLike = "1m",
    critical: bool = False,
) -> Callable[[F], F]: ...
@reports_wrong_calls("@background", reserved=_RESERVED)
def background(
    function: F | None = None,
    /,
    *,
    backoff: DurationLike = "1s",
    max_backoff: DurationLike = "1m",
    critical: bool = False,
) -> F | Callable[[F], F]:
    """Run an async method without arguments for the life of the daemon.

    It starts when the daemon becomes ready. If it raises, the error is logged and counted, and it
    is started again after ``backoff``, then twice as long after each further failure, up to
    ``max_backoff``; the waits are shortened by up to half, at random. A run that lasted longer than
    ``max_backoff`` begins again with ``backoff``. If it returns, it has ended on purpose.

    It is cancelled in the drain, after the last request and message and before the exit of
    lifespan, and may use the rest of the shutdown's time to finish. Two failures in a row are
    reported by the health; with ``critical``, the daemon is not ready then.

    Durations are seconds, texts like ``"1m30s"``, or timedeltas. Raises DeclarationError, with file
    and line, if the method or an option is wrong.
    """

    def mark(method: F) -> F:
        first = _seconds(method, "backoff", backoff)
        longest = _seconds(method, "max_backoff", max_backoff)
        if longest < first:
            reason = f"max_backoff={max_backoff!r} is shorter than backoff={backoff!r}; swap them"
            raise DeclarationError(method, reason)
        _check_flags(method, critical=critical)
        return _mark(method, BackgroundOptions(first, longest, critical))

    given: Any = function  # a type checker refuses all but methods
    if given is None:
        return mark
    return mark(given) if callable(given) else _not_periodic(given)


def _not_periodic(value: object) -> Callable[[F], F]:
    """Refuse ``@background("30s")``, at its method."""

    def refuse(method: F) -> F:
        reason = f"is decorated with {value!r}; write @every({value!r}), or @background alone"
        raise DeclarationError(method, reason)

    return refuse


def _seconds(method: Any, option: str, value: DurationLike, *, least: float = _SHORTEST) -> float:
    """Return the seconds of an option. Raises DeclarationError if it is no duration in bounds."""
    try:
        seconds = as_seconds(value)
    except ValueError as error:
        raise DeclarationError(method, f"{option}: {error}") from None
    if not least <= seconds <= _LONGEST:
        bounds = f"{_duration(least)} to {_duration(_LONGEST)}"
        raise DeclarationError(method, f"{option}={value!r} is out of range; use {bounds}")
    return seconds


def _duration(seconds: float) -> str:
    return format_duration(timedelta(seconds=seconds))


def _check_flags(method: Any, **flags: object) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise DeclarationError(method, f"{name}={value!r} is not True or False")


def _mark(method: F, options: EveryOptions | BackgroundOptions) -> F:
    function: Any = getattr(method, "__func__", method)  # a static or class method wraps one
    if isinstance(method, type) or not callable(function):
        raise DeclarationError(method, f"is {method!r}; decorate an async method")
    if getattr(function, _MARK, ()):
        raise DeclarationError(method, _TWICE)
    _check_async(function)
    own = 0 if isinstance(method, staticmethod) else 1
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) > own:
        _refuse_arguments(method, [each.name for each in parameters[own:]])
    if len(parameters) < own:
        raise DeclarationError(method, "has no parameter for its object; add self")
    add_mark(method, _MARK, options)
    return method


_TWICE = "is declared as background work twice; keep one of its @every and @background"


def _check_async(function: Any) -> None:
    if inspect.isasyncgenfunction(function):
        reason = "has a 'yield', so it is an async generator; background work yields nothing"
        raise DeclarationError(function, reason)
    check_async(function)


def _refuse_arguments(method: Any, names: Iterable[str]) -> None:
    reason = (
        f"takes {', '.join(names)}, and background work takes no arguments; set them as "
        "attributes of its object"
    )
    raise DeclarationError(method, reason)


def collect_jobs(service: object, mounts: Iterable[object] = ()) -> list[DeclaredJob]:
    """Return the background work of ``service``, then that of each of ``mounts``.

    The names of two objects of one class differ by a number: ``Orders.expire``,
    ``Orders.expire-2``. Raises DeclarationError if a method is not async, or takes an argument.
    """
    found, names = [], Counter[str]()
    for owner in (service, *mounts):
        for name, method, marks in declared_methods(owner, _MARK):
            _check_async(method)
            if parameters := read_signature(method, owner).parameters:
                _refuse_arguments(method, [each.name for each in parameters])
            full = f"{type(owner).__name__}.{name}"
            names[full] += 1
            number = f"-{names[full]}" if names[full] > 1 else ""
            found.append(DeclaredJob(full + number, method, marks[0]))
    return found
