"""Judge the rate at which a client takes an answer, as Kestrel's MinResponseDataRate does.

A client that takes a little now and then never exceeds the write timeout, and can keep a large
answer in memory for days.
"""

from __future__ import annotations

import socket
import struct
import sys
from asyncio import Transport

_TCP_INFO_SIZE = 192
_BYTES_ACKED = 120
"""Where ``tcpi_bytes_acked`` is in Linux's ``struct tcp_info``, since Linux 4.1."""


class SendRate:
    """Hold how much one client took, in bytes and seconds.

    Time with nothing to send does not count. Of the time that does, ``grace`` seconds are free: a
    client that takes nothing is slow after them, one that takes half of the rate after twice as
    long, and one that was fast may pause for as long again.
    """

    __slots__ = ("_at", "_credit", "_source", "_taken")

    def __init__(self) -> None:
        self._source: object = None
        """The answer that was being sent at the last look; None: none."""
        self._at = 0.0
        self._taken = 0
        self._credit = 0.0
        """How many bytes the client is ahead of the rate."""

    def rest(self) -> None:
        """Note that nothing waits to be sent."""
        self._source = None

    def is_slow(self, now: float, rate: float, grace: float, source: object, taken: int) -> bool:
        """Return whether the client takes less than ``rate`` bytes a second.

        ``taken`` is how many bytes of ``source``, which is being sent, it has taken in all. A new
        ``source`` begins anew: the one before it was taken.
        """
        if source is not self._source:
            self._source, self._credit = source, rate * grace
        else:
            gained = taken - self._taken - rate * (now - self._at)
            self._credit = min(self._credit + gained, rate * grace)
        self._at, self._taken = now, taken
        return self._credit < 0


def acknowledged(transport: Transport) -> int | None:
    """Return how many bytes the other end has acknowledged; None if the kernel does not say.

    It counts bytes that do not pass the transport's buffer, too: by ``sendfile`` or through TLS.
    """
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None or connection.family == socket.AF_UNIX:
        return None
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    if len(info) < _BYTES_ACKED + 8:
        return None
    (count,) = struct.unpack_from("Q", info, _BYTES_ACKED)
    return int(count) or None  # gVisor knows the structure, and leaves it empty


def unacknowledged(transport: Transport) -> int | None:
    """Return how many bytes of those in the kernel the other end has not acknowledged.

    None if the kernel does not say; only Linux does.
    """
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None:
        return None
    from fcntl import ioctl
    from termios import TIOCOUTQ

    try:
        (count,) = struct.unpack("i", ioctl(connection.fileno(), TIOCOUTQ, bytes(4)))
    except (OSError, ValueError):  # it is closed already: asyncio reports that a turn later
        return 0
    return int(count)
