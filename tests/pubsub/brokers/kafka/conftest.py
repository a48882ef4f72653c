"""Kafka clusters that the tests of this folder share, and a word on which kind it was."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.pubsub.brokers.kafka.cluster import (
    VERSION,
    AnyCluster,
    Cluster,
    Unavailable,
    jars,
    kafka_cluster,
)
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster, mock_cluster

_LEFT_OUT = "only a real Apache Kafka can show this"
_MISSING = pytest.StashKey[str]()  # why the real one did not run
_REAL = pytest.StashKey[bool]()  # that it ran


@pytest.fixture(scope="session")
def kafka(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[AnyCluster]:
    """Give one node; where no Kafka can be had, and this is not CI, librdkafka's mock of one."""
    folder = tmp_path_factory.mktemp("kafka")
    with ExitStack() as stack:
        if _can_run(request.config):
            yield stack.enter_context(kafka_cluster(folder))
        else:
            yield stack.enter_context(mock_cluster(folder))


@pytest.fixture(scope="session")
def need_real_kafka(request: pytest.FixtureRequest) -> None:
    """Skip the test where there is only the mock."""
    if not _can_run(request.config):
        pytest.skip(f"{_LEFT_OUT}: {request.config.stash[_MISSING]}")


@pytest.fixture(scope="session")
def real_kafka(need_real_kafka: None, kafka: AnyCluster) -> Cluster:
    """Give the node of `kafka`, or skip the test where it would be the mock."""
    assert isinstance(kafka, Cluster)
    return kafka


@pytest.fixture(scope="session")
def secure_kafka(
    need_real_kafka: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Give one node that also listens with SASL and TLS, or skip the test without a real one."""
    with kafka_cluster(tmp_path_factory.mktemp("secure-kafka"), secure=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def breakable_kafka(
    need_real_kafka: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Give a node that a test may kill or pause, if it has it run again in the end."""
    with kafka_cluster(tmp_path_factory.mktemp("breakable-kafka")) as cluster:
        yield cluster


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[MockCluster]:
    """Give a mock broker of one test, which fails on demand."""
    with mock_cluster(tmp_path) as cluster:
        yield cluster


@pytest_asyncio.fixture(autouse=True)
async def no_executor_is_left() -> AsyncIterator[None]:
    """End the threads of the loop's executor, where aiokafka computes its answers to SASL."""
    yield
    await asyncio.get_running_loop().shutdown_default_executor()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests on Kafka the time that a download takes, or the start of three nodes."""
    for item in items:
        here = item.path.is_relative_to(Path(__file__).parent)
        if here and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(240))


def _can_run(config: pytest.Config) -> bool:
    try:
        jars()
    except Unavailable as missing:
        if os.environ.get("CI"):
            pytest.fail(f"CI demands a real Apache Kafka: {missing}")
        config.stash[_MISSING] = str(missing)
        return False
    config.stash[_REAL] = True
    return True


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which broker ran, and what was left out."""
    if config.stash.get(_REAL, False):
        terminalreporter.write_line(f"Kafka: Apache Kafka {VERSION}")
    if missing := config.stash.get(_MISSING, ""):
        skipped = terminalreporter.stats.get("skipped", [])
        left_out = sum(_LEFT_OUT in str(report.longrepr) for report in skipped)
        terminalreporter.section("Kafka: NOT the real one", yellow=True, bold=True)
        terminalreporter.write_line("librdkafka's mock cluster stood in for Apache Kafka.")
        terminalreporter.write_line(f"{left_out} tests were left out: {_LEFT_OUT}.")
        terminalreporter.write_line(missing)
