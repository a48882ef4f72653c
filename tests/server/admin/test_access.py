"""When /debug/ is served, and the token of its requests."""

import base64
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector

import pubsubtest
from gizmopy import Service, Settings, SimpleServer, get
from gizmopy.errors import StartError
from gizmopy.server.admin.access import is_served
from tests.server.support import Answer, talk

TOKEN = "a token of more than 16 characters"
BEARER = f"Authorization: Bearer {TOKEN}"
ADDRESS = re.compile(r"/debug is on until this process ends(.*): open (\S+)#token=([\w-]{43})$")


class Shop(Service):
    """A service for every path, so that a test sees a path that /debug does not answer."""

    @get("/{path:.*}")
    async def any(self, path: str) -> str:
        return path


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[pubsubtest.Served[Shop]]:
    """Serve a shop with these settings; with a token, unless they differ."""
    given = {"debug_token": TOKEN} | settings
    async with pubsubtest.serve(Shop, settings=Settings(**given)) as shop:
        yield shop


async def ask(url: str, path: str, *lines: str, method: str = "GET", body: bytes = b"") -> Answer:
    """Send a request with these lines in its head, and return the response."""
    async with talk(url) as client:
        client.ask(method, path, body, *lines)
        return await client.answer(to_head=method == "HEAD")


def logged_url(caplog: pytest.LogCaptureFixture) -> tuple[str, str, str]:
    """Return the parts of the log line about /debug: the socket, the URL, the token."""
    (found,) = filter(None, (ADDRESS.match(each.getMessage()) for each in caplog.records))
    return found[1], found[2], found[3]


@pytest.mark.parametrize(
    ("settings", "served"),
    [
        ({}, False),
        ({"http_addr": "::1"}, False),
        ({"http_addr": "unix:/run/x"}, False),
        ({"admin_port": 0}, False),
        ({"debug_token": " \n"}, False),
        ({"debug_token": "t"}, True),
        ({"debug": True}, True),
        ({"enable_pprof": True}, True),
        ({"http_addr": "0.0.0.0", "debug_token": "t"}, True),
        ({"debug": False, "debug_token": "t", "enable_pprof": True}, False),
    ],
)
def test_debug_is_off_unless_a_setting_turns_it_on(
    settings: Mapping[str, Any], served: bool
) -> None:
    """The listener's address turns nothing on, and GIZMO_DEBUG=false overrides all."""
    assert is_served(Settings(**settings)) is served


@pytest.mark.parametrize("admin", [None, 0])
async def test_debug_is_not_served_by_default(admin: int | None) -> None:
    """Paths below /debug/ are 404 on either port."""
    async with pubsubtest.serve(Service, settings=Settings(admin_port=admin)) as shop:
        for url in filter(None, (shop.url, shop.server.admin_url)):
            for path in ("/debug/", "/debug/config", "/debug/pprof/"):
                assert (await ask(url, path, BEARER)).status == 404


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Authorization: ",),
        ("Authorization: Bearer",),
        (f"Authorization: {TOKEN}",),
        (f"Authorization: Bearer {TOKEN[:-1]}",),
        (f"Authorization: Bearer {TOKEN}x",),
        (f"Authorization: Token {TOKEN}",),
        (f"Authorization: Basic {base64.b64encode(f':{TOKEN}'.encode()).decode()}",),
        (BEARER, "Authorization: Bearer other"),
        (f"Cookie: token={TOKEN}",),
        ("Origin: http://x", "Sec-Fetch-Site: same-origin"),
    ],
)
@pytest.mark.parametrize("path", ["/debug/", "/debug/config", "/debug/nothing"])
async def test_every_request_needs_the_token(path: str, lines: tuple[str, ...]) -> None:
    """Without it the answer is 401, also on loopback, and browsers prompt for no password."""
    async with serving() as shop:
        answer = await ask(shop.url, path, *lines)
        assert answer.status == 401
        assert "GIZMO_DEBUG_TOKEN" in answer.problem["detail"]
        assert "WWW-Authenticate" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"


async def test_a_level_is_not_set_without_the_token() -> None:
    """PUT needs the token like every other request."""
    body = b'{"logger": "gizmopy", "level": "debug"}'
    json = "Content-Type: application/json"
    async with serving() as shop:
        before = logging.getLogger("gizmopy").level
        answer = await ask(shop.url, "/debug/loggers", json, method="PUT", body=body)
        assert (answer.status, logging.getLogger("gizmopy").level) == (401, before)
        answer = await ask(shop.url, "/debug/loggers", json, BEARER, method="PUT", body=body)
        assert (answer.status, logging.getLogger("gizmopy").level) == (200, logging.DEBUG)


@pytest.mark.parametrize("line", [BEARER, BEARER.replace("Bearer", "BEARER  ")])
async def test_a_request_with_the_token_is_answered(line: str) -> None:
    """The case of the scheme, proxy headers and another Host make no difference."""
    async with serving(debug_token=f"{TOKEN}\n") as shop:
        for more in ((), ("X-Forwarded-For: 1.2.3.4",), ("Sec-Fetch-Site: cross-site",)):
            answer = await ask(shop.url, "/debug/config", line, *more)
            assert answer.status == 200
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert TOKEN.encode() not in answer.body


async def test_a_token_may_have_any_characters() -> None:
    """Characters beyond ASCII are compared as UTF-8; invalid bytes are refused."""
    async with serving(debug_token="hünter2") as shop:
        assert (await ask(shop.url, "/debug/", "Authorization: Bearer hünter2")).status == 200
        async with talk(shop.url) as client:
            client.send(b"GET /debug/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer h\xff\r\n\r\n")
            assert (await client.answer()).status == 401


@pytest.mark.parametrize(
    "path",
    [
        "/%64ebug/",
        "/%64ebug/config",
        "/debug/%63onfig",
        "//debug/",
        "/debug//config",
        "/debug//",
        "/debug/../debug/",
        "/debug/./config",
        "/x/../debug/config",
        "/debug/%2e%2e/debug/config",
        "/DEBUG/",
        "/debug",
        "/debug/config#x",
        "/debug/config/",
        "http://x/debug/config",
    ],
)
async def test_only_the_canonical_path_is_served(path: str) -> None:
    """No path that a proxy's rule for /debug/ would miss leads there."""
    async with pubsubtest.serve(Service, settings=Settings(debug_token=TOKEN)) as shop:
        assert (await ask(shop.url, path, BEARER)).status == 404


async def test_unknown_paths_below_debug_are_problems() -> None:
    """With the token an unknown path is 404 and a wrong method 405, both as problem+json."""
    async with serving() as shop:
        for method, path, status in (
            ("GET", "/debug/nothing", 404),
            ("GET", "/debug/pprof/", 404),
            ("PUT", "/debug/info", 405),
            ("POST", "/debug/info", 405),
        ):
            answer = await ask(shop.url, path, BEARER, method=method)
            assert (path, answer.status, answer.problem["status"]) == (path, status, status)


def basic(user: str, password: str) -> str:
    """Return the header line of a password."""
    return f"Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.mark.parametrize(
    ("method", "path", "line", "status"),
    [
        ("GET", "/debug/pprof/heap", basic("", TOKEN), 501),
        ("GET", "/debug/pprof/profile?seconds=5", basic("anyone", TOKEN), 501),
        ("GET", "/debug/pprof/", BEARER, 501),
        ("GET", "/debug/pprof/", basic("", "other"), 401),
        ("GET", "/debug/pprof/", basic(TOKEN, ""), 401),
        ("GET", "/debug/pprof/", "Authorization: Basic ####", 401),
        ("GET", "/debug/pprof/", "Authorization: Basic ü", 401),
        ("GET", "/debug/pprof/", "X: y", 401),
        ("HEAD", "/debug/pprof/", basic("", TOKEN), 401),
        ("PUT", "/debug/pprof/", basic("", TOKEN), 401),
        ("GET", "/debug/config", basic("", TOKEN), 401),
        ("GET", "/debug/pprof/../config", basic("", TOKEN), 404),
        ("GET", "/debug/config", BEARER, 200),
    ],
)
async def test_profiles_accept_the_token_as_a_password(
    method: str, path: str, line: str, status: int
) -> None:
    """go tool pprof supports only that; other paths do not accept a password."""
    async with serving(enable_pprof=True) as shop:
        answer = await ask(shop.url, path, line, method=method)
        assert answer.status == status
        assert "WWW-Authenticate" not in answer.headers


@pytest.mark.parametrize("settings", [{"debug": True}, {"enable_pprof": True}, {"admin_port": 0}])
async def test_a_generated_token_is_in_the_logged_url(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The URL is logged once, with the token after the #, and the token is accepted."""
    async with serving(**{"debug": True, "debug_token": ""} | settings) as shop:
        where, address, token = logged_url(caplog)
        assert (where, address) == ("", f"{shop.server.admin_url or shop.url}/debug/")
        assert caplog.text.count(token) == 1
        headers = {"Authorization": f"Bearer {token}"}
        async with ClientSession() as client, client.get(address, headers=headers) as response:
            assert response.status == 200
            assert (await response.text()).startswith("shop: /debug")
        async with ClientSession() as client, client.get(address) as response:
            assert response.status == 401
    async with serving(debug=True, debug_token=""):
        assert token not in caplog.records[-1].getMessage()


async def test_a_unix_socket_has_a_generated_token_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the socket for the URL."""
    path = tmp_path / "shop.sock"
    settings = Settings(http_addr=f"unix:{path}", debug=True, http_access_log="off")
    async with SimpleServer(Shop(settings)):
        where, address, token = logged_url(caplog)
        assert where == f" over unix:{path}"
        async with ClientSession(connector=UnixConnector(str(path))) as http:
            assert (await http.get(address)).status == 401
            headers = {"Authorization": f"Bearer {token}"}
            async with http.get(address, headers=headers) as response:
                assert response.status == 200


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"http_addr": "0.0.0.0", "debug": True}, "GIZMO_DEBUG=true serves /debug on HTTP_ADDR="),
        ({"http_addr": "::", "enable_pprof": True}, "ENABLE_PPROF=true serves /debug on HTTP_ADDR"),
        (
            {"debug": True, "admin_port": 0, "admin_addr": "0.0.0.0"},
            "GIZMO_DEBUG=true serves /debug on GIZMO_ADMIN_ADDR=0.0.0.0",
        ),
        ({"http_addr": "cats.example", "debug": True}, "other machines may reach"),
    ],
)
async def test_no_token_is_generated_if_other_machines_can_connect(
    settings: Mapping[str, Any], reason: str
) -> None:
    """The start ends with the remedy, before a port is bound."""
    server = SimpleServer(Shop(Settings(http_port=0, **settings)))
    with pytest.raises(StartError, match=f"{reason}.*set one.*GIZMO_DEBUG=false"):
        async with server:
            pass
    assert server.url == ""


@pytest.mark.parametrize(
    ("settings", "warned"), [({"debug_token": "short"}, True), ({"debug_token": TOKEN}, False)]
)
async def test_a_configured_token_is_not_logged(
    settings: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A short one causes a warning; a public address needs nothing else."""
    server = SimpleServer(
        Shop(Settings(http_addr="0.0.0.0", http_port=0, http_access_log="off", **settings))
    )
    with caplog.at_level(logging.DEBUG):
        async with server:
            pass
    assert settings["debug_token"] not in caplog.text
    assert ("GIZMO_DEBUG_TOKEN has less than" in caplog.text) is warned


async def test_a_browser_gets_a_page_that_sends_the_token() -> None:
    """The page has no data, runs only its own script, and comes only with the 401 of /debug/."""
    html = "Accept: text/html,*/*;q=0.8"
    async with serving() as shop:
        answer = await ask(shop.url, "/debug/", html)
        assert answer.status == 401
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        policy = answer.headers["Content-Security-Policy"]
        for tag in (b"script", b"style"):
            (text,) = re.findall(b"<%b>(.*?)</%b>" % (tag, tag), answer.body, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
            assert f"{tag.decode()}-src 'sha256-{digest}'" in policy
        assert b"innerHTML" not in answer.body
        assert "frame-ancestors 'none'" in policy
        assert "default-src 'none'" in policy
        assert (await ask(shop.url, "/debug/config", html)).problem["status"] == 401
        answer = await ask(shop.url, "/debug/", html, BEARER)
        assert (answer.status, answer.headers["Content-Type"]) == (
            200,
            "text/plain; charset=utf-8",
        )


async def test_no_log_level_hides_the_url(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing else shows the token."""
    with caplog.at_level(logging.CRITICAL, "gizmopy"):
        async with serving(debug=True, debug_token=""):
            assert logged_url(caplog)
