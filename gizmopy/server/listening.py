"""Make the listening socket, in one place, and say clearly why it cannot be had."""

from __future__ import annotations

import errno
import socket

from gizmopy.errors import StartError


def bind(host: str, port: int, setting: str) -> socket.socket:
    """Return a bound, non-blocking TCP socket; ``port`` 0 takes a free one.

    ``::`` takes IPv4 as well. ``setting`` names the setting that the port came from. Raises
    StartError, with what to do, where the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise StartError(
            f"HTTP_ADDR={host}: {error.strerror}; give an address of this machine, such as 0.0.0.0"
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        # A restart must not wait for the old connections' TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setblocking(False)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise StartError(f"{setting}={port}: {_reason(error, host, port)}") from error
    return listener


def _reason(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{host}:{port} is taken by another process; stop it, or choose another port "
                "(0 takes a free one)"
            )
        case errno.EACCES:
            return f"this user may not listen on port {port}; choose one above 1023"
        case errno.EADDRNOTAVAIL:
            return f"{host} is no address of this machine; set HTTP_ADDR to one, such as 0.0.0.0"
        case _:
            return f"cannot listen on {host}:{port}: {error.strerror}"
