"""Make the listening socket, in one place, and say clearly why it cannot be had."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from gizmopy.errors import StartError

UNIX = "unix:"
"""What the address of a unix socket begins with: a path follows, or ``@`` and an abstract name."""

_UNIX_MODE = 0o660
"""Who may connect to a unix socket: its user and its group, such as a proxy's."""


def bind(host: str, port: int, *, prefix: str = "HTTP") -> socket.socket:
    """Return a bound, non-blocking socket; it does not listen yet.

    It is TCP's, where ``port`` 0 takes a free one and ``::`` takes IPv4 as well; or, for
    ``unix:/path`` and Linux' ``unix:@name``, a unix socket of mode 0660, whose path is removed when
    it is closed. Raises StartError, with what to do, where the address cannot be had; ``prefix`` is
    how the names of the settings begin that it speaks of.
    """
    if host.startswith(UNIX):
        return _bind_unix(host, prefix)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(
            f"{prefix}_ADDR={host}: {error.strerror}; "
            "give an address of this machine, such as 0.0.0.0"
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
        raise refused(error, host, port, prefix=prefix) from error
    return listener


def admit_no_more(listener: socket.socket) -> None:
    """Have the kernel begin no further connection, and finish those that it has begun.

    Closing a listener resets what the kernel completes between the last accept and the close. A
    filter that drops what would begin a connection (the SYN) leaves nothing to come in between; its
    client tries again a second later, and is refused. Linux knows it (socket(7),
    SO_ATTACH_FILTER), for TCP; elsewhere nothing is done.
    """
    if sys.platform != "linux" or listener.family == socket.AF_UNIX:
        return
    import ctypes  # where it is used: cold starts matter

    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _NO_SYN)
    code = ctypes.create_string_buffer(program, len(program))
    options = struct.pack("HL", len(_NO_SYN), ctypes.addressof(code))
    with suppress(OSError):  # a sandbox may not have it
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, options)


_SO_ATTACH_FILTER = 26
_NO_SYN = (  # classic BPF, on the TCP header: code, where to if true and if false, operand
    (0x30, 0, 0, 13),  # load the flags
    (0x45, 0, 1, 0x02),  # unless SYN is among them, skip one
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)


def accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    """Yield the connections that wait in the kernel for being accepted."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # there are no more, or no more can be had
            return
        connection.setblocking(False)
        yield connection


def url_of(listener: socket.socket, scheme: str) -> str:
    """Return where ``listener`` listens: ``http://[::1]:8080``, ``unix:/path``, ``unix:@name``."""
    name = listener.getsockname()
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    path = os.fsdecode(name)
    return UNIX + (f"@{path[1:]}" if path.startswith("\0") else path)


def is_loopback(address: str) -> bool:
    """Whether ``address``, as HTTP_ADDR spells it, can be reached from this machine only."""
    if address == "localhost" or address.startswith(UNIX):
        return True
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return (mapped or ip).is_loopback


def refused(error: OSError, host: str, port: int, *, prefix: str = "HTTP") -> StartError:
    """Return the error that says why the address cannot be listened on, and what to do."""
    if host.startswith(UNIX):
        return _refused_unix(error, host, prefix)
    match error.errno:
        case errno.EADDRINUSE:
            reason = (
                f"{host}:{port} is taken by another process; stop it, or choose another port "
                "(0 takes a free one)"
            )
        case errno.EACCES:
            reason = f"this user may not listen on port {port}; choose one above 1023"
        case errno.EADDRNOTAVAIL:
            reason = (
                f"{host} is no address of this machine; set {prefix}_ADDR to one, such as 0.0.0.0"
            )
        case _:
            reason = f"cannot listen on {host}:{port}: {error.strerror}"
    return StartError(f"{prefix}_PORT={port}: {reason}")


class _PathListener(socket.socket):
    """A unix socket with a path, which goes when the socket is closed."""

    _bound: tuple[Path, _Identity] | None = None

    def bind_path(self, path: Path) -> None:
        """Take ``path``; nobody can connect before its mode is right, as it does not listen."""
        self.bind(str(path))
        self._bound = path, _identity(path)
        path.chmod(_UNIX_MODE)

    def close(self) -> None:
        """Remove the path, and close the socket."""
        self._remove_path()
        super().close()

    def detach(self) -> int:
        """Remove the path: uvloop closes a listener's descriptor itself, then detaches it."""
        self._remove_path()
        return super().detach()

    def _remove_path(self) -> None:
        """Remove the path once, unless it is another's by now."""
        if self._bound is None:
            return
        (path, ours), self._bound = self._bound, None
        try:
            if _identity(path) == ours:
                path.unlink()
        except OSError:
            pass  # it is gone already, or its directory is


_Identity = tuple[int, int, int]


def _identity(path: Path) -> _Identity:
    """Return what tells a file from every other; inodes alone are used again."""
    status = path.lstat()
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _bind_unix(host: str, prefix: str) -> socket.socket:
    name = host.removeprefix(UNIX)
    if name in ("", "@"):
        raise StartError(f"{prefix}_ADDR={host}: names no socket; write unix:/path")
    listener = _PathListener(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        if name.startswith("@"):
            listener.bind(f"\0{name[1:]}")
        else:
            _remove_stale(Path(name))
            listener.bind_path(Path(name))
    except OSError as error:
        listener.close()
        raise refused(error, host, 0, prefix=prefix) from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket that a process left which did not end by itself; nobody listens there."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink(missing_ok=True)


def _refused_unix(error: OSError, host: str, prefix: str) -> StartError:
    match error.errno:
        case errno.EADDRINUSE:
            reason = (
                "is taken by another process, or by a file that is no socket; "
                "stop the one, remove the other, or choose another path"
            )
        case errno.ENOENT | errno.ENOTDIR:
            reason = "its directory is not there; make it, or choose another path"
        case errno.EACCES | errno.EROFS | errno.EPERM:
            reason = "this user may not write there; choose another path"
        case _:
            reason = f"cannot be listened on: {error.strerror or error}; choose another path"
    return StartError(f"{prefix}_ADDR={host}: {reason}")
