"""Limit the lifetime of connections, so that clients reconnect.

A load balancer can then spread them over new replicas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import uniform
from time import monotonic

_JITTER = 0.1
"""The largest random change of a limit, as a fraction, as in gRPC's MAX_CONNECTION_AGE.

Without it, connections that began together, after a deploy, would all reconnect together.
"""


@dataclass(frozen=True, slots=True)
class Turnover:
    """How long a connection lasts, in requests and in seconds; 0: no limit."""

    requests: int = 0
    seconds: float = 0.0

    def __bool__(self) -> bool:
        """Whether there is a limit."""
        return self.requests > 0 or self.seconds > 0

    def begin(self) -> Lifetime:
        """Return the lifetime of a connection that begins now, with its random change."""
        requests = self.requests * uniform(1 - _JITTER, 1 + _JITTER)
        seconds = self.seconds * uniform(1 - _JITTER, 1 + _JITTER)
        return Lifetime(
            max(1, round(requests)) if self.requests else math.inf,
            monotonic() + seconds if self.seconds else math.inf,
        )


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The last request of one connection, and the time after which any request is the last."""

    last: float
    end: float

    def is_over(self, requests: int) -> bool:
        """Return whether the connection ends with its ``requests``-th request, which begins now."""
        return requests >= self.last or monotonic() >= self.end
