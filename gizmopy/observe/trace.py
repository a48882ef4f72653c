"""Propagate a W3C trace context unchanged, as a service that records no spans of its own does.

The specification, Trace Context, lets such a service forward both fields as received,
and forbids it to change only one of them. It must drop both if ``traceparent`` is invalid. Of an
unknown version, it may parse only the parts that every version has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

_TRACEPARENT = re.compile(
    r"(?!ff|00.{54})"  # version ff is invalid; version 00 has nothing after the flags
    r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?:-[!-~]{0,200})?"
)
_TRACESTATE = re.compile(r"[\t -~]{1,512}")
"""512 characters are the length that each participant should propagate at least."""

_NONE: Mapping[str, str] = MappingProxyType({})


def trace_context(attributes: Mapping[str, str]) -> Mapping[str, str]:
    """Return the ``traceparent`` and ``tracestate`` to propagate from ``attributes``.

    Returns an empty mapping if ``traceparent`` is missing or invalid. A ``tracestate`` that is
    empty, longer than 512 characters, or not printable ASCII is left out.
    """
    traceparent = attributes.get("traceparent", "")
    if _TRACEPARENT.fullmatch(traceparent) is None:
        return _NONE
    tracestate = attributes.get("tracestate", "")
    if _TRACESTATE.fullmatch(tracestate) is None:
        return {"traceparent": traceparent}
    return {"traceparent": traceparent, "tracestate": tracestate}
