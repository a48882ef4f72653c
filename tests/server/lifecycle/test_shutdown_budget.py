"""How long a shutdown may take: what is announced, what is left, and what cuts it short."""

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
    """Wherever the tests run."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.mark.parametrize("settings", [{}, {"shutdown_timeout": "19.5s", "drain_delay": "5s"}])
async def test_a_budget_within_the_grace_is_announced(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The log says how long a shutdown takes at most, by parts; up to the grace without warning."""
    caplog.set_level(logging.INFO)
    announced = budget(**settings)
    announced.log()
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert sum(vars(record)["seconds"].values()) == announced.total <= 30


async def test_a_budget_beyond_the_grace_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Where the platform would kill first, the warning names both settings and the remedy."""
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
async def test_the_listener_stays_open_as_long_as_its_callers_need(
    reason: str,
    settings: dict[str, str],
    kubernetes: bool,
    delay: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The delay is what is set, else 5 s on Kubernetes and 0 elsewhere; Ctrl-C knows none."""
    if kubernetes:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    stop = Stop()
    stop.request(reason)
    assert budget(stop, **settings).delay == delay


async def test_requests_and_messages_share_what_is_left() -> None:
    """The time counts from its beginning, never falls below 0, and a second signal cuts it."""
    stop = Stop()
    whole, none = budget(stop, shutdown_timeout="1h"), budget(shutdown_timeout="0s")
    assert (whole.remaining(), none.remaining()) == (3600, 0)
    whole.begin()
    none.begin()
    assert none.remaining() == 0
    assert 3000 < whole.remaining() <= 3600
    stop.hurried.set()
    assert whole.remaining() == HURRIED_SECONDS


async def test_a_condition_that_holds_is_not_waited_for() -> None:
    """What holds already, or needs a turn of the loop, holds within no time at all."""
    assert await budget().within(0, asyncio.sleep(0))
    assert await budget().within(3600, asyncio.sleep(0))


async def test_a_condition_that_never_holds_is_given_up() -> None:
    """Out of time, what was waited for is cancelled, and the answer is no."""
    cancelled = asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    assert not await budget().within(0.01, never())
    assert cancelled.is_set()


async def test_a_second_signal_shortens_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hurried, an hour's wait ends after a moment; what holds within that moment, holds."""
    monkeypatch.setattr("gizmopy.server.lifecycle.shutdown_budget.HURRIED_SECONDS", 0.02)
    stop = Stop()
    asyncio.get_running_loop().call_soon(stop.hurried.set)
    assert not await budget(stop).within(3600, asyncio.Event().wait())
    assert await budget(stop).within(3600, asyncio.sleep(0))


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    """Cancelling who waits cancels what was waited for."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def condition() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(budget().within(3600, condition()))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()
