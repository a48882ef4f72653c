"""Find the client's address and scheme behind trusted proxies, and the prefix that they removed.

A proxy appends the address of its peer to ``X-Forwarded-For``, after any entries that the client
sent. So the header is read from the right, as long as the addresses are those of trusted proxies. A
client cannot choose its own address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import islice

from aiohttp import web
from multidict import istr

_FORWARDED_FOR = istr("X-Forwarded-For")
_REAL_IP = istr("X-Real-IP")
_FORWARDED_PROTO = istr("X-Forwarded-Proto")
FORWARDED_PREFIX = istr("X-Forwarded-Prefix")

_ADDRESS = re.compile(
    r"\[([^]%]+)(?:%[^]]*)?\](?::\d+)?"  # IPv6 in brackets, with an optional zone and port
    r"|([\d.]+)(?::\d+)?"  # IPv4, with an optional port
    r"|([^%]+)(?:%.*)?",  # IPv6 without brackets, with an optional zone
    re.ASCII,
).fullmatch
_SCHEMES = {"http": "http", "ws": "http", "https": "https", "wss": "https"}
# The characters of a path (RFC 3986, section 3.3), without a comma, which separates values. No
# segment is empty: //host would be another host.
_PREFIX = re.compile(
    r"(?:/(?:[A-Za-z0-9._~!$&'()*+;=:@-]|%[0-9A-Fa-f]{2})+)+",
    re.ASCII,
).fullmatch
_MAX_PREFIX = 256
_MAX_HOPS = 32
"""The most entries of the header that are read."""
_MAX_ADDRESS = 64
"""The longest entry that is parsed: an IPv6 address with brackets and a port has 53 characters."""
_CACHED = 1024
"""How many parsed addresses are cached: most requests come through the same few proxies."""


class Proxies:
    """Find the client's address and scheme of requests that arrive through ``trusted`` networks.

    It is false if no network is trusted: then a request's own ``remote`` and ``scheme`` are right.
    The peer of a unix socket has no address. It is trusted if any network is.
    """

    def __init__(self, trusted: Iterable[IPv4Network | IPv6Network]) -> None:
        self._trusted = tuple(trusted)
        self._parse = lru_cache(_CACHED)(self._parse_address)

    def __bool__(self) -> bool:
        return bool(self._trusted)

    def trusts(self, peer: str) -> bool:
        """Return whether the address ``peer`` is trusted; it is empty for a unix socket."""
        return self._peer(peer)[1]

    def address(self, request: web.BaseRequest) -> str:
        """Return the client's address; empty for the client of a unix socket.

        If the peer is trusted, it is in X-Forwarded-For, or in X-Real-IP without that header.
        """
        if not self._trusted:
            return request.remote or ""
        headers = request.headers
        given = headers.getall(_FORWARDED_FOR, ()) or headers.getall(_REAL_IP, ())
        return self.client_address(request.remote, given)

    def scheme(self, request: web.BaseRequest) -> str:
        """Return the scheme that the client used, ``https`` or ``http``.

        The last value of X-Forwarded-Proto counts: a client may have sent the others.
        """
        if not self._trusted or not self._peer(request.remote)[1]:
            return request.scheme
        given = request.headers.getall(_FORWARDED_PROTO, ("",))[-1]
        return _SCHEMES.get(given.rpartition(",")[2].strip().lower(), request.scheme)

    def prefix(self, request: web.BaseRequest) -> str:
        """Return the part of the path that a trusted proxy removed, as ``/api``; or nothing.

        The last value of X-Forwarded-Prefix counts: a client may have sent the others. A value that
        is not a plain path, such as ``//host`` or a URL, is ignored.
        """
        if not self._trusted or not self._peer(request.remote)[1]:
            return ""
        given = request.headers.getall(FORWARDED_PREFIX, ("",))[-1]
        prefix = given.rpartition(",")[2].strip().removesuffix("/")
        is_path = len(prefix) <= _MAX_PREFIX and _PREFIX(prefix) is not None
        return prefix if is_path and {".", ".."}.isdisjoint(prefix.split("/")) else ""

    def client_address(self, peer: str | None, forwarded_for: Sequence[str]) -> str:
        """Return the client's address, if ``peer`` sent the headers ``forwarded_for``.

        From the right, it is the first address that is not trusted. If an entry is not an address,
        or there are no more entries, it is the last trusted one.
        """
        client, trusted = self._peer(peer)
        for entry in islice(_entries(forwarded_for), _MAX_HOPS):
            known = self._parse(entry) if trusted and len(entry) <= _MAX_ADDRESS else None
            if known is None:
                break
            client, trusted = known
        return client

    def _peer(self, peer: str | None) -> tuple[str, bool]:
        """Return the address of the peer, and whether it is trusted.

        ``peer`` is None if the client was gone before its address was read.
        """
        if not peer:
            return "", peer is not None and bool(self._trusted)
        return self._parse(peer) or (peer, False)

    def _parse_address(self, text: str) -> tuple[str, bool] | None:
        """Return the address in ``text``, and whether it is trusted; None if it is not one."""
        match = _ADDRESS(text)
        try:
            address = ip_address("" if match is None else match[match.lastindex or 0])
        except ValueError:
            return None
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped  # an IPv6 socket shows IPv4 peers so
        return str(address), any(address in network for network in self._trusted)


def _entries(headers: Sequence[str]) -> Iterator[str]:
    """Yield the entries of all headers, which are one list, from the right."""
    for header in reversed(headers):
        for entry in reversed(header.rsplit(",", _MAX_HOPS)):
            yield entry.strip()
