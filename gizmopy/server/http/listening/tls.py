"""Serve HTTPS with a certificate that may change while the daemon runs."""

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

_LOOK_SECONDS = 5.0
"""How often the files are looked at."""
_WARNED_SECONDS = 14 * 86400.0
"""How long before a certificate expires it is warned of."""
_REPEAT_SECONDS = 86400.0
"""How often that is repeated."""

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""What OpenSSL calls a key of another certificate, of the same kind and of another one."""


class Certificate:
    """Show the certificate in the file ``cert``, with the key in ``key``; both are PEM.

    An async context manager: entering reads the files, and raises StartError, with what to do,
    where they cannot be used. As long as it is open, new connections are shown what the files hold
    by now, and those that are open stay; a pair that cannot be used is logged, and not shown. A
    warning is logged once a day from 14 days before the certificate expires, and an error after.

    With ``client_ca``, a PEM file of authorities, a client must show a certificate that one of them
    signed. The file is followed like the others.
    """

    context: ssl.SSLContext
    """What to listen with, from TLS 1.2 on. It stays the same when the certificate changes."""
    admin_context: ssl.SSLContext
    """The same for the admin port, which asks for no certificate of its client."""
    not_after: float
    """When the certificate that is shown expires, in seconds since the epoch."""

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
        self._loaded = self._look()
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
        """Load the files when they have changed and are whole: unchanged since the last look.

        Log the expiry when its level changes, and once a day from the first warning on.
        """
        seen = self._loaded
        while True:
            await self._sleep(_LOOK_SECONDS)
            before, seen = seen, self._look()
            if seen == before and seen != self._loaded:
                self._loaded = seen
                self._reload()
            level, at = self._told
            urgency, repeats = self._urgency(), self._now() - at >= _REPEAT_SECONDS
            if urgency != level or (repeats and urgency > logging.INFO):
                self._tell_expiry()

    def _look(self) -> tuple[object, ...]:
        """Return what changes when a file does, or when a link on the way to it does."""
        return tuple(map(_identity, (self._cert, self._key, self._client_ca)))

    def _reload(self) -> None:
        try:
            context, admin_context = self._load()
        except StartError as error:
            logger.error("the certificate in use stays, the new one cannot be used: %s", error)
            return
        self.context.sni_callback = _show(context, self._authorities_since)
        self.admin_context.sni_callback = _show(admin_context, 0.0)

    def _load(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """Return a context for the main port, and one for the admin port. Raises StartError."""
        context, not_after = _load(self._cert, self._key)
        admin_context = context
        if self._client_ca:
            context, _ = _load(self._cert, self._key)
            authorities = _require_client(context, self._client_ca)
            if authorities != self._authorities:
                self._authorities_since = time.time() if self._authorities else 0.0
                self._authorities = authorities
        self.not_after = not_after
        self._tell_expiry()
        return context, admin_context

    def _urgency(self) -> int:
        """Return the level of the line about the expiry."""
        left = self.not_after - self._now()
        if left <= 0:
            return logging.ERROR
        return logging.WARNING if left <= _WARNED_SECONDS else logging.INFO

    def _tell_expiry(self) -> None:
        urgency = self._urgency()
        verb = "has expired" if urgency == logging.ERROR else "expires"
        remedy = "" if urgency == logging.INFO else "; renew it"
        expires = f"{datetime.fromtimestamp(self.not_after, UTC):%Y-%m-%d %H:%M} UTC"
        logger.log(urgency, "TLS_CERT=%s %s on %s%s", self._cert, verb, expires, remedy)
        self._told = urgency, self._now()


_Show = Callable[[ssl.SSLObject, str, ssl.SSLContext], int | None]


def _show(context: ssl.SSLContext, since: float) -> _Show:
    """Return a callback that gives a new connection ``context``, not the listener's context.

    A pair loaded into the context in use would be half new if a file is bad. OpenSSL asks this
    for every connection, those without a server name too. Sessions from before ``since``, in
    seconds since the epoch, are refused if a client's certificate is asked for.
    """
    asks_client = context.verify_mode is ssl.CERT_REQUIRED

    def show(connection: ssl.SSLObject, name: str, old: ssl.SSLContext) -> int | None:
        # OpenSSL checks no certificate of a client that comes back with a session of TLS 1.2, so
        # an authority that is no longer in the file would still let its clients in.
        if asks_client and connection.session_reused:
            session = connection.session
            if session is None or session.time <= since:
                return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE
        connection.context = context
        return None

    return show


def _require_client(context: ssl.SSLContext, path: str) -> bytes:
    """Have clients show a certificate that an authority in ``path`` signed; return its content.

    Raises StartError.
    """
    content = _read("TLS_CLIENT_CA", path, "-----BEGIN CERTIFICATE-----")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise StartError(
            f"TLS_CLIENT_CA={path}: cannot be used: {error}; write the certificates anew, in PEM"
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED
    # A ticket lets a client in again with no check of its certificate, and no reload ends it.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return content


def _identity(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  # of what a link leads to
    except OSError:
        return None  # loading will say why
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _load(cert: str, key: str) -> tuple[ssl.SSLContext, float]:
    """Return a context with the pair, and when it expires. Raises StartError."""
    chain = _read("TLS_CERT", cert, "-----BEGIN CERTIFICATE-----")
    _read("TLS_KEY", key, "PRIVATE KEY-----")

    def no_password() -> str:
        raise StartError(f"TLS_KEY={key}: is encrypted; decrypt it: openssl pkey -in {key}")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python's default has suites of TLS 1.2 in CBC mode too. Those of 1.3 are not touched by this.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    # OpenSSL before 3 lets a client renegotiate, which costs the server more than the client.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=no_password)  # which would ask the terminal
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            raise StartError(
                f"TLS_KEY={key}: is not the key of the certificate in TLS_CERT={cert}; "
                "give the pair, and the certificate before those that signed it"
            ) from error
        raise StartError(
            f"TLS_CERT={cert}, TLS_KEY={key}: cannot be used: {error}; write both anew, in PEM"
        ) from error
    return context, _not_after(chain)


def _read(name: str, path: str, mark: str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise StartError(
            f"{name}={path}: {error.strerror}; give a file that this user may read"
        ) from error
    if mark.encode() not in content:
        raise StartError(f"{name}={path}: is not what it should be; give a PEM file with {mark}")
    return content


def _not_after(chain: bytes) -> float:
    """Return when the first certificate expires, in seconds since the epoch (RFC 5280, 4.1)."""
    begin = chain.index(_BEGIN)  # both are there: OpenSSL has read it
    first = chain[begin : chain.index(_END, begin) + len(_END)]
    certificate = _elements(ssl.PEM_cert_to_DER_cert(first.decode()))[0]
    signed = _elements(certificate)[0]
    version_is_told = signed[0] == 0xA0
    validity = _elements(signed)[4 if version_is_told else 3]
    text = _elements(validity)[1].decode()
    form = "%y%m%d%H%M%SZ" if len(text) == 13 else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()


def _elements(der: bytes) -> list[bytes]:
    """Return the contents of the elements that stand one after the other in ``der``."""
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
