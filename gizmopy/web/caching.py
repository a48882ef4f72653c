"""Forbid caches to store responses."""

from __future__ import annotations

from aiohttp import web

from gizmopy.web.problems import Problem
from gizmopy.web.request import Handler

_NO_CACHE = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
}


def no_cache(handler: Handler) -> Handler:
    """Forbid every cache to store the responses of ``handler``, problems included: a middleware.

    A response that the handler has already begun to send, such as a stream, is not changed: its
    headers are on the wire.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            response = await handler(request)
        except (Problem, web.HTTPException) as error:
            error.headers.update(_NO_CACHE)
            raise
        response.headers.update(_NO_CACHE)
        return response

    return handle
