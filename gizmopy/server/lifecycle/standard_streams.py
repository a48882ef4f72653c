"""Keep the numbers of standard input, output and error from becoming those of a connection."""

from __future__ import annotations

import os

_LAST = 2


def occupy() -> None:
    """Open ``/dev/null`` for each of the descriptors 0 to 2 that is closed.

    Else the event loop or a connection gets the number: standard error of C code would be sent to a
    client, and uvloop aborts the process when it closes such a descriptor. They are
    open for reading only, so that a write fails as it did before.
    """
    while (number := os.open(os.devnull, os.O_RDONLY)) <= _LAST:
        os.set_inheritable(number, True)
    os.close(number)
