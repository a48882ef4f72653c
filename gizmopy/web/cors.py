"""Let pages of other origins call: the CORS protocol of the Fetch standard."""

from __future__ import annotations

import re
from collections.abc import Iterable

from aiohttp import web
from multidict import CIMultiDict, istr

from gizmopy.errors import UsageError
from gizmopy.web.authority import DEFAULT_PORTS
from gizmopy.web.problems import Problem
from gizmopy.web.request import Handler

_ORIGIN = istr("Origin")
_VARY = istr("Vary")
_ASKED_METHOD = istr("Access-Control-Request-Method")
_ASKED_HEADERS = istr("Access-Control-Request-Headers")
_ALLOW_ORIGIN = istr("Access-Control-Allow-Origin")
_ALLOW_CREDENTIALS = istr("Access-Control-Allow-Credentials")
_ALLOW_METHODS = istr("Access-Control-Allow-Methods")
_ALLOW_HEADERS = istr("Access-Control-Allow-Headers")
_EXPOSE_HEADERS = istr("Access-Control-Expose-Headers")
_MAX_AGE = istr("Access-Control-Max-Age")

_WRITTEN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<any>\*\.)?(?P<host>[a-z0-9_][a-z0-9_.-]*|\[[0-9a-f:.]+\])"
    r"(?P<port>:[0-9]{1,5})?"
).fullmatch
_ANY_LABELS = r"[a-z0-9_.-]+\."
_REGISTRY = re.compile(
    "ac|co|com|edu|go|gob|gouv|gov|ltd|me|mil|ne|net|nhs|nom|or|org|plc|sch"
).fullmatch
"""Second-level labels that countries register names under: ``co.uk``, ``com.au``, ``or.jp``."""


class CORS:
    """Say which pages may call, and tell their browsers: a middleware.

    An origin is written as a browser sends it, ``https://app.example.com``; with ``*.`` before the
    host it is every name below that (not the name itself); ``*`` alone is every page there is.
    ``allow_methods`` are all that a path serves, unless named; ``allow_headers`` all that a page
    asks for. ``expose_headers`` are those of an answer that a page may read beside the usual ones.
    ``allow_credentials`` lets a page call with its visitor's cookies. Browsers may remember what
    they were told for ``max_age`` seconds.

    Raises UsageError if an origin cannot be one, or credentials are allowed for every page, or
    for every name below a domain that anyone can register names under: ``https://*.com``,
    ``https://*.co.uk``. Domains of hosting companies, such as ``github.io``, are not known here.

    A middleware sees neither what no endpoint answers nor a browser's question beforehand, whose
    OPTIONS nobody declares: whoever routes asks ``preflight``, and lets ``decorate`` do the rest.
    """

    def __init__(
        self,
        allow_origins: Iterable[str],
        *,
        allow_methods: Iterable[str] = (),
        allow_headers: Iterable[str] = (),
        expose_headers: Iterable[str] = (),
        allow_credentials: bool = False,
        max_age: int = 600,
    ) -> None:
        origins = {origin.lower() for origin in allow_origins}
        self._every_page = "*" in origins
        if self._every_page and allow_credentials:
            raise UsageError(
                "allow_credentials with the origin '*' would let every page in the world act as "
                "its visitor; list the origins that may"
            )
        self._allowed = re.compile("|".join(map(_pattern, origins - {"*"}))).fullmatch
        if allow_credentials:
            for origin in sorted(origins):
                _check_registrable(origin)
        self._credentials = allow_credentials
        self._methods = frozenset(method.upper() for method in allow_methods)
        self._headers = ", ".join(allow_headers)
        self._exposed = ", ".join(expose_headers)
        self._max_age = str(max_age)

    def __call__(self, handler: Handler) -> Handler:
        """Return ``handler`` with what it answers decorated, problems too."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                response = await handler(request)
            except (Problem, web.HTTPException) as error:
                self._write(request, error.headers)
                raise
            self._write(request, response.headers)
            return response

        return handle

    def preflight(
        self, request: web.BaseRequest, allowed_methods: Iterable[str]
    ) -> web.Response | None:
        """Answer a browser that asks before it calls a path serving ``allowed_methods``.

        Returns None where ``request`` is no such question.
        """
        headers = request.headers
        if request.method != "OPTIONS" or _ORIGIN not in headers or _ASKED_METHOD not in headers:
            return None
        response = web.Response(status=204)
        self.decorate(request, response)
        if _ALLOW_ORIGIN in response.headers:
            methods = (
                self._methods.intersection(allowed_methods) if self._methods else allowed_methods
            )
            response.headers[_ALLOW_METHODS] = ", ".join(sorted(methods))
            if asked := self._headers or headers.get(_ASKED_HEADERS, ""):
                response.headers[_ALLOW_HEADERS] = asked
            response.headers[_MAX_AGE] = self._max_age
        return response

    def permits(self, request: web.BaseRequest) -> bool:
        """Return whether ``request``'s method may be sent by a page of its origin."""
        origins = request.headers.getall(_ORIGIN, ())
        if self._methods and request.method not in self._methods:
            return False
        listed = len(origins) == 1 and bool(origins[0]) and bool(self._allowed(origins[0]))
        return self._every_page or listed

    def decorate(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Tell the browser whether the page that sent ``request`` may read ``response``.

        Nothing is told of an answer that is being sent already. Doing it twice is doing it once.
        """
        self._write(request, response.headers)

    def _write(self, request: web.BaseRequest, headers: CIMultiDict[str]) -> None:
        origin = request.headers.get(_ORIGIN, "")
        if self._every_page:
            headers[_ALLOW_ORIGIN] = "*"  # whoever asks, as a cache may keep it for a page
        else:
            _vary_by_origin(headers)
            if not origin or not self._allowed(origin):
                return
            headers[_ALLOW_ORIGIN] = origin
        if self._credentials:
            headers[_ALLOW_CREDENTIALS] = "true"
        if self._exposed:
            headers[_EXPOSE_HEADERS] = self._exposed


def _vary_by_origin(headers: CIMultiDict[str]) -> None:
    """Tell caches that the answer to another page, or to none, is another one."""
    given = [name.strip() for line in headers.getall(_VARY, ()) for name in line.split(",")]
    if not {"*", "origin"}.intersection(map(str.lower, given)):
        headers[_VARY] = ", ".join((*given, "Origin"))


def _check_registrable(origin: str) -> None:
    """Raise UsageError if ``origin`` is every name below a domain that is open to everyone.

    That is a domain of one label, or of a country and a label that countries register names under.
    The list of public suffixes (publicsuffix.org) has thousands, and changes each week.
    """
    written = _WRITTEN(origin)
    if written is None or not written["any"]:
        return
    labels = [label for label in written["host"].split(".") if label]
    is_open = len(labels) < 2 or (
        len(labels) == 2 and len(labels[1]) == 2 and _REGISTRY(labels[0]) is not None
    )
    if is_open:
        raise UsageError(
            f"allow_credentials with the origin {origin!r} would let anyone who registers a name "
            f"there act as a visitor; name the domain below it, such as https://*.example."
            f"{'.'.join(labels)}"
        )


def _pattern(origin: str) -> str:
    """Return the pattern that ``origin`` is. Raises UsageError where no browser could send it."""
    written = _WRITTEN(origin)
    if written is None:
        raise UsageError(
            f"origin {origin!r} is none that a browser sends; write scheme://host or "
            "scheme://host:port and no more, such as https://app.example.com, or "
            "https://*.example.com for every name below it, or * for every page"
        )
    scheme, port = written["scheme"], written["port"] or ""
    if port and port == DEFAULT_PORTS.get(scheme):
        raise UsageError(f"origin {origin!r}: browsers leave out the port {port[1:]}; do the same")
    labels = _ANY_LABELS if written["any"] else ""
    return re.escape(f"{scheme}://") + labels + re.escape(written["host"] + port)
