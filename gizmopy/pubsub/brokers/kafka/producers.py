"""Make producers, and share one among the senders of a driver."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaProducer

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.errors import PubSubError
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import (
    REQUEST_TIMEOUT_MS,
    cancel,
    producer_is_alive,
    set_request_timeout,
    stop_producer,
)
from gizmopy.pubsub.brokers.kafka.cluster import Cluster, milliseconds
from gizmopy.pubsub.brokers.kafka.errors import translate_errors

_REQUEST_BYTES = 128 * 1024
"""The most bytes of one batch to a partition, unless a single message is larger. A topic's limit
may be lower than the brokers' 1 MiB."""
_START_REQUEST_TIMEOUT_MS = 3_000
"""How long one broker may take to answer while a producer starts: it asks one after the other."""
START_SECONDS = 15.0
"""How long a producer may take to start."""


def new_producer(cluster: Cluster, settings: KafkaSettings) -> AIOKafkaProducer:
    """Return a producer that is not started: idempotent, confirmed by all in-sync replicas."""
    compression = settings.compression
    try:
        return AIOKafkaProducer(
            **cluster.options(),
            acks="all",
            enable_idempotence=True,
            compression_type=None if compression == "none" else compression,
            max_batch_size=min(_REQUEST_BYTES, settings.max_message_bytes),
            # How long a batch may live; set_request_timeout sets that of requests.
            request_timeout_ms=milliseconds(settings.delivery_timeout),
        )
    except RuntimeError as error:  # the codec is not installed
        reason = f"compression={compression}: {error}; try: pip install 'gizmopy[kafka]'"
        raise PubSubError(reason, transient=False) from error


async def start_producer(producer: AIOKafkaProducer) -> None:
    """Start a producer. Raises PubSubError; the caller stops it, also after a cancellation."""
    set_request_timeout(producer, _START_REQUEST_TIMEOUT_MS)
    with translate_errors("the producer cannot start"):
        async with asyncio.timeout(START_SECONDS):
            await producer.start()
    set_request_timeout(producer, REQUEST_TIMEOUT_MS)


class Share:
    """A producer that senders share, until the last one of them leaves."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self.producer = producer
        self.starting = asyncio.create_task(start_producer(producer), name="start a producer")
        self.users = 0
        self.unfit: set[str] = set()
        """Topics whose partitions are out of step in this producer."""

    def suits(self, topic: str) -> bool:
        """Return whether a sender to ``topic`` may use this."""
        is_alive = not self.starting.done() or producer_is_alive(self.producer)
        return is_alive and topic not in self.unfit


class SharedProducers:
    """One producer for the senders of a driver, so that sixty topics take one connection a broker.

    aiokafka counts a batch that a broker refuses, and the broker does not. From then on the broker
    refuses everything for that partition as out of sequence. So a sender whose send has failed
    leaves the producer for a new one, which others join, too, as they come or fail. Those whose
    sends work stay: only the partitions of the failed topic are out of step.
    """

    def __init__(self, cluster: Cluster, settings: KafkaSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._newest: Share | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    async def join(self, topic: str) -> Share:
        """Return a producer that is started; the caller has to ``leave`` it. Raises PubSubError.

        Senders that come while it starts wait for that start, and get its error.
        """
        share = self._newest
        if share is None or not share.suits(topic):
            share = self._newest = Share(new_producer(self._cluster, self._settings))
        share.users += 1
        try:
            # Not `await share.starting`: a sender that is cancelled must not cancel it for others.
            await asyncio.wait((share.starting,))
            share.starting.result()
        except BaseException:
            if self._newest is share and share.starting.done():
                self._newest = None
            await self.leave(share)
            raise
        return share

    async def leave(self, share: Share) -> None:
        """Stop the producer if nobody uses it any more."""
        share.users -= 1
        if share.users:
            return
        if self._newest is share:
            self._newest = None
        # A task, because a caller that is cancelled would leave a producer that runs for ever.
        stopping = asyncio.create_task(_stop(share), name="stop a producer")
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)
        await asyncio.wait((stopping,))
        if not stopping.cancelled():
            stopping.result()

    async def aclose(self) -> None:
        """Wait until the producers that were left have stopped."""
        if self._stopping:
            await asyncio.wait(self._stopping)


async def _stop(share: Share) -> None:
    await cancel((share.starting,))
    await stop_producer(share.producer)
