"""Open the files that logs are written to: by their own path, never by a link, and without a wait.

A log holds texts of clients, so others may not read it. A user that can write to the log's folder
must not lead a process with more rights to another file by a link in it. And an open must
return: that of a FIFO waits for a reader, in a call that no signal ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from pathlib import Path

_MODE = 0o640
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"(?:/dev/fd|/proc/(?:self|thread-self)/fd)/([0-9]{1,9})").fullmatch


def open_descriptor(path: str) -> int | None:
    """Return the file descriptor that ``path`` stands for; None if it is the path of a file.

    These are ``/dev/stdout``, ``/dev/stderr``, ``/dev/fd/N`` and ``/proc/self/fd/N``. To open one
    would be another thing: with a socket it fails, and a file is written from its start. Raises
    OSError if the descriptor is not open for writing, with the remedy.
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
        raise OSError(f"{path} is not open in this process; give a file") from error
    if mode == os.O_RDONLY:
        raise OSError(f"{path} is open for reading only; give a file")
    return number


def open_log(path: Path) -> int:
    """Open ``path`` to append to it, and return its descriptor; a new file has mode 0640.

    Raises OSError if it cannot be written, is a symbolic link (of the path's last part), a
    directory, a socket or a block device, or a FIFO that no process reads. Its text has the remedy.
    """
    if "\0" in str(path):
        raise OSError(f"{str(path)!r} is no path; give a file")
    try:
        number = os.open(path, _FLAGS, _MODE)
    except OSError as error:
        raise OSError(f"{path} {_reason(path, error)}") from error
    if stat.S_ISBLK(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(f"{path} is a block device; give a file")
    return number


def _reason(path: Path, error: OSError) -> str:
    """Return the fault of ``path``, and the remedy."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        mode = 0
    if error.errno == errno.ELOOP and stat.S_ISLNK(mode):
        return "is a symbolic link; give the path of the file that it leads to"
    if error.errno == errno.EISDIR:
        return "is a directory; give a file in it"
    if error.errno == errno.ENXIO and stat.S_ISFIFO(mode):
        return "is a FIFO that no process reads; start its reader first, or give a file"
    if error.errno == errno.ENXIO and stat.S_ISSOCK(mode):
        return "is a socket; give a file, or a FIFO that is read"
    return f"cannot be written: {error.strerror}; give a file that can be written"
