"""Keep answers out of caches."""

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
    """Forbid every cache to keep what ``handler`` answers, problems too: a middleware.

    An answer that the handler has begun to send itself, a stream, is out before this is told.
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
