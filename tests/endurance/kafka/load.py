"""A publisher of numbered messages that knows which of them were confirmed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count, takewhile

from aiokafka.partitioner import murmur2

from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels
from tests.endurance.kafka.service import Cat

_PER_KEY = 2
"""How many messages of a key are unconfirmed at a time."""


def keys(partitions: int, each: int) -> list[str]:
    """Return names, ``each`` of them for each of ``partitions``."""
    found: list[list[str]] = [[] for _ in range(partitions)]
    for number in count():
        name = f"cat-{number}"
        place = found[(murmur2(name.encode()) & 0x7FFFFFFF) % partitions]
        if len(place) < each:
            place.append(name)
        elif all(len(place) == each for place in found):
            break
    return [name for place in found for name in place]


class Load:
    """Publish to the channel ``cats``, each key's messages in the order of their numbers."""

    def __init__(self, channels: Channels, names: Sequence[str], work: float) -> None:
        self.published: Counter[str] = Counter()
        """The number of confirmed messages of each key; their numbers start at 1, without a gap."""
        self.failures: Counter[str] = Counter()
        """The errors of messages that were then sent again with the same number."""
        self.problems: list[str] = []
        self._channels = channels
        self._names = names
        self._work = work
        self._random = random.Random(7)
        self._stopped = False

    async def send(self, cat: Cat) -> None:
        """Publish one message; its number has to be the next of its key."""
        await self._channels.publish("cats", cat, key=cat.name)
        self.published[cat.name] += 1

    async def _publish(self, names: Sequence[str]) -> None:
        """Publish the next messages of some keys."""
        cats = [self._next(name, ahead) for ahead in range(_PER_KEY) for name in names]
        results = await self._channels.publish_many("cats", cats, key=lambda cat: cat.name)
        outcome = dict(zip(((cat.name, cat.number) for cat in cats), results, strict=True))
        for name in names:
            errors = [outcome[name, self.published[name] + 1 + ahead] for ahead in range(_PER_KEY)]
            done = len(list(takewhile(lambda error: error is None, errors)))
            if any(error is None for error in errors[done:]):
                self.problems.append(f"{name}: a message was confirmed after one that was not")
            self.failures.update(type(error).__name__ for error in errors if error is not None)
            self.published[name] += done

    def _next(self, name: str, ahead: int) -> Cat:
        number = self.published[name] + 1 + ahead
        return Cat(name=name, number=number, seconds=self._random.uniform(0, self._work))

    async def _run(self, rate: float, names: Sequence[str]) -> None:
        at_once = min(len(names), max(1, round(rate / 10 / _PER_KEY)))
        while not self._stopped:
            await self._publish(self._random.sample(names, at_once))
            await asyncio.sleep(0.1)

    @asynccontextmanager
    async def running(self, rate: float, names: Sequence[str] = ()) -> AsyncIterator[None]:
        """Publish about ``rate`` messages a second to ``names``, or all, while the context lasts.

        When it ends, every published message is confirmed, or has failed and is not counted.
        """
        task = asyncio.create_task(self._run(rate, names or self._names))
        try:
            yield
        finally:
            self._stopped = True
            await task


@asynccontextmanager
async def load(
    url: str, topic: str, names: Sequence[str], work: float = 0.02
) -> AsyncIterator[Load]:
    """Connect to the broker at ``url``; handling a message takes up to ``work`` seconds."""
    topics = {"CATS": f"{url}/{topic}"}
    async with Channels(url, service="load", topics=topics, metrics=Metrics()) as channels:
        yield Load(channels, names, work)
