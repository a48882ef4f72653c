"""Certificates: errors of the files, and changes of the files while connections are open."""

import asyncio
import logging
import shutil
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gizmopy.errors import StartError
from tests.server.certificates import AUTHORITY, EXPIRES, Files, Ticks, connect, der, echo

LOOPS = pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
Factory = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A certificate and key in a directory."""
    return Files(tmp_path / "pair").issue()


@LOOPS
def test_new_connections_get_the_new_certificate(factory: Factory, files: Files) -> None:
    """This holds with and without a server name; established connections remain."""

    async def scenario() -> None:
        ticks, old = Ticks(), der(files)
        async with files.certificate(ticks) as certificate, echo(certificate) as port:
            async with connect(port) as before:
                new = der(files.issue())
                await ticks.tick(2)
                async with connect(port) as after, connect(port, "127.0.0.1") as nameless:
                    assert before.certificate == old != new
                    assert after.certificate == nameless.certificate == new
                    assert before.protocol == after.protocol == "http/1.1"
                    assert await before.echoes()
                    assert await after.echoes()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scenario())


@LOOPS
def test_a_changed_kubernetes_secret_is_loaded(factory: Factory, tmp_path: Path) -> None:
    """Kubernetes replaces a link to a directory, into which the files are links."""
    first, second = Files(tmp_path / "first").issue(), Files(tmp_path / "second").issue()
    mounted = Files(tmp_path)
    data = tmp_path / "..data"
    data.symlink_to("first")
    mounted.cert.symlink_to("..data/tls.crt")
    mounted.key.symlink_to("..data/tls.key")

    async def scenario() -> None:
        ticks = Ticks()
        async with mounted.certificate(ticks) as certificate, echo(certificate) as port:
            async with connect(port) as client:
                assert client.certificate == der(first)
            swap = tmp_path / "..data_tmp"
            swap.symlink_to("second")
            swap.replace(data)
            await ticks.tick(2)
            async with connect(port) as client:
                assert client.certificate == der(second)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scenario())


async def test_a_broken_pair_is_logged_once_and_not_used(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The old certificate remains in use until a valid pair is there."""
    ticks, old = Ticks(), der(files)
    stray = Files(tmp_path / "stray").issue()
    async with files.certificate(ticks) as certificate, echo(certificate) as port:
        files.cert.write_bytes(stray.cert.read_bytes())
        await ticks.tick(4)
        async with connect(port) as client:
            assert client.certificate == old
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert f"TLS_KEY={files.key}: is not the key of" in errors[0].getMessage()

        files.key.write_bytes(stray.key.read_bytes())
        await ticks.tick(2)
        async with connect(port) as client:
            assert client.certificate == der(stray)


async def test_files_that_still_change_are_not_read(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pair of which one file has been written is not a broken pair."""
    ticks = Ticks()
    stray = Files(tmp_path / "stray").issue()
    async with files.certificate(ticks) as certificate, echo(certificate) as port:
        files.cert.write_bytes(stray.cert.read_bytes())
        await ticks.tick()
        files.key.write_bytes(stray.key.read_bytes())
        await ticks.tick(2)
        async with connect(port) as client:
            assert client.certificate == der(stray)

    assert not [record for record in caplog.records if record.levelno == logging.ERROR]


async def test_missing_files_are_logged(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """The daemon keeps serving without its files."""
    ticks, old = Ticks(), der(files)
    async with files.certificate(ticks) as certificate, echo(certificate) as port:
        files.cert.unlink()
        await ticks.tick(3)
        async with connect(port) as client:
            assert client.certificate == old

    assert caplog.text.count(f"TLS_CERT={files.cert}: No such file or directory") == 1


@pytest.mark.parametrize("year", [2049, 2051])
async def test_the_expiry_is_logged_and_measured(
    files: Files, year: int, caplog: pytest.LogCaptureFixture
) -> None:
    """This holds before and after 2050, when the encoding changes."""
    expires = EXPIRES.replace(year=year)
    with caplog.at_level(logging.INFO, "gizmopy"):
        async with files.issue(expires).certificate() as certificate:
            assert certificate.not_after == expires.timestamp()

    assert f"TLS_CERT={files.cert} expires on {year}-05-06 07:08 UTC" in caplog.messages


async def test_the_expiry_changes_with_the_certificate(files: Files) -> None:
    """The metric is that of the certificate in use."""
    ticks, expires = Ticks(), EXPIRES.replace(month=6)
    async with files.certificate(ticks) as certificate:
        files.issue(expires)
        await ticks.tick(2)

        assert certificate.not_after == expires.timestamp()


async def test_an_expired_certificate_is_an_error(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """An expired certificate is still served, and an error is logged."""
    async with files.issue(datetime(2020, 1, 2, tzinfo=UTC)).certificate():
        pass

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", f"TLS_CERT={files.cert} has expired on 2020-01-02 00:00 UTC; renew it")
    ]


async def test_an_expiry_is_logged_once_a_day(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a warning for the last 14 days and an error after, until the certificate is renewed."""
    ticks, day = Ticks(), 86400.0
    clock = EXPIRES.timestamp() - 14.5 * day

    def logged_levels() -> list[str]:
        levels = [record.levelname for record in caplog.records]
        caplog.clear()
        return levels

    async def move(seconds: float) -> list[str]:
        nonlocal clock
        clock += seconds
        await ticks.tick(2)
        return logged_levels()

    with caplog.at_level(logging.INFO, "gizmopy"):
        async with files.certificate(ticks, now=lambda: clock):
            assert logged_levels() == ["INFO"]
            assert await move(0.25 * day) == []
            assert await move(0.5 * day) == ["WARNING"]  # 13.75 days are left
            assert await move(0.75 * day) == []
            assert await move(0.25 * day) == ["WARNING"]
            assert await move(12.5 * day) == ["WARNING"]  # a quarter of a day is left
            assert await move(0.25 * day) == ["ERROR"]
            assert await move(0.75 * day) == []
            assert await move(0.25 * day) == ["ERROR"]
            files.issue(EXPIRES.replace(year=2050))
            await ticks.tick(2)
            assert logged_levels() == ["INFO"]
            assert await move(30 * day) == []


async def test_a_certificate_that_expires_soon_is_warned_of_at_start(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning has the file, the time and a remedy."""
    async with files.certificate(now=lambda: EXPIRES.timestamp() - 60):
        pass

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"TLS_CERT={files.cert} expires on 2049-05-06 07:08 UTC; renew it")
    ]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="nothing else makes version 1")
def test_a_version_1_certificate_has_an_expiry(files: Files, tmp_path: Path) -> None:
    """That version of the format has no field for the version."""
    request = str(tmp_path / "request")
    for arguments in (
        ("req", "-new", "-key", str(files.key), "-subj", "/CN=x", "-out", request),
        (
            *("x509", "-req", "-in", request, "-days", "3"),
            "-signkey",
            files.key,
            "-out",
            files.cert,
        ),
    ):
        subprocess.run(("openssl", *arguments), check=True, capture_output=True)

    async def expiry() -> float:
        async with files.certificate() as certificate:
            return certificate.not_after

    left = asyncio.run(expiry()) - datetime.now(UTC).timestamp()

    assert b"\xa0\x03\x02\x01" not in der(files)[:16]  # otherwise this test has no meaning
    assert 2 * 86400 < left < 4 * 86400


@LOOPS
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "ciphers", "is_served"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0", False),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+AES256+SHA384:!AESGCM", False),  # CBC mode
        (ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM", True),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+CHACHA20", True),
        (ssl.TLSVersion.TLSv1_3, "DEFAULT", True),
    ],
)
def test_old_versions_of_tls_are_refused(
    factory: Factory, files: Files, version: ssl.TLSVersion, ciphers: str, is_served: bool
) -> None:
    """TLS 1.2 is the lowest, with forward secrecy and authenticated encryption only."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(ciphers)

    async def scenario() -> bool:
        async with files.certificate() as certificate, echo(certificate) as port:
            try:
                _, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=context, server_hostname="localhost"
                )
            except OSError:
                return False
            writer.close()
            await writer.wait_closed()
            return True

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(scenario()) is is_served


async def test_neither_renegotiation_nor_compression_is_offered(files: Files) -> None:
    """Renegotiation costs the server CPU time; compression leaks content through sizes."""
    async with files.certificate() as certificate:
        assert certificate.context.options & ssl.OP_NO_RENEGOTIATION
        assert certificate.context.options & ssl.OP_NO_COMPRESSION


async def refusal(files: Files) -> str:
    """Return the error of loading the files."""
    with pytest.raises(StartError) as raised:
        async with files.certificate():
            pass
    return str(raised.value)


async def test_a_missing_file_is_named(files: Files) -> None:
    """The error has the setting and the file."""
    files.key.unlink()
    assert await refusal(files) == (
        f"TLS_KEY={files.key}: No such file or directory; set it to a file that this user may read"
    )
    files.cert.unlink()
    files.cert.mkdir()
    assert (await refusal(files)).startswith(f"TLS_CERT={files.cert}: Is a directory; ")


async def test_a_file_with_other_content_is_named(files: Files) -> None:
    """DER, the other file of the two, and junk are refused."""
    cert, key = files.cert.read_bytes(), files.key.read_bytes()
    files.key.write_bytes(cert)
    assert await refusal(files) == (
        f"TLS_KEY={files.key}: is not a PEM file with PRIVATE KEY-----; set it to one"
    )
    files.cert.write_bytes(key)
    assert await refusal(files) == (
        f"TLS_CERT={files.cert}: is not a PEM file with -----BEGIN CERTIFICATE-----; set it to one"
    )


@pytest.mark.parametrize("name", ["cert", "key"])
def test_a_damaged_file_is_named(files: Files, name: str) -> None:
    """A file without a line in its middle is refused."""
    path: Path = getattr(files, name)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join((lines[0], *lines[2:])))

    reason = f"TLS_CERT={files.cert}, TLS_KEY={files.key}: cannot be used: "
    assert asyncio.run(refusal(files)).startswith(reason)


async def test_an_encrypted_key_is_refused(files: Files) -> None:
    """OpenSSL would ask for the password on a terminal."""
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(pem(key, serialization.BestAvailableEncryption(b"secret")))

    assert await refusal(files) == (
        f"TLS_KEY={files.key}: is encrypted; decrypt it: openssl pkey -in {files.key}"
    )


@pytest.mark.parametrize("kind", ["EC", "RSA"])
async def test_a_key_of_another_certificate_is_refused(files: Files, kind: str) -> None:
    """This holds for a key of the same kind and of another kind."""
    curve = ec.SECP256R1()
    other = (
        ec.generate_private_key(curve) if kind == "EC" else rsa.generate_private_key(65537, 2048)
    )
    files.key.write_bytes(pem(other, serialization.NoEncryption()))

    assert (await refusal(files)).startswith(
        f"TLS_KEY={files.key}: is not the key of the certificate in TLS_CERT={files.cert}; "
    )


def pem(key: Any, encryption: serialization.KeySerializationEncryption) -> bytes:
    """Return a private key in PEM."""
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    written: bytes = key.private_bytes(encoding, form, encryption)
    return written
