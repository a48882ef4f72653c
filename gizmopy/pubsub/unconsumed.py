"""Count the messages to a topic in this process that nobody consumes: its broker drops them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub.destinations import Destination
from gizmopy.pubsub.driver import Results, Sender
from gizmopy.pubsub.message import Message

logger = logging.getLogger(__name__)


class UnconsumedSender:
    """Send through ``inner``, and count the messages while ``destination`` is not ``consumed``."""

    def __init__(
        self,
        inner: Sender,
        destination: Destination,
        *,
        metrics: Metrics,
        consumed: Collection[Destination],
    ) -> None:
        if hasattr(inner, "limits"):
            self.limits = inner.limits
        self.connect = inner.connect
        self.aclose = inner.aclose
        self._send = inner.send
        self._destination = destination
        self._consumed = consumed
        self._is_told = False
        self._count = metrics.counter(
            "gizmo_pubsub_unconsumed",
            "Messages that were dropped, because nothing in this process consumes the topic",
            ("topic",),
        ).child(destination.topic)

    async def send(self, batch: Sequence[Message]) -> Results:
        """Send the messages; count those that nobody consumes, and warn of the first ones."""
        if self._destination not in self._consumed:
            self._count.value += len(batch)
            if not self._is_told:
                self._is_told = True
                logger.warning(
                    "messages to %s are dropped: this broker is in the process, and no "
                    "subscription of the service consumes that topic",
                    self._destination.redacted,
                )
        return await self._send(batch)
