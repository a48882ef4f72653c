"""The Kafka driver passes the conformance suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from pubsubtest.conformance import Check
from tests.pubsub.brokers.kafka.cluster import AnyCluster, Cluster
from tests.pubsub.brokers.kafka.conformance_support import checks_for, harness, require_pass
from tests.pubsub.brokers.kafka.mock_cluster import mock_cluster


@pytest.mark.parametrize("check", checks_for("any"))
async def test_kafka_passes(kafka: AnyCluster, check: Check) -> None:
    """Each check blocked on Kafka, or on the mock."""
    await require_pass(check, harness(kafka))


@pytest.mark.parametrize("check", checks_for("real"))
async def test_a_real_kafka_passes(real_kafka: Cluster, check: Check) -> None:
    """Each check that the mock fails, or is too slow for, blocked on a real Kafka."""
    await require_pass(check, harness(real_kafka))


@pytest.mark.parametrize("check", checks_for("failing"))
async def test_kafka_passes_with_a_dead_broker(tmp_path: Path, check: Check) -> None:
    """Each check of an outage blocked while the broker refuses connections."""
    with mock_cluster(tmp_path) as mock:
        await require_pass(check, harness(mock, mock.kill, mock.start))
