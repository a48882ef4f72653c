"""The end of a process leaves the timers of others alone."""

import faulthandler
import io
import os
import sys

import pytest

from gizmopy.server.lifecycle.watchdog import LastResort


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that would set, or cancel, the one timer of faulthandler."""
    made: list[str] = []
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda seconds, **more: made.append(f"{seconds:g}")
    )
    monkeypatch.setattr(
        faulthandler, "cancel_dump_traceback_later", lambda: made.append("cancelled")
    )
    return made


def test_a_timer_that_it_has_not_set_is_not_cancelled(calls: list[str]) -> None:
    """A process that is never asked to stop leaves the timer to a test runner."""
    with LastResort(70) as last_resort:
        last_resort.disarm()

    assert calls == []


def test_its_own_timer_comes_two_seconds_later_and_is_cancelled(calls: list[str]) -> None:
    """The first stage has two seconds, and leaving the context cancels both."""
    with LastResort(70) as last_resort:
        last_resort.arm_second(600)
        last_resort.arm(700)

    assert calls == ["602", "cancelled", "702", "cancelled"]


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["none", "no file"])
def test_a_process_without_standard_error_can_be_ended(
    stream: io.StringIO | None, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stacks without a reader are not written, and no descriptor is left open."""
    monkeypatch.setattr(sys, "stderr", stream)
    before = os.listdir("/dev/fd")  # noqa: PTH208 -- names, not paths
    with LastResort(70) as last_resort:
        last_resort.arm(600)

    assert calls == ["602", "cancelled"]
    assert len(os.listdir("/dev/fd")) == len(before)  # noqa: PTH208
