"""Check that a request names a host that the service is known by.

This defends against DNS rebinding: the owner of a web page points the page's name at 127.0.0.1, so
that a browser takes the daemon there for the page's own origin. Only ``Host`` shows the foreign
name.
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from multidict import istr
from yarl import URL

from gizmopy.web.authority import host_name

_HOST = istr("Host")


class AllowedHosts:
    """Hold host names such as ``cats.example``; ``*.cats.example`` allows every subdomain of it.

    Ports, upper case and a trailing dot are ignored. Without any name, every host is allowed, and
    the instance is false.
    """

    __slots__ = ("_names", "_suffixes")

    def __init__(self, names: Iterable[str] = ()) -> None:
        listed = tuple(names)
        self._names = frozenset(name for name in listed if not name.startswith("*."))
        self._suffixes = tuple(name[1:] for name in listed if name.startswith("*."))

    def __bool__(self) -> bool:
        return bool(self._names or self._suffixes)

    def allow(self, request: web.BaseRequest) -> bool:
        """Return whether ``request`` has exactly one ``Host``, and it and the URL are allowed."""
        hosts = request.headers.getall(_HOST, ())
        if len(hosts) != 1 or not self._includes(hosts[0]):
            return False
        target = request.raw_path
        # The absolute form of a request's target overrides Host (RFC 9112 section 3.2.2).
        return target.startswith("/") or self._includes(URL(target, encoded=True).raw_authority)

    def _includes(self, host: str) -> bool:
        name = host_name(host)
        return name in self._names or any(
            name.endswith(suffix) and len(name) > len(suffix) for suffix in self._suffixes
        )
