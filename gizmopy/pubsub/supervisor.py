"""Keep a subscription consumed: replace a subscriber that fails, or makes no progress.

At start a fatal error (an unknown queue, no permission) ends the daemon. Later it does not: queues
are recreated and permissions corrected while a daemon runs, and its endpoints still work. So
whatever error ends a subscriber after the start, another one replaces it after a backoff, and the
health check reports the reason meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from gizmopy._aio import background, first_of
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub.engine.outcome import DrainReport
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.pubsub.subscriber import Subscriber
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.error_text import describe_error, shortened

logger = logging.getLogger(__name__)

_CHECK_INTERVAL = 5.0
"""Seconds between two checks that the subscriber makes progress."""
_REPLACEMENT_GRACE = 5.0
"""Seconds that the handlers of a subscriber may take to end before it is replaced."""
_BACKOFF = RetryPolicy(base=1.0, cap=60.0)
_BACKOFF_RESET = 60.0
"""Seconds after which a subscriber that works resets the backoff."""


class Supervisor:
    """Run a subscriber that ``make`` returns; replace one that fails or makes no progress.

    Enter it as a context manager, then ``run`` it. It checks every ``check_every`` seconds that the
    subscriber makes progress; ``sleep`` waits before a new one is made.
    """

    def __init__(
        self,
        make: Callable[[], Subscriber],
        *,
        metrics: Metrics,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        check_every: float = _CHECK_INTERVAL,
    ) -> None:
        self._make = make
        self._sleep = sleep
        self._check_every = check_every
        self._subscriber = make()
        self._failures = 0
        self._failure = ""
        """Why the last subscriber ended, until another one works."""
        self._was_connected = False
        self._ending = asyncio.Event()
        self._paused = self._subscriber.paused
        labels = ("topic", "subscription")
        restarts = metrics.counter(
            "gizmo_pubsub_restarts",
            "Subscribers that were replaced because they failed or hung",
            labels,
        )
        self._restarts = restarts.child(self._subscriber.topic, self.subscription.subscription)
        metrics.before_scrape(lambda: self._subscriber.measure())

    async def __aenter__(self) -> Supervisor:
        """Connect. ``run`` retries if the broker cannot be reached; other errors are raised."""
        try:
            await self._subscriber.__aenter__()
        except BaseException:
            await self.drain(0)
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain(0)

    @property
    def subscription(self) -> Subscription:
        """The subscription that is consumed."""
        return self._subscriber.subscription

    @property
    def problem(self) -> str:
        """Why nothing is consumed now; empty if all is well."""
        return self._failure or self._subscriber.problem

    @property
    def connected(self) -> bool:
        """Whether the broker was ever reached."""
        return self._was_connected or self._subscriber.connected

    @property
    def stuck(self) -> int:
        """See :attr:`Subscriber.stuck`."""
        return self._subscriber.stuck

    @property
    def waiting_problem(self) -> str:
        """See :attr:`Subscriber.waiting_problem`."""
        return self._subscriber.waiting_problem

    @property
    def is_idle(self) -> bool:
        """See :attr:`Subscriber.is_idle`."""
        return self._subscriber.is_idle

    async def idle(self) -> None:
        """See :meth:`Subscriber.idle`."""
        await self._subscriber.idle()

    @property
    def paused(self) -> bool:
        """Whether the subscription is paused, whichever subscriber consumes it."""
        return self._paused

    def set_paused(self, paused: bool) -> None:
        """Pause or resume the subscriber, and those that replace it."""
        self._paused = paused
        if paused:
            self._subscriber.pause()
        else:
            self._subscriber.resume()

    # Run: one subscriber after the other.

    async def run(self) -> None:
        """Consume until ``drain`` has ended; errors are logged, and never raised."""
        while not self._subscriber.ended:
            try:
                await self._run_one()
            except Exception as error:
                self._failure = describe_error(error)
                logger.error(
                    "the subscriber of %s failed", self._subscriber.name, exc_info=shortened(error)
                )
            if self._ending.is_set() or not await self._replace():
                return

    async def _run_one(self) -> None:
        """Run the subscriber until it is drained or replaced. Raises the error that ends it."""
        name = f"subscriber {self.subscription.name}"
        async with background(self._subscriber.run(), name=name) as running:
            while not running.done():
                await asyncio.wait((running,), timeout=self._check_every)
                if not running.done() and not self._ending.is_set():
                    await self._check_progress()
        if not running.cancelled():
            running.result()

    async def _check_progress(self) -> None:
        """End the subscriber if it makes no progress."""
        if stall := self._subscriber.stall:
            self._failure = stall
            logger.error("the subscriber of %s makes no progress: %s", self._subscriber.name, stall)
            await self._subscriber.drain(_REPLACEMENT_GRACE)
        elif not self._subscriber.problem:
            self._failure = ""
            if self._subscriber.age > _BACKOFF_RESET:
                self._failures = 0

    async def _replace(self) -> bool:
        """Make another subscriber and connect it, however long that takes; False if this drains."""
        while await self._unless_ending(self._sleep(self._backoff())):
            self._restarts.value += 1
            self._was_connected = self.connected
            try:
                self._subscriber = self._make()
                self.set_paused(self._paused)
                return await self._unless_ending(self._subscriber.__aenter__())
            except Exception as error:  # noqa: BLE001 - the next one may work
                self._failure = describe_error(error)
                logger.error("cannot consume %s: %s", self._subscriber.name, self._failure)
                await self._subscriber.drain(0)
        return False

    def _backoff(self) -> float:
        self._failures += 1
        return _BACKOFF.delay(self._failures, random.random)

    async def _unless_ending(self, awaitable: Awaitable[object]) -> bool:
        """Await ``awaitable``; return False, and cancel it, if the drain begins first."""
        waiting, ending = await first_of(awaitable, self._ending.wait())
        if not waiting.cancelled():
            waiting.result()
        return ending.cancelled()

    # Drain the running subscriber, and make no other one.

    def stop_receiving(self) -> None:
        """See :meth:`Subscriber.stop_receiving`."""
        self._ending.set()
        self._subscriber.stop_receiving()

    def shorten_deadline(self, seconds: float) -> None:
        """See :meth:`Subscriber.shorten_deadline`."""
        self._subscriber.shorten_deadline(seconds)

    def begin_drain(self) -> None:
        """See :meth:`Subscriber.begin_drain`."""
        self._ending.set()
        self._subscriber.begin_drain()

    async def drain(self, timeout: float) -> DrainReport:
        """See :meth:`Subscriber.drain`."""
        self._ending.set()
        return await self._subscriber.drain(timeout)
