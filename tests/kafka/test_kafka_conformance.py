"""The driver of Kafka passes every check that any driver is put to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gizmopy.pubsub import drivers
from pubsubtest.conformance import Check, Harness, checks, run_check
from pubsubtest.conformance.checking import OUTAGE
from tests.kafka.cluster import AnyCluster, Cluster, kafka_cluster
from tests.kafka.mock_cluster import MockCluster

SETTINGS = "session_timeout=6s&rebalance_timeout=10s"
MOCK_SETTINGS = "session_timeout=2s&rebalance_timeout=10s"
"""The mock ends no rebalance before the session time-out of its members is nearly over."""
SECONDS = 60.0
"""For each check, which waits for anything single for a quarter of that."""


def harness(cluster: AnyCluster) -> Harness:
    """Return how a cluster is reached, real or not."""
    if isinstance(cluster, MockCluster):
        return mock_harness(cluster)
    url = f"{cluster.url}?{SETTINGS}"
    return Harness(
        open=lambda: drivers.open_driver(url),
        provision=lambda topic, subscriptions: drivers.provision(url, topic, subscriptions),
        creates_topics=False,
    )


def mock_harness(cluster: MockCluster) -> Harness:
    """Return how the mock is reached: it has no admin calls, and makes what it is asked for."""

    @asynccontextmanager
    async def provision(topic: str, subscriptions: Sequence[str]) -> AsyncIterator[None]:
        cluster.create_topic(topic, 4)
        yield

    return Harness(
        open=lambda: drivers.open_driver(f"{cluster.url}?{MOCK_SETTINGS}"), provision=provision
    )


def fragile(cluster: Cluster, break_: Callable[[int], None], mend: Callable[[int], None]) -> Any:
    """Return how a cluster is reached that the check may have broken while it runs."""
    url = f"{cluster.url}?{SETTINGS}&delivery_timeout=3s"

    @asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        break_(1)
        try:
            yield
        finally:
            await asyncio.to_thread(mend, 1)

    return Harness(
        open=lambda: drivers.open_driver(url),
        provision=lambda topic, subscriptions: drivers.provision(url, topic, subscriptions),
        creates_topics=False,
        outage=outage,
    )


async def hold(check: Check, of: Harness) -> None:
    """Require that a check passes, or skip the test where it can't be applied."""
    result = await run_check(check, of, timeout=SECONDS)
    if result.outcome == "not applicable":
        pytest.skip(result.reason)
    assert (result.outcome, result.reason) == ("passed", "")


@pytest.fixture(scope="module")
def breakable(need_real_kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give a node that a test may kill or pause, if it has it run again in the end."""
    with kafka_cluster(tmp_path_factory.mktemp("breakable-kafka")) as cluster:
        yield cluster


def named(*, with_outage: bool) -> list[Any]:
    """Return the checks that need a broker that fails, or the others."""
    chosen = [check for check in checks() if (OUTAGE in check.needs) is with_outage]
    return [pytest.param(check, id=check.name) for check in chosen]


@pytest.mark.parametrize("check", named(with_outage=False))
async def test_kafka_passes(kafka: AnyCluster, check: Check) -> None:
    """What each check says is true of Kafka."""
    await hold(check, harness(kafka))


@pytest.mark.parametrize("check", named(with_outage=True))
async def test_kafka_passes_with_its_broker_dead(breakable: Cluster, check: Check) -> None:
    """What each check says is true of Kafka while connections to its broker are refused."""
    await hold(check, fragile(breakable, breakable.kill, breakable.start))


@pytest.mark.parametrize("check", named(with_outage=True))
async def test_kafka_passes_with_its_broker_silent(breakable: Cluster, check: Check) -> None:
    """What each check says is true of Kafka while its broker is there and answers nothing."""
    await hold(check, fragile(breakable, breakable.pause, breakable.resume))
