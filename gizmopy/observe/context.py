"""The request, message or job that a task serves, for log records and published messages."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the current request, or of the request that the current message is a result of; else
an empty string. It is added to every message that the current task publishes."""

message_id: ContextVar[str] = ContextVar("message_id", default="")
"""The id of the current message, or an empty string."""

job_name: ContextVar[str] = ContextVar("job_name", default="")
"""The name of the background work whose run this is, or an empty string."""

propagated_attributes: ContextVar[Mapping[str, str]] = ContextVar(
    "propagated_attributes", default=MappingProxyType({})
)
"""Attributes that are added to every message that the current task publishes, unless the call sets
them itself: the trace context (``traceparent``, ``tracestate``), a correlation id."""

deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
"""The deadline of the current request (``time.monotonic()``), or None without one."""


def time_left() -> float | None:
    """Return the seconds until the deadline of the current request.

    It is None without a deadline, also in a message handler, and negative after it. At the
    deadline, the request is answered with 504 or its client has given up. Use it as the timeout of
    calls to other services.
    """
    at = deadline.get()
    return None if at is None else at - time.monotonic()


_is_request_id = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}").fullmatch


def valid_request_id(given: str) -> str:
    """Return ``given``, or an empty string unless it is well-formed.

    Its sender chooses it, and it goes into the logs and the messages of other services.
    """
    return given if _is_request_id(given) else ""


_BATCH = 256
_pool: list[str] = []


def new_id() -> str:
    """Return 32 random hexadecimal digits.

    One read of the system's random numbers makes 256 ids, at a fifth of the cost of a UUID. A
    forked child would repeat the ids of its parent, so a fork empties the pool.
    """
    # pop() is atomic, so two threads never get the same id. An `if _pool:` before it would not be.
    try:
        return _pool.pop()
    except IndexError:
        _pool.extend(os.urandom(16 * _BATCH).hex(" ", 16).split())
        return _pool.pop()


os.register_at_fork(after_in_child=_pool.clear)
