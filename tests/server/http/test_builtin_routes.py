"""The endpoints that every daemon has, beside those of its service."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import ClientSession, web

import pubsubtest
from gizmopy import Service, Settings, SimpleServer, get, put
from gizmopy.errors import ConfigError, StartError
from gizmopy.web import Handler
from tests.server.support import stream

BOTH_LOOPS = True


class Shop(Service):
    """Sell things.

    And more.
    """

    @get("/things/{id}")
    async def thing(self, id: int) -> int:
        return id


async def get_status(http: ClientSession, path: str, **options: Any) -> int:
    """Return the status of GET ``path``."""
    async with http.get(path, **options) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize("path", ["/livez", "/metrics", "/docs", "/debug/info", "/readyz"])
async def test_an_endpoint_of_the_service_replaces_a_built_in_one(path: str) -> None:
    """If both have the same path and method, the service answers."""

    class Own(Shop):
        @get(path)
        async def own(self) -> str:
            return "mine"

    async with pubsubtest.serve(Own) as own, own.http.get(path) as response:
        assert await response.json() == "mine"


async def test_another_method_does_not_replace_a_built_in_endpoint() -> None:
    """PUT /metrics of the service leaves GET /metrics."""

    class Own(Shop):
        @put("/metrics")
        async def own(self) -> str:
            return "mine"

    async with pubsubtest.serve(Own) as own:
        assert await get_status(own.http, "/metrics") == 200
        async with own.http.put("/metrics") as response:
            assert await response.json() == "mine"


def test_a_path_that_conflicts_with_a_built_in_one_is_an_error() -> None:
    """It has a variable with another name in the same place."""

    class Own(Shop):
        @get("/readyz/{other:.*}")
        async def own(self, other: str) -> str:
            return other

    with pytest.raises(StartError, match=r"built-in endpoint '/readyz/\{name:\.\*\}'"):
        SimpleServer(Own(Settings()))


async def test_a_catch_all_does_not_replace_built_in_endpoints() -> None:
    """It answers only the paths that no built-in endpoint has."""

    class Own(Shop):
        @get("/{path:.*}")
        async def own(self, path: str) -> str:
            return path

    async with pubsubtest.serve(Own) as own:
        async with own.http.get("/livez/more") as response:
            assert await response.json() == "livez/more"
        async with own.http.get("/livez") as response:
            assert response.status == 200
        async with own.http.get("/openapi.json") as response:
            assert "openapi" in await response.json()
        await asyncio.get_running_loop().shutdown_default_executor()


async def test_middleware_does_not_wrap_built_in_endpoints() -> None:
    """A probe and a scrape are answered without it."""

    def forbid(handler: Handler) -> Handler:
        async def forbidding(request: web.Request) -> web.StreamResponse:
            raise web.HTTPForbidden

        return forbidding

    class Strict(Shop):
        middleware = (forbid,)

    bearer = {"Authorization": "Bearer s3cret"}
    async with pubsubtest.serve(Strict, settings=Settings(debug_token="s3cret")) as strict:
        assert await get_status(strict.http, "/things/1") == 403
        for path in ("/livez", "/readyz", "/metrics", "/status.txt", "/docs", "/debug/config"):
            assert (path, await get_status(strict.http, path, headers=bearer)) == (path, 200)


async def test_the_openapi_document_describes_the_service() -> None:
    """It has the name, the version, the docstring, and only the service's paths."""
    settings = Settings(service_name="shop", service_version="1.2")
    async with pubsubtest.serve(Shop, settings=settings) as shop:
        documents = []
        for _ in range(2):
            async with shop.http.get("/openapi.json") as response:
                assert response.content_type == "application/json"
                documents.append(await response.json())
        await asyncio.get_running_loop().shutdown_default_executor()
    assert documents[0] == documents[1]
    info = documents[0]["info"]
    assert (info["title"], info["version"]) == ("shop", "1.2")
    assert info["description"] == "Sell things.\n\nAnd more."
    assert list(documents[0]["paths"]) == ["/things/{id}"]


async def test_a_client_that_disconnects_does_not_cancel_the_openapi_document() -> None:
    """Others that wait for /openapi.json get it."""
    async with pubsubtest.serve(Shop) as shop:
        asking = [asyncio.create_task(get_status(shop.http, "/openapi.json")) for _ in range(3)]
        await asyncio.sleep(0)
        asking[0].cancel()
        assert await asyncio.gather(*asking[1:]) == [200, 200]
        assert await get_status(shop.http, "/openapi.json") == 200
        await asyncio.wait(asking)
        await asyncio.get_running_loop().shutdown_default_executor()


async def test_a_daemon_without_endpoints_has_no_openapi_document() -> None:
    """It has probes and metrics."""
    async with pubsubtest.serve(Service) as served:
        assert await get_status(served.http, "/openapi.json") == 404
        assert await get_status(served.http, "/livez") == 200


async def test_a_custom_health_check_is_an_endpoint_of_the_service() -> None:
    """With GIZMO_HEALTH_CHECK_TYPE=custom its GET answers at the path."""

    class Own(Shop):
        @get("/alive")
        async def alive(self) -> str:
            return "I am"

    settings = Settings(health_check_type="custom", health_check_path="/alive")
    async with pubsubtest.serve(Own, settings=settings) as own:
        async with own.http.get("/alive") as response:
            assert await response.json() == "I am"
        assert await get_status(own.http, "/status.txt") == 404
        assert await get_status(own.http, "/livez") == 200


@pytest.mark.parametrize("kind", ["simple", "lb"])
async def test_the_path_of_the_health_check_can_be_set(kind: str) -> None:
    """GIZMO_HEALTH_CHECK_PATH is the path of both built-in types."""
    settings = Settings(health_check_type=kind, health_check_path="/alive")
    async with pubsubtest.serve(Shop, settings=settings) as shop:
        assert await get_status(shop.http, "/alive") == 200
        assert await get_status(shop.http, "/status.txt") == 404


@pytest.mark.parametrize("origins", ["nonsense", "https://a.example/path", "https://a.example:443"])
def test_a_malformed_origin_is_an_error_of_its_setting(origins: str) -> None:
    """The error has a remedy."""
    with pytest.raises(ConfigError, match="GIZMO_CORS_ORIGINS"):
        SimpleServer(Shop(Settings(cors_origins=origins)))


async def test_only_an_allowed_page_gets_the_headers_of_a_preflight() -> None:
    """OPTIONS without the preflight's headers is not a preflight."""
    asks = {"Access-Control-Request-Method": "GET"}
    cases: tuple[tuple[Mapping[str, str], str, int], ...] = (
        (asks | {"Origin": "https://good.example"}, "https://good.example", 204),
        (asks | {"Origin": "https://evil.example"}, "", 204),
        ({"Origin": "https://good.example"}, "https://good.example", 405),
        (asks, "", 405),
    )
    settings = Settings(cors_origins="https://good.example")
    async with pubsubtest.serve(Shop, settings=settings) as shop:
        for headers, allowed, status in cases:
            async with shop.http.options("/things/1", headers=headers) as response:
                assert response.status == status
                assert response.headers.get("Access-Control-Allow-Origin", "") == allowed
                assert response.headers["X-Request-ID"]
        async with shop.http.get("/metrics") as response:
            assert 'http_route="__preflight__"' in await response.text()


async def test_every_kind_of_response_has_cors_headers() -> None:
    """Streams and errors have them, too."""

    class Own(Shop):
        @get("/stream")
        async def stream(self, request: web.Request) -> web.StreamResponse:
            return await stream(request, b"x")

        @get("/broken")
        async def broken(self) -> str:
            raise RuntimeError("broken")

    headers = {"Origin": "https://good.example"}
    settings = Settings(cors_origins="https://good.example")
    async with pubsubtest.serve(Own, settings=settings) as own:
        for path, status in (("/stream", 200), ("/broken", 500), ("/things/x", 422)):
            async with own.http.get(path, headers=headers) as response:
                assert (path, response.status) == (path, status)
                assert response.headers["Access-Control-Allow-Origin"] == "https://good.example"
                assert "Origin" in response.headers["Vary"]


class Files(Service):
    @get("/files/{name}-{major}-{minor}.{ext}")
    async def file(self, name: str, major: str, minor: str, ext: str) -> list[str]:
        return [name, major, minor, ext]


async def test_several_variables_in_a_segment_match_in_linear_time() -> None:
    """A path of 7,000 dashes is 404 at once; one regular expression took minutes (issue 11)."""
    async with pubsubtest.serve(Files) as files:
        assert await get_status(files.http, f"/files/{'-' * 7000}") == 404
        async with files.http.get("/files/a-b-1-2.tar.gz") as response:
            assert await response.json() == ["a-b", "1", "2.tar", "gz"]


async def test_a_pattern_that_backtracks_is_logged_at_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The warning has the route, its place in the source, the pattern and a remedy."""

    class Slow(Service):
        @get("/slow/{id:([a-z]+-?)+}")
        async def slow(self, id: str) -> None: ...

        @get("/adjacent/{a:[a-z]+}{b:[a-z0-9]+}")
        async def adjacent(self, a: str, b: str) -> None: ...

        @get("/quick/{slug:[a-z0-9]+(?:-[a-z0-9]+)*}-{id:[0-9]+}/{name}-{version}.{ext}")
        async def quick(self, slug: str, id: str, name: str, version: str, ext: str) -> None: ...

    async with pubsubtest.serve(Slow):
        pass
    slow, adjacent = (
        record.getMessage() for record in caplog.records if "backtracks" in record.message
    )
    assert "GET /slow/{id:([a-z]+-?)+} of" in slow
    assert "Slow.slow (" in slow
    assert f"{__file__}:" in slow
    assert "its time is exponential" in slow
    assert "Write the pattern so that a text matches in one way only" in slow
    assert "Slow.adjacent (" in adjacent
    assert "the pattern ([a-z]+)([a-z0-9]+) backtracks, and its time is polynomial" in adjacent


async def test_the_docs_page_works_behind_a_proxy_that_removes_a_prefix() -> None:
    """The links and requests of the page are relative, so that they keep the prefix."""
    async with pubsubtest.serve(Shop) as shop, shop.http.get("/docs") as response:
        page = await response.text()
    assert 'href="openapi.json"' in page
    assert "`.${path}?${query}` : `.${path}`" in page
