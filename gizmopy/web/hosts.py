"""Decide whether a request names a host that the service is known by.

A page whose name its owner points at 127.0.0.1 (DNS rebinding) is of the same origin as the
daemon there; only the name in ``Host`` shows it.
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from multidict import istr
from yarl import URL

from gizmopy.web.authority import host_name

_HOST = istr("Host")


class AllowedHosts:
    """Hold names such as ``cats.example``; ``*.cats.example`` is every name below that one.

    Ports, upper case and a dot at the end of a host make no difference. False without any name:
    then every host is allowed.
    """

    __slots__ = ("_names", "_suffixes")

    def __init__(self, names: Iterable[str] = ()) -> None:
        listed = tuple(names)
        self._names = frozenset(name for name in listed if not name.startswith("*."))
        self._suffixes = tuple(name[1:] for name in listed if name.startswith("*."))

    def __bool__(self) -> bool:
        return bool(self._names or self._suffixes)

    def allow(self, request: web.BaseRequest) -> bool:
        """Return whether ``request`` has one ``Host``, and it and the request's URL are allowed."""
        hosts = request.headers.getall(_HOST, ())
        if len(hosts) != 1 or not self._has(hosts[0]):
            return False
        target = request.raw_path
        # The absolute form of a request's target overrides Host (RFC 9112 section 3.2.2).
        return target.startswith("/") or self._has(URL(target, encoded=True).raw_authority)

    def _has(self, host: str) -> bool:
        name = host_name(host)
        return name in self._names or any(
            name.endswith(suffix) and len(name) > len(suffix) for suffix in self._suffixes
        )
