"""Close the connections of clients that are too slow to send or to read.

One task looks at every connection, at least once a second, and four times within the read and write
timeouts. A timer for each
connection would have to be set and cancelled with each request.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import Enum, auto
from time import monotonic
from typing import TYPE_CHECKING

from aiohttp import web

from gizmopy.server.http.connection.send_rate import SendRate, acknowledged, unacknowledged
from gizmopy.server.http.connection.served_request import CancelReason
from gizmopy.web import Problem

if TYPE_CHECKING:
    from gizmopy.server.http.connection.protocol import Connection
    from gizmopy.server.http.connection.protocol_factory import Server

logger = logging.getLogger("gizmopy.server.http")

_MAX_INTERVAL = 1.0
"""The longest time between two looks at a connection, in seconds."""
_BATCH = 500
"""How many connections are checked before other tasks may run: it takes less than a millisecond."""
_MIN_BODY_RATE = 1024
"""How many bytes of a body must arrive each second, after the time to read a head has passed."""
_UNCOUNTED = (web.WebSocketResponse, web.FileResponse)
"""Responses whose bytes do not pass through the request's writer."""


class ClientTimeout(Enum):
    """The part of the exchange for which a client takes too long."""

    IDLE = auto()
    """No request begins."""
    HEAD = auto()
    """The head of a request is not complete."""
    BODY = auto()
    """The body of a request arrives too slowly, and its handler waits for it."""
    RESPONSE = auto()
    """The client reads too little of a response, or nothing."""


@dataclass(frozen=True, slots=True)
class ClientTimeouts:
    """How long a client may take, in seconds."""

    read: float
    """To send the head of a request; and to send its body, plus a second for each KiB of it."""
    write: float
    """To read any part of a response."""
    idle: float
    """To send another request."""
    min_send_rate: float = 0.0
    """How many bytes of a response a client must read each second; 0: no limit."""


class ClientProgress:
    """Measure what one client reads of its responses."""

    __slots__ = ("_rate", "_unsent", "_unsent_since")

    def __init__(self) -> None:
        self._rate = SendRate()
        self._unsent = 0
        """How many bytes of responses waited for the client at the last check."""
        self._unsent_since = 0.0
        """Since when that number has been the same."""

    def exceeded(
        self, connection: Connection, now: float, timeouts: ClientTimeouts
    ) -> ClientTimeout | None:
        """Return the timeout that the client of ``connection`` has exceeded."""
        if connection.closing_timer is not None:
            pass  # the connection ends within a second
        elif connection.task is None:
            if (timeout := _exceeded_between_requests(connection, now, timeouts)) is not None:
                return timeout
        elif _is_body_slow(connection, now, timeouts.read):
            return ClientTimeout.BODY
        if self._reads_nothing(connection, now, timeouts.write) or self._reads_slowly(
            connection, now, timeouts
        ):
            return ClientTimeout.RESPONSE
        return None

    def _reads_nothing(self, connection: Connection, now: float, seconds: float) -> bool:
        transport = connection.open_transport
        waiting = 0 if transport is None else transport.get_write_buffer_size()
        if not waiting and transport is not None and connection.is_closing_tls:
            waiting = unacknowledged(transport) or 0
        if not waiting or waiting != self._unsent:
            self._unsent, self._unsent_since = waiting, now
            return False
        return now - self._unsent_since > seconds

    def _reads_slowly(self, connection: Connection, now: float, timeouts: ClientTimeouts) -> bool:
        request = connection.request
        rate = connection.min_send_rate if request is None else request.endpoint.min_send_rate
        if rate is None:
            rate = timeouts.min_send_rate
        taken = self._taken(connection) if rate else None
        if taken is None:
            self._rate.pause()
            return False
        return self._rate.is_slow(now, rate, timeouts.write, request or self, taken)

    def _taken(self, connection: Connection) -> int | None:
        """Return how many bytes the client has taken; None if nothing waits for it."""
        request, transport = connection.request, connection.open_transport
        if transport is None:
            return None
        if request is not None and isinstance(request.stream, _UNCOUNTED):
            taken = acknowledged(transport)
            return taken if self._unsent or unacknowledged(transport) else None
        if not self._unsent:
            return None
        return (0 if request is None else request.writer.output_size) - self._unsent


def _exceeded_between_requests(
    connection: Connection, now: float, timeouts: ClientTimeouts
) -> ClientTimeout | None:
    # The time to read a head also holds for a new connection, on which nothing has arrived.
    is_head = connection.head_started or not connection.request_count
    if not connection.idle_since:
        connection.idle_since = now
    elif now - connection.idle_since > (timeouts.read if is_head else timeouts.idle):
        return ClientTimeout.HEAD if connection.head_started else ClientTimeout.IDLE
    return None


def _is_body_slow(connection: Connection, now: float, seconds: float) -> bool:
    request = connection.request
    if request is None or request.content.is_eof():
        return False
    if connection.is_body_paused or request.stream is not None:  # the handler does not wait for it
        return False
    # Bytes as they are sent, not as they are decompressed: with these, one kilobyte of gzip, which
    # is a megabyte of body, gained a client 17 minutes.
    framing = connection.framing
    allowed = seconds + framing.received / _MIN_BODY_RATE
    return framing.in_body and now - request.started_at > allowed


async def watch_clients(server: Server, timeouts: ClientTimeouts) -> None:
    """Check every connection of ``server`` from time to time, until this task is cancelled."""
    interval = min(_MAX_INTERVAL, timeouts.read / 4, timeouts.write / 4)
    while True:
        await asyncio.sleep(interval)
        for index, connection in enumerate(server.open_connections(), 1):
            try:
                exceeded = connection.exceeded_timeout(monotonic(), timeouts)
                if exceeded is not None:
                    enforce(connection, exceeded)
            except Exception:  # else one connection would keep all others from being checked
                logger.exception("a connection could not be checked for timeouts; it is closed")
                connection.force_close()
            if index % _BATCH == 0:
                await asyncio.sleep(0)


def enforce(connection: Connection, timeout: ClientTimeout) -> None:
    """End the request or the connection whose client has exceeded ``timeout``."""
    match timeout:
        case ClientTimeout.IDLE:
            connection.close_idle()
        case ClientTimeout.HEAD:
            connection.refuse_slow_head()
        case ClientTimeout.BODY:
            assert connection.request is not None
            detail = "The body of the request arrived too slowly."
            problem = Problem(408, detail, headers={"Connection": "close"})
            connection.request.content.set_exception(problem)
        case ClientTimeout.RESPONSE:
            _end_response(connection)


def _end_response(connection: Connection) -> None:
    # asyncio logs two errors if a transport is aborted during its sendfile. So the handler of a
    # file is cancelled first; the next check aborts the transport if that was not enough.
    request = connection.request
    if request is not None and isinstance(request.stream, web.FileResponse):
        is_first = request.cancel_reason is None
        request.cancel(CancelReason.CLIENT_GONE)
        if is_first:
            return
    assert connection.open_transport is not None
    connection.open_transport.abort()
