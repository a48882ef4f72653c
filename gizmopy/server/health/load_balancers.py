"""Keep the listener open until every load balancer knows that the daemon stops.

This is the ESX health check of Gizmo, our ``lb`` type: each load balancer polls the health of the
daemon, and sends requests until it has received a failing answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from gizmopy._aio import background

_FORGET_SECONDS = 60.0
_MAX_ADDRESSES = 1000


class LoadBalancers:
    """Remember the addresses that polled the health in the last 60 seconds.

    ``clock`` returns seconds, ``sleep`` waits for them. At most ``max_addresses`` are remembered.
    If there are as many, a new one is ignored, so that a client with many addresses cannot replace
    a load balancer.
    """

    def __init__(
        self,
        *,
        max_addresses: int = _MAX_ADDRESSES,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._max_addresses = max_addresses
        self._clock = clock
        self._sleep = sleep
        self._last_polls: dict[str, float] = {}
        """The time of each address's last poll, the oldest first."""
        self._unaware: set[str] = set()
        """Addresses that received no failing answer since the drain began."""
        self._all_aware = asyncio.Event()

    def record_poll(self, address: str, healthy: bool) -> None:
        """Record that ``address`` polled the health, and whether the response was healthy."""
        self._forget_old()
        if address in self._last_polls or len(self._last_polls) < self._max_addresses:
            self._last_polls.pop(address, None)  # so that it moves to the end
            self._last_polls[address] = self._clock()
        if not healthy:
            self._mark_aware(address)

    async def wait_aware(self) -> None:
        """Wait until each address that polled in the last 60 seconds got a failing answer.

        Only answers from now on count. An address that stops polling is forgotten 60 seconds after
        its last poll, and not waited for.
        """
        self._forget_old()
        self._unaware = set(self._last_polls)
        if not self._unaware:
            return
        self._all_aware.clear()
        async with background(self._forget_silent(), name="gizmopy-load-balancers"):
            await self._all_aware.wait()

    async def _forget_silent(self) -> None:
        """Forget each address that stops polling, as soon as its time is over."""
        while self._unaware:
            # The dict is ordered by the last poll, so the first one is due first.
            oldest = next(address for address in self._last_polls if address in self._unaware)
            await self._sleep(self._last_polls[oldest] + _FORGET_SECONDS - self._clock())
            self._forget_old()

    def _forget_old(self) -> None:
        """Forget each address that has not polled for too long."""
        now = self._clock()
        for address, polled_at in list(self._last_polls.items()):
            if polled_at + _FORGET_SECONDS > now:
                return
            del self._last_polls[address]
            self._mark_aware(address)

    def _mark_aware(self, address: str) -> None:
        self._unaware.discard(address)
        if not self._unaware:
            self._all_aware.set()
