"""A forked child has nothing of the daemon: neither its signals nor its sockets, log or timers."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.daemons import Daemon, StartDaemon

SERVICE = """
import asyncio, ctypes, faulthandler, logging, multiprocessing, os, signal, sys, threading, time
from contextlib import asynccontextmanager
from gizmopy import Service, get

def hold_the_gil():
    ctypes.PyDLL(None).sleep(60)

def sleep():
    time.sleep(60)

def report():
    wake_up = signal.set_wakeup_fd(-1)
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    defaults = [signal.SIG_DFL, signal.default_int_handler]
    logging.getLogger("child").info("wake-up %s, default %s", wake_up, handlers == defaults)

class Forking(Service):
    @asynccontextmanager
    async def lifespan(self):
        yield
        if "drain" in sys.argv:
            child = os.fork()
            if child == 0:
                logging.getLogger("child").info("leaving")
                faulthandler.cancel_dump_traceback_later()
                os._exit(3)
            code = os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1])
            logging.getLogger("child").info("the child ended with %s", code)

    def start(self, target) -> int:
        self.child = multiprocessing.get_context("fork").Process(target=target)
        self.child.start()
        return self.child.pid

    @get("/fork")
    async def fork(self, target: str) -> int:
        return self.start(globals()[target])

    @get("/thread-fork")
    async def thread_fork(self, target: str) -> int:
        return await asyncio.to_thread(self.start, globals()[target])

    @get("/terminate")
    async def terminate(self) -> int:
        self.child.terminate()
        await asyncio.to_thread(self.child.join, 5)
        return self.child.exitcode

if __name__ == "__main__":
    Forking.run(sys.argv[2:])
"""
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
PATHS = pytest.mark.parametrize("path", ["/fork", "/thread-fork"])


@pytest.fixture
def service(tmp_path: Path) -> str:
    """The path of a service that forks."""
    path = tmp_path / "forking.py"
    path.write_text(SERVICE)
    return str(path)


@pytest.fixture
def children() -> Iterator[list[int]]:
    """Collect the children of daemons, and kill them at the end."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _fork(daemon: Daemon, path: str, target: str, children: list[int]) -> None:
    children.append(int(daemon.request("GET", f"{path}?target={target}")[1]))


@LOOPS
@PATHS
def test_a_child_ends_at_sigterm(
    start_daemon: StartDaemon, service: str, children: list[int], loop: str, path: str
) -> None:
    """terminate() ends a child at once, even if it runs C code that holds the GIL."""
    daemon = start_daemon(service, "", GIZMO_LOOP=loop)
    daemon.wait_for("forking: ready")
    _fork(daemon, path, "hold_the_gil", children)
    time.sleep(0.3)  # until the child is in C code; there is no event

    assert daemon.request("GET", "/terminate") == (200, str(-signal.SIGTERM))
    assert daemon.stop() == 0


@LOOPS
@PATHS
def test_a_child_has_its_own_signals_and_log(
    start_daemon: StartDaemon, service: str, children: list[int], loop: str, path: str
) -> None:
    """Python's default handlers are set, and no signal of the child wakes the parent's loop."""
    daemon = start_daemon(service, "", GIZMO_LOOP=loop)
    daemon.wait_for("forking: ready")
    _fork(daemon, path, "report", children)

    assert daemon.wait_for("wake-up")["message"] == "wake-up -1, default True"
    assert daemon.stop() == 0


@LOOPS
@PATHS
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_child_holds_no_socket(
    start_daemon: StartDaemon,
    service: str,
    children: list[int],
    tmp_path: Path,
    loop: str,
    path: str,
    kind: str,
) -> None:
    """If the daemon dies before its child, its port is free and its clients see the end."""
    unix = tmp_path / "socket"
    address = f"unix:{unix}" if kind == "unix" else "127.0.0.1"
    daemon = start_daemon(service, "", GIZMO_LOOP=loop, HTTP_ADDR=address)
    daemon.wait_for("forking: ready")

    def connect() -> socket.socket:
        if kind == "tcp":
            return daemon.connect()
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(unix))
        except OSError:
            client.close()
            raise
        return client

    with connect() as client, connect() as asking:
        client.settimeout(10)
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        asking.sendall(f"GET {path}?target=sleep HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        children.append(int(asking.recv(65536).rpartition(b"\r\n\r\n")[2]))
        daemon.process.kill()
        daemon.process.wait()

        assert client.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            connect()
    assert Path(f"/proc/{children[0]}").exists()


@LOOPS
def test_a_child_that_is_forked_in_the_drain_ends(
    start_daemon: StartDaemon, service: str, loop: str
) -> None:
    """It does not wait for the timer of the parent, which is set again in the parent."""
    daemon = start_daemon(service, "drain", GIZMO_LOOP=loop)
    daemon.wait_for("forking: ready")
    daemon.process.send_signal(signal.SIGTERM)

    assert daemon.wait_for("the child ended with")["message"].endswith("3")
    assert daemon.process.wait(30) == 0


TIMER = """
import faulthandler, os, sys
from gizmopy.server.lifecycle.watchdog import Watchdog
watchdog = Watchdog(70)
watchdog.arm_second_stage(-1.5)  # in half a second
if os.fork() == 0:
    faulthandler.dump_traceback_later(60)
    faulthandler.cancel_dump_traceback_later()
    sys.exit(0)
os.wait()
import time
time.sleep(60)
"""


def test_a_fork_does_not_end_the_timer_of_the_parent() -> None:
    """The child can use faulthandler's timer, and the parent is still ended by its own."""
    ended = subprocess.run([sys.executable, "-c", TIMER], capture_output=True, timeout=30)

    assert ended.returncode == 1
    assert b"Timeout (" in ended.stderr
