"""Keep the leases of what is in flight, from its receipt until it is settled, lost or too old."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from math import inf
from time import perf_counter

from gizmopy.errors import PubSubError
from gizmopy.pubsub.driver import Capabilities, Receiver, Results, results_for
from gizmopy.pubsub.engine.in_flight import InFlight
from gizmopy.pubsub.engine.metrics import SubscriberMetrics
from gizmopy.pubsub.message import Message
from gizmopy.untrusted.error_text import named, text_of

logger = logging.getLogger("gizmopy.pubsub.leases")

_MARGIN = 0.01
"""What part of the cap is left alone: the broker's count of it began before ours."""
_WITHOUT_LEASE = 30.0
"""Seconds between the renewals of what a handler keeps, where the broker has no leases."""


class Leases:
    """Extend leases in batches, when between a quarter and half of them has passed.

    A message whose lease the broker refuses to extend, or that is as old as the broker allows, is
    given to ``lose``: it is not this subscriber's any more.
    """

    def __init__(
        self,
        receiver: Receiver,
        can: Capabilities,
        in_flight: InFlight,
        metrics: SubscriberMetrics,
        lose: Callable[[Message, str], None],
    ) -> None:
        self._receiver = receiver
        self._can = can
        self._in_flight = in_flight
        self._metrics = metrics
        self._lose = lose

    async def keep(self) -> None:
        """Extend what has been in flight for two rounds, for as long as this task lives."""
        lease = self._can.lease or _WITHOUT_LEASE
        seen: set[Message] = set()
        while True:
            await asyncio.sleep(lease / 4 * random.uniform(0.8, 1.0))
            due = [message for message in self._in_flight.since if message in seen]
            seen = self._in_flight.since.keys() - due
            seen.update(await self._prolong(due))

    async def _prolong(self, due: Sequence[Message]) -> list[Message]:
        """Extend leases, and return those that failed for now: they are due again at once."""
        lease, most = self._can.lease or _WITHOUT_LEASE, self._can.batch_messages
        extended = list(due) if self._can.lease is None else []
        failed: list[Message] = []
        for seconds, messages in self._by_seconds(due).items():
            for start in range(0, len(messages), most):
                batch = messages[start : start + most]
                await self._extend_batch(batch, seconds, extended, failed)
        renewals = [self._renew(m, lease) for m in extended if m.on_extend is not None]
        for outcome in await asyncio.gather(*renewals, return_exceptions=True):
            if outcome is not None:
                logger.warning("the on_extend of a message failed: %s", named(outcome))
        return failed

    async def _renew(self, message: Message, lease: float) -> None:
        """Prolong what goes along with a lease, without holding up other leases for long."""
        assert message.on_extend is not None
        async with asyncio.timeout(lease / 8):
            await message.on_extend(lease)

    def _by_seconds(self, due: Sequence[Message]) -> dict[float, list[Message]]:
        """Return what to extend for how long: a lease, or what is left of it up to the cap."""
        lease, cap, now = self._can.lease, self._can.lease_cap, perf_counter()
        by_seconds: dict[float, list[Message]] = {}
        for message in due if lease is not None else ():
            left = inf if cap is None else cap - (now - self._in_flight.since[message])
            seconds = min(lease or 0, left - _MARGIN * (cap or 0))
            if seconds > 0:
                by_seconds.setdefault(seconds, []).append(message)
            elif left <= 0:
                self._metrics.count_extension("capped")
                self._lose(message, f"it is held for {cap:g} s, the longest that the broker allows")
        return by_seconds

    async def _extend_batch(
        self,
        batch: list[Message],
        seconds: float,
        extended: list[Message],
        failed: list[Message],
    ) -> None:
        """Add those that were extended to one list, and those that were not for now to another."""
        results: Results
        try:
            results = results_for(batch, await self._receiver.extend(batch, seconds))
        except PubSubError as error:
            results = [error] * len(batch)
        for message, refusal in zip(batch, results, strict=True):
            if message not in self._in_flight.since:
                continue  # settled meanwhile
            self._metrics.count_extension("ok" if refusal is None else "failed")
            if refusal is None:
                extended.append(message)
            elif isinstance(refusal, PubSubError) and refusal.transient:
                logger.warning(
                    "a lease of %s was not extended: %s", message.topic, text_of(refusal)
                )
                failed.append(message)
            else:
                self._lose(message, f"its lease was not extended: {text_of(refusal)}")

    async def extend(self, message: Message, seconds: float) -> None:
        """Serve ``Message.extend``. Raises PubSubError where the lease is lost."""
        if self._can.lease is None:
            return
        (error,) = await self._receiver.extend([message], seconds)
        self._metrics.count_extension("ok" if error is None else "failed")
        if error is not None:
            raise error
