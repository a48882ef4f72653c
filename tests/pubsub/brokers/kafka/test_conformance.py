"""The driver of Kafka passes every check that any driver is put to."""

from __future__ import annotations

from pathlib import Path

import pytest

from pubsubtest.conformance import Check
from tests.pubsub.brokers.kafka.cluster import AnyCluster, Cluster
from tests.pubsub.brokers.kafka.conformance_support import harness, hold, named
from tests.pubsub.brokers.kafka.mock_cluster import mock_cluster


@pytest.mark.parametrize("check", named("any"))
async def test_kafka_passes(kafka: AnyCluster, check: Check) -> None:
    """What each check says is true of Kafka."""
    await hold(check, harness(kafka))


@pytest.mark.parametrize("check", named("real"))
async def test_a_real_kafka_passes(real_kafka: Cluster, check: Check) -> None:
    """What the mock gets wrong, or takes too long for, is true of Kafka."""
    await hold(check, harness(real_kafka))


@pytest.mark.parametrize("check", named("failing"))
async def test_kafka_passes_with_a_dead_broker(tmp_path: Path, check: Check) -> None:
    """What each check says is true of Kafka while connections to its broker are refused."""
    with mock_cluster(tmp_path) as mock:
        await hold(check, harness(mock, mock.kill, mock.start))
