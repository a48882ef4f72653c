"""Background work in a process of its own: its drain, its exit code and its log."""

import signal
import time
from pathlib import Path

import pytest

from tests.integration.daemons import Daemon, StartDaemon

SERVICE = """
import asyncio, sys, time
from contextlib import asynccontextmanager
from gizmopy import Service, background, every

mode = sys.argv[1]

async def ignore_cancellation():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("ignored", flush=True)

class Working(Service):
    @asynccontextmanager
    async def lifespan(self):
        yield
        print("closed", flush=True)

    @every("2s", immediately=True)
    async def refresh(self) -> None:
        print("refreshing", flush=True)
        if mode == "block":
            time.sleep(0.7)
        elif mode == "stubborn-every":
            await ignore_cancellation()
        else:
            await asyncio.sleep(1)
        print("refreshed", flush=True)

    @background
    async def watch(self) -> None:
        print("watching", flush=True)
        if mode == "stubborn-background":
            await ignore_cancellation()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            print("flushed", flush=True)

if __name__ == "__main__":
    Working.run(sys.argv[2:])
"""
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@pytest.fixture
def service(tmp_path: Path) -> str:
    """The path of a service with background work, which its first argument controls."""
    path = tmp_path / "working.py"
    path.write_text(SERVICE)
    return str(path)


def _stop_amid_a_run(daemon: Daemon) -> int:
    daemon.wait_for_output("refreshing")
    daemon.wait_for_output("watching")
    daemon.wait_for("working: ready")
    return daemon.stop()


@LOOPS
def test_sigterm_amid_both_kinds_of_jobs(
    start_daemon: StartDaemon, service: str, loop: str
) -> None:
    """The run is finished, the background job flushes, then lifespan ends, and the exit is 0."""
    daemon = start_daemon(service, "normal", GIZMO_LOOP=loop)
    assert _stop_amid_a_run(daemon) == 0
    lines = daemon.output.read_text().split()
    assert sorted(lines[:2]) == ["refreshing", "watching"]
    assert lines[2:] == ["refreshed", "flushed", "closed"]
    messages = [record["message"] for record in daemon.records()]
    assert "job Working.refresh runs every 2s" in messages
    assert "job Working.watch runs in the background" in messages
    last = messages.index("the background work has ended")
    assert messages[last + 1 :] == ["working: cleanup", "working: exit"]


@pytest.mark.parametrize(
    ("mode", "name"), [("stubborn-every", "refresh"), ("stubborn-background", "watch")]
)
def test_a_job_that_ignores_its_cancellation(
    start_daemon: StartDaemon, service: str, mode: str, name: str
) -> None:
    """The log names it, the rest of the drain goes on, and the exit code is 70."""
    daemon = start_daemon(service, mode, GIZMO_SHUTDOWN_TIMEOUT="1200ms")
    began = time.monotonic()
    assert _stop_amid_a_run(daemon) == 70
    assert time.monotonic() - began < 10
    text = f"job Working.{name} ignores its cancellation and still runs"
    (record,) = [each for each in daemon.records() if each["message"] == text]
    assert record["level"] == "ERROR"
    assert "closed" in daemon.output.read_text()


def test_a_job_that_blocks_the_loop_is_named(start_daemon: StartDaemon, service: str) -> None:
    """The warning about a blocking call names the job, the line and the cure."""
    daemon = start_daemon(service, "block")
    record = daemon.wait_for("a call blocks the event loop")
    assert "Working.refresh (working.py:" in record["message"]
    assert ", in the task 'job Working.refresh'; run it in a thread" in record["message"]
    assert daemon.stop(signal.SIGINT) == 0
