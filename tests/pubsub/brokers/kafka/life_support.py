"""Run a case of tests.endurance.kafka as a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.endurance.kafka.verdict import Counts
from tests.pubsub.brokers.kafka.cluster import Cluster

Case = Callable[[Cluster, float], Awaitable[Counts]]


async def require_no_problem(case: Case, cluster: Cluster, seconds: float) -> None:
    """Require that a case finds no problem; show its figures otherwise."""
    finding = await case(cluster, seconds)
    assert not finding.problems, f"{case.__name__}: {finding}"
