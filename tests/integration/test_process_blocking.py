"""Calls that block the event loop, and background tasks that die, are logged with their stacks."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.daemons import Daemon, StartDaemon

SERVICE = """
import asyncio, re, signal, time, threading, os
from contextlib import asynccontextmanager
from gizmopy import Service, get, subscribe

def helper(seconds):
    time.sleep(seconds)

def spin(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(100))

def quick():
    time.sleep(0.002)

class Blocking(Service):
    @asynccontextmanager
    async def lifespan(self):
        self.kept = asyncio.create_task(self.die(), name="kept")
        asyncio.create_task(self.die(), name="dropped")
        self.nested = asyncio.create_task(self.start_another())
        self.fine = asyncio.create_task(asyncio.sleep(0))
        self.stopped = asyncio.create_task(asyncio.sleep(60))
        self.stopped.cancel()
        owned = asyncio.create_task(self.die(), name="owned")
        results = await asyncio.gather(owned, self.die(), return_exceptions=True)
        assert len(results) == 2
        async with asyncio.TaskGroup() as group:
            group.create_task(self.catch(), name="grouped")
        yield

    async def die(self):
        await asyncio.sleep(0.01)
        raise ValueError("the poller is dead")

    async def catch(self):
        try:
            await asyncio.create_task(self.die(), name="awaited")
        except ValueError:
            pass

    async def start_another(self):
        self.grandchild = asyncio.create_task(self.die(), name="grandchild")

    @get("/sleep")
    async def sleep(self, seconds: float = 0.7) -> str:
        time.sleep(seconds)
        return "slept"

    @get("/other")
    async def other(self, seconds: float = 0.7) -> str:
        helper(seconds)
        return "slept"

    @get("/spin")
    async def spin(self, seconds: float = 0.7) -> str:
        spin(seconds)
        return "spun"

    @get("/match")
    async def match(self, size: int) -> str:
        re.match("(a+)+$", "a" * size + "b")
        return "matched"

    @get("/many")
    async def many(self) -> str:
        async def one():
            quick()
        await asyncio.gather(*(one() for _ in range(500)))
        return "many"

    @get("/publish")
    async def publish_one(self) -> str:
        await self.publish("cats", "Tom")
        return "published"

    @subscribe("cats")
    async def on_cat(self, name: str) -> None:
        time.sleep(0.7)

if __name__ == "__main__":
    Blocking.run()
"""
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
TEXT = "a call blocks the event loop"


@pytest.fixture
def service(tmp_path: Path) -> str:
    """The path of a service that blocks its event loop."""
    path = tmp_path / "blocking.py"
    path.write_text(SERVICE)
    return str(path)


def _line(text: str) -> int:
    return SERVICE[: SERVICE.index(text)].count("\n") + 1


def _warnings(daemon: Daemon) -> list[dict[str, Any]]:
    return [record for record in daemon.records() if TEXT in record["message"]]


@LOOPS
def test_a_blocking_call_is_logged_once_for_each_place(
    start_daemon: StartDaemon, service: str, loop: str
) -> None:
    """The warning has the line of the service that blocks, and the stack."""
    daemon = start_daemon(service, GIZMO_LOOP=loop)
    daemon.wait_for("blocking: ready")
    for path in ("/sleep", "/sleep", "/other", "/other"):
        assert daemon.request("GET", path)[0] == 200
    assert daemon.stop() == 0
    warnings = _warnings(daemon)

    places = ["Blocking.sleep", "helper"]
    lines = [_line("time.sleep(seconds)\n        return"), _line("time.sleep(seconds)")]
    assert len(warnings) == 2, warnings
    for warning, place, line in zip(warnings, places, lines, strict=True):
        assert warning["level"] == "WARNING"
        assert f"{place} (blocking.py:{line})" in warning["message"]
        assert "time.sleep(seconds)\n" in warning["message"]  # the stack
        assert "base_events.py" not in warning["message"]


@LOOPS
@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/spin", "spin (blocking.py:"),
        ("/match?size=26", "Blocking.match (blocking.py:"),
        ("/publish", "Blocking.on_cat (blocking.py:"),
        ("/publish", ", in the task 'cats/blocking worker 0'; run it in a thread"),
    ],
)
def test_every_kind_of_blocking_is_found(
    start_daemon: StartDaemon, service: str, loop: str, path: str, place: str
) -> None:
    """A loop in Python, a call that holds the GIL, a blocking message handler."""
    daemon = start_daemon(service, GIZMO_LOOP=loop, GIZMO_BLOCKING_WARNING="200ms")
    daemon.wait_for("blocking: ready")
    assert daemon.request("GET", path)[0] == 200

    assert place in daemon.wait_for(TEXT)["message"]
    assert daemon.stop() == 0


def test_many_short_calls_are_not_blamed(start_daemon: StartDaemon, service: str) -> None:
    """A second of short calls in one turn of the loop has no blocking call."""
    daemon = start_daemon(service, GIZMO_BLOCKING_WARNING="200ms")
    daemon.wait_for("blocking: ready")
    assert daemon.request("GET", "/many")[0] == 200
    assert daemon.stop() == 0

    assert _warnings(daemon) == []


def test_a_process_that_is_stopped_is_not_blamed(start_daemon: StartDaemon, service: str) -> None:
    """A process without CPU time has no blocking call, and 0 turns the warning off."""
    daemon = start_daemon(service, GIZMO_BLOCKING_WARNING="200ms")
    daemon.wait_for("blocking: ready")
    daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(1)
    daemon.process.send_signal(signal.SIGCONT)
    assert daemon.request("GET", "/sleep?seconds=0")[0] == 200
    assert daemon.stop() == 0
    silent = start_daemon(service, GIZMO_BLOCKING_WARNING="0")
    silent.wait_for("blocking: ready")
    assert silent.request("GET", "/sleep?seconds=1")[0] == 200
    assert silent.stop() == 0

    assert _warnings(daemon) + _warnings(silent) == []


@LOOPS
def test_a_task_of_lifespan_that_dies_is_logged(
    start_daemon: StartDaemon, service: str, loop: str
) -> None:
    """Each task that nothing awaits is logged once, with its stack, while the daemon runs."""
    daemon = start_daemon(service, GIZMO_LOOP=loop)
    daemon.wait_for("blocking: ready")
    for name in ("kept", "dropped", "grandchild"):
        record = daemon.wait_for(f"the task {name} of lifespan has failed")
        assert record["level"] == "ERROR"
        assert "ValueError: the poller is dead" in record["stack"]
        assert "in die\n" in record["stack"]
    assert daemon.stop() == 0

    assert sum("poller is dead" in str(record) for record in daemon.records()) == 3
