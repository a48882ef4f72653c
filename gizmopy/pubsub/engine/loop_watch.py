"""Notice that the event loop was blocked for longer than a broker waits for a process.

A handler that computes, or calls a synchronous client, stops every other task: no lease is extended
and no heartbeat is sent. The broker takes the process for dead, and delivers its messages again.
The handler returns, and its ack comes too late. So the same messages are handled again and again,
without an error anywhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import inf
from time import perf_counter

from gizmopy.pubsub.driver import Capabilities
from gizmopy.pubsub.engine.observer import Observer

logger = logging.getLogger(__name__)

_PAUSE = 1.0
_PAUSES_PER_LIMIT = 10
"""The pause is at most this part of the limit: a blockage is seen only from the end of a pause."""
_SHOWN_SECONDS = 60.0
"""The least time that a blockage is shown in the health, and between two warnings."""


class LoopWatch:
    """Watch the event loop for one subscription, whose handler is ``handler``.

    ``clock`` returns seconds, ``sleep`` waits for them.
    """

    def __init__(
        self,
        capabilities: Capabilities,
        events: Observer,
        *,
        name: str,
        handler: str,
        clock: Callable[[], float] = perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limit = min(capabilities.lease or inf, capabilities.silence or inf)
        self._events = events
        self._name = name
        self._handler = handler
        self._clock = clock
        self._sleep = sleep
        self._blocked_seconds = 0.0
        self._blocked_at = -inf
        self._logged_at = -inf

    async def run(self) -> None:
        """Watch until cancelled; return at once if the broker waits for ever."""
        if self._limit == inf:
            return
        pause = min(_PAUSE, self._limit / _PAUSES_PER_LIMIT)
        while True:
            began = self._clock()
            await self._sleep(pause)
            late = self._clock() - began - pause
            if late >= self._limit:
                self._note(late)

    @property
    def problem(self) -> str:
        """The last blockage, as long as another one may follow; empty without one."""
        # Kafka lets a member join again only seconds after an eviction: blockages that follow one
        # another are further apart than they are long.
        shown = max(_SHOWN_SECONDS, 2 * self._blocked_seconds)
        if self._clock() - self._blocked_at > shown:
            return ""
        return (
            f"the event loop was blocked for {self._blocked_seconds:.1f} s, and the broker waits "
            f"{self._limit:g} s for this process: it delivers the messages of {self._handler} "
            "again, those that were handled, too"
        )

    def _note(self, seconds: float) -> None:
        self._blocked_seconds, self._blocked_at = seconds, self._clock()
        self._events.loop_blocked(seconds)
        if self._blocked_at - self._logged_at < _SHOWN_SECONDS:
            return
        self._logged_at = self._blocked_at
        logger.warning(
            "%s: %s; if %s blocks, let it run that in a thread, with asyncio.to_thread (the "
            "warning 'a call blocks the event loop' has the line)",
            self._name,
            self.problem,
            self._handler,
        )
