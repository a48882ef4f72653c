"""Write log lines so that a reader that stalls never blocks the daemon.

A pipe is full once its reader is 64 KiB behind; a write then blocks until the reader reads.
``O_NONBLOCK`` does not help: it belongs to the open file, which standard output and standard error
share with other processes. So as much as the file accepts without blocking is written in the
caller's thread, at a tenth of the cost of waking another one. The rest goes to a bounded queue that
a thread writes. If the queue is full, lines are dropped and counted.

Before each write to a pipe, poll() reports whether it has room. A write still blocks if another
process fills the last page of the same pipe in between.

The thread starts with the first queued line. It is a daemon thread, because the interpreter waits
for any other without a limit; ``close`` and ``flush`` have one. A forked child has no such thread,
and often ends without clean-up. There, and after ``close``, lines are written in the caller's
thread, even if that blocks.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TextIO

from gizmopy.observe.log_files import open_descriptor, open_log

_QUEUE_BYTES = 1024 * 1024
_PIPE_BYTES = 4096
"""The longest write to a pipe that other writers cannot split (PIPE_BUF, pipe(7))."""
_FLUSH_SECONDS = 0.5
_GATHER_SECONDS = 0.005
"""The time to collect lines for one write: a wake-up for each would cost its caller 30 µs."""


class Writer(Protocol):
    """A destination of log lines."""

    dropped: int
    """The number of lines lost so far."""
    is_terminal: bool
    """Whether a person reads the lines on a terminal."""

    def write(self, lines: bytes) -> bool:
        """Accept whole lines, or drop them and return false. Never raises OSError."""

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Return whether all accepted lines were written within ``timeout`` seconds."""

    def close(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Flush, and close the file that was opened here, even after the timeout."""


def open_writer(
    destination: str, on_error: Callable[[Exception], None], *, queue_bytes: int = _QUEUE_BYTES
) -> Writer:
    """Return a writer to ``stderr`` (or an empty string), ``stdout``, or the path of a file.

    ``/dev/stdout``, ``/dev/stderr``, ``/dev/fd/N`` and ``/proc/self/fd/N`` are descriptors of this
    process. A file is opened again after it was moved, for logrotate; see
    :func:`~gizmopy.observe.log_files.open_log`. ``on_error`` is called with the first error of a
    write, possibly in the writer's thread. Raises OSError, with the remedy, if the file cannot be
    opened.
    """
    if destination not in ("", "stderr", "stdout"):
        path = Path(destination)
        number = open_descriptor(str(path))
        file = _NamedFile(path) if number is None else _File(number)
        return QueuedWriter(file, on_error, queue_bytes)
    stream = sys.stdout if destination == "stdout" else sys.stderr
    if stream is None:  # the process was started with the descriptor closed
        return QueuedWriter(_NamedFile(Path(os.devnull)), on_error, queue_bytes)
    try:
        number = stream.fileno()
    except (AttributeError, OSError, ValueError):  # a program or a test has replaced the stream
        return _StreamWriter(stream, on_error)
    return QueuedWriter(_File(number), on_error, queue_bytes)


class _File:
    """A file that the process has open, known by its descriptor; it is not closed here."""

    def __init__(self, number: int) -> None:
        self.number = number
        mode = os.fstat(number).st_mode
        self._has_reader = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        # A longer write to a pipe may be mixed with those of other processes, and may block.
        self._limit = _PIPE_BYTES if self._has_reader else _QUEUE_BYTES
        # A user can stop a terminal (Ctrl-S) in the middle of any write.
        self._may_block = os.isatty(number)

    def write_without_blocking(self, lines: bytearray) -> None:
        """Do as ``write``, but stop before a write that would block. Raises OSError."""
        if self._may_block:
            return
        while lines and not (self._has_reader and not _is_writable(self.number)):
            end = _end_of_lines(lines, self._limit)
            if self._has_reader and end > self._limit:
                return  # poll() promises room for PIPE_BUF bytes, and no more
            try:
                written = os.write(self.number, lines[:end])
            except BlockingIOError:  # another process has made it O_NONBLOCK
                return
            del lines[:written]

    def write(self, lines: bytearray) -> None:
        """Write lines and remove them from ``lines``, until none is left. Raises OSError."""
        while lines:
            try:
                written = os.write(self.number, lines[: _end_of_lines(lines, self._limit)])
            except BlockingIOError:  # another process has made it O_NONBLOCK
                _wait_writable(self.number)
            else:
                del lines[:written]

    def close(self) -> None:
        """Leave the descriptor open: it belongs to the process."""


class _NamedFile(_File):
    """A file known by its path, opened again after it was moved."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(open_log(path))

    def write(self, lines: bytearray) -> None:
        self._reopen_if_moved()
        super().write(lines)

    def write_without_blocking(self, lines: bytearray) -> None:
        self._reopen_if_moved()
        super().write_without_blocking(lines)

    def _reopen_if_moved(self) -> None:
        if self.number >= 0 and self._was_moved():
            old, self.number = self.number, open_log(self._path)
            os.close(old)

    def _was_moved(self) -> bool:
        try:
            # lstat, not stat: a link to the old file counts as moved, and open_log refuses it.
            return not os.path.samestat(self._path.lstat(), os.fstat(self.number))
        except FileNotFoundError:
            return True

    def close(self) -> None:
        os.close(self.number)
        self.number = -1  # the system may give the number to another file


def _end_of_lines(lines: bytearray, limit: int) -> int:
    """Return the end of the last whole line within ``limit``, or of the first line."""
    if len(lines) <= limit:
        return len(lines)
    return lines.rfind(b"\n", 0, limit) + 1 or lines.find(b"\n") + 1 or len(lines)


def _wait_writable(number: int) -> None:
    _poll(number, None)


def _is_writable(number: int) -> bool:
    return bool(_poll(number, 0))


def _poll(number: int, timeout: float | None) -> list[tuple[int, int]]:
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return poll.poll(timeout)


class QueuedWriter:
    """Write lines to ``file``; at most ``queue_bytes`` of them wait for a thread."""

    def __init__(
        self, file: _File, on_error: Callable[[Exception], None], queue_bytes: int
    ) -> None:
        self.dropped = 0
        self.is_terminal = os.isatty(file.number)
        self._file = file
        self._on_error = on_error
        self._has_failed = False
        self._queue_bytes = queue_bytes
        self._queue = bytearray()
        self._writing = bytearray()
        """Lines that the thread has taken from the queue."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()

    def write(self, lines: bytes) -> bool:
        """Accept whole lines, or drop them and return false if the queue is full."""
        if os.getpid() != self._pid:
            # After a fork the lock may be held for ever: the thread that holds it does not exist in
            # the child.
            return self._write_blocking(lines)
        with self._changed:
            waiting = len(self._queue) + len(self._writing)
            if self._closed and not waiting:
                return self._write_blocking(lines)
            if not waiting:
                lines = self._write_without_blocking(lines)
                if not lines:
                    return True
            if self._closed or waiting + len(lines) > self._queue_bytes:
                self.dropped += lines.count(b"\n")
                return False
            self._queue += lines
            self._changed.notify_all()
            return self._thread is not None or self._start_thread()

    def _start_thread(self) -> bool:
        thread = threading.Thread(target=self._run, name="gizmopy-log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # too many threads, or the interpreter is ending
            lines, self._queue = self._queue, bytearray()
            return self._write_blocking(lines)
        self._thread = thread
        return True

    def _write_without_blocking(self, lines: bytes) -> bytes:
        """Write as much of ``lines`` as does not block, and return the rest."""
        rest = bytearray(lines)
        try:
            self._file.write_without_blocking(rest)
        except OSError as error:
            self.dropped += rest.count(b"\n")
            self._report(error)
            return b""
        return bytes(rest)

    def _write_blocking(self, lines: bytes | bytearray) -> bool:
        rest = bytearray(lines)
        try:
            self._file.write(rest)
        except OSError as error:
            self.dropped += rest.count(b"\n")
            self._report(error)
        return not rest

    def _run(self) -> None:
        while self._take():
            try:
                self._file.write(self._writing)
            except OSError as error:
                with self._changed:
                    self.dropped += self._writing.count(b"\n")
                self._report(error)

    def _report(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._on_error(error)

    def _take(self) -> bool:
        """Wait for lines and take all of them; close the file and return false at the end."""
        with self._changed:
            self._writing = bytearray()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._queue or self._closed)
        if not self._closed:
            time.sleep(_GATHER_SECONDS)
        with self._changed:
            self._writing, self._queue = self._queue, self._writing
            if not self._writing:
                self._file.close()
            return bool(self._writing)

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Return whether all accepted lines were written or lost within ``timeout`` seconds."""
        if os.getpid() != self._pid:
            return True
        with self._changed:
            timeout = 0 if self._closed else timeout  # close() has waited already
            return self._changed.wait_for(lambda: not (self._queue or self._writing), timeout)

    def close(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Flush, end the thread, and close the file if it was opened here.

        If a reader still blocks the thread after ``timeout`` seconds, the thread continues, and
        lines that it has not written when the process ends are lost. So no reader can delay the
        exit.
        """
        if os.getpid() != self._pid:
            return True
        with self._changed:
            first, self._closed = not self._closed, True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout if first else 0)
            return not self._thread.is_alive()
        if first:
            self._file.close()
        return True


class _StreamWriter:
    """Write to a stream without a descriptor, in the caller's thread."""

    def __init__(self, stream: TextIO, on_error: Callable[[Exception], None]) -> None:
        self.dropped = 0
        self.is_terminal = stream.isatty()
        self._stream = stream
        self._on_error = on_error

    def write(self, lines: bytes) -> bool:
        try:
            self._stream.write(lines.decode())
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            if not self.dropped:
                self._on_error(error)
            self.dropped += lines.count(b"\n")
            return False
        return True

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return False
        return True

    def close(self, timeout: float = _FLUSH_SECONDS) -> bool:
        return self.flush(timeout)
