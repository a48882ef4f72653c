"""Make a connection of ours for each that is accepted, and know those that there are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import StreamReader

from gizmopy.server.http.connection.head_limits import MAX_FIELDS, MAX_LINE
from gizmopy.server.http.connection.protocol import Connection, Door
from gizmopy.server.http.connection.served_request import ServedRequest
from gizmopy.server.http.connection.turnover import Turnover


class Server(web.Server):
    """Make the connections of one port, and count them."""

    def __init__(
        self,
        door: Door,
        *,
        client_max_size: int,
        max_head: int,
        turnover: Turnover | None = None,
        make_connection: Callable[..., Connection] = Connection,
        **options: Any,
    ) -> None:
        super().__init__(door.handle)
        self._door = door
        self._make_connection = make_connection
        self._event_loop = asyncio.get_running_loop()
        self._options = options
        self.max_head = max_head
        """The most bytes of a request's head."""
        self.context = copy_context()
        """The context that those of requests are copied from."""
        self.client_max_size = client_max_size
        self.turnover = turnover or Turnover()
        self.count = 0
        """The number of connections, handshakes included."""
        self.silent: dict[Connection, None] = {}
        """Those that have sent no complete head yet, in the order in which they were accepted."""
        self.idle: dict[Connection, None] = {}
        """Those that were answered and sent no complete head since, in that order."""

    def admit(self, accepted: float) -> Connection:
        """Return the protocol of a connection that was accepted at that time."""
        connection = self._make_connection(
            self,
            self._door,
            loop=self._event_loop,
            access_log=None,
            max_line_size=min(MAX_LINE, self.max_head),
            max_field_size=min(MAX_LINE, self.max_head),
            max_headers=MAX_FIELDS,
            keepalive_timeout=0,  # see Patience
            **self._options,
        )
        connection.since = accepted
        self.count += 1
        self.silent[connection] = None
        return connection

    def open(self) -> list[Connection]:
        """Return every connection there is."""
        return [each for each in self.connections if isinstance(each, Connection)]

    def make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: Connection,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> ServedRequest:
        """Return the request that ``message`` and ``payload`` are."""
        request = ServedRequest(
            message,
            payload,
            protocol,
            writer,
            task,
            self._event_loop,
            client_max_size=self.client_max_size,
        )
        request.connection = protocol
        request.is_plain = (
            message.version is HttpVersion11
            and not (message.should_close or message.upgrade)
            and message.method != "HEAD"
        )
        return request
