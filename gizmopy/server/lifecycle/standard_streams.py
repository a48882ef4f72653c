"""Keep the descriptors of standard input, output and error out of other use, and write stacks."""

from __future__ import annotations

import os
import stat
import sys
from typing import NamedTuple

_LAST = 2


def reserve_standard_streams() -> None:
    """Open ``/dev/null`` for each of the descriptors 0 to 2 that is closed.

    Otherwise the event loop or a connection gets the number. C code would then write its errors to
    a client, and uvloop aborts the process when it closes such a descriptor. ``/dev/null`` is
    opened for reading only, so that a write still fails.
    """
    while (number := os.open(os.devnull, os.O_RDONLY)) <= _LAST:
        os.set_inheritable(number, True)
    os.close(number)


class StackFile(NamedTuple):
    """The file that faulthandler writes stacks to."""

    number: int
    is_own: bool
    """Whether it was opened here."""

    def close(self) -> None:
        """Close it if it was opened here."""
        if self.is_own:
            os.close(self.number)


def open_stderr() -> StackFile:
    """Open standard error for faulthandler, so that no reader can block the process.

    Opening a pipe a second time gives a descriptor that alone can be O_NONBLOCK. A socket, or the
    pipe of another user, cannot be opened again and is used as it is: there a reader that stalls
    does block faulthandler. A file never blocks, and is used as it is too: a second descriptor has
    a position of its own, so that the log would overwrite the stacks.
    """
    try:
        number = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # no standard error, or not a file
        return StackFile(os.open(os.devnull, os.O_WRONLY), is_own=True)
    try:
        if stat.S_ISREG(os.fstat(number).st_mode):
            return StackFile(number, is_own=False)
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
        return StackFile(os.open(f"/dev/fd/{number}", flags), is_own=True)
    except OSError:
        return StackFile(number, is_own=False)
