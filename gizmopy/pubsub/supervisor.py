"""Keep a subscription consumed: a subscriber that dies, or makes no progress, is replaced.

At start a fatal error (an unknown queue, no permission) is the daemon's to report. Later on it is
not: queues are made anew and permissions mended while a daemon runs. So whatever a subscriber dies
of once it has started, another one takes over after a backoff, and health says what is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub.engine.outcome import DrainReport
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.pubsub.subscriber import Subscriber
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.error_text import named, shortened

logger = logging.getLogger(__name__)

_CHECK_EVERY = 5.0
"""Seconds between two looks at whether the subscriber makes progress."""
_HAND_OVER = 5.0
"""Seconds that the handlers of a subscriber which is replaced may take to end."""
_BACKOFF = RetryPolicy(base=1.0, cap=60.0)
_SOUND = 60.0
"""Seconds after which a subscriber that lives has made good the failures before it."""


class Supervisor:
    """Run a subscriber that ``make`` makes, and another one whenever it dies or is stuck.

    Use it as an async context manager around ``run``. Every ``check_every`` seconds it looks
    whether the subscriber makes progress; ``sleep`` waits before a new one is made.
    """

    def __init__(
        self,
        make: Callable[[], Subscriber],
        *,
        metrics: Metrics,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        check_every: float = _CHECK_EVERY,
    ) -> None:
        self._make = make
        self._sleep = sleep
        self._check_every = check_every
        self._subscriber = make()
        self._failures = 0
        self._failure = ""
        """What the last subscriber ended on, until another one is seen to work."""
        self._was_connected = False
        self._ending = asyncio.Event()
        labels = ("topic", "subscription")
        restarts = metrics.counter(
            "gizmo_pubsub_restarts", "Subscribers that were replaced: they died or hung", labels
        )
        self._restarts = restarts.child(self._subscriber.topic, self.subscription.subscription)
        metrics.before_scrape(lambda: self._subscriber.measure())

    async def __aenter__(self) -> Supervisor:
        """Connect. Raises what is fatal; a broker that cannot be reached is tried again."""
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
        """What is consumed."""
        return self._subscriber.subscription

    @property
    def problem(self) -> str:
        """Why nothing is consumed now; empty where all is well."""
        return self._failure or self._subscriber.problem

    @property
    def connected(self) -> bool:
        """Whether the broker was ever reached."""
        return self._was_connected or self._subscriber.connected

    @property
    def stuck(self) -> int:
        """How many messages hold up their lanes, given up and without dead letters to go to."""
        return self._subscriber.stuck

    @property
    def is_idle(self) -> bool:
        """See :attr:`Subscriber.is_idle`."""
        return self._subscriber.is_idle

    async def idle(self) -> None:
        """See :meth:`Subscriber.idle`."""
        await self._subscriber.idle()

    # Run: one subscriber after the other.

    async def run(self) -> None:
        """Consume until ``drain`` has ended."""
        while not self._subscriber.ended:
            try:
                await self._run_one()
            except Exception as error:
                self._failure = named(error)
                logger.error(
                    "the subscriber of %s died", self._subscriber.name, exc_info=shortened(error)
                )
            if self._ending.is_set() or not await self._replace():
                return

    async def _run_one(self) -> None:
        """Run the subscriber until it is drained or stuck. Raises what it dies of."""
        name = f"subscriber {self.subscription.name}"
        running = asyncio.create_task(self._subscriber.run(), name=name)
        try:
            while not running.done():
                await asyncio.wait((running,), timeout=self._check_every)
                if not running.done() and not self._ending.is_set():
                    await self._look()
        finally:
            running.cancel()
            await asyncio.wait((running,))
        if not running.cancelled():
            running.result()

    async def _look(self) -> None:
        """See whether the subscriber makes progress, and end it where it does not."""
        if stall := self._subscriber.stall:
            self._failure = stall
            logger.error("the subscriber of %s is stuck: %s", self._subscriber.name, stall)
            await self._subscriber.drain(_HAND_OVER)
        elif not self._subscriber.problem:
            self._failure = ""
            if self._subscriber.age > _SOUND:
                self._failures = 0

    async def _replace(self) -> bool:
        """Make another subscriber and connect it, however long it takes; False at the end."""
        while await self._unless_ending(self._sleep(self._backoff())):
            self._restarts.value += 1
            self._was_connected = self.connected
            try:
                self._subscriber = self._make()
                return await self._unless_ending(self._subscriber.__aenter__())
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                self._failure = named(error)
                logger.error("%s cannot be consumed: %s", self._subscriber.name, self._failure)
                await self._subscriber.drain(0)
        return False

    def _backoff(self) -> float:
        self._failures += 1
        return _BACKOFF.delay(self._failures, random.random)

    async def _unless_ending(self, awaitable: Awaitable[object]) -> bool:
        """Await something; return False, and cancel it, where the end comes first."""
        waiting = asyncio.ensure_future(awaitable)
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait((waiting, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = ending.done()
            for future in (waiting, ending):
                future.cancel()
            await asyncio.wait((waiting, ending))
        if not waiting.cancelled():
            waiting.result()
        return not ended

    # End: the subscriber that runs is drained, and no other one is made.

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
