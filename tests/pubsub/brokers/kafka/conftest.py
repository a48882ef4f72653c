"""The Kafka clusters of the tests in this folder, and a line in the summary on their kind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
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
from tests.pubsub.brokers.kafka.shared_cluster import shared_cluster

_SKIPPED = "needs a real Apache Kafka"
_MISSING = pytest.StashKey[str]()
"""Why the real Kafka did not run."""
_REAL = pytest.StashKey[bool]()
"""Whether it ran."""
_HERE = Path(__file__).parent
_SHORT_SESSION = 2.0
"""The seconds that a killed node needs to serve again. Clusters that no test kills have more."""


@pytest.fixture(scope="session")
def kafka(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[AnyCluster]:
    """Give one node; librdkafka's mock if this machine cannot run Kafka and is not CI."""
    with ExitStack() as stack:
        if _can_run(request.config):
            yield stack.enter_context(_cluster_of_the_run(tmp_path_factory, "kafka", secure=False))
        else:
            yield stack.enter_context(mock_cluster(tmp_path_factory.mktemp("kafka")))


@contextmanager
def _cluster_of_the_run(
    factory: pytest.TempPathFactory, name: str, *, secure: bool
) -> Iterator[Cluster]:
    """Share a cluster with the other workers, if there are any."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        with shared_cluster(factory.getbasetemp().parent / name, secure=secure) as cluster:
            yield cluster
    else:
        with kafka_cluster(factory.mktemp(name), secure=secure) as cluster:
            yield cluster


@pytest.fixture(scope="session")
def need_real_kafka(request: pytest.FixtureRequest) -> None:
    """Skip the test if there is only the mock."""
    if not _can_run(request.config):
        pytest.skip(f"{_SKIPPED}: {request.config.stash[_MISSING]}")


@pytest.fixture(scope="session")
def real_kafka(need_real_kafka: None, kafka: AnyCluster) -> Cluster:
    """Give the node of ``kafka``, or skip the test if that is the mock."""
    assert isinstance(kafka, Cluster)
    return kafka


@pytest.fixture(scope="session")
def secure_kafka(
    need_real_kafka: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Give one node that also listens with SASL and TLS, or skip the test without a real one."""
    with _cluster_of_the_run(tmp_path_factory, "secure-kafka", secure=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def breakable_kafka(
    need_real_kafka: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Give a node that a test may kill or pause, and has to start or resume in the end."""
    folder = tmp_path_factory.mktemp("breakable-kafka")
    with kafka_cluster(folder, session_seconds=_SHORT_SESSION) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def three_nodes(
    need_real_kafka: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Give three nodes that a test may kill, and has to start in the end."""
    folder = tmp_path_factory.mktemp("three-nodes")
    with kafka_cluster(folder, nodes=3, session_seconds=_SHORT_SESSION) as cluster:
        yield cluster


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[MockCluster]:
    """Give a mock broker of one test, which fails on demand."""
    with mock_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients retry after 100 ms, aiokafka's default, and wait less for a token function."""
    monkeypatch.setattr("gizmopy.pubsub.brokers.kafka.cluster._BACKOFF_MS", 100)
    monkeypatch.setattr("gizmopy.pubsub.brokers.kafka.security._TOKEN_SECONDS", 0.5)


@pytest.fixture
def short_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a receiver report an unreachable coordinator within half a second."""
    package = "gizmopy.pubsub.brokers.kafka"
    monkeypatch.setattr(f"{package}.diagnosis._UNREACHABLE_SECONDS", 0.2)
    monkeypatch.setattr(f"{package}.receiver._CHECK_SECONDS", 0.2)


@pytest.fixture
def usual_retries(short_waits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the driver's clients retry twice a second, as they usually do."""
    monkeypatch.setattr("gizmopy.pubsub.brokers.kafka.cluster._BACKOFF_MS", 500)


@pytest_asyncio.fixture(autouse=True)
async def no_executor_is_left() -> AsyncIterator[None]:
    """End the threads of the loop's executor, in which aiokafka computes SCRAM messages."""
    yield
    await asyncio.get_running_loop().shutdown_default_executor()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests on Kafka time for a download and for the start of three nodes."""
    for item in items:
        here = item.path.is_relative_to(_HERE)
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
    """Report which broker ran, and how many tests were skipped without a real one."""
    if config.stash.get(_REAL, False):
        terminalreporter.write_line(f"Kafka: Apache Kafka {VERSION}")
    if missing := config.stash.get(_MISSING, ""):
        skipped = terminalreporter.stats.get("skipped", [])
        skips = sum(_SKIPPED in str(report.longrepr) for report in skipped)
        terminalreporter.section("Kafka: NOT the real one", yellow=True, bold=True)
        terminalreporter.write_line("librdkafka's mock cluster replaced Apache Kafka.")
        terminalreporter.write_line(f"{skips} tests were skipped: {_SKIPPED}.")
        terminalreporter.write_line(missing)
