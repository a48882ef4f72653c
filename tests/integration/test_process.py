"""A daemon as a process: signals, exit codes, and its log."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.integration.daemons import ROOT, StartDaemon

SERVICE = """
import asyncio, ctypes, time
from gizmopy import Service, get

class Hello(Service):
    @get("/hello")
    async def hello(self) -> str:
        return "hello"

    @get("/block")
    async def block(self) -> str:
        print("blocking", flush=True)
        time.sleep(60)
        return "never"

    @get("/short")
    async def short(self) -> str:
        print("short", flush=True)
        await asyncio.sleep(0.5)
        return "short"

    @get("/hold")
    async def hold(self) -> str:
        print("holding", flush=True)
        ctypes.PyDLL(None).sleep(60)  # it does not release the GIL
        return "never"

    @get("/thread")
    async def thread(self) -> str:
        print("in a thread", flush=True)
        await asyncio.to_thread(time.sleep, 60)
        return "never"

    @get("/stubborn")
    async def stubborn(self) -> str:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

if __name__ == "__main__":
    Hello.run()
"""


def _service(folder: Path) -> str:
    path = folder / "hello.py"
    path.write_text(SERVICE)
    return str(path)


def test_a_hello_daemon_serves_until_it_is_stopped(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """A daemon with one endpoint and no subscription drains on SIGTERM, on either loop."""
    for loop in ("asyncio", "auto"):
        daemon = start_daemon(_service(tmp_path), GIZMO_LOOP=loop)
        daemon.wait_for("hello: ready")

        assert daemon.request("GET", "/hello") == (200, '"hello"')
        assert daemon.process.poll() is None
        assert daemon.stop() == 0


CLOSING = """
import os, sys
for number in sys.argv[1]:
    os.close(int(number))
os.execv(sys.argv[2], sys.argv[2:])
"""
OPENING = """
import socket
opened = socket.create_server(("127.0.0.1", 0))
from hello import Hello
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "012"])
def test_a_daemon_without_standard_streams_ends_normally(
    start_daemon: StartDaemon, tmp_path: Path, closed: str, loop: str
) -> None:
    """No connection or file of the service gets the number of a closed standard stream.

    uvloop aborts when it closes such a number, and children would inherit it.
    """
    _service(tmp_path)
    (tmp_path / "opening.py").write_text(OPENING)
    log = tmp_path / "log"
    daemon = start_daemon(
        *("-c", CLOSING, closed, sys.executable, "-m", "gizmopy", "run", "opening:Hello"),
        GIZMO_LOOP=loop,
        APP_LOG=str(log),
        PYTHONPATH=f"{ROOT}:{tmp_path}",
    )
    daemon.log = log
    daemon.wait_for("hello: ready")
    assert daemon.request("GET", "/hello") == (200, '"hello"')
    opened = Path(f"/proc/{daemon.process.pid}/fd")
    if opened.exists():
        assert {str((opened / number).readlink()) for number in closed} == {os.devnull}
    assert daemon.stop() == 0


def test_the_echo_of_a_signal_does_not_change_the_exit_code(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """The same signal again, at any moment until the process ends, leaves the exit code at 0."""
    for loop in ("asyncio", "auto"):
        daemon = start_daemon(_service(tmp_path), GIZMO_LOOP=loop)
        daemon.wait_for("hello: ready")
        daemon.process.send_signal(signal.SIGTERM)
        while daemon.process.poll() is None:
            daemon.process.send_signal(signal.SIGTERM)
            time.sleep(0.001)

        assert daemon.process.returncode == 0


def test_a_third_signal_ends_a_daemon_whose_loop_is_blocked(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """A handler that blocks the loop does not keep the third signal from ending the process."""
    for loop in ("asyncio", "auto"):
        daemon = start_daemon(_service(tmp_path), GIZMO_LOOP=loop)
        with daemon.connect() as client:
            client.sendall(b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n")
            daemon.wait_for_output("blocking")
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                daemon.process.send_signal(number)
                time.sleep(0.05)  # the kernel merges two pending signals into one

            assert daemon.process.wait(10) == 128 + signal.SIGTERM


def test_a_task_that_ignores_its_cancellation_does_not_delay_the_exit(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """At the deadline the process ends with 70."""
    daemon = start_daemon(_service(tmp_path), GIZMO_SHUTDOWN_TIMEOUT="50ms")
    with daemon.connect() as client:
        client.sendall(b"GET /stubborn HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.1)  # until the call has started; there is no event

        assert daemon.stop() == 70


def test_a_thread_that_hangs_does_not_delay_the_exit(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """A blocking call in a thread is abandoned: the code is 70, and the log names the thread."""
    daemon = start_daemon(_service(tmp_path))

    assert daemon.request("GET", "/thread", X_Request_Timeout="300ms")[0] == 504
    assert daemon.stop() == 70
    assert daemon.wait_for("the process did not end in time")["level"] == "CRITICAL"


def test_help_lists_the_settings(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """--help prints every flag and ends with 0."""
    daemon = start_daemon(_service(tmp_path), "--help")

    assert daemon.process.wait(30) == 0
    assert "--http-port" in daemon.output.read_text()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_of_a_terminal_drains(
    start_daemon: StartDaemon, tmp_path: Path, number: signal.Signals, loop: str
) -> None:
    """A request that is being served is answered, and the exit code is 0."""
    daemon = start_daemon(_service(tmp_path), GIZMO_LOOP=loop)
    daemon.wait_for("hello: ready")
    with daemon.connect() as client:
        client.settimeout(10)
        client.sendall(b"GET /short HTTP/1.1\r\nHost: x\r\n\r\n")
        daemon.wait_for_output("short")

        assert daemon.stop(number) == 0
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
    log = daemon.log.read_text()
    assert f"stopping: {number.name}" in log
    assert ("(most recent call first)" in log) == (number == signal.SIGQUIT)


def test_sigquit_shows_the_stack_of_a_blocked_loop(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """The stacks are written although no Python code runs, and a third signal ends the process."""
    daemon = start_daemon(_service(tmp_path))
    with daemon.connect() as client:
        client.sendall(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
        daemon.wait_for_output("holding")
        daemon.process.send_signal(signal.SIGQUIT)
        deadline = time.monotonic() + 10
        while "in hold\n" not in daemon.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        daemon.process.kill()


def test_nohup_keeps_a_daemon_from_sighup(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """A signal that was ignored when the process started stays ignored."""
    ignore = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    daemon = start_daemon("-c", ignore, sys.executable, _service(tmp_path))
    daemon.wait_for("hello: ready")
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.request("GET", "/hello") == (200, '"hello"')
    assert daemon.stop() == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_localhost_is_served_over_both_protocols(
    start_daemon: StartDaemon, tmp_path: Path, loop: str
) -> None:
    """Clients that connect to 127.0.0.1 and to ::1 reach the same daemon."""
    daemon = start_daemon(_service(tmp_path), GIZMO_LOOP=loop, HTTP_ADDR="localhost")
    port = int(daemon.url.rpartition(":")[2])
    for address in ("127.0.0.1", "::1"):
        with socket.create_connection((address, port)) as client:
            client.settimeout(10)
            client.sendall(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
    assert daemon.stop() == 0


def test_an_address_with_brackets_is_served(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """HTTP_ADDR may be written as in a URL."""
    daemon = start_daemon(_service(tmp_path), HTTP_ADDR="[::1]")
    assert daemon.request("GET", "/hello") == (200, '"hello"')
    assert daemon.stop() == 0


def test_a_hyphen_is_standard_output(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """APP_LOG and HTTP_ACCESS_LOG take - as other commands do, and make no file of that name."""
    daemon = start_daemon(_service(tmp_path), APP_LOG="-", HTTP_ACCESS_LOG="-")
    daemon.log = daemon.output
    daemon.wait_for("hello: ready")
    assert daemon.request("GET", "/hello") == (200, '"hello"')
    assert daemon.stop() == 0
    assert daemon.wait_for("request")["path"] == "/hello"
    assert not list(daemon.output.parent.glob("-"))
