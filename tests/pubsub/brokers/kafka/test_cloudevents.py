"""CloudEvents on Kafka, by its protocol binding: with the records of other clients, and for them.

The records of the SDK are those that the Python SDK of CloudEvents, 2.2, makes; the scenarios of
conformance are those of the project cloudevents/conformance. librdkafka writes them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import confluent_kafka
from pydantic import BaseModel

from gizmopy import Message, subscribe
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels, CloudEvent, collect_subscriptions
from gizmopy.pubsub.cloudevents import data_of
from tests.pubsub.brokers.kafka.cluster import AnyCluster
from tests.pubsub.brokers.kafka.sender_support import Topic, a_topic

BINARY = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"1234-1234-1234"),
    ("ce_type", b"com.example.someevent"),
    ("ce_source", b"/mycontext/subcontext"),
    ("ce_time", b"2018-04-05T03:56:24Z"),
    ("content-type", b"application/json"),
]
"""The headers of the scenario "Binary content mode"."""
STRUCTURED = (
    b'{"specversion": "1.0", "type": "com.example.someevent", "time": "2018-04-05T03:56:24Z", '
    b'"id": "1234-1234-1234", "source": "/mycontext/subcontext", '
    b'"datacontenttype": "application/json", "data": {"message": "Hello World!"}}'
)
"""The payload of the scenario "Structured content mode"."""
HELLO = b'{"message": "Hello World!"}'
OF_EARLIER = [(name.replace("ce_", "ce-"), value) for name, value in BINARY]
"""The headers that earlier versions of gizmopy wrote."""


class Hello(BaseModel):
    message: str


class Listener:
    """A service that records what it handles, and dead-letters what it cannot decode."""

    def __init__(self, dead: str) -> None:
        self.handled: list[tuple[Hello, Message]] = []
        self.dead_letters: list[Message] = []
        self.changed = asyncio.Event()

    message_middleware = ()

    @subscribe("cats", dead_letter="dead")
    async def on_hello(self, hello: Hello, message: Message) -> None:
        CloudEvent.from_message(message)
        self.handled.append((hello, message))
        self.changed.set()

    @subscribe("dead")
    async def on_dead(self, message: Message) -> None:
        self.dead_letters.append(message)
        self.changed.set()

    async def until(self, handled: int, dead: int = 0) -> None:
        """Wait until so many messages were handled and dead-lettered."""
        async with asyncio.timeout(30):
            while (len(self.handled), len(self.dead_letters)) != (handled, dead):
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def listening(cluster: AnyCluster, topic: Topic, dead: Topic) -> AsyncIterator[Listener]:
    """Run the service on two topics."""
    service = Listener(dead.name)
    topics = {"CATS": f"{cluster.url}/{topic.name}", "DEAD": f"{cluster.url}/{dead.name}"}
    async with Channels(
        cluster.url, service=topic.name, topics=topics, metrics=Metrics()
    ) as channels:
        await channels.start(collect_subscriptions(service, topic.name))
        yield service


def produce(topic: Topic, *records: tuple[bytes, list[tuple[str, bytes]]]) -> None:
    """Write records with librdkafka."""
    producer = confluent_kafka.Producer({"bootstrap.servers": topic.cluster.bootstrap})
    for value, headers in records:
        producer.produce(topic.name, value, headers=[*headers])
    assert producer.flush(20) == 0


async def test_events_of_other_clients_are_handled(kafka: AnyCluster) -> None:
    """Those of the conformance project in both modes, and those of earlier versions of gizmopy."""
    structured = [("content-type", b"application/cloudevents+json; charset=utf-8")]
    async with a_topic(kafka) as topic, a_topic(kafka) as dead:
        produce(topic, (HELLO, BINARY), (STRUCTURED, structured), (HELLO, OF_EARLIER))
        async with listening(kafka, topic, dead) as service:
            await service.until(3)
    for hello, message in service.handled:
        assert hello.message == "Hello World!"
        assert CloudEvent.from_message(message).attributes() == {
            "ce-specversion": "1.0",
            "ce-id": "1234-1234-1234",
            "ce-type": "com.example.someevent",
            "ce-source": "/mycontext/subcontext",
            "ce-time": "2018-04-05T03:56:24Z",
            "content-type": "application/json",
        }
        assert json.loads(data_of(message) or b"") == {"message": "Hello World!"}


async def test_events_that_are_not_valid_are_dead_lettered(kafka: AnyCluster) -> None:
    """The dead letter has the reason, and headers and body as the other client wrote them."""
    of_0_3 = [("ce_specversion", b"0.3"), *BINARY[1:]]
    batch = [("content-type", b"application/cloudevents-batch+json")]
    async with a_topic(kafka) as topic, a_topic(kafka) as dead:
        produce(topic, (HELLO, BINARY[:-3]), (HELLO, of_0_3), (b"[]", batch))
        async with listening(kafka, topic, dead) as service:
            await service.until(0, 3)
        records = await dead.records(3)
    reasons = [letter.attributes["gizmo-dl-exception"] for letter in service.dead_letters]
    assert "ce-source are missing" in reasons[0]
    assert "ce-specversion='0.3' is not supported" in reasons[1]
    assert "is a batch of CloudEvents" in reasons[2]
    for record, headers in zip(records, (BINARY[:-3], of_0_3, batch), strict=True):
        assert [*record.headers][: len(headers)] == headers


async def test_other_clients_read_our_events(kafka: AnyCluster) -> None:
    """The headers of binary mode begin with ce_; structured mode has the content type only."""
    event = CloudEvent(
        type="cat.born",
        source="/cats",
        id="7",
        subject="größe 1%",
        extensions={"partitionkey": "tom", "count": 5},
    )
    async with a_topic(kafka) as topic:
        topics = {"CATS": f"{kafka.url}/{topic.name}"}
        async with Channels(kafka.url, service="s", topics=topics, metrics=Metrics()) as channels:
            await channels.publish("cats", {"name": "Tom"}, attributes=event.attributes())
            await channels.publish("cats", event.structured({"name": "Tom"}))
            await channels.publish("cats", {"name": "Tom"}, attributes=event.attributes(), key="k")
        binary, structured, keyed = consume(topic, 3)
    assert binary == (
        b"tom",
        b'{"name":"Tom"}',
        {
            "ce_specversion": b"1.0",
            "ce_type": b"cat.born",
            "ce_source": b"/cats",
            "ce_id": b"7",
            "ce_subject": "größe 1%".encode(),
            "ce_partitionkey": b"tom",
            "ce_count": b"5",
            "content-type": b"application/json",
        },
    )
    key, value, headers = structured
    assert (key, headers) == (b"tom", {"content-type": b"application/cloudevents+json"})
    assert json.loads(value) == {
        "specversion": "1.0",
        "type": "cat.born",
        "source": "/cats",
        "id": "7",
        "subject": "größe 1%",
        "partitionkey": "tom",
        "count": 5,
        "datacontenttype": "application/json",
        "data": {"name": "Tom"},
    }
    assert keyed[0] == b"k"


def consume(topic: Topic, count: int) -> list[Any]:
    """Read records with librdkafka: key, value, and headers."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": topic.cluster.bootstrap,
            "group.id": topic.name,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.assign([confluent_kafka.TopicPartition(topic.name, 0, 0)])
    try:
        records = [record for record in consumer.consume(count, 20) if not record.error()]
    finally:
        consumer.close()
    return [(record.key(), record.value(), dict(record.headers() or ())) for record in records]
