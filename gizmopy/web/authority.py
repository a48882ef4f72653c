"""Validate ``host[:port]``: the Host header, and the authority of an absolute request target."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address

from yarl import URL

DEFAULT_PORTS = {"http": ":80", "https": ":443"}
"""The port that a browser leaves out, by scheme."""

_MAX_LENGTH = 255 + len(":65535")
"""The maximum length of a host with its port: a domain name has at most 253 characters."""

_HOST = re.compile(
    r"(\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::([0-9]{0,5}))?"
).fullmatch


def is_host(text: str) -> bool:
    """Return whether ``text`` is ``host`` or ``host:port`` (RFC 9112 section 3.2, RFC 3986 3.2.2).

    The host is a name, an IPv4 address, or an IPv6 address in brackets. An empty one is invalid: no
    URL of http has one (RFC 9110 section 4.2.1). User information, characters outside of ASCII, an
    IDNA label (``xn--``) that cannot be decoded, and more than 261 characters make it invalid, too.
    """
    # Without a host, request.url has no origin: a handler that asks for it would raise.
    return len(text) <= _MAX_LENGTH and bool(_normalized_host(text))


def host_name(text: str) -> str:
    """Return the host in ``text`` in lower case, without the port and a trailing dot.

    Returns an empty string if ``is_host`` is false.
    """
    return (_normalized_host(text) or "") if len(text) <= _MAX_LENGTH else ""


# Nearly every request of a daemon has one of a few hosts. Clients choose the keys of this cache:
# 64 entries of at most _MAX_LENGTH characters bound its memory.
@lru_cache(64)
def _normalized_host(text: str) -> str | None:
    match = _HOST(text)
    if match is None:
        return None
    host, address, port = match.groups()
    if port and int(port) > 65535:
        return None
    if address:
        try:
            IPv6Address(address)
        except ValueError:
            return None
    name = str(host).lower().removesuffix(".")
    # yarl decodes IDNA labels when a handler reads request.url.host, and raises UnicodeError (a
    # ValueError) there for a malformed one. Decode it here, so that the request is refused instead.
    if "xn--" in name:
        try:
            _ = URL.build(scheme="http", host=name, encoded=True).host
        except ValueError:
            return None
    return name
