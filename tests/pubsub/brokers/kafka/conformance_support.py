"""The harness with which the conformance suite reaches a cluster, and its checks by kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from gizmopy.pubsub import registry as drivers
from pubsubtest.conformance import Check, Harness, checks, run_check
from pubsubtest.conformance.checking import OUTAGE
from tests.pubsub.brokers.kafka.cluster import AnyCluster
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster

SETTINGS = "session_timeout=6s&rebalance_timeout=10s"
MOCK_SETTINGS = "session_timeout=1s&rebalance_timeout=10s"
"""A rebalance of the mock lasts almost as long as the session time-out of its members."""
REAL_ONLY = {
    "a_send_holds_no_more_bytes_than_the_broker_takes",
    "partitions_are_asked_back_before_another_gets_them",
}
"""Checks that the mock fails: it is slow with large batches, and its rebalances do not wait."""
SECONDS = 60.0
"""How long a check may take; it waits for a single event for a quarter of that."""


Fault = Callable[[int], None]
"""An action on a node."""


def harness(cluster: AnyCluster, break_: Fault | None = None, mend: Fault | None = None) -> Harness:
    """Return the harness for a cluster, with an outage if a check needs one."""
    is_real = cluster.is_real
    settings = SETTINGS if is_real else MOCK_SETTINGS
    url = f"{cluster.url}?{settings}&delivery_timeout=3s"

    @asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        assert break_ is not None
        assert mend is not None
        break_(1)
        try:
            yield
        finally:
            mend(1)

    return Harness(
        open=lambda: drivers.open_driver(url),
        provision=partial(drivers.provision, url) if is_real else partial(created, cluster),
        creates_topics=not is_real,
        outage=outage if break_ else None,
        quiet=0.5,
    )


@asynccontextmanager
async def created(cluster: AnyCluster, topic: str, _: Sequence[str]) -> AsyncIterator[None]:
    """Create a topic of the mock, which has no admin requests."""
    assert isinstance(cluster, MockCluster)
    cluster.create_topic(topic, 4)
    yield


async def require_pass(check: Check, of: Harness) -> None:
    """Require that a check passes; skip the test if the check does not apply."""
    result = await run_check(check, of, timeout=SECONDS)
    if result.outcome == "not applicable":
        pytest.skip(result.reason)
    assert result.outcome == "passed", result.reason


def checks_for(kind: str) -> list[Any]:
    """Return the checks that need a ``failing`` broker, a ``real`` one, or ``any``."""
    return [pytest.param(check, id=check.name) for check in checks() if kind_of(check) == kind]


def kind_of(check: Check) -> str:
    """Return which kind of broker a check needs."""
    if OUTAGE in check.needs:
        return "failing"
    return "real" if check.name in REAL_ONLY else "any"
