"""Make our requests in aiohttp's own low-level server, for tests that need no more of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from gizmopy.web import Request

RequestFactory = Callable[
    [RawRequestMessage, StreamReader, RequestHandler, AbstractStreamWriter, "asyncio.Task[None]"],
    "Request",
]
"""What aiohttp's low-level server makes its requests with."""


def request_factory(client_max_size: int) -> RequestFactory:
    """Return a ``request_factory`` for ``aiohttp.web.Server``.

    Reading a body of more than ``client_max_size`` bytes (after decompression; 0: no limit) raises
    ``aiohttp.web.HTTPRequestEntityTooLarge``.
    """

    def make_request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> Request:
        loop = task.get_loop()
        return Request(
            message, payload, protocol, writer, task, loop, client_max_size=client_max_size
        )

    return make_request
