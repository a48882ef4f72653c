"""Connections that begin with a header of the PROXY protocol, which names their peer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from gizmopy.config import Settings
from gizmopy.server.http.connection.protocol import Connection, Door, Patience
from gizmopy.server.http.connection.protocol_factory import Server
from gizmopy.server.http.connection.proxy_protocol import BadProxyHeader, read_header
from gizmopy.server.http.proxies import Proxies
from gizmopy.untrusted.text import escape

logger = logging.getLogger("gizmopy.server.proxied")

_WARN_SECONDS = 60.0


def connections_of(settings: Settings) -> Callable[..., Connection]:
    """Return the factory of the main port's connections."""
    if not settings.proxy_protocol:
        return Connection
    return ProxyHeaders(Proxies(settings.trusted_proxies)).connection


class ProxyHeaders:
    """Expect a header from each peer that ``proxies`` trusts, and refuse every other peer."""

    def __init__(self, proxies: Proxies, *, clock: Callable[[], float] = monotonic) -> None:
        self._proxies = proxies
        self._clock = clock
        self._warned = -_WARN_SECONDS
        self._held_back = 0

    def is_expected(self, peer: str) -> bool:
        """Return whether ``peer`` is a trusted proxy; empty is a unix socket's."""
        return self._proxies.trusts(peer)

    def warn(self, peer: str, reason: str) -> None:
        """Log that a connection was refused, once a minute: anyone can cause these lines."""
        now = self._clock()
        if now - self._warned < _WARN_SECONDS:
            self._held_back += 1
            return
        self._warned, before, self._held_back = now, self._held_back, 0
        logger.warning(
            "GIZMO_PROXY_PROTOCOL: a connection from %s was refused: %s (and %d before it)",
            escape(peer) or "a unix socket",
            reason,
            before,
        )

    def connection(self, server: Server, door: Door, **options: Any) -> Connection:
        """Return the protocol of a new connection."""
        return ProxiedConnection(self, server, door, **options)


class ProxiedConnection(Connection):
    """Take the peer of a connection from the header that it begins with.

    Without a client in the header the peer is unknown and not trusted. This holds for the command
    LOCAL too, by which a proxy speaks for itself: HAProxy also sends it for clients on a unix
    socket, and they could choose their address by X-Forwarded-For.
    """

    __slots__ = ("_begun", "_client", "_head", "_headers")

    def __init__(self, headers: ProxyHeaders, server: Server, door: Door, **options: Any) -> None:
        super().__init__(server, door, **options)
        self._headers = headers
        self._head: bytearray | None = bytearray()
        """The bytes of the header that have come; None once it has been read."""
        self._begun = 0.0
        """Since when it is waited for (``time.monotonic()``)."""
        self._client: tuple[str, int] | None = None

    @property
    def peername(self) -> tuple[str, int] | None:
        """The client's address and port; None if it is not known."""
        return self._client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuse every peer that is no trusted proxy."""
        super().connection_made(transport)
        self._begun = monotonic()
        if not self._headers.is_expected(self.peer):
            self._turn_away("it is not in GIZMO_TRUSTED_PROXIES; probes are for GIZMO_ADMIN_PORT")

    def data_received(self, data: bytes) -> None:
        """Read the header first; the bytes behind it are HTTP."""
        if self._head is None:
            super().data_received(data)
            return
        if self.transport is None:  # it was refused, and this came at the same time
            return
        self._head += data
        try:
            header = read_header(self._head)
        except BadProxyHeader as error:
            self._turn_away(f"it did not send a PROXY header: {error}")
            return
        if header is None:
            return
        rest, self._head = bytes(self._head[header.length :]), None
        self._client = header.client
        self.peer = "" if header.client is None else header.client[0]
        if rest:
            super().data_received(rest)

    def overdue(self, now: float, patience: Patience) -> str:
        """Return ``"idle"`` if the header has not come within the time to read a request."""
        if self._head is None:
            return super().overdue(now, patience)
        return "idle" if now - self._begun > patience.read else ""

    def _turn_away(self, reason: str) -> None:
        """Close at once: no answer can be understood by a peer that did not send a header."""
        self._headers.warn(self.peer, reason)
        self.force_close()
