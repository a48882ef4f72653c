"""Tell who really asks when a proxy stands between: by the word of trusted proxies, nobody else's.

A proxy adds the address that it was connected from at the right of ``X-Forwarded-For``, behind
whatever the client wrote there itself. So the header is read from the right, and only as long as
those who wrote it are trusted: no client can choose its own address.
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

_WRITTEN = re.compile(
    r"\[([^]%]+)(?:%[^]]*)?\](?::\d+)?"  # IPv6 in brackets, perhaps with a zone and a port
    r"|([\d.]+)(?::\d+)?"  # IPv4, perhaps with a port
    r"|([^%]+)(?:%.*)?",  # IPv6 as it is, perhaps with a zone
    re.ASCII,
).fullmatch
_SCHEMES = {"http": "http", "ws": "http", "https": "https", "wss": "https"}
_MAX_HOPS = 32
"""How many addresses of a header are read, from the right."""
_MAX_ADDRESS = 64
"""The longest text that is read as an address: one of IPv6 with brackets and a port has 53."""
_REMEMBERED = 1024
"""How many addresses are remembered as trusted or not: the same proxies come again and again."""


class Proxies:
    """Tell the client's address and scheme of requests that come through the ``trusted`` networks.

    False where nothing is trusted: then a request's own ``remote`` and ``scheme`` say the same.
    Unix sockets have no address; who may connect to one counts as trusted, if anything does.
    """

    def __init__(self, trusted: Iterable[IPv4Network | IPv6Network]) -> None:
        self._trusted = tuple(trusted)
        self._read = lru_cache(_REMEMBERED)(self._look_up)

    def __bool__(self) -> bool:
        return bool(self._trusted)

    def trusts(self, peer: str) -> bool:
        """Return whether the address ``peer`` is trusted; empty is a unix socket's."""
        return self._peer(peer)[1]

    def address(self, request: web.BaseRequest) -> str:
        """Return the address that the request comes from; empty for a unix socket's client.

        A trusted peer is asked for it: X-Forwarded-For, or X-Real-IP where that is not there.
        """
        if not self._trusted:
            return request.remote or ""
        headers = request.headers
        given = headers.getall(_FORWARDED_FOR, ()) or headers.getall(_REAL_IP, ())
        return self.client_address(request.remote, given)

    def scheme(self, request: web.BaseRequest) -> str:
        """Return ``https`` or ``http``: what the nearest trusted proxy was asked with.

        Of several values of X-Forwarded-Proto the last one counts: a client may have sent those
        before it.
        """
        if not self._trusted or not self._peer(request.remote)[1]:
            return request.scheme
        given = request.headers.getall(_FORWARDED_PROTO, ("",))[-1]
        return _SCHEMES.get(given.rpartition(",")[2].strip().lower(), request.scheme)

    def client_address(self, peer: str | None, forwarded_for: Sequence[str]) -> str:
        """Return who asks, where ``peer`` is connected and sent the headers ``forwarded_for``.

        That is the first one that is not trusted, reading from the right; or, where an entry is no
        address or there are no more, the last one that is.
        """
        client, trusted = self._peer(peer)
        for entry in islice(_entries(forwarded_for), _MAX_HOPS):
            known = self._read(entry) if trusted and len(entry) <= _MAX_ADDRESS else None
            if known is None:
                break
            client, trusted = known
        return client

    def _peer(self, peer: str | None) -> tuple[str, bool]:
        """Return the address of who is connected, and whether it is trusted.

        None is a client that was gone before anybody asked its socket who it is.
        """
        if not peer:
            return "", peer is not None and bool(self._trusted)
        return self._read(peer) or (peer, False)

    def _look_up(self, text: str) -> tuple[str, bool] | None:
        """Return the address in ``text``, and whether it is trusted; None where there is none."""
        written = _WRITTEN(text)
        try:
            address = ip_address("" if written is None else written[written.lastindex or 0])
        except ValueError:
            return None
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped  # so a socket that takes both versions calls IPv4
        return str(address), any(address in network for network in self._trusted)


def _entries(headers: Sequence[str]) -> Iterator[str]:
    """Yield the entries of headers that are one list, from the right."""
    for header in reversed(headers):
        for entry in reversed(header.rsplit(",", _MAX_HOPS)):
            yield entry.strip()
