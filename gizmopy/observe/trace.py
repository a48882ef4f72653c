"""Pass on the W3C trace context of a message: who began the work that it is part of."""

from __future__ import annotations

import re
from collections.abc import Mapping

_TRACEPARENT = re.compile(
    r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"|(?!00|ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)


def trace_context(attributes: Mapping[str, str]) -> Mapping[str, str]:
    """Return the ``traceparent`` and ``tracestate`` among ``attributes``, or nothing.

    A traceparent that is not valid (W3C Trace Context, section 3.2) is ignored, and its tracestate
    with it. Both are passed on as they are: a participant that records no spans may do so.
    """
    parent = attributes.get("traceparent", "")
    if not _TRACEPARENT.fullmatch(parent):
        return {}
    state = attributes.get("tracestate")
    return {"traceparent": parent} | ({"tracestate": state} if state else {})
