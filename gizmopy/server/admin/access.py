"""Decide whether ``/debug/`` is served, and to which requests: to those that bring the token.

A request's address, its Host and a proxy's header fields prove nothing: a forwarder on the same
machine makes every request a local one. So each request needs the token, on loopback too.
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
"""Where ``go tool pprof`` looks for profiles; it can send a token as a password only."""

_AUTHORIZATION = istr("Authorization")
_HEADERS = {"Cache-Control": "no-store"}
_TOKEN_BYTES = 32
_SHORT = 16


def is_served(settings: Settings) -> bool:
    """Return whether ``/debug/`` is served: GIZMO_DEBUG, a token or ENABLE_PPROF turns it on.

    ``GIZMO_DEBUG=false`` wins over the others.
    """
    if settings.debug is not None:
        return settings.debug
    return settings.enable_pprof or bool(_configured(settings))


def _configured(settings: Settings) -> str:
    """Return the token that the settings give, without the newline that a file of it ends with."""
    return settings.debug_token.get_secret_value().strip()


class DebugGuard:
    """Let requests with the token in, and no other.

    Without GIZMO_DEBUG_TOKEN the token is made: 256 random bits, which ``announce`` logs once.
    """

    __slots__ = ("_settings", "_token", "is_made")

    def __init__(self, settings: Settings) -> None:
        token = _configured(settings)
        self._settings = settings
        self.is_made = not token
        """Whether the token was made here, and the log is the only place that shows it."""
        self._token = _bytes(token or secrets.token_urlsafe(_TOKEN_BYTES))

    def check_listener(self) -> None:
        """Raise StartError if other machines reach a ``/debug/`` whose token was made.

        Its token stands in the log, which is kept and sent elsewhere: it is for one's own machine.
        """
        settings = self._settings
        is_admin = settings.admin_port is not None
        name, address = (
            ("GIZMO_ADMIN_ADDR", settings.admin_addr)
            if is_admin
            else ("HTTP_ADDR", settings.http_addr)
        )
        if not self.is_made or address.startswith(UNIX) or is_loopback(address):
            return
        cause = "GIZMO_DEBUG" if settings.debug else "ENABLE_PPROF"
        other = "" if is_admin else ", or GIZMO_ADMIN_PORT, which is on 127.0.0.1"
        raise StartError(
            f"{cause}=true serves /debug on {name}={address}, which other machines may reach, and "
            f"there is no GIZMO_DEBUG_TOKEN; set one{other}, or set GIZMO_DEBUG=false"
        )

    def announce(self, url: str) -> None:
        """Log the address to open, if the token was made; ``url`` is where the daemon listens.

        The token stands behind a ``#``: browsers send no part of that to a server, and so no proxy
        and no access log gets it. No APP_LOG_LEVEL hides the line, which is the only way to the
        token. A token of the settings is never logged, but a warning is, if it is short enough to
        guess: wrong tokens are answered as fast as they come.
        """
        if not self.is_made:
            if len(self._token) < _SHORT:
                logger.warning(
                    "GIZMO_DEBUG_TOKEN has less than %d characters, and can be guessed; set a "
                    "longer one",
                    _SHORT,
                )
            return
        base, where = ("http://localhost", f" over {url}") if url.startswith(UNIX) else (url, "")
        address = f"{base}{ROOT}#token={self._token.decode()}"
        level = max(logging.WARNING, logger.getEffectiveLevel())
        logger.log(level, "/debug is on until this process ends%s: open %s", where, address)

    def __call__(self, handler: Handler) -> Handler:
        """Return ``handler`` behind this guard; no cache keeps an answer of it.

        A browser that opens ``/debug/`` cannot bring the token: it gets a page with its 401, which
        has the token from the address and asks again.
        """

        async def guarded(request: web.Request) -> web.StreamResponse:
            _check_path(request.raw_path)
            try:
                if not self._has_token(request):
                    return _refusal(request)
                response = await handler(request)
            except Problem as problem:
                problem.headers.update(_HEADERS)
                raise
            response.headers.update(_HEADERS)
            return response

        return guarded

    def _has_token(self, request: web.BaseRequest) -> bool:
        given = request.headers.getall(_AUTHORIZATION, ())
        if len(given) != 1:
            return False
        scheme, _, text = given[0].partition(" ")
        match scheme.lower():
            case "bearer":
                token = _bytes(text.strip())
            case "basic" if request.method == "GET" and request.raw_path.startswith(PROFILES):
                token = _password(text)
            case _:
                return False
        return secrets.compare_digest(token, self._token)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # a file of settings may hold any surrogate


def _password(credentials: str) -> bytes:
    """Return the password of credentials of HTTP's Basic scheme; empty if there is none."""
    try:
        decoded = base64.b64decode(_bytes(credentials.strip()), validate=True)
    except binascii.Error:
        return b""
    return _bytes(decoded.partition(b":")[2].decode(errors="surrogateescape"))


def _check_path(target: str) -> None:
    """Raise RouteNotFound unless a request's target is the canonical spelling of a path.

    A proxy that keeps ``/debug/`` from its clients compares text: ``/%64ebug/`` and
    ``/x/../debug/`` must not be other names for it.
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


def _refusal(request: web.Request) -> web.StreamResponse:
    """Return the page that asks with the token; raise Problem 401 for all but its address.

    There is no WWW-Authenticate: a browser would ask its user for a password, and from then on
    send it with requests that other pages make.
    """
    accepted = request.headers.get("Accept", "")
    if request.raw_path == ROOT and request.method == "GET" and "text/html" in accepted:
        from importlib.resources import files  # both only if asked for: cold starts matter

        from gizmopy.web.openapi.page import page_headers

        page = (files("gizmopy.server.admin") / "debug.html").read_text(encoding="utf-8")
        headers = page_headers(page) | _HEADERS
        return web.Response(status=401, body=page.encode(), headers=headers)
    detail = "Send the token of /debug as Authorization: Bearer; GIZMO_DEBUG_TOKEN sets it."
    raise Problem(401, detail)
