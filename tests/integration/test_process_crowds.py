"""A daemon with few file descriptors, and more clients than it can accept."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.daemons import Daemon, StartDaemon

SERVICE = """
import resource
from gizmopy import Service

resource.setrlimit(resource.RLIMIT_NOFILE, (70, 80))

class Small(Service):
    pass

if __name__ == "__main__":
    Small.run()
"""


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    """The name of an event loop."""
    return str(request.param)


@pytest.fixture
def service(tmp_path: Path) -> str:
    """The path of a service with a limit of 80 file descriptors."""
    path = tmp_path / "small.py"
    path.write_text(SERVICE)
    return str(path)


@contextmanager
def silent_connections(daemon: Daemon, count: int) -> Iterator[list[socket.socket]]:
    """Open this many connections that send nothing."""
    with ExitStack() as stack:
        yield [stack.enter_context(daemon.connect()) for _ in range(count)]


def probe(daemon: Daemon) -> None:
    """Send a liveness probe on a connection of its own."""
    with daemon.connect() as client:
        client.settimeout(10)
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("limit", "cause"),
    [({}, "at the limit of 48 connections"), ({"GIZMO_MAX_CONNECTIONS": "1000"}, "no file desc")],
    ids=["at the limit", "without descriptors"],
)
def test_silent_connections_do_not_shut_out_a_probe(
    start_daemon: StartDaemon, service: str, loop: str, limit: dict[str, str], cause: str
) -> None:
    """Probes on the same port are answered; one log line and a counter report the connections.

    No probe takes longer because of the silent connections, and the process does not spin.
    """
    daemon = start_daemon(service, GIZMO_LOOP=loop, **limit)
    daemon.wait_for("from 70 to 80")
    with silent_connections(daemon, 80):
        for _ in range(10):
            probe(daemon)
        with silent_connections(daemon, 80):
            probe(daemon)
            began = time.process_time(), _cpu(daemon)
            time.sleep(0.5)  # the test measures an idle process
            assert _cpu(daemon) - began[1] < 0.4
            status, text = daemon.request("GET", "/metrics")
    assert status == 200
    (line,) = (row for row in text.splitlines() if 'shed_total{reason="silent"}' in row)
    assert float(line.split()[1]) >= 80
    warnings = [row for row in daemon.records() if row["level"] in ("WARNING", "ERROR")]
    assert len(warnings) == 1
    assert cause in warnings[0]["message"]
    assert "Traceback" not in daemon.log.read_text()
    assert daemon.stop() == 0


def _cpu(daemon: Daemon) -> float:
    """Return the seconds of CPU time that the daemon used."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
