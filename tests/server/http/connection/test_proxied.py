"""GIZMO_PROXY_PROTOCOL: the peers that may connect, the header, and the client's address."""

import asyncio
import json
import logging
import socket
from pathlib import Path

import pytest
from aiohttp import web

from gizmopy import Service, Settings, SimpleServer, get
from gizmopy.cli import main
from gizmopy.server.http.connection.proxied import ProxyHeaders
from gizmopy.server.http.proxies import Proxies
from tests.server.support import Talk, request, talk

BOTH_LOOPS = True

LINE = b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 443\r\n"
BLOCK = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x27" + bytes.fromhex(
    "20010db8000000000000000000000001 20010db8000000000000000000000002 c350 01bb 040000"
)
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"
ASK = request("GET", "/who")


class Example(Service):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.asked = 0

    @get("/who")
    async def who(self, request: web.Request) -> list[str | None]:
        self.asked += 1
        return [request.remote, request.scheme]


def _settings(**changes: object) -> Settings:
    given = {"http_port": 0, "trusted_proxies": "127.0.0.0/8", "proxy_protocol": True}
    return Settings.model_validate({"http_access_log": "off"} | given | changes)


async def who(client: Talk) -> list[str]:
    """Return the client that the service sees."""
    answer = await client.answer()
    assert answer.status == 200
    seen: list[str] = json.loads(answer.body)
    return seen


@pytest.mark.parametrize(
    ("header", "address"), [(LINE, "192.0.2.1"), (BLOCK, "2001:db8::1"), (LOCAL, "")]
)
async def test_the_client_is_the_one_in_the_header(header: bytes, address: str) -> None:
    """The header and a request can arrive in one segment; later requests have no header."""
    async with SimpleServer(Example(_settings())) as server, talk(server.url) as client:
        client.send(header + ASK + ASK)
        assert await who(client) == [address, "http"]
        assert await who(client) == [address, "http"]
        client.send(ASK)
        assert await who(client) == [address, "http"]


async def test_a_header_can_arrive_byte_by_byte() -> None:
    """A header in many segments is read like any other."""
    async with SimpleServer(Example(_settings())) as server, talk(server.url) as client:
        raw = client.writer.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in BLOCK:
            client.send(bytes((byte,)))
            await client.writer.drain()
            await asyncio.sleep(0)
        client.send(ASK)
        assert await who(client) == ["2001:db8::1", "http"]


@pytest.mark.parametrize(
    ("header", "seen"),
    [
        (LINE, ["192.0.2.1", "http"]),  # a client that chose its own headers
        (b"PROXY UNKNOWN\r\n", ["", "http"]),  # the same, of a client without an address
        (LINE.replace(b"192.0.2.1", b"127.0.0.9"), ["198.51.100.7", "https"]),  # another proxy
        (LOCAL, ["", "http"]),  # HAProxy sends it for clients on a unix socket, too
    ],
)
async def test_headers_are_trusted_by_the_address_in_the_proxy_header(
    header: bytes, seen: list[str]
) -> None:
    """The proxy forwards its client's headers, so its own address does not count."""
    forwarded = ("X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https")
    async with SimpleServer(Example(_settings())) as server, talk(server.url) as client:
        client.send(header + request("GET", "/who", b"", *forwarded))
        assert await who(client) == seen


@pytest.mark.parametrize(
    "sent", [ASK, b"PROXY TCP4 1 2 3 4\r\n" + ASK, LINE[:-2] + bytes(200), b"\x16\x03\x01\x02"]
)
async def test_a_connection_without_a_header_is_closed(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """No request is served, nothing is sent, and the log has the reason once a minute."""
    inn = Example(_settings())
    async with SimpleServer(inn) as server:
        for _ in range(3):
            async with talk(server.url) as client:
                client.send(sent)
                assert await rest(client) == b""

    assert inn.asked == 0
    (line,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert "a connection from 127.0.0.1 was refused: it did not send a PROXY header: " in line


async def test_a_peer_that_is_not_trusted_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """It could choose its client's address, so it is refused with a header, too."""
    inn = Example(_settings(trusted_proxies="10.0.0.0/8"))
    async with SimpleServer(inn) as server:
        for sent in (LINE + ASK, ASK):
            async with talk(server.url) as client:
                client.send(sent)
                assert await rest(client) == b""

    assert inn.asked == 0
    assert "127.0.0.1 was refused: it is not in GIZMO_TRUSTED_PROXIES" in caplog.text


@pytest.mark.parametrize("sent", [b"", LINE[:20]])
async def test_a_header_has_a_timeout(sent: bytes) -> None:
    """A connection without a complete header is closed after the read timeout, not the idle one."""
    settings = _settings(read_timeout="100ms", idle_timeout="10m")
    async with SimpleServer(Example(settings)) as server, talk(server.url) as client:
        client.send(sent)
        assert await rest(client) == b""


async def test_the_admin_port_has_no_proxy_protocol() -> None:
    """Probes, including healthcheck, use the admin port without a header."""
    async with SimpleServer(Example(_settings(admin_port=0))) as server:
        async with talk(server.admin_url) as client:
            client.ask("GET", "/livez")
            assert (await client.answer()).status == 200


async def test_a_unix_socket_is_a_trusted_proxy(tmp_path: Path) -> None:
    """A connection to a unix socket begins with a header, too."""
    path = tmp_path / "inn.sock"
    async with SimpleServer(Example(_settings(http_addr=f"unix:{path}"))):
        reader, writer = await asyncio.open_unix_connection(str(path))
        client = Talk(reader, writer)
        client.send(LINE + ASK)
        assert await who(client) == ["192.0.2.1", "http"]
        await client.close()


async def test_the_access_log_has_the_client(tmp_path: Path) -> None:
    """It logs the address in the header."""
    path = tmp_path / "access.log"
    settings = _settings(http_access_log=str(path), log_json=True)
    async with SimpleServer(Example(settings)) as server, talk(server.url) as client:
        client.send(LINE + ASK)
        await who(client)

    (line,) = read(path).splitlines()
    assert json.loads(line)["remote"] == "192.0.2.1"


def test_refusals_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Connections of other peers cannot fill the log; their number is logged."""
    clock = 0.0
    headers = ProxyHeaders(Proxies(()), clock=lambda: clock)
    for at in (0.0, 1.0, 59.0, 61.0):
        clock = at
        headers.warn("192.0.2.9", "because")

    assert [record.getMessage().rpartition("(")[2] for record in caplog.records] == [
        "0 more were refused since the last such line)",
        "2 more were refused since the last such line)",
    ]


def test_healthcheck_uses_the_admin_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The main port would refuse it."""
    monkeypatch.setenv("GIZMO_PROXY_PROTOCOL", "True")
    monkeypatch.setenv("GIZMO_ADMIN_PORT", "1")

    assert main(["healthcheck"]) == 1
    assert capsys.readouterr().err.startswith("http://127.0.0.1:1: ")


async def rest(client: Talk) -> bytes:
    """Return the bytes until the end or the reset of the connection."""
    try:
        return await client.rest()
    except ConnectionResetError:
        return b""


def read(path: Path) -> str:
    """Return the content of a file."""
    return path.read_text()
