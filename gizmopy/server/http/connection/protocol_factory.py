"""Make the protocol of each accepted connection, and keep track of the connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from aiohttp import web

from gizmopy.server.http.connection.head_limits import MAX_FIELDS, MAX_LINE
from gizmopy.server.http.connection.protocol import Connection, ConnectionDelegate
from gizmopy.server.http.connection.turnover import Turnover


async def _not_called(request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("aiohttp does not serve requests here: Connection does")


class Server(web.Server):
    """Make the connections of one listener, and count them."""

    def __init__(
        self,
        delegate: ConnectionDelegate,
        *,
        client_max_size: int,
        max_head: int,
        turnover: Turnover | None = None,
        make_connection: Callable[..., Connection] = Connection,
        **options: Any,
    ) -> None:
        super().__init__(_not_called)
        self._delegate = delegate
        self._make_connection = make_connection
        self._event_loop = asyncio.get_running_loop()
        self._options = options
        self.max_head = max_head
        """The most bytes of a request's head."""
        self.context = copy_context()
        """The context that each request gets a copy of."""
        self.client_max_size = client_max_size
        """The most bytes of a request's body, if its endpoint has no limit of its own."""
        self.turnover = turnover or Turnover()
        self.count = 0
        """The number of connections, including those in their TLS handshake."""
        self.silent: dict[Connection, None] = {}
        """The connections that have sent no complete head yet, oldest first."""
        self.idle: dict[Connection, None] = {}
        """The connections that wait for their next request, longest idle first."""

    def new_connection(self, accepted_at: float) -> Connection:
        """Return the protocol of a connection that was accepted at that time, and count it."""
        connection = self._make_connection(
            self,
            self._delegate,
            loop=self._event_loop,
            access_log=None,
            max_line_size=min(MAX_LINE, self.max_head),
            max_field_size=min(MAX_LINE, self.max_head),
            max_headers=MAX_FIELDS,
            auto_decompress=False,  # BodyReader decompresses
            keepalive_timeout=0,  # ClientTimeouts has its own
            **self._options,
        )
        connection.idle_since = accepted_at
        self.count += 1
        self.silent[connection] = None
        return connection

    def open_connections(self) -> list[Connection]:
        """Return the connections that have a transport."""
        return [each for each in self.connections if isinstance(each, Connection)]
