"""Start daemons in processes of their own, as a user does."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[2]


class Daemon:
    """A process that logs JSON lines to a file; ``url`` is known as soon as it listens."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.log = folder / "stderr"
        self.output = folder / "stdout"
        with self.log.open("wb") as log, self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=dict(environment), stdout=output, stderr=log, cwd=folder
            )

    def records(self) -> list[dict[str, Any]]:
        """Return every record logged so far."""
        whole = self.log.read_text().rpartition("\n")[0] if self.log.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]

    def wait_for(self, text: str, timeout: float = 30) -> dict[str, Any]:
        """Wait until the message of a record contains ``text``, and return the record."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for record in self.records():
                if text in record["message"]:
                    return record
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{text!r} was never logged:\n{self.log.read_text()}")

    @property
    def url(self) -> str:
        """Wait until it listens, and return its URL."""
        return str(self.wait_for("listens on")["url"])

    def connect(self) -> socket.socket:
        """Return a connection to it."""
        return socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])))

    def wait_for_output(self, text: str, timeout: float = 30) -> None:
        """Wait until it has printed ``text``."""
        deadline = time.monotonic() + timeout
        while text not in self.output.read_text():
            assert time.monotonic() < deadline, f"{text!r} was never printed"
            time.sleep(0.01)

    def request(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, str]:
        """Return the status and the text of a response."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)


class StartDaemon(Protocol):
    """Start ``python ARGUMENTS…`` with an environment of its own, by default on a free port."""

    def __call__(self, *arguments: str, **environment: str) -> Daemon: ...
