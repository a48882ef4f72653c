"""The driver while a real broker is dead, or accepts connections and does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pubsubtest.conformance import Check
from tests.pubsub.brokers.kafka import sender_support
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.conformance_support import checks_for, harness, require_pass
from tests.pubsub.brokers.kafka.sender_support import KIB, cancelled, sent
from tests.pubsub.brokers.kafka.support import (
    BlockedRevoke,
    a_topic,
    ack,
    collect,
    in_time,
    revoke_at_once,
)


@contextmanager
def paused(cluster: Cluster) -> Iterator[None]:
    """Pause the node while the context lasts."""
    cluster.pause(1)
    try:
        yield
    finally:
        cluster.resume(1)


async def test_a_cancelled_send_may_be_refused(breakable_kafka: Cluster) -> None:
    """A refused batch after the cancellation leaves a gap in aiokafka's sequence; the next send
    works.
    """
    async with sender_support.a_topic(breakable_kafka, 1, {"max.message.bytes": "2000"}) as topic:
        async with topic.sender() as sender:
            await sent(sender, topic.message(b"0"))
            with paused(breakable_kafka):
                await cancelled(sender.send([topic.message(bytes(5 * KIB))]))
            await sent(sender, topic.message(b"1"))
        assert await topic.values(2) == [b"0", b"1"]


async def test_the_close_is_bounded_while_the_broker_is_paused(breakable_kafka: Cluster) -> None:
    """A sender with an unconfirmed message closes within seconds, although its connection stays."""
    async with sender_support.a_topic(breakable_kafka) as topic, topic.sender() as sender:
        await sent(sender, topic.message(b"0"))
        with paused(breakable_kafka):
            await cancelled(sender.send([topic.message(b"1")]))
            await in_time(sender.aclose())


@pytest.mark.parametrize("outage", ["dead", "silent"])
async def test_closes_are_bounded_without_a_broker(breakable_kafka: Cluster, outage: str) -> None:
    """Receivers that have to commit, give up partitions or join close within seconds."""
    stop = breakable_kafka.kill if outage == "dead" else breakable_kafka.pause
    back = breakable_kafka.start if outage == "dead" else breakable_kafka.resume
    async with a_topic(breakable_kafka) as topic, a_topic(breakable_kafka) as other:
        await topic.publish(b"1")
        await other.publish(b"1")
        blocked = BlockedRevoke()
        async with (
            topic.member(blocked) as amid,
            other.member() as idle,
            topic.unconnected() as new,
        ):
            for receiver in (amid, idle):
                await ack(receiver, *await collect(receiver, 1))
            joining = asyncio.create_task(new.connect(revoke_at_once))
            await in_time(blocked.started.wait())
            stop(1)
            joining.cancel()
            try:
                await in_time(asyncio.gather(*(each.aclose() for each in (amid, idle, new))))
            finally:
                await asyncio.to_thread(back, 1)
            await asyncio.wait((joining,))


@pytest.mark.parametrize("check", checks_for("failing"))
async def test_kafka_passes_with_a_silent_broker(breakable_kafka: Cluster, check: Check) -> None:
    """Each check of an outage blocked while the broker does not answer."""
    await require_pass(
        check, harness(breakable_kafka, breakable_kafka.pause, breakable_kafka.resume)
    )
