"""Keep the leases of messages in flight, until they are settled, lost or too old."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from math import inf
from time import perf_counter

from gizmopy._aio import batched
from gizmopy.errors import PubSubError
from gizmopy.pubsub.driver import Capabilities, Receiver, Results, results_for
from gizmopy.pubsub.engine.in_flight import InFlight
from gizmopy.pubsub.engine.observer import Observer
from gizmopy.pubsub.message import Message
from gizmopy.untrusted.error_text import describe_error, text_of

logger = logging.getLogger("gizmopy.pubsub.leases")

_CAP_MARGIN = 0.01
"""A safety margin, as a fraction of ``lease_cap``: the broker's clock started before ours."""
_INTERVAL_WITHOUT_LEASE = 30.0
"""Seconds that ``Message.on_extend`` is called for if the broker has no leases."""


class Leases:
    """Extend leases in batches, when between a quarter and half of their time has passed.

    ``on_lost`` is called with a message and the reason if the broker refuses to extend its lease,
    or if the message is as old as the broker allows: the broker delivers it to another subscriber.
    """

    def __init__(
        self,
        receiver: Receiver,
        capabilities: Capabilities,
        in_flight: InFlight,
        events: Observer,
        on_lost: Callable[[Message, str], None],
    ) -> None:
        self._receiver = receiver
        self._capabilities = capabilities
        self._in_flight = in_flight
        self._events = events
        self._on_lost = on_lost

    async def run(self) -> None:
        """Extend the leases of messages that have been in flight for two rounds, forever.

        Most messages are settled before their second round, and cost no call to the broker.
        """
        lease = self._lease
        seen: set[Message] = set()
        while True:
            # With jitter, so that subscribers which started together do not call together.
            await asyncio.sleep(lease / 4 * random.uniform(0.8, 1.0))
            due = [message for message in self._in_flight if message in seen]
            seen = self._in_flight.received_at.keys() - due
            # A lease that could not be extended for now is due in the next round, not after it.
            seen.update(await self.extend_due(due))

    @property
    def _lease(self) -> float:
        return self._capabilities.lease or _INTERVAL_WITHOUT_LEASE

    async def extend_due(self, due: Sequence[Message]) -> list[Message]:
        """Extend leases, and return the messages whose extension failed for now."""
        extended: list[Message] = []
        failed: list[Message] = []
        if self._capabilities.lease is None:
            extended.extend(due)
        else:
            for seconds, messages in self._by_seconds(due, self._capabilities.lease).items():
                for batch in batched(messages, self._capabilities.batch_messages):
                    await self._extend_batch(batch, seconds, extended, failed)
        calls = [self._call_on_extend(m) for m in extended if m.on_extend is not None]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            if error is not None:
                logger.warning("the on_extend of a message failed: %s", describe_error(error))
        return failed

    async def _call_on_extend(self, message: Message) -> None:
        """Await ``Message.on_extend``, for a part of the lease only.

        It is the user's code. If it hangs, the leases of all other messages would end.
        """
        assert message.on_extend is not None
        async with asyncio.timeout(self._lease / 8):
            await message.on_extend(self._lease)

    def _by_seconds(self, due: Sequence[Message], lease: float) -> dict[float, list[Message]]:
        """Return the messages by the seconds to extend them for: a lease, or less up to the cap."""
        cap, now = self._capabilities.lease_cap, perf_counter()
        by_seconds: dict[float, list[Message]] = {}
        for message in due:
            left = inf if cap is None else cap - (now - self._in_flight.received_at[message])
            seconds = min(lease, left - _CAP_MARGIN * (cap or 0))
            if seconds > 0:
                by_seconds.setdefault(seconds, []).append(message)
            elif left <= 0:
                self._events.lease_extended(message, "capped")
                self._on_lost(message, f"it was held for {cap:g} s, the longest the broker allows")
        return by_seconds

    async def _extend_batch(
        self,
        batch: list[Message],
        seconds: float,
        extended: list[Message],
        failed: list[Message],
    ) -> None:
        """Extend one batch; add each message to ``extended``, or to ``failed`` if it may retry."""
        results: Results
        try:
            results = results_for(batch, await self._receiver.extend(batch, seconds))
        except PubSubError as error:
            results = [error] * len(batch)
        for message, refusal in zip(batch, results, strict=True):
            if message not in self._in_flight:
                continue  # it was settled during the call
            self._events.lease_extended(message, "ok" if refusal is None else "failed")
            if refusal is None:
                extended.append(message)
            elif isinstance(refusal, PubSubError) and refusal.transient:
                logger.warning(
                    "extending a lease of %s failed for now: %s", message.topic, text_of(refusal)
                )
                failed.append(message)
            else:
                self._on_lost(message, f"the broker did not extend its lease: {text_of(refusal)}")

    async def extend(self, message: Message, seconds: float) -> None:
        """Extend one lease, for ``Message.extend``. Raises PubSubError if the lease is lost."""
        if self._capabilities.lease is None:
            return
        (error,) = await self._receiver.extend([message], seconds)
        self._events.lease_extended(message, "ok" if error is None else "failed")
        if error is not None:
            raise error
