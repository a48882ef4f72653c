"""Accept connections up to a limit, and close idle ones for new ones at the limit.

asyncio's own server accepts connections until no file descriptor is left. 80 silent connections
kept every probe out of a daemon with 80 descriptors, and asyncio logged 1,816 tracebacks in 7 s
(issue 11). So the event loop only reports here that connections wait.

The limit includes TLS handshakes. At the limit, the connection that has been open for longest
without a complete head is closed for the new one; if there is none, the one that has been idle for
longest. If every connection has an active request, the new one is closed: no request is ended for
another. The same happens if the process has no descriptor left. A spare one then accepts the new
connection first.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Sequence
from itertools import islice
from time import monotonic

from gizmopy.server.http.connection.protocol import Connection
from gizmopy.server.http.connection.protocol_factory import Server
from gizmopy.server.http.listening.shedding import Shedding
from gizmopy.server.http.listening.sockets import accept_all

logger = logging.getLogger("gizmopy.server.accepting")

_BATCH = 32
"""The most connections that are accepted before other tasks may run."""
_MAX_CANDIDATES = 32
"""How many idle connections are tried to find one that can be closed."""
_PAUSE_SECONDS = 0.1
"""How long accepting pauses after an error that closing a connection does not fix."""
_NO_DESCRIPTOR = frozenset((errno.EMFILE, errno.ENFILE))


class Acceptor:
    """Accept connections from ``listeners`` for ``server``, at most ``limit`` at a time.

    ``limit_name`` is the name of that limit in the log. Accepting begins when the object is made,
    and ends with ``stop``.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        server: Server,
        *,
        limit: int,
        limit_name: str,
        shedding: Shedding,
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        self._listeners = listeners
        self._server = server
        self._limit = limit
        self._at_limit = f"at the limit of {limit} connections ({limit_name})"
        self._shedding = shedding
        self._tls = tls
        self._handshake_seconds = handshake_seconds if tls is not None else None
        # If a batch were as large as a low limit, one batch could close all other connections.
        self._batch = max(1, min(_BATCH, limit // 4))
        self._handshakes: dict[Connection, asyncio.Task[None]] = {}
        """The tasks that make transports, by connection. They include the TLS handshake."""
        self._loop = asyncio.get_running_loop()
        self._spare = self._open_spare()
        """A descriptor that is closed to accept one more connection; -1 if there is none."""
        self._is_stopped = False
        self._resume_timer: asyncio.TimerHandle | None = None
        self._start_accepting()

    def _start_accepting(self) -> None:
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def _stop_accepting(self) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener)

    def stop(self) -> None:
        """Stop accepting; handshakes continue. A second call does nothing."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self._stop_accepting()
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        self._close_spare()

    def accept_waiting(self) -> None:
        """Accept the connections that wait in the kernel, after ``stop``."""
        for listener in self._listeners:
            for connection in accept_all(listener):
                self._begin(connection)

    async def finish_handshakes(self, seconds: float) -> None:
        """Wait for the handshakes, and cancel those that take longer than ``seconds``."""
        if not self._handshakes:
            return
        handshakes = list(self._handshakes.values())
        _, late = await asyncio.wait(handshakes, timeout=seconds)
        for handshake in late:
            handshake.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        """Accept connections until none waits, or until other tasks must run."""
        for _ in range(self._batch):
            if self._spare < 0:
                self._spare = self._open_spare()
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue  # the client is gone
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR:
                    self._accept_with_spare(listener)
                else:  # such as ENOBUFS
                    self._shedding.warn(f"cannot accept connections: {error}")
                    self._pause_accepting()
                return
            if self._server.count < self._limit or self._shed(self._at_limit):
                self._begin(connection)
            else:
                self._refuse(connection, self._at_limit)

    def _accept_with_spare(self, listener: socket.socket) -> None:
        """Accept one connection with the spare descriptor.

        The connection that is closed for it frees a descriptor in the next turn of the event loop.
        """
        cause = "the process has no file descriptor left (RLIMIT_NOFILE)"
        if self._spare < 0:
            if not self._shed(cause):
                self._pause_accepting()
            return
        self._close_spare()
        try:
            connection, _ = listener.accept()
        except OSError:  # another process accepted it, or the client is gone
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

    def _pause_accepting(self) -> None:
        """Accept nothing for a moment: a listener that stays readable keeps the loop busy."""
        self._stop_accepting()
        self._resume_timer = self._loop.call_later(_PAUSE_SECONDS, self._start_accepting)

    def _refuse(self, connection: socket.socket, cause: str) -> None:
        connection.close()
        self._shedding.add("refused", cause)

    def _shed(self, cause: str) -> bool:
        """Close a connection without an active request; return whether there was one."""
        server = self._server
        idle = filter(_is_response_sent, islice(server.idle, _MAX_CANDIDATES))
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
        """Close a connection whose task was cancelled before it began."""
        if self._handshakes.pop(connection, None) is not None:
            connection.stop_counting()
            accepted.close()

    async def _connect(self, accepted: socket.socket, connection: Connection) -> None:
        """Make the transport of ``connection``, with the TLS handshake."""
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_seconds,
            )
        except OSError as error:  # the client is gone, was too slow, or does not use TLS
            logger.debug("a connection ended during its TLS handshake: %s", error)
        finally:
            del self._handshakes[connection]
            if connection.open_transport is None:
                connection.stop_counting()


def _is_response_sent(connection: Connection) -> bool:
    """Return whether the last response is sent: bytes that wait belong to an active request."""
    return (
        connection.open_transport is not None
        and connection.open_transport.get_write_buffer_size() == 0
    )
