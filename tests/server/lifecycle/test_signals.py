"""Signals become requests to stop."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gizmopy.server.lifecycle.signals import Signals, Stop


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock that is stopped."""
    return Clock()


@pytest.fixture
def signals(clock: Clock) -> Iterator[Signals]:
    """Catch signals during the test only."""
    caught = Signals(clock)
    yield caught
    caught.restore()


async def test_a_signal_requests_a_stop(signals: Signals) -> None:
    """SIGTERM ends the wait, and is the reason."""
    stop = Stop()
    signals.attach(stop)
    os.kill(os.getpid(), signal.SIGTERM)

    assert await asyncio.wait_for(stop.wait(), 5) == "SIGTERM"


async def test_a_signal_before_the_loop_runs_is_kept(signals: Signals) -> None:
    """A signal during the import of user code stops the daemon as soon as the loop runs."""
    signals.receive(signal.SIGINT)
    stop = Stop()
    signals.attach(stop)

    assert stop.requested
    assert stop.reason == "SIGINT"
    assert not stop.hurried.is_set()


async def test_only_the_first_signal_calls_the_callback(signals: Signals, clock: Clock) -> None:
    """The callback runs in the signal handler, so a blocked loop does not delay it."""
    first: list[str] = []
    signals.attach(Stop(), lambda: first.append("first"))
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        signals.receive(number)
        clock.now += 0.3

    assert first == ["first"]


async def test_the_same_signal_at_once_counts_once(signals: Signals, clock: Clock) -> None:
    """make and the terminal both send SIGINT for one Ctrl-C."""
    stop = Stop()
    signals.attach(stop)
    signals.receive(signal.SIGINT)
    clock.now = 0.49
    signals.receive(signal.SIGINT)
    await stop.wait()
    await asyncio.sleep(0)

    assert not stop.hurried.is_set()


async def test_a_second_signal_shortens_the_drain(signals: Signals, clock: Clock) -> None:
    """The same signal later counts as a second, and so does another one immediately."""
    for second, later in ((signal.SIGINT, 0.5), (signal.SIGTERM, 0.0)):
        stop = Stop()
        stop.request("SIGINT")
        fresh = Signals(clock)
        fresh.attach(stop)
        fresh.receive(signal.SIGINT)
        clock.now += later
        fresh.receive(second)
        fresh.restore()
        await asyncio.wait_for(stop.hurried.wait(), 5)

        assert stop.hurried.is_set()


async def test_the_handlers_are_restored() -> None:
    """restore() sets the handlers that were set before."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    Signals().restore()

    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_third_signal_ends_the_process() -> None:
    """Three signals end a process that hangs, with 128 plus the signal's number."""
    program = """
import signal
from gizmopy.server.lifecycle.signals import Signals
signals = Signals(iter((0.0, 1.0, 2.0)).__next__)
for _ in range(3):
    signals.receive(signal.SIGTERM)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)

    assert ended.returncode == 128 + signal.SIGTERM


FORK = """
import os, signal, time
from gizmopy.server import Signals
signals = Signals()
ready, write = os.pipe()
child = os.fork()
if child == 0:
    os.write(write, b"x")  # Python drops a signal that comes while it forks
    time.sleep(30)
    os._exit(3)
os.read(ready, 1)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_signal_ends_a_forked_child() -> None:
    """In a child it has its earlier effect: multiprocessing depends on that."""
    ended = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60)
    assert ended.stdout == f"{-signal.SIGTERM}\n", ended.stderr
