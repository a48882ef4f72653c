"""Make browsers use HTTPS for later visits: HTTP Strict Transport Security (RFC 6797)."""

from __future__ import annotations

from aiohttp import web
from multidict import istr

_NAME = istr("Strict-Transport-Security")


class StrictTransport:
    """Add ``Strict-Transport-Security: value`` to responses over TLS; an empty value adds none.

    A response over plain HTTP never has the header (RFC 6797 section 7.2), because anyone on the
    network path could have written it. ``over_tls`` says whether requests arrive over TLS if no
    trusted proxy reports a scheme.
    """

    __slots__ = ("_over_tls", "_value")

    def __init__(self, value: str = "", *, over_tls: bool = False) -> None:
        self._value = value
        self._over_tls = over_tls

    def __bool__(self) -> bool:
        return bool(self._value)

    def line(self, scheme: str) -> str:
        """Return the header line with its CRLF, or an empty string.

        ``scheme`` is the one that a trusted proxy reported, or empty.
        """
        over_tls = scheme == "https" if scheme else self._over_tls
        return f"{_NAME}: {self._value}\r\n" if self._value and over_tls else ""

    def decorate(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Add the header to ``response``, unless the handler has set it."""
        if self._value and request.scheme == "https":
            response.headers.setdefault(_NAME, self._value)
