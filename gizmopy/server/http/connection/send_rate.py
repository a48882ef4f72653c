"""Measure the rate at which a client reads a response, like Kestrel's MinResponseDataRate.

A client that reads a little now and then never exceeds the write timeout, and could keep a large
response in memory for days.
"""

from __future__ import annotations

import socket
import struct
import sys
from asyncio import Transport

_TCP_INFO_SIZE = 192
_BYTES_ACKED = 120
"""The offset of ``tcpi_bytes_acked`` in Linux's ``struct tcp_info``, since Linux 4.1."""


class SendRate:
    """The bytes that one client has read, compared to the rate.

    Time with nothing to send does not count. A client may be behind the rate by ``grace`` seconds:
    a client that reads nothing is slow after that time, and one that reads at half of the rate
    after twice that time. A client that was fast may pause for ``grace`` seconds again.
    """

    __slots__ = ("_at", "_credit", "_source", "_taken")

    def __init__(self) -> None:
        self._source: object = None
        """The response that was being sent at the last check; None: none was."""
        self._at = 0.0
        self._taken = 0
        self._credit = 0.0
        """How many more bytes than the rate requires the client has read."""

    def pause(self) -> None:
        """Note that nothing waits to be sent."""
        self._source = None

    def is_slow(self, now: float, rate: float, grace: float, source: object, taken: int) -> bool:
        """Return whether the client reads less than ``rate`` bytes a second.

        ``taken`` is how many bytes it has read of ``source``, which is being sent. With another
        ``source`` than before the count begins anew, because the one before has been read.
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

    It includes bytes that do not pass through the transport's buffer: by ``sendfile`` or TLS.
    """
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None or connection.family == socket.AF_UNIX:
        return None
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    if len(info) < _BYTES_ACKED + 8:
        return None
    (count,) = struct.unpack_from("Q", info, _BYTES_ACKED)
    return int(count) or None  # gVisor leaves the structure empty


def unacknowledged(transport: Transport) -> int | None:
    """Return how many bytes in the kernel the other end has not acknowledged.

    None if the kernel does not say; only Linux does.
    """
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None:
        return None
    from fcntl import ioctl
    from termios import TIOCOUTQ

    try:
        (count,) = struct.unpack("i", ioctl(connection.fileno(), TIOCOUTQ, bytes(4)))
    except (OSError, ValueError):  # closed already: asyncio reports it in the next turn
        return 0
    return int(count)
