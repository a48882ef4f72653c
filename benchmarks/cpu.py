"""Read the CPU time of a process, and keep processes on cores of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CORES = sorted(os.sched_getaffinity(0))  # read before anything is pinned


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that every living thread of a process has used so far."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Pin this process to one core, with every process that it starts meanwhile.

    A child inherits the affinity of its parent. A machine with one core pins nothing.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_CORES[core % len(_CORES)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
