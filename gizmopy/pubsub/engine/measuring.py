"""Ask the broker for the figures that cost a call: at intervals, and never for a scrape."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import cast

from gizmopy._aio import is_being_cancelled
from gizmopy.pubsub.driver import Measured, MeasuredReceiver, Receiver
from gizmopy.untrusted.error_text import describe_error

logger = logging.getLogger(__name__)

_INTERVAL = 15.0
"""Seconds between two calls. SQS and other services bill each of them."""
_ANSWER_SECONDS = 10.0
"""The longest time that a call may take."""


class Measuring:
    """Keep the last figures that ``receiver`` has measured, if it can measure.

    ``sleep`` waits between two calls.
    """

    def __init__(
        self, receiver: Receiver, *, name: str, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        can_measure = hasattr(receiver, "measure")
        self._receiver = cast(MeasuredReceiver, receiver) if can_measure else None
        self._name = name
        self._sleep = sleep
        self.latest: Measured | None = None
        """None until the broker has answered once."""
        self._measured_at = perf_counter()
        self._is_failing = False

    @property
    def age(self) -> float | None:
        """The seconds since the broker answered, or since the start; None if it is not asked."""
        return None if self._receiver is None else perf_counter() - self._measured_at

    async def run(self, is_connected: Callable[[], bool]) -> None:
        """Measure at intervals, until cancelled. Returns at once if the receiver cannot measure."""
        if self._receiver is None:
            return
        while True:
            if is_connected():
                await self._measure(self._receiver)
            await self._sleep(_INTERVAL)

    async def _measure(self, receiver: MeasuredReceiver) -> None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                self.latest = await receiver.measure()
        except (Exception, asyncio.CancelledError) as error:
            # A driver's own task may be cancelled, too: only that of the engine ends the loop.
            if is_being_cancelled():
                raise
            if not self._is_failing:
                logger.warning(
                    "the figures of %s cannot be measured, so the last ones are shown: %s; "
                    "further failures are not logged until it works again",
                    self._name,
                    describe_error(error),
                )
            self._is_failing = True
        else:
            self._measured_at = perf_counter()
            self._is_failing = False
