"""Keep the descriptors of standard input, output and error out of other use."""

from __future__ import annotations

import os

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
