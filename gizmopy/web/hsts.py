"""Have browsers come back by HTTPS only: HTTP Strict Transport Security (RFC 6797)."""

from __future__ import annotations

from aiohttp import web
from multidict import istr

_NAME = istr("Strict-Transport-Security")


class StrictTransport:
    """Give answers over TLS the header ``Strict-Transport-Security: value``; empty: none.

    An answer by plain HTTP never has it (RFC 6797 section 7.2): anyone on the way can write that.
    ``over_tls`` is whether requests come over TLS if no trusted proxy says otherwise.
    """

    __slots__ = ("_over_tls", "_value")

    def __init__(self, value: str = "", *, over_tls: bool = False) -> None:
        self._value = value
        self._over_tls = over_tls

    def __bool__(self) -> bool:
        return bool(self._value)

    def line(self, scheme: str) -> str:
        """Return the header's line, or nothing; ``scheme`` is a trusted proxy's, or empty."""
        over_tls = scheme == "https" if scheme else self._over_tls
        return f"{_NAME}: {self._value}\r\n" if self._value and over_tls else ""

    def decorate(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Add the header, unless a handler has set its own."""
        if self._value and request.scheme == "https":
            response.headers.setdefault(_NAME, self._value)
