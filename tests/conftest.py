"""Make every test strict: no blocked event loop, and no task or thread that outlives it.

Warnings are errors, too (pyproject.toml).
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from blockbuster import BlockBuster


@pytest.fixture(scope="module", autouse=True)
def only_the_test_is_collected() -> None:
    """Exclude all that earlier modules left from garbage collection.

    Imported modules, and the reports that pytest keeps, take most of its time, and each test is
    followed by a collection: without this, a thousand tests took four times as long.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without garbage collection: it took a quarter of the time, for little."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


_LONG = (
    "tests/pubsub/brokers/kafka/",
    "tests/integration/",
    "tests/config/secrets/test_canary.py",
    "tests/examples/",
    "tests/pubsubtest/",
    "tests/server/http/connection/",
)
"""The folders and files that take longest, mostly in waits."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the long files to the workers first: at the end, one worker would run one alone."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(_LONG))  # stable: files stay whole


_LEFT_TO_PEERS = pytest.StashKey[int]()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count the tests that are left to ``make peers``."""
    left = sum(item.get_closest_marker("peers") is not None for item in items)
    if left:
        items[0].config.stash[_LEFT_TO_PEERS] = left
        getattr(items[0].config, "workeroutput", {})["left_to_peers"] = left


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over the count of a worker: each one has collected all tests."""
    node.config.stash[_LEFT_TO_PEERS] = getattr(node, "workeroutput", {}).get("left_to_peers", 0)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Report the tests that are left to ``make peers``."""
    if left := config.stash.get(_LEFT_TO_PEERS, 0):
        terminalreporter.write_line(f"LEFT OUT {left} tests: make peers runs them")


_MAY_BLOCK = (
    # At start and at the end, without requests and messages: the names of installed drivers; the
    # path of a Unix socket; the reason why a log cannot be opened; the thread that watches the
    # loop; the last lines of the log.
    ("gizmopy/pubsub/registry.py", "_known"),
    ("gizmopy/server/http/listening/sockets.py", "_remove_stale"),
    ("gizmopy/server/http/listening/sockets.py", "_identity"),
    ("gizmopy/server/http/listening/sockets.py", "_remove_path"),
    ("gizmopy/observe/log_files.py", "_reason"),
    ("gizmopy/server/lifecycle/loop_stalls.py", "__exit__"),
    ("gizmopy/observe/log_writer.py", "close"),
    # A line of the log: a write that has room costs less than to wake the writer's thread.
    ("gizmopy/observe/log_writer.py", "write_without_blocking"),
    # A scrape with slow collectors: 1 ms, so that their thread gets the GIL.
    ("gizmopy/observe/exposition.py", "_is_done"),
    # Every five seconds: whether the certificate's files have changed; if so, their contents.
    ("gizmopy/server/http/listening/tls.py", "_identity"),
    ("gizmopy/server/http/listening/tls.py", "_read"),
    # Documented as blocking, for tests and programs without a server.
    ("gizmopy/observe/metrics.py", "render"),
    # redis-py looks for its own version once for each connection, not for each command.
    ("redis/utils.py", "get_lib_version"),
    # The stand-in for Kafka needs 1 ms between two calls. Checks make them on the event loop.
    ("tests/pubsub/brokers/kafka/mock_cluster.py", "_call"),
    # Pages for developers: a file of the package for each request.
    ("gizmopy/web/openapi/page.py", "_template"),
    ("gizmopy/server/admin/access.py", "_unauthorized"),
)
"""The functions that may block the event loop: their files and names."""


@pytest.fixture(scope="session", autouse=True)
def blocking_calls_raise() -> Iterator[BlockBuster]:
    """Raise BlockingError if code of gizmopy blocks the event loop, such as by file I/O or a lock.

    A daemon would stop answering meanwhile, its probes included. Only calls below gizmopy or
    pubsubtest count: a test may read a file itself.
    """
    detector = BlockBuster(["gizmopy", "pubsubtest"])
    for function in detector.functions.values():
        for file, name in _MAY_BLOCK:
            function.can_block_in(file, name)
    detector.activate()
    yield detector
    detector.deactivate()


@pytest.fixture
def blocking_calls_pass(blocking_calls_raise: BlockBuster) -> Iterator[None]:
    """Let code of gizmopy call a driver that blocks."""
    blocking_calls_raise.deactivate()
    yield
    blocking_calls_raise.activate()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in captured logs: pytest-xdist sends only UTF-8 between processes."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Fail a test if one of its threads is still running."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(timeout=1)
    assert not [thread for thread in left if thread.is_alive()]
    # An unclosed socket or transport warns when it is collected. Collect it now, so that this test
    # fails and not a later one.
    gc.collect()


@pytest_asyncio.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Fail a test if one of its tasks is still running."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left
