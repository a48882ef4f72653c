"""A real Redis for tests: the installed ``redis-server``, on loopback, without persistence."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_REMEDY = "redis-server is not on PATH; try: apt-get install --yes redis-server"


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a server while the context lasts, and yield its URL; its log is in ``folder``.

    Without an installed server the test is skipped; in CI (``CI`` is set) it fails.
    """
    if (server := shutil.which("redis-server")) is None:
        if os.environ.get("CI"):
            pytest.fail(_REMEDY)
        pytest.skip(_REMEDY)
    port = _free_port()
    options = f"--port {port} --bind 127.0.0.1 --appendonly no --dir {folder}".split()
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([server, *options, "--save", ""], stdout=log, stderr=log)
    try:
        _wait_until_ready(process, port, folder / "redis.log")
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=10)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 30
    while not _answers(port):
        assert process.poll() is None, f"redis-server has ended: {log.read_text()}"
        assert time.monotonic() < deadline, f"redis-server does not answer: {log.read_text()}"
        time.sleep(0.01)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64) == b"+PONG\r\n"
    except OSError:
        return False
