"""Write one line for each request, in batches: a tenth of what a log record costs.

Lines are encoded straight into one buffer, which is written every 100 ms or 32 KiB, whichever comes
first. The part of a line that does not change between requests is made once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import sys
import time
from pathlib import Path

from pydantic_core import to_json

from gizmopy.observe.logs import Timestamps

_FLUSH_SECONDS = 0.1
_FLUSH_BYTES = 32 * 1024
_PIPE_BYTES = 4096
"""What a write to a pipe may hold and stay whole among other writers (PIPE_BUF, pipe(7))."""
_TEXTS = 1024


class _Quoted(dict[str, str]):
    """Text as JSON, remembered: addresses and user agents come back."""

    def __missing__(self, text: str) -> str:
        if len(self) >= _TEXTS:
            self.clear()
        # Header bytes that are not UTF-8 arrive as lone surrogates.
        printable = text.encode("utf-8", "backslashreplace").decode()
        quoted = self[text] = to_json(printable).decode()
        return quoted


class AccessLog:
    """Write access lines to ``destination``, or nowhere.

    ``destination`` is ``stderr``, ``stdout``, a file's path (opened again when it was moved away),
    or ``off``. Lines are JSON unless a terminal shows them, or as ``log_json`` says. Use it as an
    async context manager: entering it opens the file (raising OSError where it cannot), leaving it
    writes what is buffered.

    A line that cannot be written (a full disk, a closed pipe) is dropped and counted in
    ``dropped``; the trouble is logged once.
    """

    def __init__(self, destination: str, *, log_json: bool | None = None) -> None:
        self.enabled = destination != "off"
        self.dropped = 0
        self._destination = destination
        self._log_json = log_json
        self._as_json = True
        self._path: Path | None = None
        self._file = -1
        self._identity = (0, 0)
        self._limit = 0
        self._buffer = bytearray()
        self._flush_handle: asyncio.TimerHandle | None = None
        self._timestamp = Timestamps()
        self._quoted = _Quoted()

    async def __aenter__(self) -> AccessLog:
        self._loop = asyncio.get_running_loop()
        if self.enabled:
            self._choose_file()
            self._limit = _write_limit(self._file)
            terminal = os.isatty(self._file)
            self._as_json = not terminal if self._log_json is None else self._log_json
        return self

    def _choose_file(self) -> None:
        if self._destination in ("", "stderr"):
            self._file = sys.stderr.fileno()
        elif self._destination == "stdout":
            self._file = sys.stdout.fileno()
        else:
            self._path = Path(self._destination)
            self._open()

    async def __aexit__(self, *exc_info: object) -> None:
        self.flush()
        if self._path is not None and self._file >= 0:
            os.close(self._file)
            self._file = -1
        self.enabled = False

    def fixed_part(self, method: str, route: str, status: int) -> str:
        """Return the part of a line that every request of this kind shares."""
        if not self._as_json:
            return f"{method:<6} {status}"
        return (
            '"level":"INFO","logger":"gizmopy.access","message":"request",'
            f'"method":{self._quoted[method]},"route":{self._quoted[route]},"status":{status}'
        )

    def write(
        self,
        fixed: str,
        *,
        request_id: str,
        path: str,
        seconds: float,
        size: int,
        remote: str,
        user_agent: str,
    ) -> None:
        """Add a line: ``fixed`` from ``fixed_part``, the path without its query, the body's bytes.

        The query is left out on purpose: tokens travel in it.
        """
        now = time.time()
        if self._as_json:
            quoted = self._quoted
            line = (
                f'{{"time":"{self._timestamp(now)}",{fixed},"path":{to_json(path).decode()},'
                f'"request_id":"{request_id}","duration_ms":{seconds * 1000:.3f},"bytes":{size},'
                f'"remote":{quoted[remote]},"user_agent":{quoted[user_agent]}}}\n'
            )
        else:
            clock = time.strftime("%H:%M:%S", time.localtime(now))
            line = (
                f"{clock} {fixed} {path} {seconds * 1000:.1f}ms {size}B request_id={request_id}\n"
            )
        self._buffer += line.encode("utf-8", "backslashreplace")
        if len(self._buffer) >= _FLUSH_BYTES:
            self.flush()
        elif self._flush_handle is None:
            self._flush_handle = self._loop.call_later(_FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what is buffered."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if not self._buffer:
            return
        lines, self._buffer = self._buffer, bytearray()
        try:
            if self._path is not None:
                self._reopen_if_moved()
            while lines:
                end = _end_of_lines(lines, self._limit)
                written = os.write(self._file, lines[:end])
                del lines[:written]
        except OSError as error:
            self._drop(lines, error)

    def _drop(self, lines: bytearray, error: OSError) -> None:
        if not self.dropped:
            logging.getLogger("gizmopy.access").error("access lines are being lost: %s", error)
        self.dropped += lines.count(b"\n")

    def _open(self) -> None:
        assert self._path is not None
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        status = os.fstat(self._file)
        self._identity = status.st_dev, status.st_ino

    def _reopen_if_moved(self) -> None:
        assert self._path is not None
        try:
            status = self._path.stat()
        except FileNotFoundError:
            moved = True
        else:
            moved = (status.st_dev, status.st_ino) != self._identity
        if moved:
            old = self._file
            self._open()
            os.close(old)


def _write_limit(file: int) -> int:
    """Return how many bytes one write may hold: a longer one to a pipe is torn among writers."""
    return _PIPE_BYTES if stat.S_ISFIFO(os.fstat(file).st_mode) else _FLUSH_BYTES


def _end_of_lines(lines: bytearray, limit: int) -> int:
    """Return the end of the last whole line within ``limit``, or of the first line."""
    if len(lines) <= limit:
        return len(lines)
    return lines.rfind(b"\n", 0, limit) + 1 or lines.find(b"\n") + 1
