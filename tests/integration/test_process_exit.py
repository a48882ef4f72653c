"""The exit of a daemon has a limit, whatever else runs in its process."""

import signal
import time
from pathlib import Path

import pytest

from tests.integration.daemons import Daemon, StartDaemon

LIMIT = 4.0
"""Two seconds after the drain, and as many for a machine with a load."""

SERVICE = """
import asyncio, atexit, multiprocessing, os, signal, sys, threading, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from gizmopy import Service, get

mode = sys.argv[1]
parent = os.getpid()

def hang():
    print("hanging", flush=True)
    while True:
        time.sleep(60)

def hang_in_child(ignored=signal.SIGTERM):
    signal.signal(ignored, signal.SIG_IGN)
    print("hanging", flush=True)
    while os.getppid() == parent:  # the test must not leave it
        time.sleep(0.05)

def failing():
    raise ValueError("a failure after the log was closed")

class Closing:
    def __del__(self, sleep=time.sleep):
        sleep(60)

if mode == "atexit":
    atexit.register(hang)

async def stubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("hanging", flush=True)

class Leaving(Service):
    @asynccontextmanager
    async def lifespan(self):
        if mode == "thread":
            threading.Thread(target=hang, name="poller").start()
        elif mode == "executor":
            self.executor = ThreadPoolExecutor(1, "mail")
            self.executor.submit(hang)
        elif mode == "default-executor":
            asyncio.get_running_loop().run_in_executor(None, hang)
        elif mode == "child":
            multiprocessing.Process(target=hang_in_child, name="indexer").start()
        elif mode == "pool":
            self.pool = ProcessPoolExecutor(1)
            self.pool.submit(hang_in_child, signal.SIGUSR1)
        elif mode == "task":
            self.task = asyncio.create_task(stubborn(), name="refresh")
        elif mode == "late-atexit":
            atexit.register(hang)
        elif mode == "error":
            atexit.register(failing)
        yield

    @get("/hello")
    async def hello(self) -> str:
        return "hello"

if __name__ == "__main__":
    try:
        Leaving.run(sys.argv[2:])
    finally:
        if mode == "finally":
            hang()
        if mode == "teardown":
            sys.closing = Closing()
"""


@pytest.fixture
def service(tmp_path: Path) -> str:
    """The path of a service whose process does not end by itself, as its first argument names."""
    path = tmp_path / "leaving.py"
    path.write_text(SERVICE)
    return str(path)


def _stop(daemon: Daemon) -> tuple[int, float]:
    """Stop a daemon; return its exit code, and the seconds from the end of its drain."""
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for("leaving: exit")
    since = time.monotonic()
    return daemon.process.wait(30), time.monotonic() - since


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("mode", "named"),
    [
        ("thread", "thread 'poller' in hang (leaving.py:"),
        ("executor", "thread 'mail_0' in hang (leaving.py:"),
        ("default-executor", "_0' in hang (leaving.py:"),
        ("child", "child process 'indexer' (pid "),
        ("pool", "child process 'ForkProcess-1' (pid "),
        ("task", "task 'refresh' in stubborn (leaving.py:"),
        ("atexit", "main thread in hang (leaving.py:"),
        ("late-atexit", "main thread in hang (leaving.py:"),
        ("finally", "main thread in hang (leaving.py:"),
    ],
)
def test_the_exit_is_bounded(
    start_daemon: StartDaemon, service: str, mode: str, named: str, loop: str
) -> None:
    """The process ends with 70 soon after its drain, and the log names what did not end."""
    daemon = start_daemon(service, mode, GIZMO_LOOP=loop)
    daemon.wait_for("leaving: ready")
    code, seconds = _stop(daemon)

    assert code == 70
    assert seconds < LIMIT
    record = daemon.wait_for("the process did not end in time")
    assert record["level"] == "CRITICAL"
    assert named in record["message"]


def test_an_interpreter_that_hangs_is_ended(start_daemon: StartDaemon, service: str) -> None:
    """Once no thread can run, the stack is on standard error and the exit code is 1."""
    daemon = start_daemon(service, "teardown")
    daemon.wait_for("leaving: ready")
    code, seconds = _stop(daemon)

    assert code == 1
    assert seconds < LIMIT + 2
    assert "in __del__\n" in daemon.log.read_text()


@pytest.mark.parametrize("mode", ["thread", "atexit", "late-atexit", "child", "finally"])
def test_a_third_signal_ends_a_process_that_leaves(
    start_daemon: StartDaemon, service: str, mode: str
) -> None:
    """Signals count after the drain too: the third ends the process at once."""
    daemon = start_daemon(service, mode)
    daemon.wait_for("leaving: ready")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for("leaving: exit")
    daemon.wait_for_output("hanging")
    time.sleep(0.2)  # until the interpreter waits; there is no event
    for number in (signal.SIGINT, signal.SIGTERM):
        daemon.process.send_signal(number)
        time.sleep(0.05)  # the kernel merges two pending signals into one

    since = time.monotonic()
    assert daemon.process.wait(30) == 128 + signal.SIGTERM
    assert time.monotonic() - since < 1


def test_an_error_at_the_end_is_logged(start_daemon: StartDaemon, service: str) -> None:
    """The log is JSON lines until the process has ended."""
    daemon = start_daemon(service, "error")
    daemon.wait_for("leaving: ready")

    assert daemon.stop() == 0
    assert "ValueError: a failure after the log" in daemon.wait_for("atexit callback")["stack"]
