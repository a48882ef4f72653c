"""Open log files: with mode 0640, never through a link, and without blocking.

A log contains texts of clients, so other users must not read it. A user that can write to the log's
folder must not make a process with more rights write to another file, by a link. And open() must
return: for a FIFO it blocks until there is a reader, in a call that no signal ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from pathlib import Path

_MODE = 0o640
# O_NOFOLLOW: a link would lead to another file. O_NONBLOCK: opening a FIFO would wait for a reader.
# O_NOCTTY: a terminal must not become the controlling one. O_APPEND: several processes may write.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"(?:/dev/fd|/proc/(?:self|thread-self)/fd)/([0-9]{1,9})").fullmatch


def open_descriptor(path: str) -> int | None:
    """Return the descriptor that ``path`` names; None if it is the path of a file.

    These paths are ``/dev/stdout``, ``/dev/stderr``, ``/dev/fd/N`` and ``/proc/self/fd/N``. Opening
    such a path has another effect than using the descriptor: it fails for a socket, and writes a
    file from its start. Raises OSError, with the remedy, if the descriptor is not open for writing.
    """
    number = _STREAMS.get(path)
    if number is None:
        found = _DESCRIPTOR(path)
        if found is None:
            return None
        number = int(found[1])
    try:
        mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError as error:
        raise OSError(f"{path} is not open in this process; use a file") from error
    if mode == os.O_RDONLY:
        raise OSError(f"{path} is open for reading only; use a file")
    return number


def open_log(path: Path) -> int:
    """Open ``path`` to append to it, and return the descriptor; a new file has mode 0640.

    Raises OSError, with the remedy, if the path cannot be written; if its last part is a symbolic
    link; and if it is a directory, a socket, a block device, or a FIFO that no process reads.
    """
    if "\0" in str(path):
        raise OSError(f"{str(path)!r} is not a valid path; use a file")
    try:
        number = os.open(path, _FLAGS, _MODE)
    except OSError as error:
        raise OSError(f"{path} {_reason(path, error)}") from error
    # Checked after the open, on the descriptor: between a check of the path and its open, the file
    # may be replaced.
    if stat.S_ISBLK(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(f"{path} is a block device; use a file")
    return number


def _reason(path: Path, error: OSError) -> str:
    """Return why ``path`` cannot be opened, and the remedy."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        mode = 0
    if error.errno == errno.ELOOP and stat.S_ISLNK(mode):
        return "is a symbolic link; use the path of its target"
    if error.errno == errno.EISDIR:
        return "is a directory; use a file in it"
    if error.errno == errno.ENXIO and stat.S_ISFIFO(mode):
        return "is a FIFO that no process reads; start its reader first, or use a file"
    if error.errno == errno.ENXIO and stat.S_ISSOCK(mode):
        return "is a socket; use a file, or a FIFO with a reader"
    return f"cannot be written: {error.strerror}; use a file that can be written"
