"""Responses that no cache may store."""

from collections.abc import Mapping

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from gizmopy.web import Problem
from gizmopy.web.caching import no_cache


def cache_headers(headers: Mapping[str, str]) -> list[str | None]:
    """Return the headers for caches, from the newest to the oldest."""
    return [headers.get(name) for name in ("Cache-Control", "Pragma", "Expires")]


FORBIDDEN = ["no-cache, no-store, must-revalidate", "no-cache", "0"]


async def test_a_response_is_not_cached() -> None:
    """The handler's own Cache-Control is replaced; its other headers are kept."""

    @no_cache
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(headers={"Cache-Control": "max-age=3600", "ETag": '"1"'})

    response = await handler(make_mocked_request("GET", "/"))

    assert cache_headers(response.headers) == FORBIDDEN
    assert response.headers["ETag"] == '"1"'


@pytest.mark.parametrize("error", [Problem(404), web.HTTPFound("/"), web.HTTPGone()])
async def test_an_error_is_not_cached(error: Problem | web.HTTPException) -> None:
    """Without the headers, caches may store some errors and redirects."""

    @no_cache
    async def handler(request: web.Request) -> web.StreamResponse:
        raise error

    with pytest.raises(type(error)):
        await handler(make_mocked_request("GET", "/"))

    assert cache_headers(error.headers) == FORBIDDEN
