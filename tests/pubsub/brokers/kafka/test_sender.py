"""To which partitions the Kafka sender publishes, which records arrive, and which errors it
returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Message
from gizmopy.pubsub import registry as drivers
from tests.pubsub.brokers.kafka.cluster import AnyCluster, Cluster
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster, mock_cluster
from tests.pubsub.brokers.kafka.sender_support import (
    HASHES,
    KIB,
    NOT_ENOUGH_REPLICAS,
    NOT_LEADER,
    PRODUCE,
    TIMED_OUT,
    TOO_LARGE,
    a_topic,
    cancelled,
    in_time,
    key_of,
    sent,
    transience,
)


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[MockCluster]:
    """Give two mock brokers that fail on demand."""
    with mock_cluster(tmp_path, nodes=2) as cluster:
        yield cluster


# Partitions and records.


async def test_keys_go_to_the_partition_of_the_java_client(mock: MockCluster) -> None:
    """The partition is murmur2 of the key, as in services in other languages."""
    async with a_topic(mock, partitions=50) as topic, topic.sender() as sender:
        await sent(sender, *(topic.message(b"x", key) for key in HASHES))
        placed = {record.key.decode(): record.partition for record in await topic.records(6)}
    assert placed == {key: (hash_ & 0x7FFFFFFF) % 50 for key, hash_ in HASHES.items()}


async def test_messages_without_a_key_are_spread(mock: MockCluster) -> None:
    """Each send without a key goes to the next partition."""
    async with a_topic(mock, partitions=3) as topic, topic.sender() as sender:
        for _ in range(6):
            await sent(sender, topic.message(b"x"))
        placed = sorted(record.partition for record in await topic.records(6))
    assert placed == [0, 0, 1, 1, 2, 2]


async def test_a_message_is_a_record(kafka: AnyCluster) -> None:
    """Body, key and attributes become value, key and headers, also if they are not UTF-8."""
    key = b"\xfe\x00".decode("utf-8", "surrogateescape")
    attributes = {"colour": "gr\u00fcn", "raw": b"\xfd".decode("utf-8", "surrogateescape")}
    async with a_topic(kafka) as topic, topic.sender() as sender:
        message = topic.message(b"\xff\x00", key, attributes=attributes)
        await sent(sender, message, topic.message(b"", ""))
        first, second = await topic.records(2)
    assert (first.key, first.value) == (b"\xfe\x00", b"\xff\x00")
    assert dict(first.headers) == {"colour": "gr\u00fcn".encode(), "raw": b"\xfd"}
    assert (second.key, second.value, second.headers) == (b"", b"", ())


async def test_a_tombstone_is_a_null(kafka: AnyCluster) -> None:
    """A body of None deletes its key from a compacted topic; an empty body does not."""
    async with a_topic(kafka) as topic, topic.sender() as sender:
        await sent(sender, topic.message(b"", "k"), topic.message(None, "k"))
        assert await topic.values(2) == [b"", None]


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_batches_are_compressed(real_kafka: Cluster, compression: str) -> None:
    """With each codec, messages arrive that would be too large for the broker uncompressed."""
    body = b"meow" * 25_000
    small = {"max.message.bytes": "20000"}
    async with a_topic(real_kafka, 1, small) as topic:
        async with topic.sender(compression=compression) as sender:
            await sent(sender, topic.message(body), topic.message(body))
        assert await topic.values(2) == [body, body]


async def test_a_send_may_be_larger_than_a_request(kafka: AnyCluster) -> None:
    """It is split into batches that the broker accepts, and arrives in order."""
    count = 40
    async with a_topic(kafka) as topic, topic.sender() as sender:
        bodies = [b"%03d" % number + bytes(90_000) for number in range(count)]
        await sent(sender, *(topic.message(body, "k") for body in bodies))
        assert await topic.values(count) == bodies


# Refused batches.


async def test_a_message_that_is_too_large_fails_with_its_partition(real_kafka: Cluster) -> None:
    """Messages to other partitions arrive, the error is permanent, and the next send works."""
    settings = {"max.message.bytes": "2000"}
    async with a_topic(real_kafka, 2, settings) as topic, topic.sender() as sender:
        zero, one = key_of(0, 2), key_of(1, 2)
        await sent(sender, topic.message(b"0", zero), topic.message(b"0", one))
        for _ in range(2):
            large = topic.message(bytes(5 * KIB), zero)
            results = await sender.send([topic.message(b"1", one), large, topic.message(b"2", one)])
            assert transience(results) == [None, False, None]
            assert "MessageSizeTooLarge" in str(results[1])
        await sent(sender, topic.message(b"3", zero), topic.message(b"3", one))
        records = await topic.records(8)
    assert [record.value for record in records if record.partition == 0] == [b"0", b"3"]
    assert [r.value for r in records if r.partition == 1] == [b"0", b"1", b"2", b"1", b"2", b"3"]


async def test_batches_after_a_refused_one_fail(mock: MockCluster) -> None:
    """Earlier batches of the partition are confirmed, and no later one overtakes it."""
    async with a_topic(mock) as topic, topic.sender(max_message_bytes=100_000) as sender:
        messages = [topic.message(b"%d" % number + bytes(90_000), "k") for number in range(4)]
        mock.fail(PRODUCE, 0, TOO_LARGE)
        assert transience(await sender.send(messages)) == [None, False, False, False]
        await sent(sender, topic.message(b"next", "k"))
        assert await topic.values(2) == [messages[0].body, b"next"]


@pytest.mark.parametrize("error", [NOT_LEADER, TIMED_OUT, NOT_ENOUGH_REPLICAS])
async def test_transient_errors_are_retried(mock: MockCluster, error: int) -> None:
    """Each message arrives once and in order, without an error."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        for number in range(3):
            mock.fail(PRODUCE, error, error)
            await sent(sender, topic.message(b"%d" % number, "k"))
        assert await topic.values(3) == [b"0", b"1", b"2"]


async def test_sends_are_idempotent(real_kafka: Cluster) -> None:
    """A batch on disk has the id of its producer: a retry is not written twice."""
    async with a_topic(real_kafka) as topic, topic.sender() as sender:
        await sent(sender, topic.message(b"x"))
        (log,) = real_kafka.data_of(topic.name, 0).glob("*.log")
        assert int.from_bytes(log.read_bytes()[43:51], signed=True) >= 0  # -1: no producer id


# Outages.


async def test_a_send_waits_for_a_broker_that_returns(mock: MockCluster) -> None:
    """Within ``delivery_timeout`` an outage is only a delay."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        await sent(sender, topic.message(b"0", "k"))
        down(mock)
        sending = asyncio.create_task(sent(sender, topic.message(b"1", "k")))
        await asyncio.wait((sending,), timeout=0.2)
        assert not sending.done()
        up(mock)
        await in_time(sending)
        assert await topic.values(2) == [b"0", b"1"]


async def test_a_send_does_not_wait_for_ever(mock: MockCluster) -> None:
    """After ``delivery_timeout`` the message may or may not arrive; later sends work, in order."""
    async with a_topic(mock) as topic, topic.sender(delivery_timeout="300ms") as sender:
        await sent(sender, topic.message(b"0", "k"))
        down(mock)
        results = await in_time(sender.send([topic.message(b"1", "k")]))
        assert transience(results) == [True]
        assert "not confirmed within 0.3 s" in str(results[0])
        up(mock)
        await until_sent(sender, topic.message(b"2", "k"))
        values = await topic.values_to(b"2")
    assert [value for value in values if value != b"1"] == [b"0", b"2"]


async def until_sent(sender: Any, message: Message) -> None:
    """Send a message until it is confirmed; errors meanwhile have to be transient."""
    async with asyncio.timeout(20):
        while True:
            try:
                (result,) = await sender.send([message])
            except PubSubError as error:
                result = error
            if result is None:
                return
            assert transience([result]) == [True]


async def test_a_send_can_be_cancelled(mock: MockCluster) -> None:
    """The message may or may not arrive, and the next send works."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        await sent(sender, topic.message(b"0", "k"))
        for node in (1, 2):
            mock.delay(node, 0.3)
        await cancelled(sender.send([topic.message(b"1", "k")]))
        for node in (1, 2):
            mock.delay(node, 0)
        await sent(sender, topic.message(b"2", "k"))
        values = await topic.values_to(b"2")
    assert [value for value in values if value != b"1"] == [b"0", b"2"]


async def test_a_key_keeps_its_order_while_its_leader_moves(mock: MockCluster) -> None:
    """Each message arrives once and in order, however often another node becomes the leader."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        for number in range(12):
            if number % 3 == 0:
                mock.move_leader(topic.name, 0, 1 + number // 3 % 2)
            await sent(sender, *(topic.message(b"%d-%d" % (number, each), "k") for each in (0, 1)))
        expected = [b"%d-%d" % (number, each) for number in range(12) for each in (0, 1)]
        assert await topic.values(24) == expected


async def test_an_unreachable_broker_is_a_transient_error(kafka: AnyCluster) -> None:
    """The error names each host and port."""
    sender = drivers.open_driver("kafka://127.0.0.1:1,127.0.0.1:2").sender("cats")
    with pytest.raises(PubSubError, match=r"127\.0\.0\.1:1: .*127\.0\.0\.1:2: ") as caught:
        await in_time(sender.connect())
    assert caught.value.transient
    await sender.aclose()


def down(mock: MockCluster) -> None:
    """Make both nodes unreachable."""
    for node in (1, 2):
        mock.kill(node)


def up(mock: MockCluster) -> None:
    """Make both nodes reachable again."""
    for node in (1, 2):
        mock.start(node)


@pytest.mark.parametrize("outage", ["dead", "silent"])
async def test_the_close_is_bounded_without_a_broker(mock: MockCluster, outage: str) -> None:
    """A sender with an unconfirmed message closes within seconds, whatever the broker does."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        await sent(sender, topic.message(b"0"))
        if outage == "dead":
            down(mock)
        else:
            for node in (1, 2):
                mock.delay(node, 3600)
        await cancelled(sender.send([topic.message(b"1")]))
        await in_time(sender.aclose())


async def test_a_close_ends_a_send(mock: MockCluster) -> None:
    """A send that waits for a broker ends with the close, without a confirmation."""
    async with a_topic(mock) as topic, topic.sender() as sender:
        await sent(sender, topic.message(b"0"))
        down(mock)
        sending = asyncio.create_task(sender.send([topic.message(b"1")]))
        await asyncio.wait((sending,), timeout=0.05)
        await in_time(sender.aclose())
        assert transience(await in_time(sending)) != [None]
