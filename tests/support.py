"""Helpers for tests of several packages."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from gizmopy.web import Request

RequestFactory = Callable[
    [RawRequestMessage, StreamReader, RequestHandler, AbstractStreamWriter, "asyncio.Task[None]"],
    Request,
]
"""Makes the requests of aiohttp's low-level server."""


def request_factory(client_max_size: int) -> RequestFactory:
    """Return a ``request_factory`` for ``aiohttp.web.Server`` that makes gizmopy's requests.

    To read a body of more than ``client_max_size`` bytes (after decompression; 0: no limit) raises
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


@contextmanager
def traced_memory() -> Iterator[Callable[[], int]]:
    """Yield a function that returns how many bytes were allocated since, and not freed."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until ``condition`` is true; fail after 10 s."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition may be any expression
            await asyncio.sleep(0)
