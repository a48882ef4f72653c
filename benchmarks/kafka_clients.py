"""The clients that ``benchmarks.kafka`` compares, each in its own process.

Each prints the CPU microseconds of a message, of all its threads, from connecting to the last
message. Neither start nor stop counts, but records fetched ahead of the first message do. Clients
import their libraries themselves: the interpreter of FastStream need not have the others.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from time import process_time
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import uvloop
from pydantic import TypeAdapter

BODY = b"x" * 1024
AT_ONCE = 1000
"""How many messages are published concurrently."""
RECORDS = 500
"""How many records a call of getmany returns at most."""


class Case(NamedTuple):
    """The messages of a topic that go through a client."""

    client: str
    topic: str
    messages: int
    concurrency: int = 1
    order: Literal["none", "key", "partition"] = "none"
    max_in_flight: int = 1000


class Meter:
    """Read the CPU time between ``begin`` and the last message."""

    def __init__(self, messages: int) -> None:
        self.done = asyncio.Event()
        self.cost = 0.0
        """CPU microseconds of a message, once all are done."""
        self._messages = self._left = messages
        self._begun = 0.0

    def begin(self) -> None:
        """Start to count: the client is connected."""
        gc.freeze()  # as a daemon does after its imports
        self._begun = process_time()

    def handled(self) -> None:
        """Count one message; ignore surplus ones."""
        self._left -= 1
        if not self._left:
            self.cost = (process_time() - self._begun) / self._messages * 1e6
            self.done.set()


async def consume_getmany(case: Case, bootstrap: str, meter: Meter) -> None:
    """Consume with aiokafka alone, which commits every second."""
    from aiokafka import AIOKafkaConsumer

    handled = meter.handled
    async with AIOKafkaConsumer(
        case.topic,
        bootstrap_servers=bootstrap,
        group_id=uuid4().hex,
        auto_offset_reset="earliest",
        auto_commit_interval_ms=1000,
    ) as consumer:
        meter.begin()
        while not meter.done.is_set():
            batches = await consumer.getmany(timeout_ms=1000, max_records=RECORDS)
            for records in batches.values():
                for _ in records:
                    handled()


async def consume_gizmopy(case: Case, bootstrap: str, meter: Meter) -> None:
    """Consume with a subscriber that commits and measures."""
    from gizmopy.observe.metrics import Metrics
    from gizmopy.pubsub import subscribe
    from gizmopy.pubsub.registry import open_driver
    from gizmopy.pubsub.subscriber import Subscriber
    from gizmopy.pubsub.subscription import collect_subscriptions

    handled = meter.handled

    class Handlers:
        @subscribe(
            case.topic,
            concurrency=case.concurrency,
            order=case.order,
            max_in_flight=case.max_in_flight,
        )
        async def on_message(self, body: bytes) -> None:
            handled()

    group = uuid4().hex
    driver = open_driver(f"kafka://{bootstrap}?group={group}")
    (subscription,) = collect_subscriptions(Handlers(), group)
    subscriber = Subscriber(
        driver.receiver(case.topic, group, ordered=case.order != "none"),
        subscription,
        topic=case.topic,
        capabilities=driver.capabilities,
        metrics=Metrics(),
    )
    async with subscriber, asyncio.TaskGroup() as tasks:
        meter.begin()
        tasks.create_task(subscriber.run())
        await meter.done.wait()
        await subscriber.drain(10)
    await driver.aclose()


async def consume_faststream(case: Case, bootstrap: str, meter: Meter) -> None:
    """Consume with FastStream without its two log lines a message; aiokafka commits by itself."""
    from faststream.kafka import KafkaBroker  # type: ignore[import-not-found]  # not a dependency

    handled = meter.handled
    broker = KafkaBroker(bootstrap, logger=None)

    @broker.subscriber(  # type: ignore[untyped-decorator]  # as above
        case.topic, group_id=uuid4().hex, auto_offset_reset="earliest"
    )
    async def on_message(body: bytes) -> None:
        handled()

    async with broker:
        await broker.start()
        meter.begin()
        await meter.done.wait()


async def _publish(meter: Meter, publish: Callable[[bytes], Awaitable[object]]) -> None:
    """Publish the messages, a thousand at a time, and wait for all of them before the next."""

    async def one() -> None:
        await publish(BODY)
        meter.handled()

    meter.begin()
    while not meter.done.is_set():
        await asyncio.gather(*(one() for _ in range(AT_ONCE)))


async def publish_aiokafka(
    case: Case, bootstrap: str, meter: Meter, *, batch_bytes: int = 16 * 1024
) -> None:
    """Publish with aiokafka alone, by default in batches of its default size."""
    from aiokafka import AIOKafkaProducer

    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        max_batch_size=batch_bytes,
    ) as producer:
        await _publish(meter, lambda body: producer.send_and_wait(case.topic, body))


async def publish_gizmopy(case: Case, bootstrap: str, meter: Meter) -> None:
    """Publish with a publisher that measures."""
    from gizmopy.observe.metrics import Metrics
    from gizmopy.pubsub import Publisher
    from gizmopy.pubsub.registry import open_driver

    driver = open_driver(f"kafka://{bootstrap}")
    async with Publisher(
        driver.sender(case.topic), case.topic, metrics=Metrics(), limits=driver.capabilities
    ) as publisher:
        await _publish(meter, publisher.publish)
    await driver.aclose()


async def publish_faststream(case: Case, bootstrap: str, meter: Meter) -> None:
    """Publish with FastStream."""
    from faststream.kafka import KafkaBroker

    async with KafkaBroker(bootstrap, acks="all", enable_idempotence=True, logger=None) as broker:
        await _publish(meter, lambda body: broker.publish(body, case.topic))


CLIENTS: dict[str, Callable[[Case, str, Meter], Coroutine[Any, Any, None]]] = {
    "getmany": consume_getmany,
    "gizmopy": consume_gizmopy,
    "FastStream": consume_faststream,
    "aiokafka send": publish_aiokafka,
    "aiokafka send, 1 MB": partial(publish_aiokafka, batch_bytes=1_000_000),
    "gizmopy publish": publish_gizmopy,
    "FastStream publish": publish_faststream,
}


async def main(bootstrap: str, case: Case) -> None:
    """Run a client to its last message, and print the cost of a message."""
    meter = Meter(case.messages)
    await CLIENTS[case.client](case, bootstrap, meter)
    print(meter.cost)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(main(sys.argv[1], TypeAdapter(Case).validate_json(sys.argv[2])))
