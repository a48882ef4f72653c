"""Helpers for tests of the engine on a broker that keeps positions."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import DrainReport, Message, Subscriber
from tests.pubsub.log_broker import LogBroker
from tests.pubsub.support import no_wait, subscription_of

Handle = Callable[[Message], Awaitable[None]]


class Member:
    """A subscriber in the group ``s`` of the topic ``t``; it runs while its context lasts."""

    def __init__(self, broker: LogBroker, handle: Handle, **options: Any) -> None:
        self._broker = broker
        dead_letter, sleep = options.pop("dead_letter", None), options.pop("sleep", no_wait)

        async def handler(message: Message) -> None:
            await handle(message)

        subscription = subscription_of(handler, **options)
        self.receiver = broker.receiver("t", "s", ordered=subscription.order != "none")
        self.metrics = Metrics()
        self.subscriber = Subscriber(
            self.receiver,
            subscription,
            topic="t",
            capabilities=broker.capabilities,
            metrics=self.metrics,
            dead_letter=dead_letter,
            sleep=sleep,
        )
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Member:
        await self.subscriber.__aenter__()
        self._task = asyncio.create_task(self.subscriber.run())
        await asyncio.sleep(0)  # let it start
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain(5)

    async def drain(self, timeout: float) -> DrainReport:
        report = await self.subscriber.drain(timeout)
        assert self._task is not None
        await self._task
        return report

    async def crash(self) -> None:
        """Leave the group with nothing settled, as a killed process does."""
        self._broker.kill(self.receiver)
        await self.drain(0)

    def metric(self, name: str) -> float:
        self.subscriber.measure()
        instruments = {"commit_lag": self.metrics.gauge, "in_flight": self.metrics.gauge}
        instrument = instruments.get(name, self.metrics.counter)(f"gizmo_pubsub_{name}", "")
        return instrument.child("t", "s").value


@asynccontextmanager
async def broker_of(**options: Any) -> AsyncIterator[LogBroker]:
    """Yield a broker whose topics have one partition, unless ``options`` give another number."""
    broker = LogBroker(**({"partitions": 1, "rebalance_seconds": 5.0} | options))
    yield broker
    await broker.aclose()


async def send(broker: LogBroker, *ids: str) -> None:
    """Send messages with these ids; the letters before the digits are the key."""
    batch = [Message("t", b"x", id=i, key=i.rstrip("0123456789") or None) for i in ids]
    assert await broker.sender("t").send(batch) == [None] * len(batch)


class Gates:
    """A handler that waits for each message until the test opens its gate."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.finished: list[str] = []
        self._gates: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def __call__(self, message: Message) -> None:
        self.started.append(message.id)
        await self._gates[message.id].wait()
        self.finished.append(message.id)

    def open(self, *ids: str) -> None:
        for id_ in ids:
            self._gates[id_].set()
