"""The parts of a check: an async function with a sentence, its needs, and its failure."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from gizmopy.pubsub import Capabilities, Driver

LONGEST_LEASE = 15.0
"""The longest lease that a check waits for; a check takes at most four leases."""
LONGEST_BLOCKAGE = 1.0
"""The longest time for which a check blocks the event loop, and all else in the process."""


@asynccontextmanager
async def _created_on_use(topic: str, subscriptions: Sequence[str]) -> AsyncIterator[None]:
    yield


@dataclass(frozen=True, kw_only=True)
class Harness:
    """The driver to check, and what its broker allows."""

    open: Callable[[], Driver]
    """Return a new driver, independent of the others."""
    provision: Callable[[str, Sequence[str]], AbstractAsyncContextManager[None]] = _created_on_use
    """Create a topic and its subscriptions, and remove them after."""
    creates_topics: bool = True
    """Whether the broker creates a missing topic on use, instead of raising an error."""
    outage: Callable[[], AbstractAsyncContextManager[None]] | None = None
    """Make the broker unreachable while the context lasts; None if that is not possible."""
    quiet: float | None = None
    """Seconds to wait before a check concludes that no message arrives.

    Default: 1, or 0.2 for a broker in this process.
    """


class Need(NamedTuple):
    """A condition of a check."""

    what: str
    is_met: Callable[[Harness, Capabilities], bool]


NACK = Need("a broker with nack", lambda _, can: can.can_nack)
DELAY = Need("a nack that honours its delay", lambda _, can: can.can_nack and can.native_delay)
COUNT = Need("a broker that counts deliveries", lambda _, can: bool(can.delivery_count))
NO_COUNT = Need("a broker that does not count deliveries", lambda _, can: not can.delivery_count)
ORDER = Need("a broker that keeps order", lambda _, can: can.ordering)
SETTLES_EACH = Need("a broker that settles message by message", lambda _, can: not can.positions)
FAN_OUT = Need("several subscriptions to a topic", lambda _, can: can.fan_out)
ONE_QUEUE = Need("a topic with one subscription", lambda _, can: not can.fan_out)
POSITIONS = Need("a broker that keeps positions", lambda _, can: can.positions)
PAUSES = Need("a broker whose partitions can be paused", lambda _, can: can.can_pause)
PAUSES_ALL = Need("a broker whose receivers pause as a whole", lambda _, can: can.can_pause_all)
ORDERED_BATCHES = Need(
    "batches that keep the order of a key", lambda _, can: can.ordering and can.ordered_batches
)
LEASES = Need("a broker with leases", lambda _, can: can.lease is not None)
SHORT_LEASE = Need(
    f"a lease short enough to wait for (set one of {LONGEST_LEASE:g} s or less)",
    lambda _, can: can.lease is None or can.lease <= LONGEST_LEASE,
)
BLOCKABLE = Need(
    f"a lease so short that the event loop can be blocked for it ({LONGEST_BLOCKAGE:g} s or less)",
    lambda _, can: can.lease is not None and can.lease <= LONGEST_BLOCKAGE,
)
LASTING = Need(
    "leases that can be extended to four times their length",
    lambda _, can: can.lease_cap is None or can.lease_cap >= 4 * (can.lease or 0),
)
CAP = Need(
    f"a cap on leases, short enough to wait for ({LONGEST_LEASE:g} s or less)",
    lambda _, can: can.lease_cap is not None and can.lease_cap <= LONGEST_LEASE,
)
LIMIT = Need("a limit on a message's size", lambda _, can: can.message_bytes is not None)
ATTRIBUTES = Need(
    "a limit on the number of attributes", lambda _, can: can.message_attributes is not None
)
ATTRIBUTE_BYTES = Need(
    "a limit on the size of an attribute", lambda _, can: can.attribute_bytes is not None
)
BYTES = Need("a limit on the bytes of a batch", lambda _, can: can.batch_bytes is not None)
SEND_DELAY = Need("a broker that delays messages", lambda _, can: can.send_delay is not None)
BROWSES = Need("a driver that can look through a topic", lambda _, can: can.can_browse)
PUSHES = Need("a broker that pushes", lambda _, can: can.pushes)
REFUSES_UNKNOWN = Need(
    "a broker that refuses unknown topics", lambda harness, _: not harness.creates_topics
)
OUTAGE = Need("a way to make the broker unreachable", lambda harness, _: harness.outage is not None)


class CheckFailed(Exception):
    """A driver does not keep the contract; the text says how."""


def expect(condition: object, otherwise: str) -> None:
    """Raise CheckFailed unless ``condition``. ``python -O`` would remove an assert."""
    if not condition:
        raise CheckFailed(otherwise)


Function = Callable[[Any], Awaitable[None]]
"""The body of a check, which takes a CheckContext."""


@dataclass(frozen=True)
class Check:
    """One rule of the contract."""

    name: str
    sentence: str
    needs: tuple[Need, ...]
    function: Function

    def missing(self, harness: Harness, can: Capabilities) -> str:
        """Return the needs that the driver or its harness does not meet; empty if it meets all."""
        return ", ".join(need.what for need in self.needs if not need.is_met(harness, can))


class Checks:
    """The checks of one file, in order."""

    def __init__(self) -> None:
        self.all: list[Check] = []

    def __call__(self, *needs: Need) -> Callable[[Function], Function]:
        """Return a decorator that makes a function a check, named after it."""

        def collect(function: Function) -> Function:
            sentence = (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")
            self.all.append(Check(function.__name__, sentence, needs, function))
            return function

        return collect
