"""Decide whether a request comes from a page of another origin (cross-site request forgery).

A browser sends a form, a ``no-cors`` POST or a WebSocket handshake to any address that its user
reaches, without a preflight, because a page of any site asks for it. Two header fields that no
page can set say where such a request comes from: ``Sec-Fetch-Site`` (Fetch Metadata), and
``Origin`` (RFC 6454), which older browsers send alone, and all browsers send alone over plain HTTP
and mostly with a WebSocket handshake. A client that sends neither is no browser.
"""

from __future__ import annotations

from aiohttp import web
from multidict import istr

from gizmopy.web.authority import DEFAULT_PORTS

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
"""The methods that change nothing (RFC 9110 section 9.2.1), of those that a service can serve."""

SITE = istr("Sec-Fetch-Site")
ORIGIN = istr("Origin")
_HOST = istr("Host")

_OWN_SITES = ("same-origin", "none")  # none: the user typed the address, or opened a bookmark


def is_same_origin(request: web.BaseRequest) -> bool:
    """Return whether ``request`` comes from no browser, from its user, or from an own page.

    ``Sec-Fetch-Site`` decides if it is there. A field that is repeated, empty or unknown is a
    foreign one. ``Origin: null`` is foreign: a sandboxed frame of any site sends it.
    """
    headers = request.headers
    if sites := headers.getall(SITE, ()):
        return all(site in _OWN_SITES for site in sites)
    origins, hosts = headers.getall(ORIGIN, ()), headers.getall(_HOST, ())
    if not origins:
        return True
    if len(origins) > 1 or len(hosts) != 1:
        return False
    return _is_own(origins[0].lower(), hosts[0].lower(), request.scheme)


def _is_own(origin: str, host: str, scheme: str) -> bool:
    """Return whether a page of ``origin`` is served where a request to ``host`` goes.

    A proxy that ends TLS and is not in GIZMO_TRUSTED_PROXIES makes ``scheme`` http while the page
    is one of https; browsers themselves keep pages of https from sending to http (mixed content).
    The other way round is refused: anyone on the network can forge a page of http.
    """
    written, _, authority = origin.partition("://")
    if not authority or written not in DEFAULT_PORTS or (scheme == "https" and written == "http"):
        return False
    return authority == host.removesuffix(DEFAULT_PORTS[written])
