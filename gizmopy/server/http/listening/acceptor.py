"""Accept connections up to a limit, at which quiet ones are closed for new ones.

An event loop that accepts by itself goes on until there are no descriptors. 80 silent connections
shut out every probe of a daemon with as many descriptors, and asyncio logged 1,816 tracebacks in
7 s (issue 11). So the loop only says that connections wait.

The limit counts TLS handshakes too. At the limit, the connection that has sent no complete head for
longest is closed for the new one; if there is none, the one that is idle for longest. If each one
has a request under way, the new one is closed: no request is cut for another. The same is done when
the process has no descriptor left: a spare one lets the new connection in first.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from functools import partial
from itertools import islice
from time import monotonic

from gizmopy.server.http.connection.protocol import Connection
from gizmopy.server.http.connection.protocol_factory import Server
from gizmopy.server.http.listening.shedding import Shedding
from gizmopy.server.http.listening.sockets import accept_all

logger = logging.getLogger("gizmopy.server.accepting")

_AT_ONCE = 32
"""The most connections that are accepted in one turn of the loop."""
_LOOKED_AT = 32
"""How many of the longest idle connections are looked at to close one of them."""
_PAUSE_SECONDS = 0.1
"""How long nothing is accepted after an error that closing a connection does not mend."""
_NO_DESCRIPTOR = frozenset((errno.EMFILE, errno.ENFILE))


class Acceptor:
    """Accept the connections of ``listener`` for ``server``, at most ``limit`` at a time.

    ``limit_name`` is the name of that limit in the log.
    It accepts from the moment it is made until ``stop``.
    """

    def __init__(
        self,
        listener: socket.socket,
        server: Server,
        *,
        limit: int,
        limit_name: str,
        shedding: Shedding,
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        self._listener = listener
        self._server = server
        self._limit = limit
        self._at_limit = f"at the limit of {limit} connections ({limit_name})"
        self._shedding = shedding
        self._tls = tls
        self._handshake_seconds = handshake_seconds if tls is not None else None
        # With a low limit, not so many that one read's worth of new ones closes all others.
        self._at_once = max(1, min(_AT_ONCE, limit // 4))
        self._handshakes: dict[Connection, asyncio.Task[None]] = {}
        """The tasks that make the transports of the connections without one."""
        self._loop = asyncio.get_running_loop()
        self._spare = self._open_spare()
        """A descriptor that is closed to accept one more connection; -1: none was to be had."""
        self._is_stopped = False
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(listener, self._accept)

    def stop(self) -> None:
        """Accept no more; handshakes go on. A second call does nothing."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
        self._close_spare()

    def take_over(self) -> None:
        """Serve the connections that wait in the kernel, after ``stop``."""
        for connection in accept_all(self._listener):
            self._begin(connection)

    async def finish_handshakes(self, seconds: float) -> None:
        """Wait for the handshakes, and cancel those that take longer."""
        if not self._handshakes:
            return
        handshakes = list(self._handshakes.values())
        _, late = await asyncio.wait(handshakes, timeout=seconds)
        for handshake in late:
            handshake.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)

    def _accept(self) -> None:
        """Accept connections until there are no more, or others have to have their turn."""
        for _ in range(self._at_once):
            if self._spare < 0:
                self._spare = self._open_spare()
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue  # its client is gone
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR:
                    self._accept_with_spare()
                else:  # such as no memory for its buffers
                    self._shedding.warn(f"cannot accept connections: {error}")
                    self._rest()
                return
            if self._server.count < self._limit or self._shed(self._at_limit):
                self._begin(connection)
            else:
                self._refuse(connection, self._at_limit)

    def _accept_with_spare(self) -> None:
        """Accept one connection when there is no descriptor for it.

        The connection that is closed for it frees a descriptor in the next turn of the loop.
        """
        cause = "the process has no file descriptor left (RLIMIT_NOFILE)"
        if self._spare < 0:
            if not self._shed(cause):
                self._rest()
            return
        self._close_spare()
        try:
            connection, _ = self._listener.accept()
        except OSError:  # another thread was quicker, or the client is gone
            return
        if self._shed(cause):
            self._begin(connection)
        else:
            self._refuse(connection, cause)
            self._spare = self._open_spare()

    def _open_spare(self) -> int:
        try:
            return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1

    def _close_spare(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def _rest(self) -> None:
        """Accept nothing for a moment: the listener stays readable, which would fill the loop."""
        self._loop.remove_reader(self._listener)
        resume = partial(self._loop.add_reader, self._listener, self._accept)
        self._pause = self._loop.call_later(_PAUSE_SECONDS, resume)

    def _refuse(self, connection: socket.socket, cause: str) -> None:
        connection.close()
        self._shedding.add("refused", cause)

    def _shed(self, cause: str) -> bool:
        """Close a connection that no request is under way on; return whether there was one."""
        server = self._server
        idle = filter(_is_answered, islice(server.idle, _LOOKED_AT))
        victim = next(iter(server.silent), None) or next(idle, None)
        if victim is None:
            return False
        self._shedding.add("idle" if victim.request_count else "silent", cause)
        if (handshake := self._handshakes.get(victim)) is not None:
            handshake.cancel()
        victim.abort()
        return True

    def _begin(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        connection = self._server.new_connection(monotonic())
        task = self._loop.create_task(self._connect(accepted, connection))
        self._handshakes[connection] = task
        task.add_done_callback(lambda _: self._forget(accepted, connection))

    def _forget(self, accepted: socket.socket, connection: Connection) -> None:
        """Close a connection whose handshake was cancelled before it began."""
        if self._handshakes.pop(connection, None) is not None:
            connection.stop_counting()
            accepted.close()

    async def _connect(self, accepted: socket.socket, connection: Connection) -> None:
        """Make the transport of ``connection``, after the TLS handshake."""
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_seconds,
            )
        except OSError as error:  # its client is gone, was too slow, or speaks no TLS
            logger.debug("a connection was lost in its handshake: %s", error)
        finally:
            del self._handshakes[connection]
            if connection.open_transport is None:
                connection.stop_counting()


def _is_answered(connection: Connection) -> bool:
    """Whether all of the last answer is out: bytes that wait belong to a request under way."""
    return (
        connection.open_transport is not None
        and connection.open_transport.get_write_buffer_size() == 0
    )
