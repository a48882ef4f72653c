"""The driver while a real broker is dead, or is there and answers nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pubsubtest.conformance import Check
from tests.pubsub.brokers.kafka import sender_support
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.conformance_support import harness, hold, named
from tests.pubsub.brokers.kafka.sender_support import KIB, cancelled, sent
from tests.pubsub.brokers.kafka.support import Holds, a_topic, ack, collect, let_go, soon


@contextmanager
def paused(cluster: Cluster) -> Iterator[None]:
    """Pause the node while the context lasts."""
    cluster.pause(1)
    try:
        yield
    finally:
        cluster.resume(1)


async def test_a_send_may_be_refused_once_it_was_cancelled(breakable_kafka: Cluster) -> None:
    """What nobody hears of leaves a gap in what aiokafka counts; the next send works."""
    async with sender_support.a_topic(breakable_kafka, 1, {"max.message.bytes": "2000"}) as topic:
        async with topic.sender() as sender:
            await sent(sender, topic.message(b"0"))
            with paused(breakable_kafka):
                await cancelled(sender.send([topic.message(bytes(5 * KIB))]))
            await sent(sender, topic.message(b"1"))
        assert await topic.values(2) == [b"0", b"1"]


async def test_the_close_is_bounded_while_the_broker_is_paused(breakable_kafka: Cluster) -> None:
    """A sender with something unconfirmed ends within seconds though its connection stays."""
    async with sender_support.a_topic(breakable_kafka) as topic, topic.sender() as sender:
        await sent(sender, topic.message(b"0"))
        with paused(breakable_kafka):
            await cancelled(sender.send([topic.message(b"1")]))
            await soon(sender.aclose())


@pytest.mark.parametrize("outage", ["dead", "silent"])
async def test_closes_are_bounded_without_a_broker(breakable_kafka: Cluster, outage: str) -> None:
    """Who has something to commit, lets go or joins ends within seconds, whatever the broker."""
    stop = breakable_kafka.kill if outage == "dead" else breakable_kafka.pause
    back = breakable_kafka.start if outage == "dead" else breakable_kafka.resume
    async with a_topic(breakable_kafka) as topic, a_topic(breakable_kafka) as other:
        await topic.publish(b"1")
        await other.publish(b"1")
        holds = Holds()
        async with topic.member(holds) as amid, other.member() as idle, topic.outsider() as new:
            for receiver in (amid, idle):
                await ack(receiver, *await collect(receiver, 1))
            joining = asyncio.create_task(new.connect(let_go))
            await soon(holds.begun.wait())
            stop(1)
            joining.cancel()
            try:
                await soon(asyncio.gather(*(each.aclose() for each in (amid, idle, new))))
            finally:
                await asyncio.to_thread(back, 1)
            await asyncio.wait((joining,))


@pytest.mark.parametrize("check", named("failing"))
async def test_kafka_passes_with_a_silent_broker(breakable_kafka: Cluster, check: Check) -> None:
    """What each check says is true of Kafka while its broker is there and answers nothing."""
    await hold(check, harness(breakable_kafka, breakable_kafka.pause, breakable_kafka.resume))
