"""Make the context of a handler: the request's id, its trace, and its deadline.

Log records and published messages read these context variables. Nothing else sets them for a
request. A request runs in a task with a context of its own, so they end with it.
"""

from __future__ import annotations

import math

from multidict import istr

from gizmopy.observe import logs
from gizmopy.observe.context import (
    deadline,
    new_id,
    propagated_attributes,
    request_id,
    valid_request_id,
)
from gizmopy.observe.trace import trace_context
from gizmopy.server.http.connection.served_request import ServedRequest
from gizmopy.server.http.deadlines import callers_timeout

REQUEST_ID = istr("X-Request-ID")
TRACEPARENT = istr("traceparent")


def set_request_id(request: ServedRequest) -> None:
    """Give ``request`` its id: the one in X-Request-ID if it is valid, else a random one."""
    given = request.headers.get(REQUEST_ID)
    request.request_id = (given and valid_request_id(given)) or new_id()
    request_id.set(request.request_id)


def set_trace_and_deadline(request: ServedRequest) -> float:
    """Set the trace and the deadline of ``request``.

    Returns the time (``time.monotonic()``) at which the request must be cancelled; infinite if it
    must not. Raises Problem (400) if a header has a malformed timeout.
    """
    headers, endpoint = request.headers, request.endpoint
    if TRACEPARENT in headers:
        propagated = trace_context(headers)
        propagated_attributes.set(propagated)
        request.trace_id = logs.trace_id(propagated)
    own = endpoint.timeout or math.inf
    soonest = min(own, callers_timeout(headers))
    if soonest == math.inf:
        return math.inf
    deadline.set(request.started_at + soonest)
    # The caller's timeout cancels only a handler that is also cancelled if the caller is gone. The
    # others can read the deadline, and stop at a safe point.
    return request.started_at + (soonest if endpoint.cancellable else own)
