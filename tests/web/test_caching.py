"""Answers that no cache may keep."""

from collections.abc import Mapping

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from gizmopy.web import Problem
from gizmopy.web.caching import no_cache


def told(headers: Mapping[str, str]) -> list[str | None]:
    """Return what ``headers`` tell caches, from the newest to the oldest."""
    return [headers.get(name) for name in ("Cache-Control", "Pragma", "Expires")]


FORBIDDEN = ["no-cache, no-store, must-revalidate", "no-cache", "0"]


async def test_an_answer_is_not_cached() -> None:
    """Every cache is told, whatever the handler said; other headers stay."""

    @no_cache
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(headers={"Cache-Control": "max-age=3600", "ETag": '"1"'})

    response = await handler(make_mocked_request("GET", "/"))

    assert told(response.headers) == FORBIDDEN
    assert response.headers["ETag"] == '"1"'


@pytest.mark.parametrize("error", [Problem(404), web.HTTPFound("/"), web.HTTPGone()])
async def test_what_is_raised_is_not_cached(error: Problem | web.HTTPException) -> None:
    """Caches may keep some errors and redirections unless told: these too are answers."""

    @no_cache
    async def handler(request: web.Request) -> web.StreamResponse:
        raise error

    with pytest.raises(type(error)):
        await handler(make_mocked_request("GET", "/"))

    assert told(error.headers) == FORBIDDEN
