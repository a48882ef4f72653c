"""Requests of pages of another origin, and the headers of responses for browsers."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

import pubsubtest
from gizmopy import Service, Settings, get, post, put
from gizmopy.web import CORS, EndpointTable, delete, patch
from tests.server.support import Answer, stream, talk

EVIL = "Origin: http://evil.example"
CROSS = "Sec-Fetch-Site: cross-site"
JSON = "Content-Type: application/json"


class Shop(Service):
    """Sell things, and count the sales."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.done: list[str] = []

    @get("/things")
    async def things(self) -> list[str]:
        return self.done

    @post("/things")
    async def buy(self, thing: dict[str, Any]) -> str:
        self.done.append("bought")
        return "bought"

    @post("/empty")
    @put("/empty")
    @patch("/empty")
    @delete("/empty")
    async def empty(self) -> str:
        self.done.append("emptied")
        return "emptied"

    @post("/open", cross_origin=True)
    async def open(self) -> str:
        return "open"

    @get("/talk")
    async def talk(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.done.append("talked")
        await socket.close()
        return socket

    def endpoints(self) -> EndpointTable:
        return {"/table": {"POST": self.empty}}


@asynccontextmanager
async def serving(
    kind: type[Shop] = Shop, **settings: Any
) -> AsyncIterator[pubsubtest.Served[Shop]]:
    """Serve a shop with these settings."""
    async with pubsubtest.serve(kind, settings=Settings(**settings)) as shop:
        yield shop


async def ask(url: str, method: str, path: str, *lines: str, body: bytes = b"") -> Answer:
    """Send a request with these lines in its head, and return the response."""
    async with talk(url) as client:
        client.ask(method, path, body, *lines)
        return await client.answer(to_head=method == "HEAD")


@pytest.mark.parametrize("origin", [EVIL, "Origin: null", CROSS, "SEC-FETCH-SITE: same-site"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/empty"),
        ("PUT", "/empty"),
        ("PATCH", "/empty"),
        ("DELETE", "/empty"),
        ("POST", "/table"),
        ("POST", "/things"),
    ],
)
async def test_a_page_of_another_origin_cannot_change_anything(
    method: str, path: str, origin: str
) -> None:
    """Its request is refused before the endpoint runs, for any body."""
    async with serving() as shop:
        answer = await ask(shop.url, method, path, origin, JSON, body=b"{}")
        assert answer.status == 403
        assert "GIZMO_CORS_ORIGINS" in answer.problem["detail"]
        assert shop.service.done == []


async def test_a_body_without_a_content_type_is_refused() -> None:
    """A POST in no-cors mode has no Content-Type: it is 415 also for other clients."""
    async with serving() as shop:
        assert (await ask(shop.url, "POST", "/things", body=b"{}")).status == 415
        assert (await ask(shop.url, "POST", "/things", EVIL, body=b"{}")).status == 403
        assert shop.service.done == []


async def test_own_pages_and_clients_other_than_browsers_are_served() -> None:
    """Requests without both headers, and those of the daemon's own pages, are served."""
    async with serving() as shop:
        own = "http://x"  # the Host that ask() sends
        for lines in ((), ("Sec-Fetch-Site: same-origin",), (f"Origin: {own}",)):
            answer = await ask(shop.url, "POST", "/things", JSON, *lines, body=b"{}")
            assert (lines, answer.status) == (lines, 200)
        async with shop.http.post("/empty", headers={"Origin": shop.url}) as response:
            assert response.status == 200


async def test_requests_that_only_read_are_served() -> None:
    """GET, HEAD and OPTIONS change nothing; CORS decides if a page may read the response."""
    async with serving() as shop, shop.http as http:
        for method, status in (("GET", 200), ("HEAD", 200), ("OPTIONS", 405)):
            headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
            async with http.request(method, "/things", headers=headers) as response:
                assert (method, response.status) == (method, status)


@pytest.mark.parametrize(
    ("origins", "headers", "status"),
    [
        ("https://app.example", {"Origin": "https://app.example"}, 200),
        (
            "https://app.example",
            {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"},
            200,
        ),
        ("https://*.app.example", {"Origin": "https://a.app.example"}, 200),
        ("https://app.example", {"Origin": "https://evil.example"}, 403),
        ("https://app.example", {"Origin": "null"}, 403),
        ("https://app.example", {"Origin": ""}, 403),
        ("https://app.example", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("*", {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 200),
    ],
)
async def test_pages_of_allowed_origins_may_change(
    origins: str, headers: Mapping[str, str], status: int
) -> None:
    """GIZMO_CORS_ORIGINS lists the origins; * allows every page."""
    async with serving(cors_origins=origins) as shop:
        async with shop.http.post("/empty", headers=headers) as response:
            assert response.status == status


async def test_a_services_own_cors_middleware_allows_pages_too() -> None:
    """It lists origins like the setting, and also their methods."""

    class Own(Shop):
        middleware = (CORS(["https://app.example"], allow_methods=["GET", "PUT"]),)

    headers = {"Origin": "https://app.example"}
    async with serving(Own) as shop:
        for method, status in (("PUT", 200), ("POST", 403)):
            async with shop.http.request(method, "/empty", headers=headers) as response:
                assert (method, response.status) == (method, status)


async def test_an_endpoint_may_be_open_to_every_page() -> None:
    """With cross_origin=True it serves them, and no other endpoint does."""
    async with serving() as shop:
        assert (await ask(shop.url, "POST", "/open", EVIL, CROSS)).status == 200
        assert (await ask(shop.url, "POST", "/empty", EVIL, CROSS)).status == 403


@pytest.mark.parametrize("admin", [None, 0])
async def test_no_page_of_another_origin_may_call_built_in_endpoints(admin: int | None) -> None:
    """Not even if the service allows every page."""
    body = json.dumps({"logger": "gizmopy", "level": "debug"}).encode()
    authorization = "Authorization: Bearer s3cret"
    async with serving(cors_origins="*", debug_token="s3cret", admin_port=admin) as shop:
        url = shop.server.admin_url or shop.url
        for lines in ((EVIL,), (CROSS,), ("Origin: null",)):
            answer = await ask(url, "PUT", "/debug/loggers", JSON, authorization, *lines, body=body)
            assert answer.status == 403


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((), 101),
        (("Origin: http://x",), 101),
        (("Sec-Fetch-Site: same-origin",), 101),
        ((EVIL,), 403),
        ((CROSS,), 403),
        (("Origin: null",), 403),
        (("Origin: http://x", "Origin: http://x"), 403),
    ],
)
@pytest.mark.parametrize("connection", ["Upgrade", "keep-alive, upgrade"])
async def test_a_websocket_is_for_own_pages(
    lines: tuple[str, ...], status: int, connection: str
) -> None:
    """CORS does not apply to WebSockets: any page could use one with its visitor's cookies."""
    upgrade = (
        f"Connection: {connection}",
        "Upgrade: WebSocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    async with serving() as shop:
        assert (await ask(shop.url, "GET", "/talk", *upgrade, *lines)).status == status
        assert shop.service.done == (["talked"] if status == 101 else [])


async def test_the_origin_is_compared_to_the_scheme_of_the_client() -> None:
    """If a trusted proxy was called over https, a page of http has another origin."""
    for trusted, status in (("127.0.0.0/8", 403), ("10.0.0.0/8", 200)):
        async with serving(trusted_proxies=trusted) as shop:
            lines = ("X-Forwarded-Proto: https", "Origin: http://x")
            assert (await ask(shop.url, "POST", "/empty", *lines)).status == status
            lines = ("X-Forwarded-Proto: https", "Origin: https://x")
            assert (await ask(shop.url, "POST", "/empty", *lines)).status == 200


async def test_a_refusal_is_counted_under_its_route(tmp_path: Path) -> None:
    """Metrics and the access log have the endpoint of the request."""
    path = tmp_path / "access"
    async with serving(http_access_log=str(path)) as shop:
        assert (await ask(shop.url, "POST", "/empty", EVIL)).status == 403
        async with shop.http.get("/metrics") as response:
            assert 'http_response_status_code="403",http_route="/empty"' in await response.text()
    line = json.loads(path.read_text().splitlines()[0])
    assert (line["method"], line["route"], line["status"]) == ("POST", "/empty", 403)


class Probed(Shop):
    """Serve probes of the service itself."""

    @get("/livez")
    @get("/alive")
    async def alive(self) -> str:
        return "I am"


@pytest.mark.parametrize("admin", [None, 0])
async def test_only_allowed_hosts_are_served(admin: int | None) -> None:
    """Another Host is 421, except for probes and metrics, which are requested by IP address."""
    settings = {
        "allowed_hosts": "cats.example,*.cats.example",
        "health_check_type": "custom",
        "health_check_path": "/alive",
        "debug_token": "s3cret",
        "admin_port": admin,
    }
    bearer = {"Authorization": "Bearer s3cret"}
    async with serving(Probed, **settings) as shop:
        async with ClientSession(shop.server.admin_url or shop.url) as insight:
            for client, path, status in (
                (shop.http, "/things", 421),
                (shop.http, "/openapi.json", 421),
                (shop.http, "/docs", 421),
                (insight, "/debug/info", 421),
                (insight, "/metrics", 200),
                (insight, "/livez", 200),
                (shop.http, "/livez", 200),
                (shop.http, "/alive", 200),
                (shop.http, "/readyz", 200),
                (shop.http, "/readyz/brokers", 404),
            ):
                async with client.get(path, headers=bearer) as response:
                    assert (path, response.status) == (path, status)
        for host in ("cats.example", "A.cats.example:8080"):
            async with shop.http.get("/things", headers={"Host": host}) as response:
                assert response.status == 200
        async with shop.http.post("/empty") as response:
            assert response.status == 421
        assert shop.service.done == []


@pytest.mark.parametrize("hosts", ["https://a.example", "a.example:80", "*", "*.", "a/b", "é"])
def test_a_malformed_host_is_an_error_of_its_setting(hosts: str) -> None:
    """A mistake in GIZMO_ALLOWED_HOSTS ends the start, with a remedy."""
    with pytest.raises(ValueError, match="write names without scheme, port and path"):
        Settings(allowed_hosts=hosts)


BUILTIN = ("/metrics", "/openapi.json", "/docs", "/livez", "/readyz", "/status.txt", "/debug/")


@pytest.mark.parametrize("origins", ["*", "https://app.example"])
async def test_cors_is_for_the_services_own_endpoints(origins: str) -> None:
    """No page of another origin may read built-in endpoints, even if the service allows all."""
    page = {"Origin": "https://app.example", "Authorization": "Bearer s3cret"}
    asks = page | {"Access-Control-Request-Method": "GET"}
    async with serving(cors_origins=origins, debug_token="s3cret") as shop:
        for path in BUILTIN:
            for method, headers, status in (
                ("GET", page, 200),
                ("HEAD", page, 200),
                ("OPTIONS", asks, 405),
                ("DELETE", page, 405),
            ):
                async with shop.http.request(method, path, headers=headers) as response:
                    assert (path, method, response.status) == (path, method, status)
                    names = [name for name in response.headers if name.startswith("Access-")]
                    assert names == []
        for path, status in (("/things", 200), ("/nowhere", 404)):
            async with shop.http.get(path, headers=page) as response:
                assert response.status == status
                assert response.headers["Access-Control-Allow-Origin"] in (origins, page["Origin"])
        await asyncio.get_running_loop().shutdown_default_executor()


async def test_a_preflight_grants_the_services_own_methods() -> None:
    """If a service adds a method to a built-in path, only that method is granted."""

    class Own(Shop):
        @put("/metrics")
        async def own(self) -> str:
            return "mine"

    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "PUT"}
    async with serving(Own, cors_origins="*") as shop:
        async with shop.http.options("/metrics", headers=asks) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Methods"] == "PUT"
        async with shop.http.get("/metrics", headers=asks) as response:
            assert "Access-Control-Allow-Origin" not in response.headers
        async with shop.http.put("/metrics", headers=asks) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "*"


class Various(Shop):
    """Serve a response of every kind."""

    @get("/stream")
    async def stream(self, request: web.Request) -> web.StreamResponse:
        return await stream(request, b"x")

    @get("/sniffed")
    async def sniffed(self) -> web.Response:
        return web.Response(text="x", headers={"X-Content-Type-Options": "sniff"})

    @get("/moved")
    async def moved(self) -> None:
        raise web.HTTPFound("/things")

    @get("/broken")
    async def broken(self) -> None:
        raise RuntimeError("broken")


@pytest.mark.parametrize("origins", ["", "*"])
async def test_every_response_has_nosniff_once(origins: str) -> None:
    """Raw responses, streams, problems, refusals and built-in ones have it."""
    preflight = ("Origin: https://app.example", "Access-Control-Request-Method: GET")
    async with serving(Various, cors_origins=origins, debug_token="s3cret") as shop:
        for method, path, lines in (
            ("GET", "/things", ()),
            ("HEAD", "/things", ()),
            ("GET", "/stream", ()),
            ("GET", "/sniffed", ()),
            ("GET", "/moved", ()),
            ("GET", "/broken", ()),
            ("GET", "/nowhere", ()),
            ("DELETE", "/things", ()),
            ("OPTIONS", "/things", preflight),
            ("POST", "/empty", (CROSS,)),
            ("GET", "/metrics", ()),
            ("GET", "/livez", ()),
            ("GET", "/readyz", ()),
            ("GET", "/docs", ()),
            ("GET", "/debug/", ()),
            ("GET", "/debug/", ("Authorization: Bearer s3cret",)),
            ("GET", "/things", ("Bad Line",)),
        ):
            answer = await ask(shop.url, method, path, *lines)
            found = answer.headers.getall("X-Content-Type-Options", [])
            assert (method, path, found) == (method, path, ["nosniff"])
