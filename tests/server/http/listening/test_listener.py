"""Ports: addresses that are in use, TLS, and the count of connections."""

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme
from aiohttp import ClientSession, TCPConnector

from gizmopy import Service, Settings, SimpleServer, get
from gizmopy.errors import StartError
from tests.server.support import talk, until

BOTH_LOOPS = True


class Example(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    @get("/slow")
    async def slow(self) -> str:
        self.begun.set()
        await self.go_on.wait()
        return "done"

    @get("/large")
    async def large(self) -> bytes:
        return bytes(5_000_000)


def _settings(**changes: object) -> Settings:
    return Settings.model_validate({"http_port": 0, "http_access_log": "off"} | changes)


def _issue(authority: trustme.CA, directory: Path) -> dict[str, object]:
    pair = authority.issue_cert("127.0.0.1")
    cert, key = directory / "tls.crt", directory / "tls.key"
    key.write_bytes(pair.private_key_pem.bytes())
    cert.write_bytes(b"".join(part.bytes() for part in pair.cert_chain_pems))
    return {"tls_cert": str(cert), "tls_key": str(key)}


async def test_two_daemons_do_not_share_an_address() -> None:
    """The second one reports the port; the first one keeps serving, then frees its port."""
    async with SimpleServer(Example(_settings())) as first:
        taken = _settings(http_port=int(first.url.rpartition(":")[2]))
        with pytest.raises(StartError, match="is taken by another process"):
            await SimpleServer(Example(taken)).__aenter__()
        async with ClientSession(first.url) as http, http.get("/livez") as response:
            assert response.status == 200
    async with SimpleServer(Example(taken)) as second:
        assert second.url == first.url


async def test_an_admin_port_that_is_taken_frees_the_main_one() -> None:
    """A failed start leaves nothing bound; the error names the admin port's setting."""
    async with SimpleServer(Example(_settings())) as first:
        port = int(first.url.rpartition(":")[2])
        failing = SimpleServer(Example(_settings(admin_port=port)))
        with pytest.raises(StartError, match=f"GIZMO_ADMIN_PORT={port}"):
            await failing.__aenter__()
    sockets = [each for port in failing._ports for each in port._listeners]
    assert [each.fileno() for each in sockets] == [-1] * len(sockets)


async def test_https_is_served_on_both_ports(tmp_path: Path) -> None:
    """The URLs and the requests have the scheme https; plain HTTP is not answered."""
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    settings = _settings(admin_port=0, **_issue(authority, tmp_path))
    async with SimpleServer(Example(settings)) as server:
        assert server.url.startswith("https://")
        assert server.admin_url.startswith("https://")
        async with ClientSession(connector=TCPConnector(ssl=trust)) as http:
            async with http.get(f"{server.url}/large") as response:
                assert len(await response.read()) == 5_000_000
            async with http.get(f"{server.admin_url}/metrics") as response:
                assert "gizmo_tls_certificate_not_after_seconds" in await response.text()
        async with talk(server.url) as client:
            client.ask("GET", "/livez")
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.answer()


async def test_connections_are_counted_by_state() -> None:
    """Each one is active, idle or a websocket when the metrics are scraped."""
    service = Example(_settings())
    async with SimpleServer(service) as server:
        (port,) = server._ports
        async with talk(server.url) as busy, talk(server.url):
            busy.ask("GET", "/slow")
            await service.begun.wait()
            await until(lambda: sorted(port.connection_states()) == ["active", "idle"])
            service.go_on.set()
            await busy.answer()
            await until(lambda: list(port.connection_states()) == ["idle", "idle"])
        await until(lambda: list(port.connection_states()) == [])


@pytest.mark.parametrize("address", ["localhost", "LOCALHOST"])
async def test_localhost_is_every_loopback_address(address: str) -> None:
    """IPv4 and IPv6 have the same port, one limit of connections, and end together."""
    async with SimpleServer(Example(_settings(http_addr=address))) as server:
        port = server.url.rpartition(":")[2]
        assert server.url == f"http://127.0.0.1:{port}"
        async with ClientSession() as http:
            for host in ("127.0.0.1", "[::1]"):
                async with http.get(f"http://{host}:{port}/livez") as response:
                    assert response.status == 200
        listeners = server._ports[0]._listeners
        assert [each.getsockname()[0] for each in listeners] == ["127.0.0.1", "::1"]
    assert [each.fileno() for each in listeners] == [-1, -1]


async def test_brackets_around_an_ipv6_address_are_accepted() -> None:
    """A user copies the address from a URL."""
    async with SimpleServer(Example(_settings(http_addr="[::1]"))) as server:
        assert server.url.startswith("http://[::1]:")
        async with ClientSession(server.url) as http, http.get("/livez") as response:
            assert response.status == 200
