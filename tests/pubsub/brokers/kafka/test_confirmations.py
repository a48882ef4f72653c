"""What a send to Kafka says is confirmed was confirmed, and what ends a send that is not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, ProducerClosed

from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster
from tests.pubsub.brokers.kafka.sender_support import (
    KIB,
    NOT_LEADER,
    PRODUCE,
    TOO_LARGE,
    a_topic,
    key_of,
    sent,
    soon,
    transience,
)

OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH = 45, 47
NO_LEADER = -1


def hand_over(patch: pytest.MonkeyPatch, *errors: Exception | None) -> None:
    """Let aiokafka fail to take the next batches, one each, with errors; None lets one through."""
    take, left = AIOKafkaProducer.send_batch, list(errors)

    async def take_or_fail(self: Any, *arguments: Any, **options: Any) -> Any:
        if left and (error := left.pop(0)) is not None:
            raise error
        return await take(self, *arguments, **options)

    patch.setattr(AIOKafkaProducer, "send_batch", take_or_fail)


# What is confirmed.


async def test_an_error_that_nobody_foresaw_is_raised(
    mock: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the call, and nothing that was not sent is told to be confirmed."""
    async with a_topic(mock, 2) as topic, topic.sender() as sender:
        hand_over(monkeypatch, None, AssertionError("unrecognized partition"))
        batch = [topic.message(b"x", key_of(number, 2)) for number in range(2)]
        with pytest.raises(AssertionError, match="unrecognized partition"):
            await sender.send(batch)
        await sent(sender, *batch)


async def test_what_was_confirmed_in_time_stays_so(mock: MockCluster) -> None:
    """Of a partition whose later batch is late, the earlier ones are no less there."""
    async with a_topic(mock) as topic, topic.sender(delivery_timeout="500ms") as sender:
        await sent(sender, topic.message(b"0", "k"))
        mock.fail(PRODUCE, 0, *[NOT_LEADER] * 50)
        messages = [topic.message(b"%d" % number + bytes(90 * KIB), "k") for number in range(3)]
        results = await soon(sender.send(messages))
        assert transience(results) == [None, True, True]
        assert "it may or may not have arrived" in str(results[1])


async def test_many_small_messages_fit_into_what_a_topic_takes(real_kafka: Cluster) -> None:
    """A send is cut smaller than the brokers' own limit, as a topic may have a lower one."""
    count, settings = 500, {"max.message.bytes": "200000"}
    async with a_topic(real_kafka, 1, settings) as topic, topic.sender() as sender:
        await sent(sender, *(topic.message(bytes(KIB)) for _ in range(count)))
        assert await topic.values(count) == [bytes(KIB)] * count


async def test_messages_without_a_key_go_where_there_is_a_leader(mock: MockCluster) -> None:
    """A partition without one holds up those that need no partition of their own no more."""
    async with a_topic(mock, 3) as topic:
        mock.move_leader(topic.name, 1, NO_LEADER)
        async with topic.sender(delivery_timeout="3s") as sender:
            for _ in range(4):
                await soon(sent(sender, topic.message(b"x"), topic.message(b"x")))
        mock.move_leader(topic.name, 1, 1)
        placed = [record.partition for record in await topic.records(8)]
    assert sorted(placed) == [0, 0, 0, 0, 2, 2, 2, 2]


# What passes.


@pytest.mark.parametrize("error", [OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH])
async def test_what_a_broker_holds_against_one_producer_passes(
    mock: MockCluster, error: int
) -> None:
    """A sequence that is broken, or an epoch that is over: the next send has a new producer."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        await sent(sender, topic.message(b"0"))
        mock.fail(PRODUCE, error)
        assert transience(await sender.send([topic.message(b"1")])) == [True]
        await sent(sender, topic.message(b"2"))


@pytest.mark.parametrize("error", [KafkaTimeoutError(), ProducerClosed()])
async def test_what_ails_one_producer_passes(
    mock: MockCluster, monkeypatch: pytest.MonkeyPatch, error: KafkaError
) -> None:
    """aiokafka calls it final, and it is, for that producer."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        hand_over(monkeypatch, error)
        assert transience(await sender.send([topic.message(b"1")])) == [True]
        await sent(sender, topic.message(b"2"))


async def test_what_a_broker_holds_against_a_message_does_not_pass(mock: MockCluster) -> None:
    """No producer could help it."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        mock.fail(PRODUCE, TOO_LARGE)
        assert transience(await sender.send([topic.message(b"1")])) == [False]


# What ends with the close.


@pytest.mark.parametrize("is_broken", [False, True])
async def test_a_send_that_has_not_begun_ends_with_the_close(
    mock: MockCluster, is_broken: bool
) -> None:
    """Whether it waits for a silent broker to tell of the partitions, or for a new producer."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        if is_broken:
            mock.fail(PRODUCE, TOO_LARGE)
            assert transience(await sender.send([topic.message(b"0")])) == [False]
        mock.delay(1, 3600)
        sending = asyncio.create_task(sender.send([topic.message(b"1")]))
        await asyncio.wait((sending,), timeout=0.1)
        await soon(sender.aclose())
        ended, late = await asyncio.wait((sending,), timeout=2.0)
        for each in late:
            each.cancel()
        await asyncio.wait((sending,))
        assert ended
        assert sending.exception() is not None


async def test_a_broken_producer_is_stopped_though_the_close_overtakes_that(
    mock: MockCluster,
) -> None:
    """Nothing of it goes on, though a send was about to replace it."""
    async with a_topic(mock) as topic:
        before = asyncio.all_tasks()
        async with topic.sender(delivery_timeout="200ms") as sender:
            await sent(sender, topic.message(b"0"))
            mock.delay(1, 3600)
            assert transience(await sender.send([topic.message(b"1")])) == [True]
            sending = asyncio.create_task(sender.send([topic.message(b"2")]))
            await asyncio.wait((sending,), timeout=0.1)
            await soon(sender.aclose())
            assert transience(await asyncio.gather(sending, return_exceptions=True)) == [False]
        assert asyncio.all_tasks() == before
