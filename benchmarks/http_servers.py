"""The servers that ``benchmarks.http`` compares: python -m benchmarks.http_servers NAME.

Each answers GET and PUT of /cats/{id} with a small JSON object, and prints its port.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import uvloop
from aiohttp import web
from pydantic import BaseModel

from gizmopy import Service, Settings, SimpleServer, get, put


async def announce(port: int) -> None:
    """Print the port, and wait for SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(port, flush=True)
    await stop.wait()


class NewCat(BaseModel):
    """The body of a PUT."""

    name: str
    colour: str


class Cats(Service):
    """The service under test."""

    @get("/cats/{id}")
    async def get_cat(self, id: int) -> dict[str, object]:
        """Answer a small JSON object."""
        return {"id": id, "name": "Tom", "colour": "black"}

    @put("/cats/{id}")
    async def put_cat(self, id: int, new: NewCat) -> NewCat:
        """Return the validated body."""
        return new


async def gizmopy(access_log: str) -> None:
    """Serve with everything on: metrics, request ids, a deadline, an access line in JSON each."""
    settings = Settings(
        http_port=0,
        http_access_log=access_log,
        log_json=True,
        handler_timeout=timedelta(seconds=10),
    )
    async with SimpleServer(Cats(settings)) as server:
        await announce(int(server.url.rpartition(":")[2]))


async def gizmopy_to_file() -> None:
    """Serve with an access log in a file."""
    with TemporaryDirectory() as folder:
        await gizmopy(str(Path(folder) / "access.log"))


def _answer_json(value: object) -> web.Response:
    return web.json_response(value)


def _answer_orjson(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


async def aiohttp(
    answer: Callable[[object], web.Response],
    read: Callable[[web.Request], Awaitable[Any]],
    access_log: logging.Logger | None = None,
) -> None:
    """Serve with aiohttp's application; only its access log is on, if one is given."""

    async def get_cat(request: web.Request) -> web.Response:
        return answer({"id": int(request.match_info["id"]), "name": "Tom", "colour": "black"})

    async def put_cat(request: web.Request) -> web.Response:
        int(request.match_info["id"])
        return answer(await read(request))

    app = web.Application()
    app.router.add_get("/cats/{id}", get_cat)
    app.router.add_put("/cats/{id}", put_cat)
    runner = web.AppRunner(app, access_log=access_log)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await announce(runner.addresses[0][1])


async def _read_orjson(request: web.Request) -> Any:
    return orjson.loads(await request.read())


async def aiohttp_logged() -> None:
    """Serve with aiohttp and its access log, written to /dev/null."""
    logger = logging.getLogger("access")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.FileHandler(os.devnull))
    await aiohttp(_answer_json, web.Request.json, logger)


SERVERS: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    "gizmopy": gizmopy_to_file,
    "gizmopy-pipe": partial(gizmopy, "stdout"),
    "aiohttp": partial(aiohttp, _answer_json, web.Request.json),
    "aiohttp-again": partial(aiohttp, _answer_json, web.Request.json),
    "aiohttp-orjson": partial(aiohttp, _answer_orjson, _read_orjson),
    "aiohttp-logged": aiohttp_logged,
}

if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(SERVERS[sys.argv[1]]())
