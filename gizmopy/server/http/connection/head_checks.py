"""Refuse heads that aiohttp's parser accepts and other code cannot handle."""

from __future__ import annotations

from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage
from multidict import istr

from gizmopy.web.authority import is_host

_CONNECTION = istr("Connection")
_UPGRADE = istr("Upgrade")
_EXTENSIONS = istr("Sec-WebSocket-Extensions")
_HANDSHAKE = (
    _CONNECTION,
    _UPGRADE,
    _EXTENSIONS,
    *(istr(f"Sec-WebSocket-{name}") for name in ("Key", "Version", "Protocol")),
)
_MAX_EXTENSIONS = 1024
"""The longest Sec-WebSocket-Extensions: aiohttp parses numbers of any length in it."""


def check_host(host: str | None) -> None:
    """Raise BadHttpMessage (400) if ``host`` is not a valid Host (RFC 9112 section 3.2).

    The parser refuses a request with two, and a request of HTTP/1.1 without one.
    """
    if host is not None and not is_host(host):
        raise BadHttpMessage("the Host is malformed")


def check_message(message: RawRequestMessage) -> None:
    """Raise BadHttpMessage (400) if the head of a request is malformed.

    These are malformed: a version other than 1.0 and 1.1; an absolute target with user information
    (RFC 9110 section 4.2.4) or with a host that cannot be decoded; a WebSocket handshake with
    characters that are not ASCII (RFC 6455 section 4.1).
    """
    version = message.version
    if version is not HttpVersion11 and version not in (HttpVersion10, HttpVersion11):
        # Not 505: a client could raise the service's rate of server errors.
        raise BadHttpMessage("only HTTP/1.0 and HTTP/1.1 are served")
    if message.path[:1] != "/":
        _check_target(message)
    if _UPGRADE in message.headers:
        _check_handshake(message)


def _check_target(message: RawRequestMessage) -> None:
    url = message.url
    if not url.absolute:  # the * of OPTIONS
        return
    try:
        is_good = bool(url.host) and url.raw_user is None and url.scheme in ("http", "https")
    except ValueError as error:  # UnicodeError is one
        raise BadHttpMessage("the target is malformed") from error
    if not is_good:
        raise BadHttpMessage("the target is malformed")


def _check_handshake(message: RawRequestMessage) -> None:
    headers = message.headers
    for name in _HANDSHAKE:
        if not "".join(headers.getall(name, ())).isascii():
            raise BadHttpMessage(f"{name} is not ASCII")
    if len(headers.get(_EXTENSIONS, "")) > _MAX_EXTENSIONS:
        raise BadHttpMessage("Sec-WebSocket-Extensions is too long")
