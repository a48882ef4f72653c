"""Pass on a W3C trace context, unchanged: what a service does that records no spans of its own.

Trace Context lets such a service forward both fields as they came, and forbids to change one of
them alone. It must drop both where ``traceparent`` is invalid, and may not look into a version
that it does not know beyond the parts that every version has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

_TRACEPARENT = re.compile(
    r"(?!ff|00.{54})"  # version ff is forbidden, and 00 ends after its flags
    r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?:-[!-~]{0,200})?"
)
_TRACESTATE = re.compile(r"[\t -~]{1,512}")
"""As long as every participant should pass on; more could be refused by a broker."""

_NONE: Mapping[str, str] = MappingProxyType({})


def trace_context(attributes: Mapping[str, str]) -> Mapping[str, str]:
    """Return the ``traceparent`` and ``tracestate`` among ``attributes``, to be passed on.

    Nothing is returned where ``traceparent`` is missing or invalid, and no ``tracestate`` that is
    empty, longer than 512 characters, or not printable ASCII.
    """
    traceparent = attributes.get("traceparent", "")
    if _TRACEPARENT.fullmatch(traceparent) is None:
        return _NONE
    tracestate = attributes.get("tracestate", "")
    if _TRACESTATE.fullmatch(tracestate) is None:
        return {"traceparent": traceparent}
    return {"traceparent": traceparent, "tracestate": tracestate}
