"""Know which load balancers ask for health, so that a drain ends once each of them has heard.

That is Gizmo's ESX health check, the ``lb`` type of ours: a daemon that stops goes on listening
until nobody can be left who would send it a request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from gizmopy._aio import background

_FORGET_SECONDS = 60.0
_ADDRESSES = 1000


class Balancers:
    """Remember who asked for health in the last 60 seconds, and wait until they know of the drain.

    At most ``addresses`` are remembered: where there are as many, new ones are not, so that a
    stranger with many addresses cannot push out a balancer. ``clock`` tells seconds, ``sleep``
    waits for them.
    """

    def __init__(
        self,
        *,
        addresses: int = _ADDRESSES,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limit = addresses
        self._clock = clock
        self._sleep = sleep
        self._asked: dict[str, float] = {}
        """When each address asked last, the longest ago first."""
        self._untold: set[str] = set()
        """Who has not been told since the drain began."""
        self._all_told = asyncio.Event()

    def note(self, address: str, healthy: bool) -> None:
        """Remember that ``address`` asked, and what it was told."""
        self._forget()
        if address in self._asked or len(self._asked) < self._limit:
            self._asked.pop(address, None)  # it goes to the end
            self._asked[address] = self._clock()
        if not healthy:
            self._settle(address)

    async def wait_told(self) -> None:
        """Wait until everyone who asked in the last 60 seconds has been told ``bad`` from now on.

        Who stops asking is forgotten 60 seconds after the last question, and not waited for.
        """
        self._forget()
        self._untold = set(self._asked)
        if not self._untold:
            return
        self._all_told.clear()
        async with background(self._forget_untold(), name="gizmopy-load-balancers"):
            await self._all_told.wait()

    async def _forget_untold(self) -> None:
        """Forget who stops asking, each when it is time."""
        while self._untold:
            next_out = next(address for address in self._asked if address in self._untold)
            await self._sleep(self._asked[next_out] + _FORGET_SECONDS - self._clock())
            self._forget()

    def _forget(self) -> None:
        """Forget who has asked nothing for too long."""
        now = self._clock()
        for address, asked in list(self._asked.items()):
            if asked + _FORGET_SECONDS > now:
                return
            del self._asked[address]
            self._settle(address)

    def _settle(self, address: str) -> None:
        """Wait for ``address`` no longer."""
        self._untold.discard(address)
        if not self._untold:
            self._all_told.set()
