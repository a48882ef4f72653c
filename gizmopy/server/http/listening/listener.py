"""Listen on a port: the listening socket, the connections, and how both end."""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from gizmopy.config import Settings
from gizmopy.server.http.client_timeouts import ClientTimeouts, watch_clients
from gizmopy.server.http.connection.protocol import Connection
from gizmopy.server.http.connection.protocol_factory import Server
from gizmopy.server.http.connection.turnover import Turnover
from gizmopy.server.http.handler import RequestHandler
from gizmopy.server.http.listening.acceptor import Acceptor
from gizmopy.server.http.listening.descriptors import max_connections
from gizmopy.server.http.listening.shedding import Shedding
from gizmopy.server.http.listening.sockets import (
    bind_all,
    bind_error,
    refuse_new_connections,
    release_sockets,
    url_of,
)
from gizmopy.server.lifecycle.forks import around_forks
from gizmopy.web import Problem

_BACKLOG = 1024
"""How many connections the kernel holds until they are accepted."""
_POLL_SECONDS = 0.01
_CLOSE_SECONDS = 0.1
"""How long the remaining connections may take to close."""
NETWORK_DELAY = 0.1
"""How many seconds requests that were sent before the listener closed may take to be read."""
_HANDSHAKE_SECONDS = 0.02
"""How long a TCP handshake that has begun may take, before the last connections are accepted."""
_TLS_HANDSHAKE_SECONDS = 1.0
"""How long the TLS handshakes of the last connections may take."""


class Port:
    """Listen at an address, and pass requests to ``handler``.

    Making one binds the address, and raises StartError if that fails. Nothing is accepted before
    ``listen``. ``prefix`` is the prefix of the settings' names in errors. ``limit`` is the limit of
    connections, by default that of the settings. ``make_connection`` makes the protocol of a
    connection, from the arguments of ``Connection``.
    """

    def __init__(
        self,
        handler: RequestHandler,
        address: str,
        number: int,
        settings: Settings,
        shedding: Shedding,
        *,
        prefix: str = "HTTP",
        limit: int | None = None,
        make_connection: Callable[..., Connection] = Connection,
    ) -> None:
        self.handler = handler
        self.url = ""
        """Its URL, such as ``http://127.0.0.1:8080``; empty before ``listen``."""
        self._address = (address, number, prefix)
        self._settings = settings
        self._make_connection = make_connection
        self._shedding = shedding
        self._limit = limit
        self._listeners = bind_all(address, number, prefix=prefix)
        self._name = self._listeners[0].getsockname()
        around_forks(in_child=self._leave_to_parent)

    def _leave_to_parent(self) -> None:
        """In a forked child, give up the listener and the connections.

        A child that lives longer would keep the port, and its clients would not see that the daemon
        has closed their connections.
        """
        release_sockets(self._name)

    async def listen(self, tls: ssl.SSLContext | None) -> None:
        """Accept connections. Raises StartError if another process listens at the address."""
        settings = self._settings
        self._server = self._make_server()
        try:
            for listener in self._listeners:
                listener.listen(_BACKLOG)
        except OSError as error:
            # SO_REUSEADDR lets two processes bind an address, as long as none of them listens.
            address, number, prefix = self._address
            raise bind_error(error, address, number, prefix=prefix) from error
        timeouts = _client_timeouts(settings)
        self._acceptor = Acceptor(
            self._listeners,
            self._server,
            limit=self._limit or settings.max_connections or max_connections(),
            limit_name="of the admin port" if self._limit else "GIZMO_MAX_CONNECTIONS",
            shedding=self._shedding,
            tls=tls,
            handshake_seconds=timeouts.read,
        )
        watching = watch_clients(self._server, timeouts)
        self._watcher = asyncio.create_task(watching, name="gizmopy-connections")
        self.url = url_of(self._listeners[0], "http" if tls is None else "https")

    def _make_server(self) -> Server:
        settings = self._settings
        return Server(
            self.handler,
            client_max_size=settings.max_body_bytes,
            max_head=settings.max_header_bytes,
            make_connection=self._make_connection,
            turnover=Turnover(
                settings.max_requests_per_connection, settings.max_connection_age.total_seconds()
            ),
            logger=ProtocolLogger(),
        )

    def use_context(self) -> None:
        """Give each request from now on a copy of the current context, on old connections too."""
        self._server.context = copy_context()

    def connection_states(self) -> Iterator[str]:
        """Yield the state of each connection: ``active``, ``idle``, or ``websocket``."""
        for connection in self._server.open_connections() if self.url else ():
            request = connection.request
            if request is not None and isinstance(request.stream, web.WebSocketResponse):
                yield "websocket"
            else:
                yield "idle" if connection.task is None else "active"

    async def stop_listening(self, network_delay: float) -> None:
        """Close the listener, and keep serving the established connections.

        Closing a listener resets the connections that wait in the kernel, and a client may have
        sent its request on one of them. So the waiting connections are accepted first, and there
        are ``network_delay`` seconds to read the requests that have arrived.
        """
        for listener in self._listeners:
            refuse_new_connections(listener)
        await asyncio.sleep(min(_HANDSHAKE_SECONDS, network_delay))
        self._acceptor.stop()
        self._acceptor.accept_waiting()
        self._close_listeners()
        await asyncio.sleep(network_delay)
        await self._acceptor.finish_handshakes(_TLS_HANDSHAKE_SECONDS)

    def close_idle(self) -> None:
        """Close every connection without an active request."""
        for connection in self._server.open_connections():
            if connection.task is None:
                connection.close()

    async def wait_sent(self) -> None:
        """Wait until the kernel has taken every response: a process that exits loses the rest."""
        # A transport has no event for an empty buffer, so this polls.
        while any(each.has_unsent for each in self._server.open_connections()):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)

    async def close(self) -> None:
        """Close the listener and all connections, also those with an active request."""
        if not self.url:
            self._close_listeners()
            return
        self._watcher.cancel()
        await asyncio.wait((self._watcher,))
        self._acceptor.stop()
        self._close_listeners()
        await self._acceptor.finish_handshakes(0)
        await self._server.shutdown(_CLOSE_SECONDS)
        self.handler.cancel_deadlines()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()


def _client_timeouts(settings: Settings) -> ClientTimeouts:
    return ClientTimeouts(
        settings.read_timeout.total_seconds(),
        settings.write_timeout.total_seconds(),
        settings.idle_timeout.total_seconds(),
        settings.min_send_rate,
    )


class ProtocolLogger(logging.Logger):
    """The logger of aiohttp's protocol, which logs errors of clients as debug lines.

    aiohttp logs a traceback for each malformed request, so that any client could fill the log.
    """

    def __init__(self) -> None:
        super().__init__("gizmopy.server.protocol")
        self.parent = logging.getLogger("gizmopy.server")

    def exception(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Log an error with its traceback, or a malformed request as one debug line."""
        error = kwargs.get("exc_info")
        error = error if isinstance(error, BaseException) else sys.exc_info()[1]
        if isinstance(error, (HttpProcessingError, web.RequestPayloadError, Problem)):
            self.debug("a malformed request was refused: %s", type(error).__name__)
        else:
            super().exception(msg, *args, **kwargs)
