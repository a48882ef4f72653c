"""Certificates in files, a server that presents them, and a client that reads them."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import trustme

from gizmopy.server.http.listening.tls import Certificate

AUTHORITY = trustme.CA()
EXPIRES = datetime(2049, 5, 6, 7, 8, 9, tzinfo=UTC)


class Ticks:
    """A clock that is stopped, except during ``tick``."""

    def __init__(self) -> None:
        self._asleep = asyncio.Event()
        self._go = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self._asleep.set()
        await self._go.wait()
        self._go.clear()

    async def tick(self, times: int = 1) -> None:
        """Wake the task that sleeps, and wait until it sleeps again."""
        for _ in range(times):
            await self._asleep.wait()
            self._asleep.clear()
            self._go.set()
        await self._asleep.wait()


class Files:
    """The two files of a certificate, in a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.cert = directory / "tls.crt"
        self.key = directory / "tls.key"

    def issue(self, expires: datetime = EXPIRES) -> "Files":
        """Write a new certificate and key."""
        pair = AUTHORITY.issue_cert(
            "localhost", "127.0.0.1", not_before=datetime(2000, 1, 1, tzinfo=UTC), not_after=expires
        )
        self.key.write_bytes(pair.private_key_pem.bytes())
        self.cert.write_bytes(b"".join(part.bytes() for part in pair.cert_chain_pems))
        return self

    def certificate(
        self,
        ticks: Ticks | None = None,
        *,
        client_ca: str = "",
        now: Callable[[], float] = time.time,
    ) -> Certificate:
        sleep = Ticks().sleep if ticks is None else ticks.sleep
        return Certificate(str(self.cert), str(self.key), client_ca, sleep=sleep, now=now)


@asynccontextmanager
async def echo(certificate: Certificate) -> AsyncIterator[int]:
    """Run a server that echoes lines, and yield its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificate.context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


class Client:
    """A connection over TLS, and the server's certificate."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        shown = writer.get_extra_info("ssl_object")
        self.certificate = shown.getpeercert(binary_form=True)
        self.protocol = shown.selected_alpn_protocol()

    async def echoes(self) -> bool:
        """Whether the connection works."""
        self._writer.write(b"hello\n")
        return await self._reader.readline() == b"hello\n"


@asynccontextmanager
async def connect(port: int, name: str = "localhost") -> AsyncIterator[Client]:
    """Do a TLS handshake with the server called ``name``."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    AUTHORITY.configure_trust(context)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name
    )
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()


def der(files: Files) -> bytes:
    """Return the certificate in the files, in the format of a handshake."""
    end = "-----END CERTIFICATE-----\n"
    return ssl.PEM_cert_to_DER_cert(files.cert.read_text().partition(end)[0] + end)
