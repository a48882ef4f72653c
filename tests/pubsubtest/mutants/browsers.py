"""Browsers with one fault each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from gizmopy.errors import TopicNotFound
from gizmopy.pubsub import Message
from gizmopy.pubsub.driver import Measured, Results
from tests.pubsub.log_broker import LogBroker, LogBrowser, Record


class BrowsingBroker(LogBroker):
    """A broker with positions whose browsers have a fault."""

    def __init__(self, browser: type[LogBrowser]) -> None:
        super().__init__(rebalance_seconds=2.0, can_browse=True)
        self._browser = browser

    def browser(self, topic: str, subscription: str) -> LogBrowser:
        return self._browser(self, topic, subscription)


class FindsOnce(LogBrowser):
    """Find each message once."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._seen = 0

    async def browse(self) -> AsyncIterator[Sequence[Message]]:
        found = self._open()[self._seen :]
        self._seen += len(found)
        if found:
            yield found


class SettlesNothing(LogBrowser):
    """Confirm what is not settled."""

    async def settle(self, batch: Sequence[Message]) -> Results:
        return [None] * len(batch)


class SettlesAllBefore(LogBrowser):
    """Settle a message with all before it, as an ack of a position does."""

    async def settle(self, batch: Sequence[Message]) -> Results:
        last = {message.partition: _offset(message) for message in batch}
        before = [m for m in self._open() if _offset(m) <= last.get(m.partition, -1)]
        await super().settle(before)
        return [None] * len(batch)


def _offset(message: Message) -> int:
    assert isinstance(message.raw, Record)
    return message.raw.offset


class LosesItsPlace(LogBrowser):
    """Count on from a place in the list of what is open, which a settle makes shorter."""

    async def browse(self) -> AsyncIterator[Sequence[Message]]:
        at = 0
        while batch := self._open()[at : at + 2]:
            yield batch
            at += 2


class ShowsItsMarks(LogBrowser):
    """Publish a mark that receivers get."""

    async def settle(self, batch: Sequence[Message]) -> Results:
        self._broker.append(Message(self._topic, b"mark", key="cat"))
        return await super().settle(batch)


class IgnoresAcks(LogBrowser):
    """Find what the subscription has acked."""

    def __init__(self, broker: LogBroker, topic: str, subscription: str) -> None:
        super().__init__(broker, topic, f"{subscription}-of-browsers")


class MeasuresOnce(LogBrowser):
    """Keep the first figure that is not 0."""

    _first = Measured()

    async def measure(self) -> Measured:
        if not self._first.backlog:
            self._first = await super().measure()
        return self._first


class InventsAges(LogBrowser):
    """Tell an age in milliseconds."""

    async def measure(self) -> Measured:
        found = await super().measure()
        return replace(found, oldest=(found.oldest or 0) * 1000 + 3600 * bool(found.backlog))


class MakesTopics(LogBrowser):
    """Connect to any topic."""

    async def connect(self) -> None:
        return


class CloseNeedsConnect(LogBrowser):
    """Fail to close what was never connected."""

    _is_connected = False

    async def connect(self) -> None:
        self._is_connected = True

    async def aclose(self) -> None:
        if not self._is_connected:
            raise TopicNotFound("not connected")
