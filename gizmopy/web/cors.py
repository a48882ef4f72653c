"""Let pages of other origins call the service: the CORS protocol of the Fetch standard."""

from __future__ import annotations

import re
from collections.abc import Iterable

from aiohttp import web
from multidict import CIMultiDict, istr

from gizmopy.errors import UsageError, seconds_from
from gizmopy.untrusted.durations import DurationLike
from gizmopy.web.authority import DEFAULT_PORTS
from gizmopy.web.problems import Problem
from gizmopy.web.request import Handler

_ORIGIN = istr("Origin")
_VARY = istr("Vary")
_REQUEST_METHOD = istr("Access-Control-Request-Method")
_REQUEST_HEADERS = istr("Access-Control-Request-Headers")
_ALLOW_ORIGIN = istr("Access-Control-Allow-Origin")
_ALLOW_CREDENTIALS = istr("Access-Control-Allow-Credentials")
_ALLOW_METHODS = istr("Access-Control-Allow-Methods")
_ALLOW_HEADERS = istr("Access-Control-Allow-Headers")
_EXPOSE_HEADERS = istr("Access-Control-Expose-Headers")
_MAX_AGE = istr("Access-Control-Max-Age")

_ORIGIN_SYNTAX = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<any>\*\.)?(?P<host>[a-z0-9_][a-z0-9_.-]*|\[[0-9a-f:.]+\])"
    r"(?P<port>:[0-9]{1,5})?"
).fullmatch
_ANY_LABELS = r"[a-z0-9_.-]+\."
_SECOND_LEVEL_REGISTRY = re.compile(
    "ac|co|com|edu|go|gob|gouv|gov|ltd|me|mil|ne|net|nhs|nom|or|org|plc|sch"
).fullmatch
"""Second-level labels that anyone can register names under: ``co.uk``, ``com.au``, ``or.jp``."""


class CORS:
    """Allow pages of other origins to call the service: a middleware.

    An origin is written as a browser sends it, ``https://app.example.com``. With ``*.`` before the
    host it matches every subdomain, but not the host itself. ``*`` alone matches every page.

    ``allow_methods``: the methods that pages may use (default: all that the path serves).
    ``allow_headers``: the request headers that pages may send (default: all that they ask for).
    ``expose_headers``: response headers that pages may read, beside the safelisted ones.
    ``allow_credentials``: whether pages may call with cookies. ``max_age``: the duration for which
    browsers may cache the result of a preflight.

    Raises UsageError if an origin is malformed, or if credentials are allowed for every page, or
    for every name below a public suffix such as ``https://*.com`` or ``https://*.co.uk``. The
    suffixes of hosting companies, such as ``github.io``, are not detected.

    A middleware wraps endpoints only. It sees neither a preflight, since no endpoint serves its
    OPTIONS, nor a request without an endpoint. The server calls ``preflight`` and ``decorate`` for
    these.
    """

    def __init__(
        self,
        allow_origins: Iterable[str],
        *,
        allow_methods: Iterable[str] = (),
        allow_headers: Iterable[str] = (),
        expose_headers: Iterable[str] = (),
        allow_credentials: bool = False,
        max_age: DurationLike = 600,
    ) -> None:
        origins = {origin.lower() for origin in allow_origins}
        self._any_origin = "*" in origins
        if self._any_origin and allow_credentials:
            raise UsageError(
                "allow_credentials with the origin '*' would let every web page act as its "
                "visitor; list the allowed origins"
            )
        self._matches = re.compile("|".join(map(_pattern, origins - {"*"}))).fullmatch
        if allow_credentials:
            for origin in sorted(origins):
                _check_registrable(origin)
        self._credentials = allow_credentials
        self._methods = frozenset(method.upper() for method in allow_methods)
        self._headers = ", ".join(allow_headers)
        self._exposed = ", ".join(expose_headers)
        self._max_age = str(int(seconds_from("CORS(max_age=)", max_age)))

    def __call__(self, handler: Handler) -> Handler:
        """Return ``handler`` with the CORS headers added to its responses, and to its errors."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                response = await handler(request)
            except (Problem, web.HTTPException) as error:
                self._add_headers(request, error.headers)
                raise
            self._add_headers(request, response.headers)
            return response

        return handle

    def preflight(
        self, request: web.BaseRequest, allowed_methods: Iterable[str]
    ) -> web.Response | None:
        """Return the response to a preflight for a path that serves ``allowed_methods``.

        Returns None if ``request`` is not a preflight.
        """
        headers = request.headers
        if request.method != "OPTIONS" or _ORIGIN not in headers or _REQUEST_METHOD not in headers:
            return None
        response = web.Response(status=204)
        self.decorate(request, response)
        if _ALLOW_ORIGIN in response.headers:
            methods = (
                self._methods.intersection(allowed_methods) if self._methods else allowed_methods
            )
            response.headers[_ALLOW_METHODS] = ", ".join(sorted(methods))
            if allowed := self._headers or headers.get(_REQUEST_HEADERS, ""):
                response.headers[_ALLOW_HEADERS] = allowed
            response.headers[_MAX_AGE] = self._max_age
        return response

    def permits(self, request: web.BaseRequest) -> bool:
        """Return whether a page of the request's origin may use the request's method."""
        origins = request.headers.getall(_ORIGIN, ())
        if self._methods and request.method not in self._methods:
            return False
        if self._any_origin:
            return True
        return len(origins) == 1 and bool(origins[0]) and bool(self._matches(origins[0]))

    def decorate(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Add the headers that let the page which sent ``request`` read ``response``.

        A response whose headers have been sent is not changed. To call this twice is to call it
        once.
        """
        self._add_headers(request, response.headers)

    def _add_headers(self, request: web.BaseRequest, headers: CIMultiDict[str]) -> None:
        origin = request.headers.get(_ORIGIN, "")
        if self._any_origin:
            # Also without an Origin: a cache may store this response and serve it to a page.
            headers[_ALLOW_ORIGIN] = "*"
        else:
            _vary_by_origin(headers)
            if not origin or not self._matches(origin):
                return
            headers[_ALLOW_ORIGIN] = origin
        if self._credentials:
            headers[_ALLOW_CREDENTIALS] = "true"
        if self._exposed:
            headers[_EXPOSE_HEADERS] = self._exposed


def _vary_by_origin(headers: CIMultiDict[str]) -> None:
    """Make caches store a response for each Origin (RFC 9110 section 12.5.5)."""
    names = [name.strip() for line in headers.getall(_VARY, ()) for name in line.split(",")]
    if not {"*", "origin"}.intersection(map(str.lower, names)):
        headers[_VARY] = ", ".join((*names, "Origin"))


def _check_registrable(origin: str) -> None:
    """Raise UsageError if ``origin`` matches every name below a public suffix.

    Such a suffix has one label, or is a country with a label that it registers names under. The
    full list (publicsuffix.org) has thousands of entries and changes each week, so it is not used.
    """
    parsed = _ORIGIN_SYNTAX(origin)
    if parsed is None or not parsed["any"]:
        return
    labels = [label for label in parsed["host"].split(".") if label]
    is_open = len(labels) < 2 or (
        len(labels) == 2 and len(labels[1]) == 2 and _SECOND_LEVEL_REGISTRY(labels[0]) is not None
    )
    if is_open:
        raise UsageError(
            f"allow_credentials with the origin {origin!r} would let anyone who registers a name "
            f"there act as a visitor; name the domain below it, such as https://*.example."
            f"{'.'.join(labels)}"
        )


def _pattern(origin: str) -> str:
    """Return the regular expression of ``origin``. Raises UsageError if no browser sends it."""
    parsed = _ORIGIN_SYNTAX(origin)
    if parsed is None:
        raise UsageError(
            f"origin {origin!r} is not an origin that a browser sends; write scheme://host or "
            "scheme://host:port without a path, such as https://app.example.com; "
            "https://*.example.com for every subdomain; or * for every page"
        )
    scheme, port = parsed["scheme"], parsed["port"] or ""
    if port and port == DEFAULT_PORTS.get(scheme):
        raise UsageError(
            f"origin {origin!r} has the default port {port[1:]}, which browsers leave out; "
            "remove it"
        )
    labels = _ANY_LABELS if parsed["any"] else ""
    return re.escape(f"{scheme}://") + labels + re.escape(parsed["host"] + port)
