"""GIZMO_HSTS: which responses have Strict-Transport-Security."""

import ssl
from pathlib import Path

import pytest
from aiohttp import web

from gizmopy import Service, Settings, SimpleServer, get
from tests.server.certificates import AUTHORITY, Files
from tests.server.support import stream, talk

BOTH_LOOPS = True

NAME, VALUE = "Strict-Transport-Security", "max-age=31536000; includeSubDomains"


class Example(Service):
    @get("/plain")
    async def plain(self) -> str:
        return "plain"

    @get("/stream")
    async def stream(self, request: web.Request) -> web.StreamResponse:
        return await stream(request, b"streamed")

    @get("/own")
    async def own(self) -> web.Response:
        return web.Response(headers={NAME: "max-age=0"})


PATHS = ("/plain", "/stream", "/livez", "/nowhere")


def _settings(**changes: object) -> Settings:
    return Settings.model_validate(
        {"http_port": 0, "http_access_log": "off", "hsts": VALUE} | changes
    )


def _tls(directory: Path) -> dict[str, str]:
    files = Files(directory).issue()
    return {"tls_cert": str(files.cert), "tls_key": str(files.key)}


async def ask(
    url: str, *paths: str, lines: tuple[str, ...] = (), tls: bool = False
) -> list[str | None]:
    """Return the header of the response to each GET on one connection."""
    context = ssl.create_default_context() if tls else None
    if context is not None:
        AUTHORITY.configure_trust(context)
    found = []
    async with talk(url, ssl=context) as client:
        for path in paths:
            client.ask("GET", path, b"", *lines)
            found.append((await client.answer()).headers.get(NAME))
    return found


async def test_every_response_over_tls_has_it(tmp_path: Path) -> None:
    """Raw responses, streams, probes and problems have it; a handler's own value remains."""
    async with SimpleServer(Example(_settings(**_tls(tmp_path)))) as server:
        assert await ask(server.url, *PATHS, tls=True) == [VALUE] * len(PATHS)
        assert await ask(server.url, "/own", tls=True) == ["max-age=0"]
        assert await ask(server.url, "/plain", "/%zz\x01", tls=True) == [VALUE, VALUE]


async def test_no_response_over_plain_http_has_it() -> None:
    """A client that is not a trusted proxy cannot claim to use HTTPS."""
    async with SimpleServer(Example(_settings())) as server:
        assert await ask(server.url, *PATHS) == [None] * len(PATHS)
        lines = ("X-Forwarded-Proto: https",)
        assert await ask(server.url, *PATHS, lines=lines) == [None] * len(PATHS)


async def test_the_scheme_of_a_trusted_proxy_counts() -> None:
    """Behind a proxy that terminates TLS, each response depends on its client's scheme."""
    async with SimpleServer(Example(_settings(trusted_proxies="127.0.0.0/8"))) as server:
        for proto, value in (("https", VALUE), ("http", None), ("https", VALUE)):
            lines = (f"X-Forwarded-Proto: {proto}",)
            assert await ask(server.url, *PATHS, lines=lines) == [value] * len(PATHS)
        assert await ask(server.url, *PATHS) == [None] * len(PATHS)


async def test_a_client_over_http_gets_none_through_a_proxy_over_tls(tmp_path: Path) -> None:
    """TLS between proxy and daemon does not make the client's connection secure."""
    settings = _settings(trusted_proxies="127.0.0.0/8", **_tls(tmp_path))
    async with SimpleServer(Example(settings)) as server:
        lines = ("X-Forwarded-Proto: http",)
        assert await ask(server.url, *PATHS, lines=lines, tls=True) == [None] * len(PATHS)
        assert await ask(server.url, *PATHS, tls=True) == [VALUE] * len(PATHS)


@pytest.mark.parametrize("changes", [{"hsts": ""}, {"admin_port": 0}], ids=["unset", "admin"])
async def test_it_is_off_by_default_and_on_the_admin_port(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    """No response has it then."""
    async with SimpleServer(Example(_settings(**_tls(tmp_path), **changes))) as server:
        url = server.admin_url or server.url
        assert await ask(url, "/livez", "/metrics", tls=True) == [None, None]
