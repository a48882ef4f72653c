"""A port that is listened on: the socket, the connections on it, and how both end."""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from collections.abc import Callable, Iterator
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
from gizmopy.server.http.listening.sockets import admit_no_more, bind, refused, url_of
from gizmopy.web import Problem

_BACKLOG = 1024
"""How many connections the kernel holds until they are accepted."""
_LOOK_SECONDS = 0.01
_CLOSE_SECONDS = 0.1
"""How long a connection that nothing is under way on may take to close."""
_HANDSHAKE_SECONDS = 0.02
"""How long a connection that has begun may take to be complete."""
_TAKE_OVER_SECONDS = 1.0
"""How long the handshakes of connections that were not accepted yet may take together."""
_LINGER_SECONDS = 0.1
"""How long requests that were sent before the listener closed may take to be read."""


class Port:
    """Listen for ``handler`` at an address; ``prefix`` is what its settings' names begin with.

    ``limit`` is the number of its connections, by default as the settings say.
    ``make_connection`` returns the protocol of a connection, from the arguments of ``Connection``.
    Making one takes the address, and raises StartError where it cannot be had; nothing is accepted
    before ``listen``.
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
        """Where it listens, such as ``http://127.0.0.1:8080``, once it does."""
        self._address = (address, number, prefix)
        self._settings = settings
        self._make_connection = make_connection
        self._shedding = shedding
        self._limit = limit
        self._listener = bind(address, number, prefix=prefix)

    async def listen(self, tls: ssl.SSLContext | None) -> None:
        """Accept connections. Raises StartError where another process got there first."""
        settings = self._settings
        self._server = Server(
            self.handler,
            client_max_size=settings.max_body_bytes,
            max_head=settings.max_header_bytes,
            make_connection=self._make_connection,
            turnover=Turnover(
                settings.max_requests_per_connection, settings.max_connection_age.total_seconds()
            ),
            logger=ProtocolLogger(),
        )
        try:
            self._listener.listen(_BACKLOG)
        except OSError as error:  # another daemon has bound it too, and listens already
            address, number, prefix = self._address
            raise refused(error, address, number, prefix=prefix) from error
        timeouts = ClientTimeouts(
            settings.read_timeout.total_seconds(),
            settings.write_timeout.total_seconds(),
            settings.idle_timeout.total_seconds(),
            settings.min_send_rate,
        )
        self._acceptor = Acceptor(
            self._listener,
            self._server,
            limit=self._limit or settings.max_connections or max_connections(),
            limit_name="of the admin port" if self._limit else "GIZMO_MAX_CONNECTIONS",
            shedding=self._shedding,
            tls=tls,
            handshake_seconds=timeouts.read,
        )
        watching = watch_clients(self._server, timeouts)
        self._watch = asyncio.create_task(watching, name="gizmopy-connections")
        self.url = url_of(self._listener, "http" if tls is None else "https")

    def connection_states(self) -> Iterator[str]:
        """Yield for each connection whether it is ``active``, ``idle``, or a ``websocket``."""
        for connection in self._server.open_connections() if self.url else ():
            request = connection.request
            if request is not None and isinstance(request.stream, web.WebSocketResponse):
                yield "websocket"
            else:
                yield "idle" if connection.task is None else "active"

    async def stop_listening(self) -> None:
        """Close the listener, but serve the connections that are made already.

        Closing resets those that wait in the kernel, and a client may have sent its request on
        them. So waiting connections are accepted first, and the bytes in each connection's buffer
        get a moment to be read.
        """
        admit_no_more(self._listener)
        await asyncio.sleep(_HANDSHAKE_SECONDS)
        self._acceptor.stop()
        self._acceptor.take_over()
        self._listener.close()
        await asyncio.sleep(_LINGER_SECONDS)
        await self._acceptor.finish_handshakes(_TAKE_OVER_SECONDS)

    def close_idle(self) -> None:
        """Close every connection that no request is under way on."""
        for connection in self._server.open_connections():
            if connection.task is None:
                connection.close()

    async def wait_sent(self) -> None:
        """Wait until the kernel has taken every answer: the end of the process would cut them."""
        while any(connection.has_unsent for connection in self._server.open_connections()):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)  # a transport tells nobody when it is empty

    async def close(self) -> None:
        """Close what is left, whatever is under way on it."""
        if not self.url:
            self._listener.close()
            return
        self._watch.cancel()
        await asyncio.wait((self._watch,))
        self._acceptor.stop()
        self._listener.close()
        await self._acceptor.finish_handshakes(0)
        await self._server.shutdown(_CLOSE_SECONDS)
        self.handler.close()


class ProtocolLogger(logging.Logger):
    """What aiohttp's protocol logs to: a client that speaks no HTTP is no error of this daemon.

    aiohttp logs a traceback for each, so that any stranger could fill the log.
    """

    def __init__(self) -> None:
        super().__init__("gizmopy.server.protocol")
        self.parent = logging.getLogger("gizmopy.server")

    def exception(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Log an error with its traceback, but what a client sent wrong as one line of detail."""
        error = kwargs.get("exc_info")
        error = error if isinstance(error, BaseException) else sys.exc_info()[1]
        if isinstance(error, (HttpProcessingError, web.RequestPayloadError, Problem)):
            self.debug("a request that is no HTTP was refused: %s", type(error).__name__)
        else:
            super().exception(msg, *args, **kwargs)
