"""What came in goes out: keys, headers, order and repetition, with librdkafka at both ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import confluent_kafka
import pytest

from gizmopy import Message, Reject, subscribe
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels, collect_subscriptions
from gizmopy.pubsub.brokers.kafka.lenient_records import mark_unreadable
from gizmopy.pubsub.message import RepeatedAttributes
from gizmopy.pubsub.redrive import Plan, Redrive
from tests.pubsub.brokers.kafka.cluster import AnyCluster
from tests.pubsub.brokers.kafka.sender_support import Topic, a_topic

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HEADERS: list[tuple[str, bytes | None]] = [
    ("z", b"1"),
    ("binary", b"\x00\xff\xfe"),
    ("a", b""),
    ("none", None),
    ("z", b"2"),
    ("traceparent", TRACE),
    ("half", b"\xed\xa0\x80"),
    ("none", None),
    ("猫", "ねこ".encode()),
    ("content-type", b"a/b"),
    ("z", b"1"),
]
UNIQUE: list[tuple[str, bytes | None]] = [
    ("z", b"1"),
    ("none", None),
    ("traceparent", TRACE),
    ("content-type", b"a/b"),
    ("a", b"\xff"),
]
CASES = [
    (b"\xff\x00", b"\xfe\x00", HEADERS),
    (b"", b"", UNIQUE),
    (None, b"k", HEADERS),
    (b"x", None, []),
]
"""Value, key and headers of records."""


class Forwarder:
    """Forward each message in two ways, and dead-letter it in the end."""

    message_middleware = ()

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    @subscribe("in", dead_letter="dead")
    async def on_message(self, message: Message) -> None:
        await self._channels.publish("out", message)
        await self._channels.publish(
            "again", message.body, key=message.key, attributes=message.attributes
        )
        raise Reject


@asynccontextmanager
async def topics_of(cluster: AnyCluster, *channels: str) -> AsyncIterator[Mapping[str, Topic]]:
    """Make a topic for each channel."""
    async with (
        a_topic(cluster) as first,
        a_topic(cluster) as second,
        a_topic(cluster) as third,
        a_topic(cluster) as fourth,
    ):
        yield dict(zip(channels, (first, second, third, fourth), strict=True))


async def test_messages_survive_forwarding_dead_letters_and_redrive(kafka: AnyCluster) -> None:
    """Body, key and headers are those of the other client, byte for byte and in their order."""
    async with topics_of(kafka, "in", "out", "again", "dead") as topics:
        produce(topics["in"], *CASES)
        places = {name.upper(): f"{kafka.url}/{topic.name}" for name, topic in topics.items()}
        async with Channels(
            kafka.url, service=topics["in"].name, topics=places, metrics=Metrics()
        ) as channels:
            service = Forwarder(channels)
            await channels.start(collect_subscriptions(service, topics["in"].name))
            dead = await asyncio.to_thread(consume, topics["dead"], len(CASES))
        out = await asyncio.to_thread(consume, topics["out"], len(CASES))
        again = await asyncio.to_thread(consume, topics["again"], len(CASES))
        run = Redrive(
            Plan(channel="dead", subscription=uuid4().hex, wait=3.0),
            kafka.url,
            topics=places,
            on_listed=lambda _: None,
            on_failed=lambda message, reason: pytest.fail(reason),
        )
        await run.run()
        redriven = (await asyncio.to_thread(consume, topics["in"], 2 * len(CASES)))[len(CASES) :]
    assert out == CASES
    for (value, key, headers), (_, _, given) in zip(again, CASES, strict=True):
        assert (value, key) in [case[:2] for case in CASES]
        default = [("content-type", b"application/octet-stream")]
        assert headers == (given or default)
    for records in (dead, redriven):
        assert [(value, key) for value, key, _ in records] == [case[:2] for case in CASES]
        for (_, _, headers), (_, _, given) in zip(records, CASES, strict=True):
            assert headers[: len(given)] == given
            assert all(name.startswith("gizmo-dl-") for name, _ in headers[len(given) :])


def test_an_unreadable_record_keeps_its_repeated_headers() -> None:
    """The name that is not UTF-8 is escaped, and all headers stay, in their order."""
    pairs = [("a", "1"), ("\udcff", "2"), ("a", "3")]
    message = Message("t", b"", attributes=RepeatedAttributes(pairs))
    mark_unreadable([message])
    assert [*message.attributes.items()] == [("a", "1"), ("\\udcff", "2"), ("a", "3")]


def produce(topic: Topic, *records: tuple[bytes | None, bytes | None, Any]) -> None:
    """Write records with librdkafka."""
    producer = confluent_kafka.Producer({"bootstrap.servers": topic.cluster.bootstrap})
    for value, key, headers in records:
        producer.produce(topic.name, value, key, headers=headers)
    assert producer.flush(20) == 0


def consume(topic: Topic, count: int) -> list[Any]:
    """Read records with librdkafka: value, key, and headers."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": topic.cluster.bootstrap,
            "group.id": topic.name,
            "enable.auto.commit": False,
        }
    )
    consumer.assign([confluent_kafka.TopicPartition(topic.name, 0, 0)])
    try:
        records = [record for record in consumer.consume(count, 30) if not record.error()]
    finally:
        consumer.close()
    return [(record.value(), record.key(), record.headers() or []) for record in records]
