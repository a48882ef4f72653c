"""Bind the listening socket, and explain why if it fails."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from gizmopy.errors import StartError

UNIX = "unix:"
"""The prefix of a unix socket's address: a path follows, or ``@`` and an abstract name."""

LOCALHOST = "localhost"
_LOOPBACK = ("127.0.0.1", "::1")
_PORT_ATTEMPTS = 10
_WITH_PORT = re.compile(r"(?:[^:]*|\[[^\]]*\]):[0-9]+")

_UNIX_MODE = 0o660
"""The user and the group of the socket may connect, such as those of a proxy."""


def bind_all(host: str, port: int, *, prefix: str = "HTTP") -> tuple[socket.socket, ...]:
    """Return the sockets of ``bind`` for every address of ``host``, all with the same port.

    ``localhost`` has the loopback addresses of IPv4 and IPv6 (RFC 6761 section 6.3), and any other
    name those that it resolves to, as far as the machine has them: clients try them in an order of
    their own.
    """
    addresses = _LOOPBACK if host.lower() == LOCALHOST else _addresses_of(host)
    addresses = [each for each in addresses if _has_address(each)] if len(addresses) > 1 else []
    if len(addresses) < 2:
        return (bind(addresses[0] if addresses else host, port, prefix=prefix),)
    for _ in range(_PORT_ATTEMPTS):
        listeners = _bind_each(addresses, port, prefix)
        if port or len({listener.getsockname()[1] for listener in listeners}) == 1:
            return listeners
        for listener in listeners:
            listener.close()
    reason = f"no port is free on every address of {host}; choose a port"
    raise StartError(f"{prefix}_PORT=0: {reason}")


def _addresses_of(host: str) -> Sequence[str]:
    """Return the addresses of the name ``host``, each once; none if it is not a name."""
    if not host or host.startswith(UNIX) or "://" in host:
        return ()
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # bind() explains it
        return ()
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _bind_each(addresses: Sequence[str], port: int, prefix: str) -> tuple[socket.socket, ...]:
    """Bind all addresses. If another process has a free port on one of them, its port differs."""
    listeners: list[socket.socket] = []
    try:
        for address in addresses:
            number = port or (listeners[0].getsockname()[1] if listeners else 0)
            try:
                listeners.append(bind(address, number, prefix=prefix))
            except StartError:
                if port:
                    raise
                listeners.append(bind(address, 0, prefix=prefix))
    except StartError:
        for listener in listeners:
            listener.close()
        raise
    return tuple(listeners)


def _has_address(address: str) -> bool:
    """Return whether the machine has an address: containers often have no IPv6."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def without_brackets(host: str) -> str:
    """Return ``host`` without the brackets that a URL has around an IPv6 address."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def bind(host: str, port: int, *, prefix: str = "HTTP") -> socket.socket:
    """Return a bound, non-blocking socket, which does not listen yet.

    For TCP, ``port`` 0 takes a free port, ``::`` accepts IPv4 too, and ``[::1]`` is ``::1``.
    ``unix:/path``, or ``unix:@name`` on Linux, is a unix socket of mode 0660, whose path is removed
    when it is closed. Raises StartError, with a remedy, if the address cannot be bound. ``prefix``
    is the prefix of the settings' names in its text.
    """
    if host.startswith(UNIX):
        return _bind_unix(host, prefix)
    if not host:
        raise StartError(f"{prefix}_ADDR is empty; write 0.0.0.0 for every address, or unset it")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            without_brackets(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise StartError(
            f"{prefix}_ADDR={host}: {_address_problem(host, prefix, error)}"
        ) from error
    try:
        # Without it, a restarted daemon cannot bind until TIME_WAIT of its connections is over.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setblocking(False)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise bind_error(error, host, port, prefix=prefix) from error
    return listener


def _address_problem(host: str, prefix: str, error: OSError | UnicodeError) -> str:
    """Return why ``host`` is not an address, and the remedy."""
    if "://" in host:
        return "is a URL; write the address alone, such as 0.0.0.0"
    if _WITH_PORT.fullmatch(host):
        return f"has a port; write the address alone, and the port in {prefix}_PORT"
    if host.startswith(("/", "./", "@")):
        return f"is a path; write it as {UNIX}{host}"
    reason = error.strerror if isinstance(error, OSError) else "is not the name of a host"
    return f"{reason}; set it to an address of this machine, such as 0.0.0.0"


def refuse_new_connections(listener: socket.socket) -> None:
    """Have the kernel begin no further connections, and complete those that it has begun.

    Closing a listener resets connections that the kernel completes between the last accept and the
    close. So a socket filter drops the packets that begin a connection (SYN). Their clients retry a
    second later, and are refused then. This is for TCP on Linux (socket(7), SO_ATTACH_FILTER); on
    other systems nothing is done.
    """
    if sys.platform != "linux" or listener.family == socket.AF_UNIX:
        return
    import ctypes  # here, because it would slow down the start

    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _NO_SYN)
    code = ctypes.create_string_buffer(program, len(program))
    options = struct.pack("HL", len(_NO_SYN), ctypes.addressof(code))
    with suppress(OSError):  # a sandbox may forbid it
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, options)


_SO_ATTACH_FILTER = 26
_NO_SYN = (  # classic BPF on the TCP header: code, jump if true, jump if false, operand
    (0x30, 0, 0, 13),  # load the flags
    (0x45, 0, 1, 0x02),  # unless SYN is among them, skip one
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)


def accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept and yield the connections that wait in the kernel."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # none is left, or there is no descriptor
            return
        connection.setblocking(False)
        yield connection


def release_sockets(name: object) -> None:
    """Release the listener whose ``getsockname`` is ``name``, and the connections that it accepted.

    It is for a forked child. The descriptors stay valid: objects of the parent refer to them, and
    would otherwise close a number that has another use by then.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/dev/fd")):  # noqa: PTH208 -- names, not paths
        if _is_local(number, name):
            os.dup2(null, number, inheritable=False)
    os.close(null)


def _is_local(number: int, name: object) -> bool:
    """Return whether a descriptor is a socket with the port, or the path, of ``name``."""
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return False
        probe = socket.socket(fileno=number)
    except OSError:  # it was the descriptor of the directory
        return False
    try:
        own = probe.getsockname()
    except OSError:
        return False
    finally:
        probe.detach()
    if isinstance(own, tuple) and isinstance(name, tuple):
        return probe.type == socket.SOCK_STREAM and own[1] == name[1]
    return bool(own == name)


def url_of(listener: socket.socket, scheme: str) -> str:
    """Return the URL of ``listener``: ``http://[::1]:8080``, ``unix:/path``, ``unix:@name``."""
    name = listener.getsockname()
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    path = os.fsdecode(name)
    return UNIX + (f"@{path[1:]}" if path.startswith("\0") else path)


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach ``address``, written as in HTTP_ADDR."""
    if address.lower() == LOCALHOST or address.startswith(UNIX):
        return True
    try:
        ip = ip_address(without_brackets(address))
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return (mapped or ip).is_loopback


def bind_error(error: OSError, host: str, port: int, *, prefix: str = "HTTP") -> StartError:
    """Return the error of binding or listening, with its cause and a remedy."""
    if host.startswith(UNIX):
        return _unix_bind_error(error, host, prefix)
    match error.errno:
        case errno.EADDRINUSE:
            reason = (
                f"{host}:{port} is taken by another process; stop it, or choose another port "
                "(0 takes a free one)"
            )
        case errno.EACCES:
            reason = f"this user may not listen on port {port}; choose a port above 1023"
        case errno.EADDRNOTAVAIL:
            reason = (
                f"{host} is not an address of this machine; "
                f"set {prefix}_ADDR to one, such as 0.0.0.0"
            )
        case _:
            reason = f"cannot listen on {host}:{port}: {error.strerror}"
    return StartError(f"{prefix}_PORT={port}: {reason}")


class _PathListener(socket.socket):
    """A unix socket whose path is removed when the socket is closed."""

    _bound: tuple[Path, _Identity] | None = None

    def bind_path(self, path: Path) -> None:
        """Bind ``path``. Clients cannot connect before its mode is set: it does not listen yet."""
        self.bind(str(path))
        self._bound = path, _identity(path)
        path.chmod(_UNIX_MODE)

    def close(self) -> None:
        """Remove the path, and close the socket."""
        self._remove_path()
        super().close()

    def detach(self) -> int:
        """Remove the path: uvloop closes the descriptor itself, then detaches the socket."""
        self._remove_path()
        return super().detach()

    def _remove_path(self) -> None:
        """Remove the path, unless another process has replaced it."""
        if self._bound is None:
            return
        (path, ours), self._bound = self._bound, None
        try:
            if _identity(path) == ours:
                path.unlink()
        except OSError:
            pass  # the path or its directory is gone already


_Identity = tuple[int, int, int]


def _identity(path: Path) -> _Identity:
    """Return the identity of a file: inode numbers alone are reused."""
    status = path.lstat()
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _bind_unix(host: str, prefix: str) -> socket.socket:
    name = host.removeprefix(UNIX)
    if name in ("", "@"):
        raise StartError(
            f"{prefix}_ADDR={host}: the name of the socket is missing; write unix:/path"
        )
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
        raise bind_error(error, host, 0, prefix=prefix) from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that a killed process has left: no process listens on it."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink(missing_ok=True)


def _unix_bind_error(error: OSError, host: str, prefix: str) -> StartError:
    match error.errno:
        case errno.EADDRINUSE:
            reason = (
                "is taken by another process, or by a file that is not a socket; "
                "stop the process, remove the file, or choose another path"
            )
        case errno.ENOENT | errno.ENOTDIR:
            reason = "its directory does not exist; create it, or choose another path"
        case errno.EACCES | errno.EROFS | errno.EPERM:
            reason = "this user may not write to its directory; choose another path"
        case _:
            reason = f"cannot listen on it: {error.strerror or error}; choose another path"
    return StartError(f"{prefix}_ADDR={host}: {reason}")
