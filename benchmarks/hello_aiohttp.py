"""The reference of ``benchmarks.start``: the least that a daemon with settings and metrics needs.

It reads settings and serves one route by aiohttp on uvloop; of metrics it has the library only.
"""

import prometheus_client  # noqa: F401 -- the cost of its import is measured
import uvloop
from aiohttp import web
from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    """Settings of the reference: where it listens."""

    http_port: int = 8080


async def hello(request: web.Request) -> web.Response:
    """Answer a small JSON object."""
    return web.json_response({"hello": "world"})


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/hello", hello)
    web.run_app(
        app,
        host="127.0.0.1",
        port=Settings().http_port,
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )
