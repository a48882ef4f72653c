"""Read how long a caller waits, and enforce the deadlines of requests.

A timer for each request would cost several microseconds, and nearly all of them would be cancelled.
One timer serves all requests: when it fires, it reports each item whose deadline has passed, and it
is set to the earliest deadline that is left. Requests with the same timeout arrive in the order of
their deadlines, so the timer is seldom set.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from multidict import istr

from gizmopy.config.duration import parse_duration
from gizmopy.web import Problem

T = TypeVar("T")

REQUEST_TIMEOUT = istr("X-Request-Timeout")
GRPC_TIMEOUT = istr("grpc-timeout")
_GRPC_DURATION = re.compile(r"([0-9]{1,8})([HMSmun])").fullmatch
_GRPC_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class Deadlines(Generic[T]):
    """Call ``expire`` with each item whose deadline passes before the item is removed."""

    def __init__(self, expire: Callable[[T], None]) -> None:
        self._expire = expire
        self._deadlines: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = math.inf

    def add(self, item: T, deadline: float) -> None:
        """Set the deadline of ``item``, in the event loop's time."""
        self._deadlines[item] = deadline
        if deadline < self._next:
            self._set_timer(deadline)

    def remove(self, item: T) -> None:
        """Remove the deadline of ``item``, if it has one."""
        self._deadlines.pop(item, None)

    def close(self) -> None:
        """Remove all deadlines, and cancel the timer."""
        self._deadlines.clear()
        self._set_timer(math.inf)

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = deadline
        loop = asyncio.get_running_loop()
        self._timer = None if deadline == math.inf else loop.call_at(deadline, self._fire)

    def _fire(self) -> None:
        # A timer may fire a little early: without max() its item would wait for a second one.
        now = max(self._next, asyncio.get_running_loop().time())
        overdue = [item for item, deadline in self._deadlines.items() if deadline <= now]
        for item in overdue:
            del self._deadlines[item]
        self._timer = None
        self._set_timer(min(self._deadlines.values(), default=math.inf))
        for item in overdue:
            self._expire(item)


def callers_timeout(headers: Mapping[str, str]) -> float:
    """Return how many seconds the caller waits; infinite if the headers do not say.

    X-Request-Timeout has seconds or a Go duration. grpc-timeout has gRPC's format (the Requests
    section of its HTTP/2 protocol), which gRPC gateways send. If both are there, X-Request-Timeout
    counts. Raises Problem (400) if the header is malformed.
    """
    given = headers.get(REQUEST_TIMEOUT)
    if given is None:
        given = headers.get(GRPC_TIMEOUT)
        if given is None:
            return math.inf
        found = _GRPC_DURATION(given)
        if found is None:
            detail = "grpc-timeout is not a duration; write digits and a unit, as in 500m."
            raise Problem(400, detail)
        return int(found[1]) * _GRPC_UNITS[found[2]]
    try:
        return parse_duration(given).total_seconds()
    except ValueError as error:
        detail = "X-Request-Timeout is not a duration; write seconds, or 500ms."
        raise Problem(400, detail) from error
