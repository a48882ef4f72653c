"""Check the form of a host, as the Host header and an absolute target name it."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address

from yarl import URL

DEFAULT_PORTS = {"http": ":80", "https": ":443"}
"""The ports that a browser leaves out, by scheme."""

_MAX_HOST = 255 + len(":65535")
"""The length that a host with its port may have: a domain name has 253 characters at most."""

_HOST = re.compile(
    r"(\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::([0-9]{0,5}))?"
).fullmatch


def is_host(text: str) -> bool:
    """Return whether ``text`` is ``host`` or ``host:port`` (RFC 9112 section 3.2, RFC 3986 3.2.2).

    The host is a name, an IPv4 address, or an IPv6 address in brackets; it may be empty. It has no
    user information, no characters outside of ASCII, no label of IDNA that cannot be decoded
    (``xn--``), and 261 characters at most with its port.
    """
    return len(text) <= _MAX_HOST and _name(text) is not None


def host_name(text: str) -> str:
    """Return the host in ``text``, in lower case, without its port and a dot at its end.

    Empty if ``is_host`` is false.
    """
    return (_name(text) or "") if len(text) <= _MAX_HOST else ""


@lru_cache(64)  # the same few come with every request; bounded in bytes by _MAX_HOST
def _name(text: str) -> str | None:
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
    if "xn--" in name:
        try:
            _ = URL.build(scheme="http", host=name, encoded=True).host
        except ValueError:  # UnicodeError is one: request.url.host would raise it in a handler
            return None
    return name
