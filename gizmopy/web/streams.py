"""Send a response item by item, as an async iterator yields them.

The first item is awaited before the head is sent. An error before it is answered like that of any
other endpoint. After it the connection is closed without the last chunk, so that the client does
not take the part that it has for the whole.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from gizmopy._aio import background, is_being_cancelled
from gizmopy.observe.context import deadline
from gizmopy.web.request import Request

KEEP_ALIVE_SECONDS = 15.0
"""The time between two comments of an event stream, which the HTML standard proposes."""
HEAD_SECONDS = 1.0
"""How long the head of an endless stream waits for the first item.

A browser reports that an EventSource is open when it has the head.
"""
_MAX_CHUNK = 32 * 1024
"""How many bytes of items are collected at most, if the iterator does not wait in between."""
_MAX_RUN_SECONDS = 0.005
"""How long an iterator that does not wait may run before other tasks do."""

Sleep = Callable[[float], Awaitable[None]]

_END: Any = object()


class ItemStream(web.StreamResponse):
    """Send the items of an async iterator, each encoded by ``encode``.

    Items are written as soon as the iterator waits for something: those that it yields without
    waiting are one chunk. It is asked for the next item when the client has read enough. It is
    closed when the response has ended, for whatever reason.

    ``is_endless``: the stream has no end of its own. It is ended when the daemon stops, and its
    head does not wait for the first item for longer than a second. ``keep_alive`` is sent every 15
    seconds, as ``sleep`` measures them.
    """

    def __init__(
        self,
        items: AsyncIterable[object],
        encode: Callable[[object], bytes],
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        is_endless: bool = False,
        keep_alive: bytes = b"",
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        super().__init__(status=status, headers=headers)
        self.is_endless = is_endless
        self._items = items
        self._encode = encode
        self._comment = keep_alive
        self._sleep = sleep
        self._buffer = bytearray()
        self._output: AbstractStreamWriter | None = None
        self._is_draining = False
        self._is_over = False
        """Whether the items have been asked for; if the server stops then, the head is sent."""
        self._failure: Exception | None = None
        """The error of sending the head, if the iterator was waiting meanwhile."""

    def enable_compression(self, *args: object, **kwargs: object) -> None:
        """Do nothing: a compressor would keep items back until it has enough of them."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head and all items; ``write_eof`` sends the end."""
        if self.prepared or self._is_over:
            return await super().prepare(request)
        if self.is_endless:
            deadline.set(None)
            if request.method == "HEAD":
                return await super().prepare(request)
            if isinstance(request, Request):
                request.announce_stream(self)
        self._is_over = True
        iterator = aiter(self._items)
        async with AsyncExitStack() as ending:
            ending.push_async_callback(_close, iterator)
            if self.is_endless:
                task = cast("asyncio.Task[Any]", asyncio.current_task())
                _ = await ending.enter_async_context(background(self._pulse(request, task)))
            try:
                await self._send_items(iterator, request)
            except asyncio.CancelledError:
                if self._failure is None:
                    raise
                _ = task.uncancel()
                raise self._failure from None
        return self._output

    async def _send_items(self, iterator: AsyncIterator[object], request: web.BaseRequest) -> None:
        flushed_at = monotonic()
        while (item := await _advance(_step(iterator), self._flush)) is not _END:
            if is_being_cancelled():  # the iterator has swallowed it
                raise asyncio.CancelledError
            self._buffer += self._encode(item)
            if self._output is None:
                await self._begin(request)
                if request.method == "HEAD":
                    return
            is_run_long = monotonic() - flushed_at > _MAX_RUN_SECONDS
            if is_run_long or len(self._buffer) >= _MAX_CHUNK:
                await self._send_chunk()
                # Waiting for a client that reads fast enough takes no turn of the event loop.
                await asyncio.sleep(0)
                flushed_at = monotonic()
            else:
                await self._drain()
        if self._output is None:
            await self._begin(request)
        await self._send_chunk()

    async def _begin(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Prepare the head; it is sent with the first chunk."""
        writer = await super().prepare(request)
        assert writer is not None
        self._output = writer
        deadline.set(None)  # it was for the beginning of the response
        return writer

    async def _send_chunk(self) -> None:
        """Send what is collected, and wait until the client has read enough."""
        if self._buffer:
            chunk = bytes(self._buffer)
            self._buffer.clear()
            assert self._output is not None
            self._is_draining = True
            await self._output.write(chunk)
        await self._drain()

    async def _drain(self) -> None:
        if self._output is not None:
            self._is_draining = True
            await self._output.drain()
            self._is_draining = False

    def _flush(self) -> None:
        """Send what is collected, now that the iterator waits."""
        if self._buffer:
            chunk = bytes(self._buffer)
            self._buffer.clear()
            self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        assert self._output is not None
        # It does not wait: the chunk is small, and the client's pace is awaited later.
        writing = self._output.write(chunk, drain=False)  # type: ignore[call-arg]  # aiohttp's own
        try:
            writing.send(None)
        except StopIteration:
            pass
        except ConnectionError:
            pass  # the server cancels this task, or the next chunk fails

    async def _pulse(self, request: web.BaseRequest, task: asyncio.Task[Any]) -> None:
        """Send the head if no item comes, and a comment from time to time."""
        await self._sleep(HEAD_SECONDS)
        if self._output is None:
            try:
                writer = await self._begin(request)
                writer.send_headers()
            except ConnectionError:
                return
            except Exception as error:  # noqa: BLE001 -- the request's task raises it
                self._failure = error
                task.cancel()
                return
        if not self._comment:
            return
        await self._sleep(KEEP_ALIVE_SECONDS - HEAD_SECONDS)
        while True:
            # A client that reads nothing does not get more: it would never seem to be silent, and
            # GIZMO_WRITE_TIMEOUT would not end it.
            transport = request.transport
            if transport is None:
                return
            if not self._is_draining and not transport.get_write_buffer_size():
                self._write(self._comment)
            await self._sleep(KEEP_ALIVE_SECONDS)


async def _step(iterator: AsyncIterator[object]) -> object:
    try:
        return await iterator.__anext__()
    except StopAsyncIteration:
        return _END


@types.coroutine
def _advance(
    step: Coroutine[Any, Any, object], on_wait: Callable[[], None]
) -> Generator[Any, Any, object]:
    """Await ``step``, and call ``on_wait`` once if it does not end at once.

    A callback of the event loop could not tell: it also runs late if the iterator does not wait.
    """
    try:
        awaited = step.send(None)
        on_wait()
        while True:
            try:
                result = yield awaited
            except BaseException as error:  # noqa: BLE001 -- such as a cancellation
                awaited = step.throw(error)
            else:
                awaited = step.send(result)
    except StopIteration as end:
        return end.value


async def _close(iterator: AsyncIterator[object]) -> None:
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()
