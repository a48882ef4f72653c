"""Parse PROXY protocol headers, version 1 and 2, which a proxy sends before everything else.

The specification is HAProxy's ``proxy-protocol.txt``; its section 2 has both formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

MAX_LINE = 107
"""The longest header of version 1 in bytes, including the line end (section 2.1)."""
MAX_BLOCK = 4096
"""The most bytes of a version 2 header after its first 16, including extensions."""

_LINE_START = b"PROXY "
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = 16
_LOCAL, _PROXY = 0, 1
_NO_ADDRESS = {0x00: 0, 0x31: 216}
"""The families without IP addresses, and the size of their part: unspecified, and unix sockets."""
_FAMILIES = {0x11: (IPv4Address, 4), 0x21: (IPv6Address, 16)}
"""The families of TCP: the type of an address, and its size in bytes."""


class BadProxyHeader(ValueError):
    """The bytes are not a PROXY protocol header, or one that is not accepted."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """The content of a header."""

    length: int
    """Its size in bytes. The client's bytes follow."""
    client: tuple[str, int] | None = None
    """The address and port of the proxy's client; None without one, as for a health check."""


def read_header(data: bytes | bytearray) -> ProxyHeader | None:
    """Return the header at the beginning of ``data``, or None if it is incomplete.

    Raises BadProxyHeader as soon as ``data`` cannot become a header. The result is None only for
    less than 16 + 4096 bytes, so a caller that collects bytes holds no more than that.
    """
    start = bytes(data[: len(_SIGNATURE)])
    if _SIGNATURE.startswith(start):
        return _parse_block(data)
    if _LINE_START.startswith(start[: len(_LINE_START)]):
        return _parse_line(data)
    raise BadProxyHeader("it does not begin with a signature of the protocol")


def _parse_line(data: bytes | bytearray) -> ProxyHeader | None:
    """Parse version 1: ``PROXY TCP4 192.0.2.1 192.0.2.2 50000 443`` and a line end."""
    end = data.find(b"\r\n", 0, MAX_LINE)
    if end < 0:
        if len(data) >= MAX_LINE:
            raise BadProxyHeader(f"its line is longer than {MAX_LINE} bytes")
        return None
    length = end + 2
    try:
        kind, *words = data[len(_LINE_START) : end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise BadProxyHeader("its line is not ASCII") from None
    if kind == "UNKNOWN":  # anything may follow (section 2.1)
        return ProxyHeader(length)
    if kind not in ("TCP4", "TCP6") or len(words) != 4:
        raise BadProxyHeader("its line is not UNKNOWN, nor TCP4 or TCP6 with four fields")
    family = IPv4Address if kind == "TCP4" else IPv6Address
    *addresses, client_port, port = words
    try:
        client, _ = map(family, addresses)
    except AddressValueError:
        raise BadProxyHeader(f"its line has an address that does not fit {kind}") from None
    if "%" in "".join(addresses) or not (_is_port(client_port) and _is_port(port)):
        raise BadProxyHeader("its line has an address with a zone, or a malformed port")
    return ProxyHeader(length, (str(client), int(client_port)))


def _is_port(word: str) -> bool:
    canonical = word == "0" or not word.startswith("0")
    return canonical and word.isdecimal() and len(word) <= 5 and int(word) <= 65535


def _parse_block(data: bytes | bytearray) -> ProxyHeader | None:
    """Parse version 2: 16 bytes with the length of the rest, addresses, and extensions."""
    at_command, at_family, at_size = 12, 13, 14
    if len(data) > at_command and data[at_command] >> 4 != 2:
        raise BadProxyHeader("its version is not 2")
    if len(data) < _FIXED:
        return None
    command, family = data[at_command] & 0x0F, data[at_family]
    size = int.from_bytes(data[at_size:_FIXED], "big")
    if size > MAX_BLOCK:
        raise BadProxyHeader(f"it is longer than {_FIXED} + {MAX_BLOCK} bytes")
    if command not in (_LOCAL, _PROXY):
        raise BadProxyHeader("its command is not LOCAL or PROXY")
    if command == _PROXY and size < _least_size(family):
        raise BadProxyHeader("it is too short for its addresses")
    length = _FIXED + size
    if len(data) < length:
        return None
    if command == _LOCAL or family in _NO_ADDRESS:
        return ProxyHeader(length)
    kind, width = _FAMILIES[family]
    ports = _FIXED + 2 * width
    address = kind(bytes(data[_FIXED : _FIXED + width]))
    return ProxyHeader(length, (str(address), int.from_bytes(data[ports : ports + 2], "big")))


def _least_size(family: int) -> int:
    """Return the size of the addresses. Raises BadProxyHeader if they are not of a stream."""
    if family in _FAMILIES:
        return 2 * _FAMILIES[family][1] + 4
    if family in _NO_ADDRESS:
        return _NO_ADDRESS[family]
    raise BadProxyHeader("its address family is not TCP or a unix socket")
