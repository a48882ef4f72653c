"""Daemons for the tests of this folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.daemons import ROOT, Daemon, StartDaemon


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Return a function that starts ``python ARGUMENTS…``, by default on a free port."""
    started: list[Daemon] = []

    def start(*arguments: str, **environment: str) -> Daemon:
        folder = tmp_path / f"daemon-{len(started)}"
        folder.mkdir()
        base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HTTP_PORT": "0"}
        daemon = Daemon([sys.executable, *arguments], base | environment, folder)
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
