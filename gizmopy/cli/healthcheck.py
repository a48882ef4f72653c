"""``gizmopy healthcheck``: probe a running daemon. For container images without curl."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from gizmopy.cli.parser import Parser
from gizmopy.config import Settings
from gizmopy.config.loading import read_values
from gizmopy.config.urls import scheme_and_hosts
from gizmopy.observe.held_records import held_records
from gizmopy.untrusted.text import as_lines, escape

PROBES = {"liveness": "/livez", "readiness": "/readyz"}
_SETTINGS = (
    *("http_addr", "http_port", "proxy_protocol", "admin_addr", "admin_port"),
    *("tls_cert", "tls_client_ca"),
)
_UNIX = "unix:"
_TRUE = frozenset(("1", "true", "t", "yes", "y", "on"))
"""The spellings of true in an environment variable."""


def main(argv: Sequence[str]) -> int:
    """Return 0 if the daemon answers 200; else print the reason on standard error and return 1."""
    parser = Parser(prog="gizmopy healthcheck", description=__doc__)
    parser.add_argument("url", nargs="?", default=_default_url(), help="default: %(default)s")
    parser.add_argument("--probe", choices=PROBES, default="readiness")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds; default: %(default)s")
    parser.add_argument(
        "--cert", help="file of the client's certificate, in PEM; needed if TLS_CLIENT_CA is set"
    )
    parser.add_argument(
        "--key", help="file of its private key, in PEM; default: the file of the certificate"
    )
    chosen = parser.parse_args(argv)
    if chosen.timeout <= 0:
        parser.error(f"--timeout {chosen.timeout:g}: is not above 0; write a number of seconds")
    try:
        context = _ssl_context(chosen.cert, chosen.key)
    except (OSError, ValueError) as error:
        parser.error(
            f"--cert {chosen.cert}: cannot be used: {error}; name a certificate and its key, in PEM"
        )
    connection, path = _parse(chosen.url, chosen.timeout, context)
    if connection is None:
        parser.error("the URL is not an address; write it as http://host:port or unix:/path")
    try:
        status, text = _get(connection, path or PROBES[chosen.probe])
    except (OSError, HTTPException, UnicodeError) as error:
        print(as_lines(f"{_redacted(chosen.url)}: {error}"), file=sys.stderr)
        return 1
    print(escape(text.strip(), keep="\n\t"), file=sys.stdout if status == 200 else sys.stderr)
    return 0 if status == 200 else 1


def _redacted(url: str) -> str:
    """Return a URL without its login, path and parameters."""
    if url.startswith(_UNIX):
        return url
    return scheme_and_hosts(url) or "the URL"


def _parse(text: str, timeout: float, context: ssl.SSLContext) -> tuple[HTTPConnection | None, str]:
    """Return a connection to the daemon at a URL, and the path; None if it is not a valid URL."""
    if text.startswith(_UNIX):
        return _UnixConnection(text.removeprefix(_UNIX), timeout), ""
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
    except ValueError:
        return None, ""
    path = url.path.rstrip("/")
    if host and url.scheme == "http":
        return HTTPConnection(host, port or 80, timeout=timeout), path
    if host and url.scheme == "https":
        return HTTPSConnection(host, port or 443, timeout=timeout, context=context), path
    return None, ""


def _ssl_context(cert: str | None, key: str | None) -> ssl.SSLContext:
    """Return a context that accepts any certificate of the daemon.

    The certificate names the public host, and this command connects to the loopback address. With
    ``cert`` the context presents that client certificate. Raises OSError or ValueError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        context.load_cert_chain(cert, key, password="")  # without it, OpenSSL prompts
    return context


class _UnixConnection(HTTPConnection):
    """A connection to a Unix socket: a path, or ``@`` and an abstract name."""

    def __init__(self, address: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._address)


def _default_url() -> str:
    """Return the URL of this container's daemon, from the sources of its settings except flags.

    This is the admin port if the main port requires a client certificate or a PROXY header.
    """
    given = _given_settings()
    host, port = given.get("http_addr") or "127.0.0.1", given.get("http_port") or "8080"
    needs_header = given.get("proxy_protocol", "").strip().lower() in _TRUE
    is_restricted = needs_header or bool(given.get("tls_client_ca"))
    if is_restricted and (admin_port := given.get("admin_port")):
        host, port = given.get("admin_addr") or "127.0.0.1", admin_port
    if host.startswith(_UNIX):
        return host
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}.get(host, host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    scheme = "https" if given.get("tls_cert") else "http"
    return f"{scheme}://{host}:{port}"


def _given_settings() -> dict[str, str]:
    """Return the texts of the settings that the URL depends on.

    They come from the environment, the files that ``NAME_FILE`` names, ``.env``, the directory of
    secrets and the settings file. Warnings about them are those of the daemon, which logs them.
    """
    with held_records("gizmopy.config"):
        values = read_values(Settings, _SETTINGS)
    return {name: str(value).strip() for name, value in values.items()}


def _get(connection: HTTPConnection, path: str) -> tuple[int, str]:
    try:
        connection.request("GET", path, headers={"User-Agent": "gizmopy-healthcheck"})
        response = connection.getresponse()
        return response.status, response.read(4096).decode("utf-8", "replace")
    finally:
        connection.close()
