"""Decide whether ``/debug/`` is served, and check the token of its requests.

The address of a client, its Host and the header fields of a proxy prove nothing: a proxy on the
same machine makes every request a local one. So each request needs the token, on loopback too.
"""

from __future__ import annotations

import base64
import binascii
import logging
import secrets

from aiohttp import web
from multidict import istr

from gizmopy.config import Settings
from gizmopy.errors import StartError
from gizmopy.server.http.listening.sockets import UNIX, is_loopback
from gizmopy.web import Handler, Problem
from gizmopy.web.router import RouteNotFound

logger = logging.getLogger("gizmopy.server.debug_guard")

ROOT = "/debug/"
PROFILES = "/debug/pprof/"
"""The path that ``go tool pprof`` requests; it can send a token only as a password."""

_AUTHORIZATION = istr("Authorization")
_HEADERS = {"Cache-Control": "no-store"}
_TOKEN_BYTES = 32
_SHORTEST_SAFE = 16
"""A shorter token can be guessed: wrong tokens are answered as fast as they arrive."""


def is_served(settings: Settings) -> bool:
    """Return whether ``/debug/`` is served.

    GIZMO_DEBUG, a token and ENABLE_PPROF turn it on; ``GIZMO_DEBUG=false`` overrides the others.
    """
    if settings.debug is not None:
        return settings.debug
    return settings.enable_pprof or bool(_configured_token(settings))


def _configured_token(settings: Settings) -> str:
    """Return the token of the settings, without the newline at the end of a secret's file."""
    return settings.debug_token.get_secret_value().strip()


class DebugGuard:
    """Answer only requests that bring the token.

    Without GIZMO_DEBUG_TOKEN the token is generated: 256 random bits, which ``log_url`` logs once.
    """

    __slots__ = ("_settings", "_token", "is_generated")

    def __init__(self, settings: Settings) -> None:
        token = _configured_token(settings)
        self._settings = settings
        self.is_generated = not token
        """Whether the token was generated here: then only the log shows it."""
        self._token = _bytes(token or secrets.token_urlsafe(_TOKEN_BYTES))

    def check_listener(self) -> None:
        """Raise StartError if other machines can reach a ``/debug/`` with a generated token.

        Logs are stored and sent to other systems, so a token in the log protects only a listener
        that other machines cannot reach.
        """
        settings = self._settings
        is_admin = settings.admin_port is not None
        name, address = (
            ("GIZMO_ADMIN_ADDR", settings.admin_addr)
            if is_admin
            else ("HTTP_ADDR", settings.http_addr)
        )
        if not self.is_generated or address.startswith(UNIX) or is_loopback(address):
            return
        cause = "GIZMO_DEBUG" if settings.debug else "ENABLE_PPROF"
        other = "" if is_admin else ", or GIZMO_ADMIN_PORT, which is on 127.0.0.1"
        raise StartError(
            f"{cause}=true serves /debug on {name}={address}, which other machines may reach, and "
            f"GIZMO_DEBUG_TOKEN is not set; set one{other}, or set GIZMO_DEBUG=false"
        )

    def log_url(self, url: str) -> None:
        """Log the URL of /debug with a generated token; ``url`` is that of the listener.

        The token follows a ``#``: browsers do not send that part to a server, so no proxy and no
        access log receives it. No APP_LOG_LEVEL hides the line, because nothing else shows the
        token. A configured token is never logged; a warning is, if it is short enough to guess.
        """
        if not self.is_generated:
            if len(self._token) < _SHORTEST_SAFE:
                logger.warning(
                    "GIZMO_DEBUG_TOKEN has less than %d characters and can be guessed; set a "
                    "longer one",
                    _SHORTEST_SAFE,
                )
            return
        base, socket = ("http://localhost", f" over {url}") if url.startswith(UNIX) else (url, "")
        debug_url = f"{base}{ROOT}#token={self._token.decode()}"
        level = max(logging.WARNING, logger.getEffectiveLevel())
        logger.log(level, "/debug is on until this process ends%s: open %s", socket, debug_url)

    def __call__(self, handler: Handler) -> Handler:
        """Return ``handler`` behind this guard. Caches must not store its responses.

        A browser that opens ``/debug/`` cannot send the token in a header. It gets a page with the
        401, and the page's script takes the token from the URL and requests again.
        """

        async def guarded(request: web.Request) -> web.StreamResponse:
            _check_path(request.raw_path)
            try:
                if not self._has_token(request):
                    return _unauthorized(request)
                response = await handler(request)
            except Problem as problem:
                problem.headers.update(_HEADERS)
                raise
            response.headers.update(_HEADERS)
            return response

        return guarded

    def _has_token(self, request: web.BaseRequest) -> bool:
        fields = request.headers.getall(_AUTHORIZATION, ())
        # A proxy may check one of two fields and we the other one.
        if len(fields) != 1:
            return False
        scheme, _, credentials = fields[0].partition(" ")
        match scheme.lower():
            case "bearer":
                token = _bytes(credentials.strip())
            case "basic" if request.method == "GET" and request.raw_path.startswith(PROFILES):
                token = _password(credentials)
            case _:
                return False
        # In constant time: the time of == depends on the number of leading bytes that are right.
        return secrets.compare_digest(token, self._token)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # a settings file may contain lone surrogates


def _password(credentials: str) -> bytes:
    """Return the password in credentials of the Basic scheme (RFC 7617); empty if malformed."""
    try:
        decoded = base64.b64decode(_bytes(credentials.strip()), validate=True)
    except binascii.Error:
        return b""
    return _bytes(decoded.partition(b":")[2].decode(errors="surrogateescape"))


def _check_path(target: str) -> None:
    """Raise RouteNotFound unless a request's target is a path in its canonical form.

    A proxy that blocks ``/debug/`` compares text. It lets ``/%64ebug/`` and ``/x/../debug/`` pass,
    so they must not lead here.
    """
    path = target.partition("?")[0]
    segments = path.split("/")
    if (
        not path.startswith(ROOT)
        or "%" in path
        or "#" in path
        or "" in segments[1:-1]
        or not {".", ".."}.isdisjoint(segments)
    ):
        raise RouteNotFound(path)


def _unauthorized(request: web.Request) -> web.StreamResponse:
    """Return the page that requests with the token; raise Problem 401 for other paths.

    There is no WWW-Authenticate header, although RFC 9110 section 15.5.2 asks for one: a browser
    would prompt for a password, and then send it with requests that other pages make.
    """
    accepted = request.headers.get("Accept", "")
    if request.raw_path == ROOT and request.method == "GET" and "text/html" in accepted:
        # Imported here, because most daemons never need them and a start pays for each import.
        from importlib.resources import files

        from gizmopy.web.openapi.page import page_headers

        page = (files("gizmopy.server.admin") / "debug.html").read_text(encoding="utf-8")
        headers = page_headers(page) | _HEADERS
        return web.Response(status=401, body=page.encode(), headers=headers)
    detail = "Send the token of /debug as Authorization: Bearer; GIZMO_DEBUG_TOKEN sets it."
    raise Problem(401, detail)
