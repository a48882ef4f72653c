"""The shutdown budget: its log line, the remaining time, and a second signal."""

import asyncio
import logging
from typing import Any

import pytest

from gizmopy import Settings
from gizmopy.server.lifecycle.shutdown_budget import HURRIED_SECONDS, ShutdownBudget
from gizmopy.server.lifecycle.signals import Stop

BOTH_LOOPS = True


def budget(stop: Stop | None = None, **settings: Any) -> ShutdownBudget:
    """Return the budget of a daemon with these settings."""
    return ShutdownBudget(Settings(**settings), stop or Stop())


@pytest.fixture(autouse=True)
def outside_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variable that Kubernetes sets."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.mark.parametrize("settings", [{}, {"shutdown_timeout": "19.5s", "drain_delay": "5s"}])
async def test_the_budget_is_logged(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the longest shutdown by parts; up to the grace period without a warning."""
    caplog.set_level(logging.INFO)
    whole = budget(**settings)
    whole.log()
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert sum(vars(record)["seconds"].values()) == whole.total <= 30


async def test_a_budget_beyond_the_grace_period_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The warning names both settings, because the platform would kill the process first."""
    budget(shutdown_timeout="40s", termination_grace="45s").log()
    (record,) = (each for each in caplog.records if each.levelno == logging.WARNING)
    for part in ("45.5 s", "GIZMO_TERMINATION_GRACE=45s", "GIZMO_SHUTDOWN_TIMEOUT"):
        assert part in record.getMessage()


@pytest.mark.parametrize(
    ("reason", "settings", "kubernetes", "delay"),
    [
        ("SIGTERM", {}, False, 0),
        ("SIGTERM", {}, True, 5),
        ("SIGTERM", {"drain_delay": "0s"}, True, 0),
        ("SIGTERM", {"drain_delay": "7s"}, False, 7),
        ("SIGINT", {"drain_delay": "7s"}, True, 0),
    ],
)
async def test_the_drain_delay_depends_on_the_platform(
    reason: str,
    settings: dict[str, str],
    kubernetes: bool,
    delay: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The default is 5 s on Kubernetes and 0 elsewhere; after Ctrl-C it is 0."""
    if kubernetes:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    stop = Stop()
    stop.request(reason)
    assert budget(stop, **settings).delay == delay


async def test_requests_and_messages_share_the_remaining_time() -> None:
    """It counts from begin(), never falls below 0, and a second signal shortens it."""
    stop = Stop()
    whole, none = budget(stop, shutdown_timeout="1h"), budget(shutdown_timeout="0s")
    assert (whole.remaining(), none.remaining()) == (3600, 0)
    whole.begin()
    none.begin()
    assert none.remaining() == 0
    assert 3000 < whole.remaining() <= 3600
    stop.hurried.set()
    assert whole.remaining() == HURRIED_SECONDS


async def test_a_condition_that_is_true_needs_no_time() -> None:
    """Within 0 seconds, a condition has one turn of the event loop."""
    assert await budget().within(0, asyncio.sleep(0))
    assert await budget().within(3600, asyncio.sleep(0))


async def test_a_condition_that_is_never_true_is_cancelled() -> None:
    """At the deadline the condition is cancelled, and the result is false."""
    cancelled = asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    assert not await budget().within(0.01, never())
    assert cancelled.is_set()


async def test_a_second_signal_shortens_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait of an hour ends after a moment; a condition that is true by then is true."""
    monkeypatch.setattr("gizmopy.server.lifecycle.shutdown_budget.HURRIED_SECONDS", 0.02)
    stop = Stop()
    asyncio.get_running_loop().call_soon(stop.hurried.set)
    assert not await budget(stop).within(3600, asyncio.Event().wait())
    assert await budget(stop).within(3600, asyncio.sleep(0))


async def test_cancelling_the_wait_cancels_the_condition() -> None:
    """The condition's clean-up has run when the wait raises CancelledError."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def condition() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(budget().within(3600, condition()))
    await started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()
