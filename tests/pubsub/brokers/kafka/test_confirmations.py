"""Which messages of a send are confirmed, and how a send ends that is not."""

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
    in_time,
    key_of,
    sent,
    transience,
)

OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH = 45, 47
NO_LEADER = -1


def fail_next_batches(patch: pytest.MonkeyPatch, *errors: Exception | None) -> None:
    """Raise these errors for aiokafka's next batches, one each; None accepts a batch."""
    take, left = AIOKafkaProducer.send_batch, list(errors)

    async def take_or_fail(self: Any, *arguments: Any, **options: Any) -> Any:
        if left and (error := left.pop(0)) is not None:
            raise error
        return await take(self, *arguments, **options)

    patch.setattr(AIOKafkaProducer, "send_batch", take_or_fail)


# Confirmations.


async def test_an_unexpected_error_is_raised(
    mock: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the call, and no unsent message counts as confirmed."""
    async with a_topic(mock, 2) as topic, topic.sender() as sender:
        fail_next_batches(monkeypatch, None, AssertionError("unrecognized partition"))
        batch = [topic.message(b"x", key_of(number, 2)) for number in range(2)]
        with pytest.raises(AssertionError, match="unrecognized partition"):
            await sender.send(batch)
        await sent(sender, *batch)


async def test_confirmations_in_time_count_although_a_later_batch_is_late(
    mock: MockCluster,
) -> None:
    """The earlier batches of a partition stay confirmed if a later one times out."""
    async with a_topic(mock) as topic, topic.sender(delivery_timeout="500ms") as sender:
        await sent(sender, topic.message(b"0", "k"))
        mock.fail(PRODUCE, 0, *[NOT_LEADER] * 50)
        messages = [topic.message(b"%d" % number + bytes(90 * KIB), "k") for number in range(3)]
        results = await in_time(sender.send(messages))
        assert transience(results) == [None, True, True]
        assert "it may or may not have arrived" in str(results[1])


async def test_a_send_fits_into_a_lower_limit_of_a_topic(real_kafka: Cluster) -> None:
    """A send is split into batches smaller than the brokers' limit, because a topic may have a
    lower one.
    """
    count, settings = 500, {"max.message.bytes": "200000"}
    async with a_topic(real_kafka, 1, settings) as topic, topic.sender() as sender:
        await sent(sender, *(topic.message(bytes(KIB)) for _ in range(count)))
        assert await topic.values(count) == [bytes(KIB)] * count


async def test_messages_without_a_key_go_to_a_partition_with_a_leader(mock: MockCluster) -> None:
    """A partition without a leader does not delay messages without a key."""
    async with a_topic(mock, 3) as topic:
        mock.move_leader(topic.name, 1, NO_LEADER)
        async with topic.sender(delivery_timeout="3s") as sender:
            for _ in range(4):
                await in_time(sent(sender, topic.message(b"x"), topic.message(b"x")))
        mock.move_leader(topic.name, 1, 1)
        placed = [record.partition for record in await topic.records(8)]
    assert sorted(placed) == [0, 0, 0, 0, 2, 2, 2, 2]


# Transient errors.


@pytest.mark.parametrize("error", [OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH])
async def test_errors_of_one_producer_are_transient(mock: MockCluster, error: int) -> None:
    """After a broken sequence or a fenced epoch the next send has a new producer."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        await sent(sender, topic.message(b"0"))
        mock.fail(PRODUCE, error)
        assert transience(await sender.send([topic.message(b"1")])) == [True]
        await sent(sender, topic.message(b"2"))


@pytest.mark.parametrize("error", [KafkaTimeoutError(), ProducerClosed()])
async def test_final_errors_of_aiokafka_are_transient(
    mock: MockCluster, monkeypatch: pytest.MonkeyPatch, error: KafkaError
) -> None:
    """aiokafka calls these errors final; they are, for that producer only."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        fail_next_batches(monkeypatch, error)
        assert transience(await sender.send([topic.message(b"1")])) == [True]
        await sent(sender, topic.message(b"2"))


async def test_a_refused_message_is_a_permanent_error(mock: MockCluster) -> None:
    """Another producer could not send it either."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        mock.fail(PRODUCE, TOO_LARGE)
        assert transience(await sender.send([topic.message(b"1")])) == [False]


# Closing.


@pytest.mark.parametrize("is_broken", [False, True])
async def test_a_send_that_has_not_begun_ends_with_the_close(
    mock: MockCluster, is_broken: bool
) -> None:
    """A send that waits for metadata, or for a new producer, ends with the close."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        if is_broken:
            mock.fail(PRODUCE, TOO_LARGE)
            assert transience(await sender.send([topic.message(b"0")])) == [False]
        mock.delay(1, 3600)
        sending = asyncio.create_task(sender.send([topic.message(b"1")]))
        await asyncio.wait((sending,), timeout=0.1)
        await in_time(sender.aclose())
        ended, late = await asyncio.wait((sending,), timeout=2.0)
        for each in late:
            each.cancel()
        await asyncio.wait((sending,))
        assert ended
        assert sending.exception() is not None


async def test_a_close_stops_a_broken_producer(
    mock: MockCluster,
) -> None:
    """No task of the producer is left, although a send was about to replace it."""
    async with a_topic(mock) as topic:
        before = asyncio.all_tasks()
        async with topic.sender(delivery_timeout="200ms") as sender:
            await sent(sender, topic.message(b"0"))
            mock.delay(1, 3600)
            assert transience(await sender.send([topic.message(b"1")])) == [True]
            sending = asyncio.create_task(sender.send([topic.message(b"2")]))
            await asyncio.wait((sending,), timeout=0.1)
            await in_time(sender.aclose())
            assert transience(await asyncio.gather(sending, return_exceptions=True)) == [False]
        assert asyncio.all_tasks() == before
