"""The call that blocks the event loop is found by two looks at the stack."""

import sys
from collections.abc import Iterator
from types import FrameType

import pytest

from gizmopy.server.lifecycle.loop_stalls import BlockingCalls


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _one() -> Iterator[FrameType]:
    yield sys._getframe()  # a suspended call has no caller: the test is not in its stack


def _other() -> Iterator[FrameType]:
    yield sys._getframe()


def _block(calls: BlockingCalls, *frames: FrameType, holds_gil: bool = False) -> None:
    """Look twice at a stack within one blockage, and once at its end."""
    for age, frame in zip((0.6, 1.1), frames, strict=True):
        calls.look(frame, age, holds_gil=holds_gil)
    calls.look(None, 0.0, holds_gil=False)


def test_a_place_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A further blockage at the same line is silent for 60 s; another line is not."""
    clock = Clock()
    calls = BlockingCalls(1.0, clock)
    one_call, other_call = _one(), _other()
    one, other = next(one_call), next(other_call)
    for now, frame, count in ((0, one, 1), (59, one, 1), (59, other, 2), (60, one, 3)):
        clock.now = now
        _block(calls, frame, frame)
        assert len(caplog.records) == count

    message = caplog.records[0].getMessage()
    assert "_one (test_loop_stalls.py:" in message
    assert "asyncio.to_thread" in message
    assert "    yield sys._getframe()" in message


def test_the_task_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """The warning has the name of the task, such as a job, if it has one of its own."""
    for task, text in (
        ("job Cats.refresh", "), in the task 'job Cats.refresh'; run it"),
        ("Task-7", "); run it"),
    ):
        calls, call = BlockingCalls(1.0), _one()
        frame = next(call)
        calls.look(frame, 0.6, holds_gil=False, task=task)
        calls.look(frame, 1.1, holds_gil=False, task=task)
        assert text in caplog.records[-1].getMessage()


def test_a_long_blockage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A call that blocks for an hour is one warning."""
    clock = Clock()
    calls = BlockingCalls(1.0, clock)
    call = _one()
    frame = next(call)
    for age in range(1, 3600):
        clock.now = age
        calls.look(frame, age, holds_gil=False)

    assert len(caplog.records) == 1


def test_a_call_that_has_ended_is_not_blamed(caplog: pytest.LogCaptureFixture) -> None:
    """Only a call that both looks see has blocked the loop, except one that held the GIL."""
    calls = BlockingCalls(1.0)
    one_call, other_call = _one(), _other()
    one, other = next(one_call), next(other_call)
    _block(calls, one, other)
    calls.look(one, 5.0, holds_gil=False)  # the first look of a process that was stopped
    calls.look(None, 0.0, holds_gil=False)
    assert not caplog.records
    calls.look(one, 5.0, holds_gil=True)

    assert len(caplog.records) == 1
