"""Keep every test strict: warnings are errors (pyproject.toml), and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Generator, Iterator

import pytest
import pytest_asyncio


@pytest.fixture(scope="session", autouse=True)
def imports_are_not_collected() -> None:
    """Leave what the imports made out of every later collection: it takes most of its time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write lone surrogates in captured logs as text: workers send each other UTF-8 only."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread running."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(timeout=1)
    assert not [thread for thread in left if thread.is_alive()]
    gc.collect()  # an unclosed socket or transport warns when collected: here, not in a later test


@pytest_asyncio.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Fail a test that leaves a task running on its loop."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left
