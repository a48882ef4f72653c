"""Write lines so that a reader that stalls never stalls the daemon.

A pipe is full once its reader is 64 KiB behind, and a write then waits for as long as the reader
likes. ``O_NONBLOCK`` is no way out: it belongs to the open file, which standard output and standard
error share with other processes. So what the file takes without a wait is written at once, which
costs a tenth of a thread's wake-up; the rest waits in a bounded queue, a thread writes it, and what
finds the queue full is dropped and counted.

Whether a pipe takes a write is asked ahead of each: only where another process fills the last page
of the same pipe in between does a write wait. The thread starts with the first line that waits. It
is a daemon thread, since the interpreter waits without a limit for any other; ``close`` and
``flush`` have one. A forked child has no such thread, and often ends without clean-up: there, as
after ``close``, lines are written at once.
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
"""What a write to a pipe may hold and stay whole among other writers (PIPE_BUF, pipe(7))."""
_FLUSH_SECONDS = 0.5
_GATHER_SECONDS = 0.005


class Writer(Protocol):
    """Where lines go."""

    dropped: int
    """Lines that were lost so far."""
    is_terminal: bool
    """Whether a person sees them."""

    def write(self, lines: bytes) -> bool:
        """Take whole lines, or drop them and return false. Never raises OSError."""

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Return whether everything taken was written within ``timeout`` seconds."""

    def close(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Flush, and let go of what was opened, even where the time was too short."""


def open_writer(
    destination: str, on_error: Callable[[Exception], None], *, queue_bytes: int = _QUEUE_BYTES
) -> Writer:
    """Return a writer to ``stderr`` (or an empty string), ``stdout``, or a file's path.

    ``/dev/stdout``, ``/dev/stderr``, ``/dev/fd/N`` and ``/proc/self/fd/N`` are the process's own
    descriptors. A file is opened again when it was moved away, so it survives logrotate; see
    :func:`~gizmopy.observe.log_files.open_log`. ``on_error`` is called with the first error of a
    write, in the writer's thread. Raises OSError, with the remedy, if the file cannot be opened.
    """
    if destination not in ("", "stderr", "stdout"):
        path = Path(destination)
        number = open_descriptor(str(path))
        file = _NamedFile(path) if number is None else _File(number)
        return QueuedWriter(file, on_error, queue_bytes)
    stream = sys.stdout if destination == "stdout" else sys.stderr
    if stream is None:  # the process was started without it
        return QueuedWriter(_NamedFile(Path(os.devnull)), on_error, queue_bytes)
    try:
        number = stream.fileno()
    except (AttributeError, OSError, ValueError):  # put there by a program or a test
        return _StreamWriter(stream, on_error)
    return QueuedWriter(_File(number), on_error, queue_bytes)


class _File:
    """An open file of the process, written to by its number; not closed here."""

    def __init__(self, number: int) -> None:
        self.number = number
        mode = os.fstat(number).st_mode
        self._has_reader = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        # A longer write to a pipe is torn where several processes write, and may wait.
        self._limit = _PIPE_BYTES if self._has_reader else _QUEUE_BYTES
        self._may_wait = os.isatty(number)  # it can be stopped in the middle of any write

    def write_at_once(self, lines: bytearray) -> None:
        """Do what ``write`` does, as far as nothing has to be waited for. Raises OSError."""
        if self._may_wait:
            return
        while lines and not (self._has_reader and not _is_writable(self.number)):
            end = _end_of_lines(lines, self._limit)
            if self._has_reader and end > self._limit:
                return  # more than there is surely room for
            try:
                written = os.write(self.number, lines[:end])
            except BlockingIOError:  # another process has made it O_NONBLOCK
                return
            del lines[:written]

    def write(self, lines: bytearray) -> None:
        """Write lines and take them out of ``lines``, as long as it takes. Raises OSError."""
        while lines:
            try:
                written = os.write(self.number, lines[: _end_of_lines(lines, self._limit)])
            except BlockingIOError:  # another process has made it O_NONBLOCK
                _wait_writable(self.number)
            else:
                del lines[:written]

    def close(self) -> None:
        """Leave it open: it is the process's."""


class _NamedFile(_File):
    """A file by its path, opened again when it was moved away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(open_log(path))

    def write(self, lines: bytearray) -> None:
        self._follow()
        super().write(lines)

    def write_at_once(self, lines: bytearray) -> None:
        self._follow()
        super().write_at_once(lines)

    def _follow(self) -> None:
        if self.number >= 0 and self._was_moved():
            old, self.number = self.number, open_log(self._path)
            os.close(old)

    def _was_moved(self) -> bool:
        try:
            # Of a link itself: one that leads to the old file is refused like any other.
            return not os.path.samestat(self._path.lstat(), os.fstat(self.number))
        except FileNotFoundError:
            return True

    def close(self) -> None:
        os.close(self.number)
        self.number = -1  # the number may soon be another file's


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
    """Keep lines for the thread that writes them to ``file``: at most ``queue_bytes`` wait."""

    def __init__(
        self, file: _File, on_error: Callable[[Exception], None], queue_bytes: int
    ) -> None:
        self.dropped = 0
        self.is_terminal = os.isatty(file.number)
        self._file = file
        self._on_error = on_error
        self._failed = False
        self._queue_bytes = queue_bytes
        self._queue = bytearray()
        self._in_hand = bytearray()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()

    def write(self, lines: bytes) -> bool:
        """Take whole lines, or drop them and return false where the queue is full."""
        if os.getpid() != self._pid:  # the lock may be held here by a thread that is not
            return self._write_whole(lines)
        with self._changed:
            waiting = len(self._queue) + len(self._in_hand)
            if self._closed and not waiting:
                return self._write_whole(lines)
            if not waiting:
                lines = self._write_at_once(lines)
                if not lines:
                    return True
            if self._closed or waiting + len(lines) > self._queue_bytes:
                self.dropped += lines.count(b"\n")
                return False
            self._queue += lines
            self._changed.notify_all()
            return self._thread is not None or self._start()

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="gizmopy-log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # too many threads, or the interpreter is ending
            lines, self._queue = self._queue, bytearray()
            return self._write_whole(lines)
        self._thread = thread
        return True

    def _write_at_once(self, lines: bytes) -> bytes:
        """Return what is left of ``lines`` once the file takes no more without a wait."""
        rest = bytearray(lines)
        try:
            self._file.write_at_once(rest)
        except OSError as error:
            self.dropped += rest.count(b"\n")
            self._tell(error)
            return b""
        return bytes(rest)

    def _write_whole(self, lines: bytes | bytearray) -> bool:
        rest = bytearray(lines)
        try:
            self._file.write(rest)
        except OSError as error:
            self.dropped += rest.count(b"\n")
            self._tell(error)
        return not rest

    def _run(self) -> None:
        while self._take():
            try:
                self._file.write(self._in_hand)
            except OSError as error:
                with self._changed:
                    self.dropped += self._in_hand.count(b"\n")
                self._tell(error)

    def _tell(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            self._on_error(error)

    def _take(self) -> bool:
        """Wait for lines and take all of them; close the file and return false at the end."""
        with self._changed:
            self._in_hand = bytearray()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._queue or self._closed)
        if not self._closed:
            time.sleep(_GATHER_SECONDS)  # to wake up for each line would cost it 30 µs
        with self._changed:
            self._in_hand, self._queue = self._queue, self._in_hand
            if not self._in_hand:
                self._file.close()
            return bool(self._in_hand)

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Return whether everything taken was written, or lost, within ``timeout`` seconds."""
        if os.getpid() != self._pid:
            return True
        with self._changed:
            timeout = 0 if self._closed else timeout  # it has had its time
            return self._changed.wait_for(lambda: not (self._queue or self._in_hand), timeout)

    def close(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Flush, end the thread, and close the file where it was opened here.

        A thread that its reader still holds goes on, and what it has not written by the end of the
        process is lost: so a reader cannot hold the exit.
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
    """Write to a stream that is no file, at once."""

    def __init__(self, stream: TextIO, on_error: Callable[[Exception], None]) -> None:
        self.dropped = 0
        self.is_terminal = stream.isatty()
        self._stream = stream
        self._on_error = on_error

    def write(self, lines: bytes) -> bool:
        try:
            self._stream.write(lines.decode())
        except (OSError, ValueError) as error:  # ValueError: it was closed
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
