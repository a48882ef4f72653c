"""Detect requests that a page of another origin makes a browser send (cross-site request forgery).

A page of any site can make a browser send a form, a ``no-cors`` POST or a WebSocket handshake to
any address that its user can reach, without a preflight. Two header fields that no page can set
name the origin: ``Sec-Fetch-Site`` (Fetch Metadata) and ``Origin`` (RFC 6454). Older browsers send
``Origin`` only. So do all browsers over plain HTTP, and mostly with a WebSocket handshake. A client
that sends neither is not a browser.
"""

from __future__ import annotations

from aiohttp import web
from multidict import istr

from gizmopy.web.authority import DEFAULT_PORTS

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
"""The safe methods (RFC 9110 section 9.2.1), of those that a service can serve."""

SITE = istr("Sec-Fetch-Site")
ORIGIN = istr("Origin")
_HOST = istr("Host")

_OWN_SITES = ("same-origin", "none")
"""``none``: the user typed the address, or opened a bookmark."""


def is_same_origin(request: web.BaseRequest) -> bool:
    """Return whether ``request`` is from a page of its own origin, from the user, or no browser.

    ``Sec-Fetch-Site`` decides if it is present. A field that is repeated, empty or unknown counts
    as foreign, and so does ``Origin: null``, which a sandboxed frame of any site sends.
    """
    headers = request.headers
    if sites := headers.getall(SITE, ()):
        return all(site in _OWN_SITES for site in sites)
    origins, hosts = headers.getall(ORIGIN, ()), headers.getall(_HOST, ())
    if not origins:
        return True
    if len(origins) > 1 or len(hosts) != 1:
        return False
    return _has_host(origins[0].lower(), hosts[0].lower(), request.scheme)


def _has_host(origin: str, host: str, scheme: str) -> bool:
    """Return whether ``origin`` is the origin of ``host``, requested by ``scheme``."""
    origin_scheme, _, authority = origin.partition("://")
    if not authority or origin_scheme not in DEFAULT_PORTS:
        return False
    # A TLS proxy that GIZMO_TRUSTED_PROXIES does not list makes ``scheme`` http for a page of
    # https: accept that, since browsers never send from https to http (mixed content). The other
    # direction is refused: anyone on the network can forge a page of http.
    if scheme == "https" and origin_scheme == "http":
        return False
    return authority == host.removesuffix(DEFAULT_PORTS[origin_scheme])
