"""Senders choose keys and ids of any length: little memory is kept for them."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.pubsub import Subscription
from gizmopy.pubsub.brokers.kafka import sender as kafka_sender
from gizmopy.pubsub.brokers.kafka.cluster import Cluster
from gizmopy.pubsub.brokers.kafka.sender import KafkaSender
from gizmopy.pubsub.driver import Limits
from gizmopy.pubsub.engine.failures import Failures
from gizmopy.pubsub.engine.failures import logger as failures_logger
from tests.pubsub.support import message
from tests.support import traced_memory

_MEBIBYTE = 1024 * 1024


def test_long_keys_of_kafka_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of a long key is computed each time, and the key is not kept."""
    monkeypatch.setattr(kafka_sender, "murmur2", len)  # aiokafka's takes a minute for all of these
    cluster = SimpleNamespace(available_partitions_for_topic=lambda topic: {0, 1, 2})
    producer = cast(Any, SimpleNamespace(client=SimpleNamespace(cluster=cluster)))
    settings = KafkaSettings.from_url("kafka://localhost:9092")
    sender = KafkaSender(
        Cluster(settings, "kafka://localhost:9092"), settings, "cats", Limits(batch_messages=1)
    )

    with traced_memory() as taken:
        for number in range(500):
            batch = [message(key=f"{number}".ljust(16_000)) for _ in range(2)]
            places = sender._places(producer, batch, [0, 1, 2])
            assert list(places.values()) == [[0, 1]]
        assert taken() < _MEBIBYTE


def test_long_ids_of_messages_that_are_stuck_are_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stuck message is logged once, without keeping its id."""
    logged = []
    monkeypatch.setattr(failures_logger, "log", lambda *args, **more: logged.append(args[3][:9]))
    subscription = cast(Subscription, SimpleNamespace(name="Cats.on_cat"))
    failures = Failures(subscription, "cats")
    error = ValueError("boom")

    with traced_memory() as taken:
        for number in range(500):
            for _ in range(2):
                stuck = message(id=f"{number:09}".ljust(16_000))
                failures.log_stuck(stuck, "exhausted", error, None)
        assert taken() < _MEBIBYTE

    assert logged == [f"{number:09}" for number in range(500)]
