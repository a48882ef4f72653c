"""The requests that are being served, and how they end when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from aiohttp import WSCloseCode, web

from gizmopy.server.http.connection.served_request import CancelReason, ServedRequest
from gizmopy.server.http.observer import method_label
from gizmopy.web.events import EVENT_STREAM
from gizmopy.web.streams import ItemStream

_CLOSE_SECONDS = 1.0
"""How long the client of a WebSocket may take to answer its close frame."""


class ActiveRequests(set[ServedRequest]):
    """The requests whose responses are not sent completely.

    It is a set, so that adding a request is not a call of a Python function.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changed: asyncio.Event | None = None
        """Wakes ``wait_idle``; None before that waits."""

    def notify_waiter(self, *, has_new_stream: bool = False) -> None:
        """Wake ``wait_idle`` if the last request has ended, or a stream has begun."""
        if self.changed is not None and (has_new_stream or not self):
            self.changed.set()

    async def wait_idle(self) -> None:
        """Wait until no request is active; end the streams, also those that begin meanwhile."""
        while self:
            self.changed = asyncio.Event()
            await self.end_streams()
            await self.changed.wait()

    async def end_streams(self) -> None:
        """Close the WebSockets, and finish the streams that have no end of their own."""
        sockets = []
        for request in list(self):
            stream = request.stream
            if isinstance(stream, web.WebSocketResponse):
                sockets.append(_close(stream))
            elif stream is not None and _is_endless(stream):
                # The browser reconnects at once: on this connection, if it stayed open.
                stream.force_close()
                request.cancel(CancelReason.STREAM_ENDED)
        await asyncio.gather(*sockets)

    def cancel(self) -> None:
        """Cancel all of them; their own cleanup still runs, and ``wait_idle`` waits for it."""
        for request in list(self):
            request.cancel(CancelReason.SHUT_DOWN)

    def labels(self) -> Iterator[tuple[str, str]]:
        """Yield the method and the scheme of each, as labels of metrics."""
        for request in self:
            yield method_label(request.method), request.scheme


def _is_endless(stream: web.StreamResponse) -> bool:
    if isinstance(stream, ItemStream):
        return stream.is_endless
    return stream.content_type == EVENT_STREAM


async def _close(socket: web.WebSocketResponse) -> None:
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server stops")
