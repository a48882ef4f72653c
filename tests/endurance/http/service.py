"""The daemon whose life is proved: endpoints that are quick, slow, stubborn, endless and huge."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from aiohttp import web
from pydantic import BaseModel, Field

from gizmopy import Duration, Service, Settings, get, post, put

logger = logging.getLogger(__name__)

LARGE = 50 * 1024 * 1024
"""How long the large answers are, in bytes."""

_PIECE = bytes(64 * 1024)


class Thing(BaseModel):
    """The body of a PUT."""

    name: str


class LifeSettings(Settings):
    """How long the start takes, so that a signal can come in its middle."""

    start_time: Duration = Field(
        default=timedelta(0),
        validation_alias="LIFE_START_TIME",
        description="How long the service takes to start.",
    )


class Life(Service):
    """A service whose endpoints are hard to stop."""

    settings: LifeSettings

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Start slowly, and log that the resource was closed."""
        logger.info("opening")
        try:
            await asyncio.sleep(self.settings.start_time.total_seconds())
            yield
        finally:
            logger.info("closed")

    @get("/quick")
    async def quick(self) -> str:
        """Answer at once."""
        return "quick"

    @get("/work")
    async def work(self) -> str:
        """Answer after 5 ms, so that under load some requests are always in flight."""
        await asyncio.sleep(0.005)
        return "done"

    @put("/things/{id}")
    async def put_thing(self, id: int, thing: Thing) -> Thing:
        """Take a validated body, and give it back."""
        return thing

    @post("/read")
    async def read(self, request: web.Request) -> int:
        """Read the raw body, and return its length."""
        return len(await request.read())

    @get("/sleep/{seconds}")
    async def sleep(self, seconds: float) -> str:
        """Answer after so many seconds, unless cancelled."""
        logger.info("sleep is under way")
        await asyncio.sleep(seconds)
        return "awake"

    @get("/stubborn")
    async def stubborn(self) -> str:
        """Never end, cancelled or not."""
        logger.info("stubborn is under way")
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                logger.info("stubborn ignores it")

    @get("/events")
    async def events(self, request: web.Request) -> web.StreamResponse:
        """Send an event every 50 ms, for ever; it catches nothing."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        number = 0
        while True:
            await response.write(b"data: %d\n\n" % number)
            number += 1
            await asyncio.sleep(0.05)

    @get("/echo")
    async def echo(self, request: web.Request) -> web.StreamResponse:
        """Echo the messages of a WebSocket."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    @get("/ticker")
    async def ticker(self, request: web.Request) -> web.StreamResponse:
        """Send over a WebSocket every 50 ms until it is closed, and read nothing."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        while not socket.closed:
            await socket.send_str("tick")
            await asyncio.sleep(0.05)
        return socket

    @get("/stream")
    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Stream a large answer in pieces, and log the end, complete or not."""
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(LARGE // len(_PIECE)):
                await response.write(_PIECE)
        finally:
            logger.info("stream ended")
        return response

    @get("/last-bytes")
    async def last_bytes(self, request: web.Request) -> web.StreamResponse:
        """Stream until the client's not reading leaves bytes in this process, and end."""
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        while not request.transport.get_write_buffer_size():
            await response.write(bytes(4096))
        logger.info("last bytes are written")
        return response

    @get("/large")
    async def large(self) -> bytes:
        """Return a large answer in one piece."""
        return bytes(LARGE)
