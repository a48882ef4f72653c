"""Run a daemon as a process: start it, read its log and memory, send signals, wait for its end."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Literal, NamedTuple

ROOT = Path(__file__).parents[3]


class Ended(NamedTuple):
    """How a process ended."""

    code: int | None
    """None if the process had to be killed."""
    seconds: float
    """Seconds from the last signal to the end."""


class Daemon:
    """A process that logs JSON lines."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.records: list[dict[str, Any]] = []
        self._signalled = monotonic()
        self._changed = asyncio.Condition()
        self._log_ended = False

    @property
    def port(self) -> int:
        """The port that the daemon logged."""
        url = next(record["url"] for record in self.records if "url" in record)
        return int(url.rpartition(":")[2])

    async def read_log(self) -> None:
        """Collect every record until the process closes its log."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            async with self._changed:
                self.records.append(_record(line))
                self._changed.notify_all()
        async with self._changed:
            self._log_ended = True
            self._changed.notify_all()

    def has_logged(self, text: str) -> bool:
        """Whether a record's message holds ``text``."""
        return any(text in record["message"] for record in self.records)

    async def logged(self, text: str, within: float = 30.0) -> None:
        """Wait until a record's message holds ``text``.

        Raises TimeoutError, or RuntimeError with the log if the process ended before.
        """
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(lambda: self._log_ended or self.has_logged(text))
        if not self.has_logged(text):
            raise RuntimeError("\n".join(record["message"] for record in self.records))

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal."""
        self._signalled = monotonic()
        self.process.send_signal(number)

    async def ended(self, within: float = 60.0) -> Ended:
        """Wait until the process has ended; kill it after ``within`` seconds."""
        try:
            code: int | None = await asyncio.wait_for(self.process.wait(), within)
        except TimeoutError:
            self.process.kill()
            code = None
        return Ended(code, monotonic() - self._signalled)

    def memory(self, kind: Literal["VmRSS", "VmHWM"] = "VmRSS") -> int:
        """Return the resident memory in bytes: the current one, or (``VmHWM``) its peak."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{kind}:")[2].split()[0]) * 1024


def _record(line: bytes) -> dict[str, Any]:
    """Parse a line of the log; a line that is not JSON becomes the message."""
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"message": line.decode(errors="replace").rstrip()}
    return record


@asynccontextmanager
async def daemon(
    loop: str,
    service: str = "tests.endurance.http.service:Life",
    ready: str = ": ready",
    **environment: str,
) -> AsyncIterator[Daemon]:
    """Start a service on a free port, and wait until it has logged ``ready``.

    Its environment holds only PATH and the given settings. The process is killed at the end if it
    still runs.
    """
    base = {"PATH": os.environ["PATH"], "HTTP_PORT": "0", "HTTP_ACCESS_LOG": "off"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gizmopy", "run", service),
        env=base | {"APP_LOG_JSON_FMT": "true", "GIZMO_LOOP": loop} | environment,
        cwd=ROOT,
        stderr=PIPE,
    )
    started = Daemon(process)
    log = asyncio.create_task(started.read_log())
    try:
        await started.logged(ready)
        yield started
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await log


@contextmanager
def open_files(number: int) -> Iterator[int]:
    """Allow this process and those it starts ``number`` open files, or as many as may be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = number if hard == resource.RLIM_INFINITY else min(number, hard)
    allowed = max(soft, allowed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    try:
        yield allowed
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
