"""/debug/subscriptions: pause and resume a subscription of a running daemon."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from gizmopy import Settings
from gizmopy.errors import UsageError
from gizmopy.observe.levels import LogLevels
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels, Message
from gizmopy.server.admin.debug import Debug, SubscriptionChange
from gizmopy.web import Problem
from tests.pubsub.support import subscription_of, turns, until


@asynccontextmanager
async def debug_of(*names: str, **options: Any) -> AsyncIterator[tuple[Debug, Channels, list[Any]]]:
    """Yield /debug of a daemon that consumes ``cats`` in each of the subscriptions."""
    handled: list[Any] = []

    async def handle(message: Message) -> None:
        handled.append(message.body)

    async with Channels("memory://", service="svc", metrics=Metrics()) as channels:
        await channels.start(
            [subscription_of(handle, channel="cats", subscription=n, **options) for n in names]
        )
        now = datetime.now(UTC)
        parts = ("x", Settings(), (), channels.describe, LogLevels(), now)
        yield Debug(*parts, controls=channels.controls), channels, handled


async def put(debug: Debug, **change: Any) -> Any:
    """Send a change, and return the answer."""
    request: Any = type("Request", (web.Request,), {"remote": "10.0.0.9"})
    given = SubscriptionChange.model_validate({"channel": "cats"} | change)
    return await debug.change_subscription(request, given)


async def test_a_pause_shows_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    """It holds back messages, shows by whom and why, and a second change resumes."""
    async with debug_of("s") as (debug, channels, handled):
        shown = await put(debug, paused=True, reason="repair")
        assert shown["paused"] is True
        assert (shown["by"], shown["reason"]) == ("10.0.0.9", "repair")
        assert "10.0.0.9 pauses cats/s for 10m (reason: repair)" in caplog.text
        await channels.publish("cats", b"a")
        await turns()
        assert handled == []
        await put(debug, paused=False, ttl=None)
        await until(lambda: handled == [b"a"])
        (row,) = await debug.consumed()
        assert (row["channel"], row["paused"], row["until"]) == ("cats", False, None)


@pytest.mark.parametrize("declared", [True, False])
async def test_the_declared_state_returns(
    declared: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After its time a change ends, and the log says whose it was."""
    caplog.set_level(logging.WARNING)
    async with debug_of("s", start_paused=declared) as (debug, _, _handled):
        ends: list[Any] = []
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_later", lambda seconds, call: ends.append((seconds, call)))
            await put(debug, paused=not declared, ttl="2m", reason="repair")
        ((seconds, expire),) = ends
        assert seconds == timedelta(minutes=2).total_seconds()
        expire()
        (row,) = await debug.consumed()
        assert (row["paused"], row["by"]) == (declared, None)
        assert "the change by 10.0.0.9 has ended (reason: repair)" in caplog.text


async def test_an_unknown_or_ambiguous_subscription_is_refused() -> None:
    """The answer names the remedy."""
    async with debug_of("a", "b") as (debug, _, _handled):
        with pytest.raises(Problem, match="GET /debug/subscriptions lists them"):
            await put(debug, channel="dogs", paused=True)
        with pytest.raises(Problem, match="add subscription: a, b"):
            await put(debug, paused=True)
        assert (await put(debug, subscription="b", paused=True))["subscription"] == "b"


async def test_a_daemon_that_drains_changes_nothing() -> None:
    """A timer of an earlier change does not run on, either."""
    async with debug_of("s") as (debug, channels, _handled):
        await put(debug, paused=True)
        ((_, control),) = channels.controls()
        await channels.drain(5)
        with pytest.raises(UsageError, match="stopping"):
            control.set_paused(True, None, by="me")
        with pytest.raises(Problem, match="stopping"):
            await put(debug, paused=True)


@pytest.mark.parametrize("wrong", [{"ttl": "0s"}, {"paused": None}, {"pausd": True}])
def test_invalid_changes_are_refused(wrong: dict[str, Any]) -> None:
    """A time of 0, no state and a misspelt name are errors of the client."""
    with pytest.raises(ValidationError):
        SubscriptionChange.model_validate({"channel": "cats", "paused": True} | wrong)
