"""Make the listening socket, in one place, and say clearly why it cannot be had."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from gizmopy.errors import StartError


def bind(host: str, port: int) -> socket.socket:
    """Return a bound, non-blocking TCP socket; ``port`` 0 takes a free one.

    ``::`` takes IPv4 as well. Raises StartError, with what to do, where the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(
            f"HTTP_ADDR={host}: {error.strerror}; give an address of this machine, such as 0.0.0.0"
        ) from error
    try:
        # A restart must not wait for the old connections' TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setblocking(False)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise refused(error, host, port) from error
    return listener


def accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    """Yield the connections that wait in the kernel for being accepted."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # there are no more, or no more can be had
            return
        connection.setblocking(False)
        yield connection


def refused(error: OSError, host: str, port: int) -> StartError:
    """Return the error that says why the address cannot be listened on, and what to do."""
    match error.errno:
        case errno.EADDRINUSE:
            reason = (
                f"{host}:{port} is taken by another process; stop it, or choose another port "
                "(0 takes a free one)"
            )
        case errno.EACCES:
            reason = f"this user may not listen on port {port}; choose one above 1023"
        case errno.EADDRNOTAVAIL:
            reason = f"{host} is no address of this machine; set HTTP_ADDR to one, such as 0.0.0.0"
        case _:
            reason = f"cannot listen on {host}:{port}: {error.strerror}"
    return StartError(f"HTTP_PORT={port}: {reason}")
