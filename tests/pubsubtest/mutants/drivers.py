"""Drivers with one fault each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from gizmopy.pubsub import Message
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.driver import Results
from gizmopy.pubsub.event_binding import KAFKA
from tests.pubsubtest.mutants.base import (
    HoldingReceiver,
    MutantDriver,
    MutantReceiver,
    MutantSender,
    receiving,
)


class OneSubscription(MutantDriver):
    """Use one subscription for all."""

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Any:
        return self.inner.receiver(topic, "the only one", ordered=ordered)


class SeparateSubscriptions(MutantDriver):
    """Make a separate subscription for each receiver."""

    numbers = count()

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Any:
        own = f"{subscription}{next(self.numbers)}"
        return self.inner.receiver(topic, own, ordered=ordered)


class OneTopic(MutantDriver):
    """Use one topic for all."""

    def sender(self, topic: str) -> Any:
        return self.inner.sender("the only one")

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Any:
        return self.inner.receiver("the only one", subscription + topic, ordered=ordered)


class OtherNames(MemoryDriver):
    """A correct driver of a broker whose binding names the attributes of events as Kafka's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.capabilities = replace(self.capabilities, events=KAFKA)


class NoOrder(MutantDriver):
    """Ignore ``ordered``, and reverse batches."""

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Any:
        return receiving(lambda batch: batch[::-1])(
            self.inner.receiver(topic, subscription, ordered=False)
        )


class ResendsBackwards(MutantDriver):
    """Send messages that are given back again, in reverse order."""

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Any:
        sender = self.inner.sender(topic)

        class Resending(HoldingReceiver):
            async def nack(self, batch: Sequence[Message], delay: float) -> Results:
                await sender.send(batch[::-1])
                return await self.inner.ack(batch)

            async def aclose(self) -> None:
                await sender.send([m for m in self.held if not any(await self.inner.ack([m]))])
                self.held = []
                await self.inner.aclose()

        return Resending(self.inner.receiver(topic, subscription, ordered=ordered))


class KeyedByReceiver(MutantDriver):
    """Ignore ``ordered``."""

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Any:
        return MutantReceiver(self.inner.receiver(topic, subscription, ordered=False))


class ClosesAll(MutantDriver):
    """Close all senders or receivers with one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[Any] = []

    def sender(self, topic: str) -> Any:
        sender: Any = self._closing_all(MutantSender(self.inner.sender(topic)))
        return sender

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Any:
        inner = self.inner.receiver(topic, subscription, ordered=ordered)
        receiver: Any = self._closing_all(MutantReceiver(inner))
        return receiver

    def _closing_all(self, end: Any) -> Any:
        self.ends.append(end)

        async def aclose() -> None:
            for other in self.ends:
                if type(other) is type(end):
                    await other.inner.aclose()

        end.aclose = aclose
        return end


class ClosesOnce(MutantDriver):
    closed = False

    async def aclose(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True
        await super().aclose()
