"""Find the causes of an error that ended a request: those in a group, and an expired deadline."""

from __future__ import annotations

import asyncio
import re
from time import monotonic

from gizmopy.observe.context import deadline
from gizmopy.server.http.connection.served_request import CancelReason, ServedRequest

_MAX_CHAIN = 32
"""The most errors of a chain that are looked at."""
_TIMEOUT_NAME = re.compile(r"Time[d]?[Oo]ut|Deadline").search
_SLACK_SHARE, _LEAST_SLACK, _MOST_SLACK = 0.1, 0.005, 0.1
"""How early a timeout may expire: a tenth of the request's time, within these seconds."""


def is_overdue(request: ServedRequest) -> bool:
    """Return whether the deadline of ``request`` has passed, or passes now.

    uvloop's clock stands still while Python runs. ``asyncio.timeout(time_left())`` expires early by
    the time that the handler used the CPU before, so a little before the deadline counts as well.
    """
    if request.cancel_reason is CancelReason.TIMED_OUT:
        return True
    at = deadline.get()
    if at is None:
        return False
    share = (at - request.started_at) * _SLACK_SHARE
    return monotonic() >= at - min(max(share, _LEAST_SLACK), _MOST_SLACK)


def came_of_timeout(error: BaseException) -> bool:
    """Return whether a timeout or a cancellation is in the chain of ``error``.

    Most libraries raise a TimeoutError. Others, such as httpx, redis and gRPC, have a class of
    their own, which is recognized by its name or by its code.
    """
    chained: BaseException | None = error
    for _ in range(_MAX_CHAIN):
        if chained is None:
            return False
        if isinstance(chained, TimeoutError | asyncio.CancelledError) or _is_named_so(chained):
            return True
        chained = chained.__cause__ or chained.__context__
    return False


def _is_named_so(error: BaseException) -> bool:
    if any(_TIMEOUT_NAME(each.__name__) for each in type(error).__mro__):
        return True
    code = getattr(error, "code", None)  # a gRPC call's method, whose class is always the same
    if not callable(code):
        return False
    try:
        return getattr(code(), "name", "") == "DEADLINE_EXCEEDED"
    except Exception:  # noqa: BLE001 -- it is another library's method of that name
        return False
