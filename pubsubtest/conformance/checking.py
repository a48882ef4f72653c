"""What a check is: a documented async function, what it needs, and how it fails."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from gizmopy.pubsub import Capabilities, Driver

LONGEST_LEASE = 15.0
"""Seconds of a lease that a check waits for; none takes longer than four leases."""


@asynccontextmanager
async def _made_by_use(topic: str, subscriptions: Sequence[str]) -> AsyncIterator[None]:
    yield


@dataclass(frozen=True, kw_only=True)
class Harness:
    """Say how to reach the broker that a driver is checked against."""

    open: Callable[[], Driver]
    """Return a new driver, as another process would have it."""
    provision: Callable[[str, Sequence[str]], AbstractAsyncContextManager[None]] = _made_by_use
    """Make a topic and subscriptions to it, and remove them after."""
    creates_topics: bool = True
    """Whether the broker makes what is not there when it is used, instead of refusing it."""
    outage: Callable[[], AbstractAsyncContextManager[None]] | None = None
    """Make the broker unreachable while the context lasts, if that can be done."""
    quiet: float | None = None
    """Seconds in which what must not come would have come; default: 1, or 0.2 in this process."""


class Need(NamedTuple):
    """Something that a check cannot do without."""

    what: str
    is_met: Callable[[Harness, Capabilities], bool]


NACK = Need("a broker that takes messages back", lambda _, can: can.can_nack)
DELAY = Need("a nack that honours its delay", lambda _, can: can.can_nack and can.native_delay)
COUNT = Need("a broker that counts deliveries", lambda _, can: can.delivery_count)
ORDER = Need("a broker that keeps order", lambda _, can: can.ordering)
SETTLES_EACH = Need("a broker that settles message by message", lambda _, can: not can.positions)
POSITIONS = Need("a broker that keeps positions", lambda _, can: can.positions)
ORDERED_BATCHES = Need(
    "batches that keep the order of a key", lambda _, can: can.ordering and can.ordered_batches
)
LEASES = Need("a broker with leases", lambda _, can: can.lease is not None)
SHORT_LEASE = Need(
    f"a lease short enough to wait for (set one of {LONGEST_LEASE:g} s or less)",
    lambda _, can: can.lease is None or can.lease <= LONGEST_LEASE,
)
LASTING = Need(
    "leases that can be kept four times as long",
    lambda _, can: can.lease_cap is None or can.lease_cap >= 4 * (can.lease or 0),
)
CAP = Need(
    f"a cap on leases, short enough to wait for ({LONGEST_LEASE:g} s or less)",
    lambda _, can: can.lease_cap is not None and can.lease_cap <= LONGEST_LEASE,
)
LIMIT = Need("a limit on a message's size", lambda _, can: can.message_bytes is not None)
BYTES = Need("a limit on the bytes of a batch", lambda _, can: can.batch_bytes is not None)
REFUSES_UNKNOWN = Need(
    "a broker that refuses unknown topics", lambda harness, _: not harness.creates_topics
)
OUTAGE = Need("a way to make the broker fail", lambda harness, _: harness.outage is not None)


class CheckFailed(Exception):
    """Say what is not as the contract has it."""


def expect(condition: object, otherwise: str) -> None:
    """Raise CheckFailed unless ``condition``; an assert would be gone under ``python -O``."""
    if not condition:
        raise CheckFailed(otherwise)


Function = Callable[[Any], Awaitable[None]]
"""Takes the Bench to work with."""


@dataclass(frozen=True)
class Check:
    """One thing that is true of every driver that can do it."""

    name: str
    sentence: str
    needs: tuple[Need, ...]
    function: Function

    def missing(self, harness: Harness, can: Capabilities) -> str:
        """Return what the driver or its harness lacks for this check, or an empty string."""
        return ", ".join(need.what for need in self.needs if not need.is_met(harness, can))


class Checks:
    """Collect the checks of one file, in its order."""

    def __init__(self) -> None:
        self.all: list[Check] = []

    def __call__(self, *needs: Need) -> Callable[[Function], Function]:
        """Return a decorator that makes a function a check, named after it."""

        def collect(function: Function) -> Function:
            sentence = (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")
            self.all.append(Check(function.__name__, sentence, needs, function))
            return function

        return collect
