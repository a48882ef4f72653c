"""The CPU time and the memory of a hello daemon up to its first answer.

Two hello daemons and two of bare aiohttp on uvloop, which import pydantic-settings and
prometheus_client too, start at the same time on one core, so that a disturbance affects all of
them, and each shares pages with its twin. The ratio of aiohttp to its twin is the error of the
other ratios.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.cpu import cpu_seconds, pinned
from benchmarks.figures import Target, spread

STARTS = 11
TIMEOUT_SECONDS = 30.0
TARGET = Target(most=1.15)
GIZMOPY = ("gizmopy", "run", "benchmarks.hello_gizmopy:Hello")
AIOHTTP = ("benchmarks.hello_aiohttp",)


class Cost(NamedTuple):
    """CPU time and memory of a daemon at its first answer."""

    cpu: float
    """In milliseconds."""
    resident: float
    """Resident set, in MiB."""
    proportional: float
    """Proportional set (a page shared by n processes counts 1/n), in MiB; nan if not reported."""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _environment(port: int) -> dict[str, str]:
    """Return the environment of a daemon. HOME stays, so that compiled modules are found again."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    return kept | {"HTTP_PORT": str(port)}


def _await_answer(port: int) -> None:
    """Poll until the daemon answers. Raises RuntimeError if that is not 200, or too late."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        try:
            connection = socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.002)
            continue
        with connection:
            connection.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = connection.recv(1024)
        if b" 200 " not in answer[:13]:
            raise RuntimeError(f"the daemon answered {answer!r}")
        return
    raise RuntimeError(f"the daemon did not answer within {TIMEOUT_SECONDS:g} s")


def _mebibytes(file: Path, field: str) -> float:
    """Return a field of a file of /proc, converted from kB; nan if the file lacks it."""
    lines = file.read_text().splitlines() if file.exists() else []
    sizes = (float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))
    return next(sizes, float("nan"))


def _start(command: Sequence[str]) -> Cost:
    """Start a daemon, and return its costs at its first answer."""
    port = _free_port()
    with pinned(0):
        daemon = subprocess.Popen(
            (sys.executable, "-m", *command), env=_environment(port), stderr=subprocess.DEVNULL
        )
    try:
        _await_answer(port)
        process = Path(f"/proc/{daemon.pid}")
        return Cost(
            cpu_seconds(daemon.pid) * 1000,
            _mebibytes(process / "status", "VmRSS"),
            _mebibytes(process / "smaps_rollup", "Pss"),
        )
    finally:
        daemon.kill()
        daemon.wait()


def _start_together() -> tuple[Cost, ...]:
    commands = (GIZMOPY, AIOHTTP) * 2
    with ThreadPoolExecutor(len(commands)) as pool:
        return tuple(pool.map(_start, commands))


def main() -> None:
    """Print the costs of the daemons, their ratio, and the ratio of aiohttp to its twin."""
    _start_together()  # warms the file cache and compiles the modules
    with pinned(1):
        starts = [_start_together() for _ in range(STARTS)]
    print(f"A hello daemon up to its first answer, beside bare aiohttp, {STARTS} starts")
    for index, unit in enumerate(("ms of CPU", "MiB resident", "MiB proportional")):
        ours, bare, again, twin = zip(
            *([cost[index] for cost in each] for each in starts), strict=True
        )
        costs = f"{median(ours):.1f} and {median(bare):.1f} {unit}"
        ratios = [(a + b) / (c + d) for a, b, c, d in zip(ours, again, bare, twin, strict=True)]
        control = [one / other for one, other in zip(twin, bare, strict=True)]
        print(f"  {costs:<32} {spread(ratios)} {TARGET.judge(ratios)}; twin {spread(control)}")


if __name__ == "__main__":
    main()
