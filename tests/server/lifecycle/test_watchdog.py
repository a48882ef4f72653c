"""The watchdog sets and cancels only its own timers."""

import faulthandler
import io
import os
import sys

import pytest

from gizmopy.server.lifecycle.watchdog import Watchdog


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the calls that set or cancel the timer of faulthandler."""
    made: list[str] = []
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda seconds, **more: made.append(f"{seconds:g}")
    )
    monkeypatch.setattr(
        faulthandler, "cancel_dump_traceback_later", lambda: made.append("cancelled")
    )
    return made


def test_a_timer_of_others_is_not_cancelled(calls: list[str]) -> None:
    """A watchdog that was never armed leaves the timer to a test runner."""
    with Watchdog(70) as watchdog:
        watchdog.disarm()

    assert calls == []


def test_the_second_stage_follows_after_two_seconds(calls: list[str]) -> None:
    """Leaving the context cancels both stages."""
    with Watchdog(70) as watchdog:
        watchdog.arm_second_stage(600)
        watchdog.arm(700)

    assert calls == ["602", "cancelled", "702", "cancelled"]


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["none", "no file"])
def test_a_process_without_standard_error_can_be_killed(
    stream: io.StringIO | None, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stacks go nowhere then, and no descriptor is left open."""
    monkeypatch.setattr(sys, "stderr", stream)
    before = os.listdir("/dev/fd")  # noqa: PTH208 -- names, not paths
    with Watchdog(70) as watchdog:
        watchdog.arm(600)

    assert calls == ["602", "cancelled"]
    assert len(os.listdir("/dev/fd")) == len(before)  # noqa: PTH208
