"""Hold a service's channels: where each one leads, its publisher, and the engines that consume."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import drivers
from gizmopy.pubsub.driver import Driver
from gizmopy.pubsub.outcome import DrainReport, OnSettle
from gizmopy.pubsub.subscription import Subscription


class ChannelRow(NamedTuple):
    """One line of the start-up log: a subscription and where it leads."""

    channel: str
    url: str
    subscription: str
    handler: str
    concurrency: int
    order: str


class Channels:
    """Hold a service's channels."""

    def __init__(
        self,
        url: str,
        *,
        service: str,
        topics: Mapping[str, str] = {},
        subscriptions: Mapping[str, str] = {},
        metrics: Metrics,
        on_settle: OnSettle | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        open_driver: Callable[[str], Driver] = drivers.open_driver,
    ) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Channels:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def publish(
        self,
        channel: str,
        value: object,
        *,
        key: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Publish ``value`` on ``channel``, and return when the broker has confirmed it."""

    async def start(self, subscriptions: Sequence[Subscription]) -> None:
        """Connect the receivers and let the engines run."""

    async def run(self) -> None:
        """Return when drained; raise if an engine dies."""

    def stop_receiving(self) -> None:
        """Fetch no more from brokers outside the process."""

    async def drain(self, timeout: float) -> DrainReport:
        """Finish or give back what is held within ``timeout`` seconds."""
        raise NotImplementedError

    async def idle(self) -> None:
        """Wait until nothing is queued or in flight (process-local drivers)."""

    def describe(self) -> list[ChannelRow]:
        """Return a row for each running subscription."""
        raise NotImplementedError
