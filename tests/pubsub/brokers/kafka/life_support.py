"""Run a case of tests.endurance.kafka as a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.endurance.kafka.verdict import Counts
from tests.pubsub.brokers.kafka.cluster import Cluster

Case = Callable[[Cluster, float], Awaitable[Counts]]


async def hold(case: Case, cluster: Cluster, seconds: float) -> None:
    """Require that a case has found no problem; its figures are shown if it has."""
    finding = await case(cluster, seconds)
    assert not finding.problems, f"{case.__name__}: {finding}"
