"""What a daemon costs before it does anything: the CPU time to its first answer, and memory.

Two hello daemons and two of bare aiohttp on uvloop, which have imported pydantic-settings and
prometheus_client too, start at the same time on one core: what disturbs one disturbs all, and each
has a twin to share pages with. How far aiohttp is from its twin is how far to trust the rest.
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
PATIENCE = 30.0
TARGET = Target(most=1.15)
GIZMOPY = ("gizmopy", "run", "benchmarks.hello_gizmopy:Hello")
AIOHTTP = ("benchmarks.hello_aiohttp",)


class Cost(NamedTuple):
    """What a daemon has used by its first answer."""

    cpu: float
    """In milliseconds."""
    resident: float
    """Every page of it in memory, in MiB."""
    proportional: float
    """The same, a page that n processes share counted as an nth; nan where Linux does not tell."""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _environment(port: int) -> dict[str, str]:
    """Return the environment of a daemon. Its modules are to be compiled once, not each time."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    return kept | {"HTTP_PORT": str(port)}


def _await_answer(port: int) -> None:
    """Ask until there is an answer. Raises RuntimeError where it is no 200, or none comes."""
    deadline = time.monotonic() + PATIENCE
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
    raise RuntimeError(f"the daemon did not answer within {PATIENCE:g} s")


def _mebibytes(file: Path, field: str) -> float:
    """Return a field of a file of /proc, which has it in kB; nan where there is none."""
    lines = file.read_text().splitlines() if file.exists() else []
    sizes = (float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))
    return next(sizes, float("nan"))


def _start(command: Sequence[str]) -> Cost:
    """Start a daemon, and return what it has used when it has answered."""
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
    """Print what the daemons use, how they compare, and how aiohttp compares with its twin."""
    _start_together()  # what it compiles and what is read from disk is there from now on
    with pinned(1):
        starts = [_start_together() for _ in range(STARTS)]
    print(f"A hello daemon up to its first answer, beside bare aiohttp, {STARTS} starts")
    for index, what in enumerate(("ms of CPU", "MiB resident", "MiB proportional")):
        ours, bare, again, twin = zip(
            *([cost[index] for cost in each] for each in starts), strict=True
        )
        costs = f"{median(ours):.1f} and {median(bare):.1f} {what}"
        ratios = [(a + b) / (c + d) for a, b, c, d in zip(ours, again, bare, twin, strict=True)]
        control = [one / other for one, other in zip(twin, bare, strict=True)]
        print(f"  {costs:<32} {spread(ratios)} {TARGET.judge(ratios)}; twin {spread(control)}")


if __name__ == "__main__":
    main()
