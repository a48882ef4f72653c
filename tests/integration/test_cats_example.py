"""The daemon of examples/3-both, in a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.integration.daemons import ROOT, Daemon, StartDaemon

CATS = ("-m", "gizmopy", "run", "tests.cats:Cats")


def _stats(daemon: Daemon, **expected: int) -> dict[str, int]:
    """Return the counts as soon as they are as expected: handling follows publishing."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        stats: dict[str, int] = json.loads(daemon.request("GET", "/svc/cats/stats")[1])
        if stats == expected:
            break
        time.sleep(0.01)
    return stats


def test_a_cat_is_stored_published_and_handled(start_daemon: StartDaemon) -> None:
    """PUT stores a cat and publishes it, the daemon handles the event, and GET returns the cat."""
    daemon = start_daemon(*CATS)

    assert daemon.request("PUT", "/svc/cats/1", {"name": "Tom"}) == (200, '{"id":1,"name":"Tom"}')
    assert daemon.request("GET", "/svc/cats/1") == (200, '{"id":1,"name":"Tom"}')
    assert _stats(daemon, stored=1, published=1, handled=1) == {
        "stored": 1,
        "published": 1,
        "handled": 1,
    }
    status, text = daemon.request("GET", "/svc/cats/2")
    assert (status, json.loads(text)["detail"]) == (404, "There is no cat 2.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_exit_code_is_0(start_daemon: StartDaemon, number: int) -> None:
    """SIGTERM and Ctrl-C, sent twice as make does it, end the daemon cleanly."""
    daemon = start_daemon(*CATS)
    daemon.request("PUT", "/svc/cats/1", {"name": "Tom"})
    daemon.process.send_signal(number)

    assert daemon.stop(number) == 0
    assert daemon.records()[-1]["message"] == "cats: exit"


def test_the_log_has_the_address_endpoints_and_subscriptions(start_daemon: StartDaemon) -> None:
    """The log of the start has a line for each."""
    daemon = start_daemon(*CATS)
    daemon.wait_for("cats: ready")
    messages = "\n".join(record["message"] for record in daemon.records())

    assert "cats listens on http://127.0.0.1:" in messages
    for endpoint in ("GET /svc/cats/stats", "GET /svc/cats/{id}", "PUT /svc/cats/{id}"):
        assert f"endpoint {endpoint}" in messages
    assert "subscription cats of memory:///cats → Cats.on_cat" in messages


def test_a_taken_port_is_one_line(start_daemon: StartDaemon) -> None:
    """A daemon whose port is in use prints one line, without a traceback, and exits with 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        daemon = start_daemon(*CATS, HTTP_PORT=str(port))

        assert daemon.process.wait(30) == 1
    (record,) = daemon.records()
    assert record["level"] == "CRITICAL"
    assert f"HTTP_PORT={port}: 127.0.0.1:{port} is taken" in record["message"]
    assert "stack" not in record


@pytest.mark.parametrize(
    ("name", "value", "code", "reason"),
    [
        ("GIZMO_PUBSUB_URL", "kafak://broker:9092", 1, "kafak://broker:9092"),
        ("HTTP_PORT", "eighty", 2, "HTTP_PORT=eighty"),
        ("GIZMO_READ_TIMEOUT", "soon", 2, "GIZMO_READ_TIMEOUT=soon"),
        ("APP_LOG", "/no/such/folder/log", 1, "/no/such/folder/log"),
        ("HTTP_ACCESS_LOG", "/no/such/folder/log", 1, "/no/such/folder/log"),
    ],
)
def test_an_invalid_setting_is_one_line(
    start_daemon: StartDaemon, name: str, value: str, code: int, reason: str
) -> None:
    """The line names the setting and its value, without a traceback, and the code is not 0."""
    daemon = start_daemon(*CATS, **{name: value})

    assert daemon.process.wait(30) == code
    text = daemon.log.read_text()
    assert reason in text
    assert "Traceback" not in text


def test_the_load_script_finds_every_count_right() -> None:
    """The counts are right if the daemon is stopped during the load and another one continues."""
    # A short run: the daemon and its load share the machine.
    module = "tests.endurance.memory.cats_load"
    command = [sys.executable, "-m", module, "--restart", "--count", "2000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "FAIL" not in ended.stdout
