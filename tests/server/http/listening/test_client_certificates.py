"""TLS_CLIENT_CA: which clients may connect, what handlers see, and changes of the file."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trustme
from aiohttp import web

from gizmopy import Service, Settings, SimpleServer, get
from gizmopy.cli import main
from gizmopy.errors import StartError
from tests.server.certificates import AUTHORITY, Files, Ticks, echo
from tests.server.support import PATIENCE, talk

BOTH_LOOPS = True

Result = TypeVar("Result")

REFUSED = r"alert|reset|EOF|closed"
CLIENTS, OTHERS = trustme.CA(), trustme.CA()
VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


class Example(Service):
    """Serve clients with a certificate."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.asked = 0

    @get("/who")
    async def who(self, request: web.Request) -> dict[str, Any]:
        self.asked += 1
        shown = request.get_extra_info("peercert")
        return {"names": [name for _, name in shown["subjectAltName"]]}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The server's certificate and key."""
    return Files(tmp_path).issue()


@pytest.fixture
def client_ca(tmp_path: Path) -> Path:
    """The file of the clients' authorities."""
    path = tmp_path / "clients.pem"
    CLIENTS.cert_pem.write_to_path(str(path))
    return path


def settings(files: Files, client_ca: Path, **changes: object) -> Settings:
    """Return the settings of a daemon that requires client certificates."""
    return Settings.model_validate(
        {
            "http_port": 0,
            "http_access_log": "off",
            "tls_cert": str(files.cert),
            "tls_key": str(files.key),
            "tls_client_ca": str(client_ca),
        }
        | changes
    )


def trusting(
    authority: trustme.CA | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    """Return a client's context, with a certificate that ``authority`` signed."""
    context = ssl.create_default_context()
    context.maximum_version = version
    AUTHORITY.configure_trust(context)
    if authority is not None:
        authority.issue_cert("tom@example.com").configure_cert(context)
    return context


async def ask(url: str, path: str, context: ssl.SSLContext) -> tuple[int, bytes]:
    """Return the response to a GET."""
    async with talk(url, ssl=context) as client:
        client.ask("GET", path)
        answer = await client.answer()
    return answer.status, answer.body


@VERSIONS
async def test_a_client_with_a_certificate_is_served(
    files: Files, client_ca: Path, version: ssl.TLSVersion
) -> None:
    """A handler sees the certificate in the form of Python's ssl module."""
    async with SimpleServer(Example(settings(files, client_ca))) as server:
        answer = await ask(server.url, "/who", trusting(CLIENTS, version))

    assert answer == (200, b'{"names":["tom@example.com"]}')


@VERSIONS
@pytest.mark.parametrize("authority", [None, OTHERS], ids=["none", "another authority's"])
async def test_a_client_without_a_certificate_is_not_served(
    files: Files,
    client_ca: Path,
    version: ssl.TLSVersion,
    authority: trustme.CA | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No request is executed, not even a probe, and nothing is logged for it."""
    club = Example(settings(files, client_ca))
    async with SimpleServer(club) as server:
        for path in ("/who", "/livez"):
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await ask(server.url, path, trusting(authority, version))

    assert club.asked == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_admin_port_requires_no_certificate(files: Files, client_ca: Path) -> None:
    """Probes without a certificate are answered on the admin port only."""
    async with SimpleServer(Example(settings(files, client_ca, admin_port=0))) as server:
        assert (await ask(server.admin_url, "/livez", trusting(None)))[0] == 200
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await ask(server.url, "/livez", trusting(None))


async def test_healthcheck_can_present_a_certificate(
    files: Files, client_ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key is in the same file or in another one."""
    pair = CLIENTS.issue_cert("probe@example.com")
    both, cert, key = (str(tmp_path / name) for name in ("both.pem", "cert.pem", "key.pem"))
    pair.private_key_and_cert_chain_pem.write_to_path(both)
    pair.cert_chain_pems[0].write_to_path(cert)
    pair.private_key_pem.write_to_path(key)
    async with SimpleServer(Example(settings(files, client_ca))) as server:

        async def check(*options: str) -> int:
            return await apart(main, ["healthcheck", server.url, *options])

        assert await check("--cert", both) == 0
        assert await check("--cert", cert, "--key", key) == 0
        assert await check() == 1
        with pytest.raises(SystemExit):
            await check("--cert", key)

    assert f"--cert {key}: cannot be used: " in capsys.readouterr().err


async def test_healthcheck_prefers_the_admin_port(
    files: Files, client_ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main port requires a certificate."""
    async with SimpleServer(Example(settings(files, client_ca, admin_port=0))) as server:
        monkeypatch.setenv("TLS_CERT", str(files.cert))
        monkeypatch.setenv("TLS_CLIENT_CA", str(client_ca))
        monkeypatch.setenv("HTTP_PORT", server.url.rpartition(":")[2])
        assert await apart(main, ["healthcheck"]) == 1
        monkeypatch.setenv("GIZMO_ADMIN_PORT", server.admin_url.rpartition(":")[2])
        assert await apart(main, ["healthcheck"]) == 0


async def apart(function: Callable[..., Result], *arguments: object) -> Result:
    """Return the result of the blocking ``function``, called in a thread that ends with it."""
    with ThreadPoolExecutor(1) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def shake_hands(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[bool, ssl.SSLSession | None]:
    """Return whether a session was resumed, and the session of this connection."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as raw,
        context.wrap_socket(raw, server_hostname="localhost", session=session) as connection,
    ):
        connection.sendall(b"hello\n")
        if connection.recv(6) != b"hello\n":
            raise ConnectionResetError("the server closed the connection")
        reused, session = bool(connection.session_reused), connection.session
        connection.unwrap().close()  # without a close_notify, OpenSSL drops the session
        return reused, session


def write(path: Path, content: str | None) -> None:
    """Write a file, or remove it."""
    if content is None:
        path.unlink()
    else:
        path.write_text(content)


@VERSIONS
async def test_a_changed_file_of_authorities_is_loaded(
    files: Files, client_ca: Path, version: ssl.TLSVersion
) -> None:
    """Clients of a new authority may connect, those of the old one may not."""
    ticks, old, new = Ticks(), trusting(CLIENTS, version), trusting(OTHERS, version)
    certificate = files.certificate(ticks, client_ca=str(client_ca))
    async with certificate, echo(certificate) as port:
        await apart(shake_hands, port, old)
        OTHERS.cert_pem.write_to_path(str(client_ca))
        await ticks.tick(2)
        await apart(shake_hands, port, new)
        with pytest.raises(OSError, match=REFUSED):
            await apart(shake_hands, port, old)


async def test_a_session_does_not_outlive_its_authority(files: Files, client_ca: Path) -> None:
    """A TLS 1.2 session needs no new check of the certificate, so it ends with a change."""
    ticks, old = Ticks(), trusting(CLIENTS, ssl.TLSVersion.TLSv1_2)
    certificate = files.certificate(ticks, client_ca=str(client_ca))
    async with certificate, echo(certificate) as port:
        _, session = await apart(shake_hands, port, old)
        reused, session = await apart(shake_hands, port, old, session)
        assert reused
        files.issue()
        await ticks.tick(2)
        reused, session = await apart(shake_hands, port, old, session)
        assert reused  # a new certificate of the server does not end sessions
        OTHERS.cert_pem.write_to_path(str(client_ca))
        await ticks.tick(2)
        with pytest.raises(OSError, match=REFUSED):
            await apart(shake_hands, port, old, session)


async def test_there_are_no_tickets(files: Files, client_ca: Path) -> None:
    """A ticket would let a client connect for hours, also after a change of its authority."""
    certificate = files.certificate(client_ca=str(client_ca))
    async with certificate, echo(certificate) as port:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = trusting(CLIENTS, version)
            _, session = await apart(shake_hands, port, context)
            assert session is None or not session.has_ticket


async def test_a_broken_file_of_authorities_changes_nothing(
    files: Files, client_ca: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The certificates in use remain, and the log names the file."""
    ticks, context = Ticks(), trusting(CLIENTS)
    certificate = files.certificate(ticks, client_ca=str(client_ca))
    async with certificate, echo(certificate) as port:
        write(client_ca, "")
        await ticks.tick(2)
        await apart(shake_hands, port, context)
        with pytest.raises(OSError, match=REFUSED):
            await apart(shake_hands, port, trusting(None))

    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert f"TLS_CLIENT_CA={client_ca}: is not a PEM file with" in error.getMessage()


@pytest.mark.parametrize(
    "content", [None, "", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"]
)
async def test_a_file_that_cannot_be_used_ends_the_start(
    files: Files, client_ca: Path, content: str | None
) -> None:
    """Without an authority in the file, either every client could connect or none."""
    write(client_ca, content)
    with pytest.raises(StartError, match=f"TLS_CLIENT_CA={client_ca}: .*; (set|write) "):
        async with files.certificate(client_ca=str(client_ca)):
            pass
