"""A port that is listened on: the socket, the connections on it, and how both end."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from gizmopy.config import Settings
from gizmopy.server.connection import Connection, Patience, Server
from gizmopy.server.http import HTTPDoor
from gizmopy.server.listening import accept_all, admit_no_more, bind, refused, url_of
from gizmopy.web import Problem

logger = logging.getLogger(__name__)

_BACKLOG = 1024
_ACCEPTED_AT_ONCE = 32
"""How many connections are accepted in one turn of the loop.

asyncio's loop tries as many even where there are no more file descriptors, and logs each failure.
"""
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
    """Listen for ``door`` at an address; ``prefix`` is what its settings' names begin with.

    ``make_connection`` returns the protocol of a connection, from what ``Connection`` takes.
    Making one takes the address, and raises StartError where it cannot be had; nothing is accepted
    before ``listen``.
    """

    def __init__(
        self,
        door: HTTPDoor,
        address: str,
        number: int,
        settings: Settings,
        *,
        prefix: str = "HTTP",
        make_connection: Callable[..., Connection] = Connection,
    ) -> None:
        self.door = door
        self.url = ""
        """Where it listens, such as ``http://127.0.0.1:8080``, once it does."""
        self._address = (address, number, prefix)
        self._settings = settings
        self._make_connection = make_connection
        self._tls: ssl.SSLContext | None = None
        self._listener = bind(address, number, prefix=prefix)

    async def listen(self, tls: ssl.SSLContext | None) -> None:
        """Accept connections. Raises StartError where another process got there first."""
        settings, self._tls = self._settings, tls
        self._server = Server(
            self.door,
            client_max_size=settings.max_body_bytes,
            max_head=settings.max_header_bytes,
            make_connection=self._make_connection,
            logger=ProtocolLogger(),
        )
        try:
            self._accepting = await self._accept()
        except OSError as error:  # another daemon has bound it too, and listens already
            address, number, prefix = self._address
            raise refused(error, address, number, prefix=prefix) from error
        patience = Patience(
            settings.read_timeout.total_seconds(),
            settings.write_timeout.total_seconds(),
            settings.idle_timeout.total_seconds(),
            settings.min_send_rate,
        )
        watching = self.door.watch(self._server, patience)
        self._watch = asyncio.create_task(watching, name="gizmopy-connections")
        self.url = url_of(self._listener, "http" if tls is None else "https")

    async def _accept(self) -> asyncio.Server:
        loop, listener = asyncio.get_running_loop(), self._listener
        create = (
            loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
        )
        handshake = self._settings.read_timeout.total_seconds() if self._tls else None
        accepting = await create(
            self._server,
            sock=listener,
            backlog=_ACCEPTED_AT_ONCE,
            ssl=self._tls,
            ssl_handshake_timeout=handshake,
        )
        listener.listen(_BACKLOG)  # of connections that the kernel holds until they are accepted
        return accepting

    def connection_states(self) -> Iterator[str]:
        """Yield for each connection whether it is ``active``, ``idle``, or a ``websocket``."""
        for connection in self._server.open() if self.url else ():
            if isinstance(connection.stream, web.WebSocketResponse):
                yield "websocket"
            else:
                yield "idle" if connection.task is None else "active"

    async def stop_listening(self) -> None:
        """Close the listener, but serve the connections that are made already.

        Closing resets those that wait in the kernel, or between asyncio's accepting them and making
        their transport, and a client may have sent its request on them. So the loop stops accepting
        first, what has been accepted is finished, what waits is taken over, and what lies in every
        connection's buffer is given a moment to be read.
        """
        loop = asyncio.get_running_loop()
        admit_no_more(self._listener)
        await asyncio.sleep(_HANDSHAKE_SECONDS)
        loop.remove_reader(self._listener)  # asyncio's; uvloop makes transports at once
        for _ in range(3):
            await asyncio.sleep(0)
        late = list(accept_all(self._listener))
        self._accepting.close()
        handshakes = [asyncio.create_task(self._take_over(connection)) for connection in late]
        await asyncio.sleep(_LINGER_SECONDS)
        if handshakes:
            _, pending = await asyncio.wait(handshakes, timeout=_TAKE_OVER_SECONDS)
            for handshake in pending:
                handshake.cancel()
            await asyncio.gather(*handshakes, return_exceptions=True)

    async def _take_over(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        limit = self._settings.read_timeout.total_seconds() if self._tls else None
        try:
            await loop.connect_accepted_socket(
                self._server, connection, ssl=self._tls, ssl_handshake_timeout=limit
            )
        except OSError as error:  # its client is gone, or speaks no TLS
            logger.debug("a connection was lost while the listener closed: %s", error)

    def close_idle(self) -> None:
        """Close every connection that no request is under way on."""
        for connection in self._server.open():
            if connection.task is None:
                connection.close()

    async def wait_sent(self) -> None:
        """Wait until the kernel has taken every answer: the end of the process would cut them."""
        while any(connection.has_unsent for connection in self._server.open()):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)  # a transport tells nobody when it is empty

    async def close(self) -> None:
        """Close what is left, whatever is under way on it."""
        if not self.url:
            self._listener.close()
            return
        self._watch.cancel()
        await asyncio.wait((self._watch,))
        self._accepting.close()
        self._listener.close()
        await self._server.shutdown(_CLOSE_SECONDS)
        self.door.close()


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
