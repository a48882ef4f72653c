"""The servers that are compared: python -m benchmarks.http_servers gizmopy|aiohttp|aiohttp-logged.

Each answers GET /cats/{id} with a small JSON object, and prints its port.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from aiohttp import web
from pydantic import BaseModel

from benchmarks.cpu import pin
from gizmopy import Service, Settings, SimpleServer, get, put
from gizmopy.server.run import loop_factory


class NewCat(BaseModel):
    """What a client sends."""

    name: str
    colour: str


class Cats(Service):
    """The service under test, with everything on: metrics, request ids, an access line each."""

    @get("/cats/{id}")
    async def get_cat(self, id: int) -> dict[str, object]:
        """Answer a small JSON object."""
        return {"id": id, "name": "Tom", "colour": "black"}

    @put("/cats/{id}")
    async def put_cat(self, id: int, new: NewCat) -> NewCat:
        """Take a validated body, and give it back."""
        return new


async def gizmopy() -> None:
    """Serve with gizmopy; its access log goes to /dev/null, but is written."""
    settings = Settings(http_port=0, http_access_log=os.devnull)
    async with SimpleServer(Cats(settings)) as server:
        print(server.url.rpartition(":")[2], flush=True)
        await asyncio.Event().wait()


async def aiohttp(*, access_log: logging.Logger | None = None) -> None:
    """Serve with aiohttp's application, and nothing on but, where given, its access log."""

    async def get_cat(request: web.Request) -> web.Response:
        cat = {"id": int(request.match_info["id"]), "name": "Tom", "colour": "black"}
        return web.json_response(cat)

    async def put_cat(request: web.Request) -> web.Response:
        int(request.match_info["id"])
        return web.json_response(await request.json())

    app = web.Application()
    app.router.add_get("/cats/{id}", get_cat)
    app.router.add_put("/cats/{id}", put_cat)
    runner = web.AppRunner(app, access_log=access_log)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


async def aiohttp_logged() -> None:
    """Serve with aiohttp and its access log, written to /dev/null."""
    logger = logging.getLogger("access")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.FileHandler(os.devnull))
    await aiohttp(access_log=logger)


SERVERS = {"gizmopy": gizmopy, "aiohttp": aiohttp, "aiohttp-logged": aiohttp_logged}

if __name__ == "__main__":
    pin(0)
    with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
        runner.run(SERVERS[sys.argv[1]]())
