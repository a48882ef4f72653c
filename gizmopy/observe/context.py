"""Say what the running code belongs to: every log record says it, and what is published."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request being served, or an empty string."""

message_id: ContextVar[str] = ContextVar("message_id", default="")
"""The id of the message being handled, or an empty string."""

propagated_attributes: ContextVar[Mapping[str, str]] = ContextVar(
    "propagated_attributes", default=MappingProxyType({})
)
"""Attributes that are added to every message that the current task publishes, unless the call sets
them itself: the trace context (``traceparent``, ``tracestate``), a correlation id."""

deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
"""When the work at hand has to be done (``time.monotonic()``), or None where nothing bounds it."""


def time_left() -> float | None:
    """Return the seconds until the request at hand is answered with 504, or its caller gave up.

    None where nothing bounds it; negative once it is over. Pass it on to what is called.
    """
    at = deadline.get()
    return None if at is None else at - time.monotonic()


_BATCH = 256
_pool: list[str] = []


def new_id() -> str:
    """Return 32 random hexadecimal digits.

    Ids are cut from one read of the system's random numbers for 256 of them: a fifth of the cost
    of a UUID. A forked process would repeat the pool of its parent, so it is emptied on a fork.
    """
    try:
        return _pool.pop()
    except IndexError:
        _pool.extend(os.urandom(16 * _BATCH).hex(" ", 16).split())
        return _pool.pop()


os.register_at_fork(after_in_child=_pool.clear)
