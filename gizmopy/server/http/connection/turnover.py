"""Have clients connect again after a while, so that a balancer spreads them over new replicas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import uniform
from time import monotonic

_JITTER = 0.1
"""Which part of a limit is added or taken off at random, as in gRPC's MAX_CONNECTION_AGE.

Connections that began together, after a deploy, would all begin again together.
"""


@dataclass(frozen=True, slots=True)
class Turnover:
    """How long a connection lasts; 0 for each is without end."""

    requests: int = 0
    seconds: float = 0.0

    def __bool__(self) -> bool:
        """Whether a connection ends by itself at all."""
        return self.requests > 0 or self.seconds > 0

    def begin(self) -> Lifetime:
        """Return the lifetime of a connection that begins now."""
        requests = self.requests * uniform(1 - _JITTER, 1 + _JITTER)
        seconds = self.seconds * uniform(1 - _JITTER, 1 + _JITTER)
        return Lifetime(
            max(1, round(requests)) if self.requests else math.inf,
            monotonic() + seconds if self.seconds else math.inf,
        )


@dataclass(frozen=True, slots=True)
class Lifetime:
    """When one connection ends: with which request, and with the first one after which time."""

    last: float
    end: float

    def is_over(self, requests: int) -> bool:
        """Whether the connection ends with this request, which is the ``requests``-th."""
        return requests >= self.last or monotonic() >= self.end
