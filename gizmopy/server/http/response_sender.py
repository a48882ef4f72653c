"""Send responses: in one write if they are plain bytes, by aiohttp if they are more than that."""

from __future__ import annotations

import asyncio
from email.utils import formatdate

from aiohttp import web
from multidict import istr

from gizmopy.errors import UsageError
from gizmopy.server.http.connection.served_request import ServedRequest
from gizmopy.server.http.request_context import REQUEST_ID
from gizmopy.web.hsts import StrictTransport
from gizmopy.web.statuses import BODILESS, phrase_of

_CONTENT_TYPE_OPTIONS = istr("X-Content-Type-Options")
_SERVER = istr("Server")


class ResponseHeads(dict[tuple[int, str, str], bytes]):
    """Make the heads of responses; ``hsts`` is for those over TLS.

    As a dictionary it maps a status, a content type and a scheme to the first lines of a raw
    response's head, up to the value of X-Request-ID.
    """

    def __init__(self, hsts: StrictTransport) -> None:
        super().__init__()
        self._hsts = hsts

    def __missing__(self, kind: tuple[int, str, str]) -> bytes:
        status, content_type, scheme = kind
        # The lines have the date, so they are kept for a second at most.
        if not self:
            asyncio.get_running_loop().call_later(1.0, self.clear)
        head = self[kind] = (
            f"HTTP/1.1 {status} {phrase_of(status)}\r\nContent-Type: {content_type}\r\n"
            f"{self._hsts.line(scheme)}"
            f"X-Content-Type-Options: nosniff\r\nServer: gizmopy\r\n"
            f"Date: {formatdate(usegmt=True)}\r\nX-Request-ID: "
        ).encode()
        return head

    def complete(self, request: ServedRequest, response: web.StreamResponse) -> None:
        """Add the headers that every response has."""
        headers = response.headers
        headers[REQUEST_ID] = request.request_id
        headers[_SERVER] = "gizmopy"  # aiohttp's default names the versions of aiohttp and Python
        headers[_CONTENT_TYPE_OPTIONS] = "nosniff"  # else a browser may run a text as a script
        self._hsts.decorate(request, response)


async def send(request: ServedRequest, response: web.StreamResponse) -> None:
    """Send the part of ``response`` that its handler has not sent.

    aiohttp would do so after the handler returned. It is done here, because a request is active
    until its response is sent.

    Raises UsageError if the response was sent to another request before, which would leave this one
    without any, or if its body is not as long as its head says.
    """
    if response.prepared and request.prepared is not response:
        raise UsageError("a response was sent already; make one for each request")
    if not response.prepared:
        await response.prepare(request)
    await response.write_eof()
    if request.writer.has_wrong_length:
        raise UsageError("a response's body is not as long as its Content-Length; set none")
    request.keeps_alive = bool(response.keep_alive)


def body_size(request: web.BaseRequest, response: web.StreamResponse) -> int:
    """Return the size of a response's body in bytes; for a stream, its head is included."""
    if request.method == "HEAD" or response.status in BODILESS:
        return 0
    body = response.body if isinstance(response, web.Response) else None
    return len(body) if isinstance(body, bytes) else response.body_length


def close_after(response: web.StreamResponse) -> None:
    """Close the connection after ``response``, and say so in a header.

    ``force_close`` alone closes it without the header.
    """
    response.headers["Connection"] = "close"
    response.force_close()
