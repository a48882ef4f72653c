"""Publish to Kafka: whole batches to each partition, confirmed by all replicas, in order."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import (
    CLOSE_SECONDS,
    cancel,
)
from gizmopy.pubsub.brokers.kafka.cluster import Cluster
from gizmopy.pubsub.brokers.kafka.errors import translate_errors
from gizmopy.pubsub.brokers.kafka.producers import (
    START_SECONDS,
    Share,
    SharedProducers,
)
from gizmopy.pubsub.driver import Limits, Results
from gizmopy.pubsub.message import NULL, Message

_KEYS_REMEMBERED = 10_000
_LONGEST_KEY_REMEMBERED = 64
"""How many characters a key may have whose hash is remembered. A key may be as long as a message,
and 10,000 of those would fill the memory. 64 hold a UUID or a SHA-256 in hex."""


class KafkaSender:
    """Publish to one topic, idempotent and confirmed by all in-sync replicas.

    ``producers`` are those that the senders of a driver share; default: its own.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: KafkaSettings,
        topic: str,
        limits: Limits,
        producers: SharedProducers | None = None,
    ) -> None:
        self._cluster = cluster
        self._limits = limits
        self._settings = settings
        self._topic = topic
        self._producers = producers or SharedProducers(cluster, settings)
        self._share: Share | None = None
        """The producer that is used, which other senders may use, too."""
        self._unsettled: set[asyncio.Future[Any]] = set()
        """Batches that the producer has, and that are not confirmed, failed or expired."""
        self._producer: AIOKafkaProducer | None = None
        self._is_broken = False
        """Whether the producer has to be replaced."""
        self._turn = 0
        """Counts the batches, to choose the partition of messages without a key."""
        self._remembered_hash = lru_cache(maxsize=_KEYS_REMEMBERED)(_hash)
        self._preparing: asyncio.Task[list[int]] | None = None
        self._deliveries: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def connect(self) -> None:
        """Find the topic, and start the producer. Raises TopicNotFound and PubSubError."""
        await self._cluster.find(self._topic)
        await self._working_producer()

    async def _working_producer(self) -> AIOKafkaProducer:
        """Return the producer; join a newer one if there is none or this topic broke it."""
        if self._producer is not None and not self._is_broken:
            return self._producer
        if self._is_broken:
            if self._share is not None:
                self._share.unfit.add(self._topic)
                await self._wait_settled(self._share)
            await self._leave_producer()
            await self._cluster.find_again(self._topic)  # its error has the reason; aiokafka's not
        self._share = await self._producers.join(self._topic)
        self._producer, self._is_broken = self._share.producer, False
        return self._producer

    def limits(self) -> Limits:
        """Return the limits of the cluster's settings."""
        return self._limits

    async def send(self, batch: Sequence[Message], *, number: int | None = None) -> Results:
        """Send a batch to each partition, and wait for the brokers' confirmations.

        With ``number`` all messages go to that partition.
        """
        if self._is_closed:
            raise UsageError("this sender is closed; send before aclose")
        seconds = self._settings.delivery_timeout.total_seconds()
        partitions = None if self._is_broken else self._known_partitions()
        if not partitions:
            partitions = await self._prepared_partitions(seconds)
        producer = self._producer
        assert producer is not None
        reason = f"not confirmed within {seconds:g} s; it may or may not have arrived"
        results: list[Exception | None] = [PubSubError(reason, transient=True)] * len(batch)
        by_partition: Mapping[int, Sequence[int]] = (
            self._places(producer, batch, partitions)
            if number is None
            else {number: range(len(batch))}
        )
        self._deliveries = {
            asyncio.create_task(self._deliver(producer, number, places, batch, results))
            for number, places in by_partition.items()
        }
        late = self._deliveries
        try:
            ended, late = await asyncio.wait(self._deliveries, timeout=seconds)
        finally:
            self._is_broken |= bool(late)  # aiokafka may have counted batches that never arrive
            await cancel(late)
        for delivery in ended:
            if not delivery.cancelled():
                delivery.result()
        return results

    def _known_partitions(self) -> list[int]:
        """Return the topic's partitions in order, as far as the producer knows them."""
        producer, topic = self._producer, self._topic
        cluster = None if producer is None else producer.client.cluster
        return sorted(() if cluster is None else cluster.partitions_for_topic(topic) or ())

    async def _prepared_partitions(self, seconds: float) -> list[int]:
        """Return the topic's partitions once there is a working producer that knows them."""
        self._preparing = asyncio.create_task(self._prepare(seconds))
        try:
            _, late = await asyncio.wait((self._preparing,), timeout=seconds)
        finally:
            self._preparing.cancel()  # has no effect if it is done
        if late:
            reason = f"no broker of {self._topic!r} is ready within {seconds:g} s; nothing was sent"
            raise PubSubError(reason, transient=True)
        if self._preparing.cancelled():
            reason = f"the sender to {self._topic!r} was closed; nothing was sent"
            raise PubSubError(reason, transient=False)
        return self._preparing.result()

    async def _prepare(self, seconds: float) -> list[int]:
        producer = await self._working_producer()
        with translate_errors(f"cannot publish to topic {self._topic!r}"):
            async with asyncio.timeout(min(START_SECONDS, seconds)):
                return sorted(await producer.partitions_for(self._topic))

    def _places(
        self, producer: AIOKafkaProducer, batch: Sequence[Message], partitions: Sequence[int]
    ) -> Mapping[int, list[int]]:
        """Return for each partition the places in ``batch`` of its messages.

        As with the Java client: a key's partition by its hash. All messages without a key go to one
        partition that has a leader, and those of the next batch to the next one.
        """
        places: defaultdict[int, list[int]] = defaultdict(list)
        led = sorted(producer.client.cluster.available_partitions_for_topic(self._topic) or ())
        self._turn += 1
        turn = (led or partitions)[self._turn % len(led or partitions)]
        for place, message in enumerate(batch):
            key = message.key
            if key is None:
                number = turn
            elif len(key) <= _LONGEST_KEY_REMEMBERED:
                number = partitions[self._remembered_hash(key) % len(partitions)]
            else:
                number = partitions[_hash(key) % len(partitions)]
            places[number].append(place)
        return places

    async def _deliver(
        self,
        producer: AIOKafkaProducer,
        number: int,
        places: Sequence[int],
        batch: Sequence[Message],
        results: list[Exception | None],
    ) -> None:
        """Send the messages of one partition in batches, and set their results."""
        done = 0
        try:
            while done < len(places):
                builder = producer.create_batch()
                end = done
                while end < len(places) and _append(builder, batch[places[end]]):
                    end += 1
                with translate_errors(f"partition {number} of {self._topic!r} was not written"):
                    confirmed = await producer.send_batch(builder, self._topic, partition=number)
                    self._unsettled.add(confirmed)
                    confirmed.add_done_callback(self._unsettled.discard)
                    await asyncio.shield(confirmed)
                for place in places[done:end]:
                    results[place] = None
                done = end
        except PubSubError as error:
            self._is_broken = True
            for place in places[done:]:
                results[place] = error

    async def aclose(self) -> None:
        """Flush and close, in bounded time."""
        self._is_closed = True
        if self._preparing is not None:
            await cancel((self._preparing,))
        if self._deliveries:
            await asyncio.wait(self._deliveries, timeout=CLOSE_SECONDS)
        await cancel(self._deliveries)
        await self._leave_producer()
        await self._producers.aclose()  # a send that was cancelled may have left one before

    async def _wait_settled(self, share: Share) -> None:
        """Wait until the producer has no batch of this sender any more.

        It may go on for others, and would send a batch whose send was cancelled behind the messages
        of the next send. A batch expires after ``delivery_timeout``.
        """
        while self._unsettled and share.users > 1:  # else the producer is stopped
            await asyncio.wait(self._unsettled)

    async def _leave_producer(self) -> None:
        share, self._share, self._producer = self._share, None, None
        if share is not None:
            await self._producers.leave(share)


def _hash(key: str) -> int:
    """Return the Java client's hash of a key, before the modulus."""
    return int(murmur2(key.encode("utf-8", "surrogateescape"))) & 0x7FFFFFFF


def _append(builder: Any, message: Message) -> bool:
    """Add a message to a batch; return False if the batch is full."""
    key, changed = message.key, message._changed_attributes
    # Not message.attributes, which makes a copy.
    attributes = message._attributes if changed is None else changed
    headers = [
        (name, None if text is NULL else text.encode("utf-8", "surrogateescape"))
        for name, text in attributes.items()
    ]
    added = builder.append(
        timestamp=None,
        key=None if key is None else key.encode("utf-8", "surrogateescape"),
        value=message.body,
        headers=headers,
    )
    return added is not None
