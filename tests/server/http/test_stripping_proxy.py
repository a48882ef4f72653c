"""Documentation and /debug behind a proxy that removes a prefix of the path."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urljoin

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer, make_mocked_request
from multidict import CIMultiDict

import pubsubtest
from gizmopy import Service, Settings, get
from gizmopy.server.http.proxies import Proxies
from gizmopy.web import Request
from tests.server.http.test_proxies import PROXIES, _Peer

BOTH_LOOPS = True
TOKEN = "a token of the test"
TRUSTED = Settings(trusted_proxies="127.0.0.0/8", debug_token=TOKEN)


class Shop(Service):
    """Sell "servers":[{"url":"/"}]."""

    @get("/things/{id}")
    async def thing(self, id: int) -> int:
        return id

    @get("/prefix")
    async def removed(self, request: Request) -> str:
        return request.clone().forwarded_prefix


def _url(http: ClientSession) -> str:
    return str(http._base_url).rstrip("/")


@asynccontextmanager
async def _stripping(http: ClientSession, *, told: bool = True) -> AsyncIterator[str]:
    """Serve ``http`` below /shop, as a proxy does; yield the URL of the prefix."""

    async def forward(request: web.Request) -> web.Response:
        headers = CIMultiDict(request.headers)
        if told:
            headers["X-Forwarded-Prefix"] = "/shop"
        path = request.raw_path.removeprefix("/shop")
        async with http.request(request.method, path, headers=headers) as answer:
            kept = {"Content-Type": answer.headers["Content-Type"]}
            return web.Response(body=await answer.read(), status=answer.status, headers=kept)

    app = web.Application()
    app.router.add_route("*", "/shop/{path:.*}", forward)
    async with TestServer(app) as proxy:
        yield str(proxy.make_url("/shop/"))


async def test_the_documentation_works_behind_a_stripping_proxy() -> None:
    """The link of /docs leads to the document, and its servers to the endpoints."""
    async with (
        pubsubtest.serve(Shop, settings=TRUSTED) as shop,
        _stripping(shop.http) as base,
        ClientSession() as client,
    ):
        page = await (await client.get(urljoin(base, "docs"))).text()
        link = re.search(r'rel="service-desc"[^>]*href="([^"]*)"', page)
        assert link is not None
        found = urljoin(urljoin(base, "docs"), link[1])
        document = await (await client.get(found)).json()
        (server,) = document["servers"]
        assert server["url"] == "/shop"
        answer = await client.get(urljoin(found, server["url"]) + "/things/7")
        assert await answer.json() == 7
        assert await (await client.get(urljoin(base, "prefix"))).json() == "/shop"
        assert document["info"]["description"] == 'Sell "servers":[{"url":"/"}].'
        direct = await (await shop.http.get("/openapi.json")).json()
        assert direct["servers"] == [{"url": "/"}]
        await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.parametrize("told", [True, False])
async def test_debug_works_behind_a_stripping_proxy(told: bool) -> None:
    """Each path of the index leads to its page, as the script of the page reads it."""
    async with (
        pubsubtest.serve(Shop, settings=TRUSTED) as shop,
        _stripping(shop.http, told=told) as base,
        ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as client,
    ):
        index = await (await client.get(urljoin(base, "debug/"))).text()
        paths = [line.split()[1] for line in index.splitlines() if line.startswith("GET")]
        assert all(path.startswith("/shop/debug/" if told else "/debug/") for path in paths)
        for path in paths:
            relative = "./" + path[path.rindex("/debug/") + len("/debug/") :]
            async with client.get(urljoin(urljoin(base, "debug/"), relative)) as answer:
                assert answer.status == 200
        await asyncio.get_running_loop().shutdown_default_executor()


def test_the_page_of_debug_requests_relative_paths() -> None:
    """An absolute path would lead past the prefix of a proxy."""
    from importlib.resources import files

    page = (files("gizmopy.server.admin") / "debug.html").read_text()
    (called,) = re.findall(r"fetch\(([^,]*),", page)
    assert called.startswith('"./" + ')


@pytest.mark.parametrize("trusted", ["", "10.0.0.0/8"])
async def test_a_client_that_is_not_a_trusted_proxy_has_no_prefix(trusted: str) -> None:
    """Its header changes neither the document nor the request."""
    settings = Settings(trusted_proxies=trusted)
    headers = {"X-Forwarded-Prefix": "/evil"}
    async with pubsubtest.serve(Shop, settings=settings) as shop:
        document = await (await shop.http.get("/openapi.json", headers=headers)).json()
        assert document["servers"] == [{"url": "/"}]
        assert await (await shop.http.get("/prefix", headers=headers)).json() == ""
        await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.parametrize(
    ("value", "prefix"),
    [
        ("/api", "/api"),
        ("/api/", "/api"),
        (" /api/v1 ", "/api/v1"),
        ("/caf%C3%A9/(x);v=1", "/caf%C3%A9/(x);v=1"),
        ("/forged, /api", "/api"),
        ("", ""),
        ("/", ""),
        ("api", ""),
        ("//evil.example", ""),
        ("/api//x", ""),
        ("/\\evil.example", ""),
        ("https://evil.example/", ""),
        ("/../admin", ""),
        ("/a/./b", ""),
        ('/"><script>', ""),
        ("/a b", ""),
        ("/a?b", ""),
        ("/a#b", ""),
        ("/%zz", ""),
        ("/{x}", ""),
        ("/é", ""),
        ("/a\r\nX: y", ""),
        ("/" + "a" * 256, ""),
    ],
)
def test_a_prefix_is_a_plain_path(value: str, prefix: str) -> None:
    """Anything else is ignored: it could lead a browser to another host."""
    given = CIMultiDict({"X-Forwarded-Prefix": value})
    peer = _Peer(("10.0.0.1", 1))
    request = make_mocked_request("GET", "/", headers=given, transport=peer)
    assert PROXIES.prefix(request) == prefix
    assert Proxies(()).prefix(request) == ""
