"""A publisher keeps the limits that its topic has once it is connected."""

from __future__ import annotations

import asyncio

import pytest

from gizmopy.errors import PubSubError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels, Publisher
from gizmopy.pubsub.driver import Limits
from tests.pubsub.publisher.support import GatedSender, failures, publish_each
from tests.pubsub.support import capabilities, no_wait, turns


class LimitedSender(GatedSender):
    """A sender that knows its limits once it is connected."""

    def __init__(self, **limits: int) -> None:
        super().__init__()
        self._limits: Limits | None = None
        self._known = Limits(**{"batch_messages": 10} | limits)

    async def connect(self) -> None:
        self._limits = self._known

    def limits(self) -> Limits:
        assert self._limits is not None
        return self._limits


def publisher(sender: GatedSender, metrics: Metrics) -> Publisher:
    """Return a publisher whose driver has another limit than its topic."""
    limits = capabilities(message_bytes=1000)
    return Publisher(sender, "t", metrics=metrics, limits=limits, sleep=no_wait)


@pytest.mark.parametrize(
    ("limits", "attributes", "reason"),
    [
        ({"message_bytes": 20}, {"a": "x" * 30}, "has 68 bytes, .* accepts at most 20"),
        ({"message_attributes": 2}, {"a": "", "b": ""}, "has 3 attributes, .* accepts at most 2"),
        ({"attribute_bytes": 30}, {"a": "x" * 31}, "has an attribute 'a' of 31 bytes, .* most 30"),
        ({"attribute_bytes": 30}, {"a": "ä" * 16}, "has an attribute 'a' of 32 bytes, .* most 30"),
        ({"attribute_name_bytes": 12}, {"b" * 13: ""}, "name has 13 bytes, .* at most 12"),
    ],
)
async def test_a_message_above_a_limit_of_its_topic_is_not_sent(
    limits: dict[str, int], attributes: dict[str, str], reason: str
) -> None:
    """The error names the limit, is permanent, and is counted."""
    sender, metrics = LimitedSender(**limits), Metrics()
    async with publisher(sender, metrics) as out:
        with pytest.raises(PubSubError, match=reason) as caught:
            await out.publish(b"x", attributes=attributes)
        assert not caught.value.transient
        assert sender.sent == []
        assert failures(metrics) == {"oversize": 1}
        assert out.limits is sender.limits()


async def test_batches_are_within_the_limit_of_the_topic() -> None:
    """It may be lower than that of the driver."""
    sender = LimitedSender(batch_messages=3)
    async with publisher(sender, Metrics()) as out:
        sender.gate.clear()
        calls = publish_each(9, out)
        await turns()
        sender.gate.set()
        await asyncio.gather(*calls)
    assert max(map(len, sender.batches)) == 3


async def test_the_first_message_is_within_the_limits_of_the_topic() -> None:
    """They are known after the connect, which the first message waits for."""
    sender = LimitedSender(message_attributes=1)

    class Driver:
        capabilities = capabilities()

        def sender(self, topic: str) -> GatedSender:
            return sender

        async def aclose(self) -> None:
            pass

    options = {"service": "svc", "metrics": Metrics(), "sleep": no_wait}
    async with Channels("x://", open_driver=lambda _: Driver(), **options) as channels:  # type: ignore[arg-type,return-value]  # a publisher's driver
        with pytest.raises(PubSubError, match="3 attributes"):
            await channels.publish("cats", b"x", attributes={"a": "", "b": ""})
