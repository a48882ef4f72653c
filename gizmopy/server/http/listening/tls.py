"""Serve HTTPS with a certificate that may be renewed while the daemon runs."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from gizmopy.errors import StartError

logger = logging.getLogger("gizmopy.server.tls")

_CHECK_SECONDS = 5.0
"""The time between two checks of the files."""
_WARNING_SECONDS = 14 * 86400.0
"""How long before its expiry a certificate is reported as a warning."""
_REPEAT_SECONDS = 86400.0
"""The time between two such reports."""

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""OpenSSL's reasons if a key belongs to another certificate."""


class Certificate:
    """The certificate in the PEM file ``cert``, with its key in the PEM file ``key``.

    An async context manager. Entering reads the files, and raises StartError, with a remedy, if
    they cannot be used. While it is open, changed files are loaded for new connections; established
    connections remain. If the new files cannot be used, it logs an error and keeps the old ones.
    From 14 days before the certificate expires it logs a warning once a day, and an error after.

    With ``client_ca``, a PEM file of authorities, a client must present a certificate that one of
    them signed. That file is loaded again like the others.
    """

    context: ssl.SSLContext
    """The context to listen with, for TLS 1.2 and 1.3. It remains the same after a change."""
    admin_context: ssl.SSLContext
    """The context of the admin port, which does not ask clients for a certificate."""
    not_after: float
    """When the certificate in use expires, in seconds since the epoch."""

    def __init__(
        self,
        cert: str,
        key: str,
        client_ca: str = "",
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._authorities = b""
        self._authorities_since = 0.0
        self._sleep = sleep
        self._now = now

    async def __aenter__(self) -> Certificate:
        self._loaded = self._identities()
        self.context, self.admin_context = self._load()
        self._watcher = asyncio.create_task(self._watch(), name="gizmopy-tls")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watcher.cancel()
        await asyncio.gather(self._watcher, return_exceptions=True)

    async def _watch(self) -> None:
        """Load the files if they have changed, and have not changed since the last check.

        A file that still changes may be incomplete. Log the expiry if its level changes, and once a
        day from the first warning on.
        """
        seen = self._loaded
        while True:
            await self._sleep(_CHECK_SECONDS)
            before, seen = seen, self._identities()
            if seen == before and seen != self._loaded:
                self._loaded = seen
                self._reload()
            level, at = self._logged
            urgency, repeats = self._urgency(), self._now() - at >= _REPEAT_SECONDS
            if urgency != level or (repeats and urgency > logging.INFO):
                self._log_expiry()

    def _identities(self) -> tuple[object, ...]:
        """Return a value that changes if a file does, or a symbolic link to it."""
        return tuple(map(_identity, (self._cert, self._key, self._client_ca)))

    def _reload(self) -> None:
        try:
            context, admin_context = self._load()
        except StartError as error:
            logger.error(
                "the new certificate cannot be used, the old one remains in use: %s", error
            )
            return
        self.context.sni_callback = _presenting(context, self._authorities_since)
        self.admin_context.sni_callback = _presenting(admin_context, 0.0)

    def _load(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """Return the contexts of the main port and of the admin port. Raises StartError."""
        context, not_after = _load(self._cert, self._key)
        admin_context = context
        if self._client_ca:
            context, _ = _load(self._cert, self._key)
            authorities = _require_client(context, self._client_ca)
            if authorities != self._authorities:
                self._authorities_since = time.time() if self._authorities else 0.0
                self._authorities = authorities
        self.not_after = not_after
        self._log_expiry()
        return context, admin_context

    def _urgency(self) -> int:
        """Return the level of the log line about the expiry."""
        left = self.not_after - self._now()
        if left <= 0:
            return logging.ERROR
        return logging.WARNING if left <= _WARNING_SECONDS else logging.INFO

    def _log_expiry(self) -> None:
        urgency = self._urgency()
        verb = "has expired" if urgency == logging.ERROR else "expires"
        remedy = "" if urgency == logging.INFO else "; renew it"
        expires = f"{datetime.fromtimestamp(self.not_after, UTC):%Y-%m-%d %H:%M} UTC"
        logger.log(urgency, "TLS_CERT=%s %s on %s%s", self._cert, verb, expires, remedy)
        self._logged = urgency, self._now()


_SNICallback = Callable[[ssl.SSLObject, str, ssl.SSLContext], int | None]


def _presenting(context: ssl.SSLContext, since: float) -> _SNICallback:
    """Return a callback that replaces the listener's context by ``context`` for a connection.

    If the files were loaded into the context in use and one of them is bad, that context would have
    a new certificate and an old key. OpenSSL calls this for every connection, also without a server
    name. If clients need a certificate, sessions from before ``since`` (seconds since the epoch)
    are refused.
    """
    requires_client = context.verify_mode is ssl.CERT_REQUIRED

    def present(connection: ssl.SSLObject, name: str, old: ssl.SSLContext) -> int | None:
        # OpenSSL does not check the client's certificate again if the client resumes a TLS 1.2
        # session. Without this, clients of an authority that was removed could still connect.
        if requires_client and connection.session_reused:
            session = connection.session
            if session is None or session.time <= since:
                return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE
        connection.context = context
        return None

    return present


def _require_client(context: ssl.SSLContext, path: str) -> bytes:
    """Require client certificates that an authority in the file ``path`` signed.

    Returns the content of the file. Raises StartError if it cannot be used.
    """
    content = _read("TLS_CLIENT_CA", path, _BEGIN)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise StartError(
            f"TLS_CLIENT_CA={path}: cannot be used: {error}; write the certificates again, in PEM"
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED
    # A client could reconnect with a ticket without a check of its certificate, and loading the
    # file again would not end that.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return content


def _identity(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  # it follows links
    except OSError:
        return None  # loading reports the reason
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _load(cert: str, key: str) -> tuple[ssl.SSLContext, float]:
    """Return a context with the certificate and key, and its expiry. Raises StartError."""
    chain = _read("TLS_CERT", cert, _BEGIN)
    _read("TLS_KEY", key, b"PRIVATE KEY-----")

    def no_password() -> str:
        raise StartError(f"TLS_KEY={key}: is encrypted; decrypt it: openssl pkey -in {key}")

    context = _server_context()
    try:
        # Without a function for the password, OpenSSL would ask for it on the terminal.
        context.load_cert_chain(cert, key, password=no_password)
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            raise StartError(
                f"TLS_KEY={key}: is not the key of the certificate in TLS_CERT={cert}; "
                "set both to files of one pair, with the certificate before those that signed it"
            ) from error
        raise StartError(
            f"TLS_CERT={cert}, TLS_KEY={key}: cannot be used: {error}; write both again, in PEM"
        ) from error
    return context, _not_after(chain)


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python's default includes TLS 1.2 suites in CBC mode. This does not affect TLS 1.3.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    # OpenSSL before 3 allows renegotiation, which costs the server more than the client.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _read(name: str, path: str, part: bytes) -> bytes:
    """Return the content of a file. Raises StartError if ``part`` is not in it."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise StartError(
            f"{name}={path}: {error.strerror}; set it to a file that this user may read"
        ) from error
    if part not in content:
        raise StartError(f"{name}={path}: is not a PEM file with {part.decode()}; set it to one")
    return content


def _not_after(chain: bytes) -> float:
    """Return when the first certificate expires, in seconds since the epoch (RFC 5280, 4.1)."""
    begin = chain.index(_BEGIN)  # it is there: OpenSSL has read it
    first = chain[begin : chain.index(_END, begin) + len(_END)]
    certificate = _elements(ssl.PEM_cert_to_DER_cert(first.decode()))[0]
    signed = _elements(certificate)[0]
    has_version = signed[0] == 0xA0
    validity = _elements(signed)[4 if has_version else 3]
    text = _elements(validity)[1].decode()
    form = "%y%m%d%H%M%SZ" if len(text) == 13 else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()


def _elements(der: bytes) -> list[bytes]:
    """Return the contents of the DER elements in ``der``."""
    found: list[bytes] = []
    at = 0
    while at < len(der):
        length, at = der[at + 1], at + 2
        if length & 0x80:  # the length of the length
            start, at = at, at + (length & 0x7F)
            length = int.from_bytes(der[start:at], "big")
        found.append(der[at : at + length])
        at += length
    return found
