"""A daemon that hangs is killed, or its stack is logged."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.daemons import ROOT, StartDaemon

SERVICE = """
import asyncio, ctypes, re, sys, time
from contextlib import asynccontextmanager
from gizmopy import Service, get
from gizmopy.server.lifecycle import shutdown_budget as budget

run = sys.modules["gizmopy.server.run"]
run._BROKER_SECONDS = budget.CANCEL_SECONDS = budget.CLEANUP_SECONDS = budget._CLOSE_SECONDS = 0.1

def hold_the_gil():
    ctypes.PyDLL(None).sleep(60)  # a call that does not release the GIL

def match():
    re.match("(a+)+$", "a" * 64 + "b")

class Hanging(Service):
    @asynccontextmanager
    async def lifespan(self):
        yield
        if "cleanup" in sys.argv:
            hold_the_gil()

    @get("/hang")
    async def hang(self, seconds: float = 60) -> str:
        print("hanging", flush=True)
        match() if "match" in sys.argv else time.sleep(seconds)
        return "never"

    @get("/later")
    async def later(self) -> str:
        try:
            print("waiting", flush=True)
            await asyncio.sleep(60)
        finally:
            hold_the_gil()
        return "never"

if __name__ == "__main__":
    Hanging.run(sys.argv[2:])
"""
STACK = re.compile(r'\nTimeout \(.*\)!\nThread 0x[0-9a-f]+ \(most recent call first\):\n  File "')


@pytest.fixture
def service(tmp_path: Path) -> str:
    """The path of a service that hangs in the way that its first argument names."""
    path = tmp_path / "hanging.py"
    path.write_text(SERVICE)
    return str(path)


@pytest.mark.parametrize(
    ("where", "path", "function", "loop"),
    [
        ("cleanup", "", "hold_the_gil", "asyncio"),
        ("later", "/later", "hold_the_gil", "auto"),
        ("sleep", "/hang", "hang", "auto"),
        ("match", "/hang", "match", "asyncio"),
    ],
)
def test_a_shutdown_ends_though_no_python_can_run(
    start_daemon: StartDaemon, service: str, where: str, path: str, function: str, loop: str
) -> None:
    """Code that holds the GIL or blocks the loop, from before the signal or after it, is killed.

    The stacks are on standard error and the exit code is 1, within the budget.
    """
    daemon = start_daemon(service, where, GIZMO_SHUTDOWN_TIMEOUT="50ms", GIZMO_LOOP=loop)
    daemon.wait_for("hanging: ready")
    with daemon.connect() as client:  # kept open: a closed connection would cancel the handler
        if path:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            daemon.wait_for_output("ing")

        assert daemon.stop() == 1
    written = daemon.log.read_text()
    assert STACK.search(written)
    assert f"in {function}\n" in written


def test_a_reader_that_stalls_does_not_delay_the_exit(service: str, tmp_path: Path) -> None:
    """The process ends although the pipe for its stacks is full."""
    log = tmp_path / "log"
    settings = {"HTTP_PORT": "0", "GIZMO_SHUTDOWN_TIMEOUT": "50ms", "APP_LOG": str(log)}
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb"), os.fdopen(writer, "wb", buffering=0) as pipe:
        os.set_blocking(writer, False)
        while pipe.write(b"x" * 4096) is not None:
            pass
        os.set_blocking(writer, True)
        with subprocess.Popen(
            [sys.executable, service, "cleanup"],
            env=os.environ | settings | {"PYTHONPATH": str(ROOT)},
            stderr=pipe,
        ) as daemon:
            until = time.monotonic() + 30
            while not (log.exists() and "hanging: ready" in log.read_text()):
                assert time.monotonic() < until
                time.sleep(0.02)
            daemon.send_signal(signal.SIGTERM)

            assert daemon.wait(30) == 1


def test_a_blocked_loop_is_logged(start_daemon: StartDaemon, service: str) -> None:
    """Its stack is logged once, the stall is counted, and the daemon continues."""
    daemon = start_daemon(service, "sleep", GIZMO_LIVENESS_STALL="200ms")
    daemon.wait_for("hanging: ready")
    assert daemon.request("GET", "/hang?seconds=1")[0] == 200

    record = daemon.wait_for("the event loop has not run for")
    assert record["level"] == "ERROR"
    assert "in hang\n" in record["message"]
    assert "gizmo_event_loop_stalls_total 1" in daemon.request("GET", "/metrics")[1]
    assert daemon.stop() == 0
    assert sum("has not run" in record["message"] for record in daemon.records()) == 1
