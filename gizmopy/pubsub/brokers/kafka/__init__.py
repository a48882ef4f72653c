"""``kafka://``: publish to, and consume from, Apache Kafka, on top of aiokafka.

URL: ``kafka://user:password@host:port,host:port/topic?name=value``. The client connects to the
hosts first, and learns the other brokers from them. Every setting of
:class:`gizmopy.config.backends.kafka.KafkaSettings` may be a parameter; ``KAFKA_*`` variables give
those that the URL leaves out. A channel is a topic, a subscription a consumer group.

Delivery: at least once. The offset of a partition is committed up to the first message that is not
handled: by ``commit_interval``, by ``commit_every``, before the partition moves to another member,
and at the close. A message that was handled after the last commit comes again after a crash.
Publishing is idempotent, and confirmed by all in-sync replicas.

Order: that of a partition. A key goes to the partition that the Java client chooses (murmur2).
Messages without a key go to one partition after the other, a batch at a time.

Nack: none. Kafka keeps a position for each partition, so a failed message is retried in place, then
dead-lettered. There are no leases either, and ``Message.delivery`` is always 1.

Raw: ``Message.raw`` is aiokafka's ``ConsumerRecord``.

A topic has to exist. ``provision`` creates it for tests and development.
"""

from __future__ import annotations

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.config.urls import redacted_url
from gizmopy.pubsub.brokers.kafka.driver import KafkaDriver
from gizmopy.pubsub.brokers.kafka.topics import provision

__all__ = ["KafkaDriver", "open_driver", "provision"]


def open_driver(url: str) -> KafkaDriver:
    """Return a driver for the cluster in ``url``; it does not connect yet.

    Raises UsageError on an unknown parameter, a value that cannot be used, or a file that cannot be
    read.
    """
    return KafkaDriver(KafkaSettings.from_url(url), redacted_url(url, with_path=True))
