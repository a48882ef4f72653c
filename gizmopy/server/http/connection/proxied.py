"""Serve connections that begin with a PROXY protocol header, which names their client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from gizmopy.config import Settings
from gizmopy.server.http.client_timeouts import ClientTimeout, ClientTimeouts
from gizmopy.server.http.connection.protocol import Connection, ConnectionDelegate
from gizmopy.server.http.connection.protocol_factory import Server
from gizmopy.server.http.connection.proxy_protocol import BadProxyHeader, read_header
from gizmopy.server.http.proxies import Proxies
from gizmopy.untrusted.text import escape

logger = logging.getLogger("gizmopy.server.proxied")

_WARN_SECONDS = 60.0


def connections_of(settings: Settings) -> Callable[..., Connection]:
    """Return the function that makes a connection of the main port."""
    if not settings.proxy_protocol:
        return Connection
    return ProxyHeaders(Proxies(settings.trusted_proxies)).connection


class ProxyHeaders:
    """Require a header from each peer that ``proxies`` trusts, and refuse all other peers."""

    def __init__(self, proxies: Proxies, *, clock: Callable[[], float] = monotonic) -> None:
        self._proxies = proxies
        self._clock = clock
        self._warned = -_WARN_SECONDS
        self._suppressed = 0

    def is_expected(self, peer: str) -> bool:
        """Return whether ``peer`` is a trusted proxy; it is empty for a unix socket."""
        return self._proxies.trusts(peer)

    def warn(self, peer: str, reason: str) -> None:
        """Log that a connection was refused, at most once a minute: anyone can cause it."""
        now = self._clock()
        if now - self._warned < _WARN_SECONDS:
            self._suppressed += 1
            return
        self._warned, before, self._suppressed = now, self._suppressed, 0
        logger.warning(
            "GIZMO_PROXY_PROTOCOL: a connection from %s was refused: %s "
            "(%d more were refused since the last such line)",
            escape(peer) or "a unix socket",
            reason,
            before,
        )

    def connection(
        self, server: Server, delegate: ConnectionDelegate, **options: Any
    ) -> Connection:
        """Return the protocol of a new connection."""
        return ProxiedConnection(self, server, delegate, **options)


class ProxiedConnection(Connection):
    """Take the client's address of a connection from its PROXY protocol header.

    If the header names no client, the peer is unknown and not trusted. This includes the command
    LOCAL, which a proxy sends for its own connections: HAProxy also sends it for clients on a unix
    socket. If their peer were trusted, they could choose their address by X-Forwarded-For.
    """

    __slots__ = ("_client", "_head", "_headers", "_waiting_since")

    def __init__(
        self,
        headers: ProxyHeaders,
        server: Server,
        delegate: ConnectionDelegate,
        **options: Any,
    ) -> None:
        super().__init__(server, delegate, **options)
        self._headers = headers
        self._head: bytearray | None = bytearray()
        """The bytes of the header so far; None after the header has been read."""
        self._waiting_since = 0.0
        """Since when the header is expected (``time.monotonic()``)."""
        self._client: tuple[str, int] | None = None

    @property
    def peername(self) -> tuple[str, int] | None:
        """The client's address and port; None if it is not known."""
        return self._client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuse a peer that is not a trusted proxy."""
        super().connection_made(transport)
        self._waiting_since = monotonic()
        if not self._headers.is_expected(self.peer):
            self._refuse_peer("it is not in GIZMO_TRUSTED_PROXIES; send probes to GIZMO_ADMIN_PORT")

    def data_received(self, data: bytes) -> None:
        """Read the header first, then HTTP."""
        if self._head is None:
            super().data_received(data)
            return
        if self.transport is None:  # the peer was refused before these bytes arrived
            return
        self._head += data
        try:
            header = read_header(self._head)
        except BadProxyHeader as error:
            self._refuse_peer(f"it did not send a PROXY header: {error}")
            return
        if header is None:
            return
        rest, self._head = bytes(self._head[header.length :]), None
        self._client = header.client
        self.peer = "" if header.client is None else header.client[0]
        if rest:
            super().data_received(rest)

    def exceeded_timeout(self, now: float, timeouts: ClientTimeouts) -> ClientTimeout | None:
        """Return IDLE if the header has not arrived within the time to read a request's head."""
        if self._head is None:
            return super().exceeded_timeout(now, timeouts)
        return ClientTimeout.IDLE if now - self._waiting_since > timeouts.read else None

    def _refuse_peer(self, reason: str) -> None:
        """Close without a response: a peer that did not send a header does not expect HTTP."""
        self._headers.warn(self.peer, reason)
        self.force_close()
