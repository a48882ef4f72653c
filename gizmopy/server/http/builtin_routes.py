"""Route a service's endpoints, and the endpoints that every daemon has.

A service's own endpoint replaces a built-in one of the same path. Documentation and /debug are made
on the first request, so that a daemon without them starts as fast.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from aiohttp import web

from gizmopy.errors import StartError
from gizmopy.observe.exposition import Exposition, gzipped
from gizmopy.observe.scrapes import CONTENT_TYPES, Scrape, accepts_gzip, negotiated_format
from gizmopy.server.admin.access import ROOT, DebugGuard
from gizmopy.server.http.endpoint import Endpoint, compose
from gizmopy.server.http.proxies import FORWARDED_PREFIX
from gizmopy.server.service import Service, service_name
from gizmopy.web import Handler, Request
from gizmopy.web.binding import compile_call
from gizmopy.web.decorators import Route
from gizmopy.web.router import Router, parse_template
from gizmopy.web.same_origin import SAFE_METHODS
from gizmopy.web.security.check import compile_check
from gizmopy.web.segments import MAX_BACKTRACKING
from gizmopy.web.streams import Sleep

logger = logging.getLogger("gizmopy.server.mounting")

_READING = ("GET", "HEAD")

Builtin = tuple[str, str, Endpoint]
"""Method, path and endpoint."""


def mount(
    service: Service,
    routes: Sequence[Route],
    builtin: Iterable[Builtin],
    *,
    timer: Sleep = asyncio.sleep,
) -> Router[Endpoint]:
    """Return a router to the ``routes`` of ``service``, and to the other ``builtin`` endpoints.

    ``timer`` measures the pauses of streams.

    An endpoint that replaces a probe is also served under every Host, because platforms send probes
    to an IP address. Raises StartError if a built-in path conflicts with one of the service's.
    """
    router: Router[Endpoint] = Router()
    own: dict[tuple[str, str], Endpoint] = {}
    for route in routes:
        endpoint = own[route.method, route.path] = _endpoint(service, route, timer)
        router.add(route.method, route.path, endpoint, unsafe=route.options.unsafe_path)
        _warn_of_backtracking(route)
    for method, path, endpoint in builtin:
        if (mine := own.get((method, path))) is not None:
            mine.any_host = endpoint.any_host
            continue
        endpoint.is_guarded |= method not in SAFE_METHODS
        try:
            # unsafe=True is safe here: no built-in endpoint uses a parameter as a file path, and
            # /debug has a router of its own.
            router.add(method, path, endpoint, unsafe=True)
        except ValueError as error:
            raise StartError(f"built-in endpoint {path!r}: {error}") from error
    return router


def _warn_of_backtracking(route: Route) -> None:
    """Log a warning if a route's pattern takes long for a text that does not match."""
    for segment in parse_template(route.path):
        if segment.pattern is not None and segment.pattern.growth:
            logger.warning(
                "%s %s of %s: the pattern %s backtracks, and its time is %s in the length of the "
                "text. A segment of more than %d characters does not match it. Write the pattern "
                "so that a text matches in one way only, as in {name:[^-]+}-{version:[0-9]+}",
                route.method,
                route.path,
                route.source,
                " ".join(segment.pattern.regexes),
                segment.pattern.growth,
                MAX_BACKTRACKING,
            )


def _endpoint(service: Service, route: Route, timer: Sleep) -> Endpoint:
    settings, options = service.settings, route.options
    answer = compile_call(
        route,
        read_timeout=settings.read_timeout.total_seconds(),
        json_content_type=settings.json_content_type,
        sleep=timer,
    )
    timeout, cancel = options.timeout, options.cancel_on_disconnect
    is_custom_probe = settings.health_check_type == "custom" and route.method == "GET"
    return Endpoint(
        route.path,
        compose(answer, (*service.middleware, *route.middleware)),
        timeout=settings.handler_timeout.total_seconds() if timeout is None else timeout,
        cancellable=route.method in _READING if cancel is None else cancel,
        any_host=is_custom_probe and route.path == settings.health_check_path,
        cross_origin=options.cross_origin,
        is_guarded=route.method not in SAFE_METHODS,
        max_body=options.max_body_bytes,
        min_send_rate=options.min_send_rate,
        problems=route.problems if route.problems.table else None,
        check=None if route.security is None else compile_check(route.security),
    )


def probes(handlers: Iterable[tuple[str, Handler]], *, quiet: bool) -> Iterator[Builtin]:
    """Yield the endpoints of probes."""
    for path, handler in handlers:
        yield "GET", path, Endpoint(path, handler, builtin=True, quiet=quiet, any_host=True)


def scrape(scraper: Exposition, path: str, *, quiet: bool) -> Iterator[Builtin]:
    """Yield the endpoint of the metrics."""

    async def metrics(request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", ()))
        coding = ",".join(request.headers.getall("Accept-Encoding", ()))
        # A name that is empty or unknown is no error for Prometheus' clients either.
        names = frozenset(filter(None, request.query.getall("name[]", ())))
        scrape = Scrape(negotiated_format(accept), names)
        headers = {
            "Content-Type": CONTENT_TYPES[scrape.format],
            "Vary": "Accept, Accept-Encoding",
        }
        body = await scraper.render(scrape)
        if accepts_gzip(coding):
            body, headers["Content-Encoding"] = await gzipped(body), "gzip"
        return web.Response(body=body, headers=headers)

    yield "GET", path, Endpoint(path, metrics, builtin=True, quiet=quiet, any_host=True)


def _servers(url: str) -> bytes:
    """Return the member of the document with the URL of the service, as it is written."""
    return b'"servers":[{"url":"%s"}]' % url.encode()


def documentation(service: Service, routes: Sequence[Route]) -> Iterator[Builtin]:
    """Yield the endpoints of the OpenAPI document, and of the page that displays it."""
    pages = _Documentation(service, routes)
    yield "GET", "/openapi.json", Endpoint("/openapi.json", pages.openapi, builtin=True)
    yield "GET", "/docs", Endpoint("/docs", pages.docs, builtin=True)


def messaging_documentation(write: Callable[[], bytes]) -> Iterator[Builtin]:
    """Yield the endpoint of the AsyncAPI document, which ``write`` returns as JSON."""
    document: asyncio.Future[bytes] | None = None

    async def asyncapi(request: web.Request) -> web.Response:
        nonlocal document
        # Once, in another thread, and shielded: as the OpenAPI document.
        if document is None:
            document = asyncio.get_running_loop().run_in_executor(None, write)
        body = await asyncio.shield(document)
        return web.Response(body=body, headers={"Content-Type": "application/json"})

    yield "GET", "/asyncapi.json", Endpoint("/asyncapi.json", asyncapi, builtin=True)


class _Documentation:
    """The OpenAPI document and its page, which are made on the first request."""

    def __init__(self, service: Service, routes: Sequence[Route]) -> None:
        self._service = service
        self._routes = routes
        self._document: asyncio.Future[bytes] | None = None

    async def openapi(self, request: web.Request) -> web.Response:
        """Return the OpenAPI document."""
        # It takes some milliseconds for each route, so it is made once, and in another thread. A
        # client that disconnects must not cancel it for the others, so it is shielded.
        if self._document is None:
            self._document = asyncio.get_running_loop().run_in_executor(None, self._write)
        body = await asyncio.shield(self._document)
        assert isinstance(request, Request)
        if request.forwarded_prefix:
            # The first one: within a text of the document its quotes would be escaped.
            body = body.replace(_servers("/"), _servers(request.forwarded_prefix), 1)
        headers = {"Content-Type": "application/json", "Vary": FORWARDED_PREFIX}
        return web.Response(body=body, headers=headers)

    async def docs(self, request: web.Request) -> web.Response:
        """Return the page."""
        from gizmopy.web.openapi.page import docs_headers, docs_page

        # Relative to the page: a proxy may have removed a prefix of the path.
        page = docs_page(service_name(self._service), "openapi.json")
        return web.Response(body=page.encode(), headers=docs_headers())

    def _write(self) -> bytes:
        from pydantic_core import to_json

        from gizmopy.web.openapi.document import openapi_document
        from gizmopy.web.security.declared import security_of

        settings = self._service.settings
        document = openapi_document(
            self._routes,
            title=service_name(self._service),
            version=settings.service_version or "0",
            description=inspect.cleandoc(type(self._service).__doc__ or ""),
            json_content_type=settings.json_content_type,
            service=self._service,
            security=security_of(self._service, (), None, ""),
        )
        return to_json(document)


def debug(
    guard: DebugGuard, make: Callable[[], Iterator[tuple[str, str, Handler]]]
) -> Iterator[Builtin]:
    """Yield the endpoints of /debug, protected by ``guard``; ``make`` makes them on demand."""
    router: Router[Handler] | None = None

    async def serve(request: web.Request) -> web.StreamResponse:
        nonlocal router
        if router is None:
            router = Router()
            for method, path, handler in make():
                router.add(method, path, handler)
        assert isinstance(request, Request)
        handler, request.path_parameters = router.match(request.method, request.rel_url.raw_path)
        return await handler(request)

    endpoint = Endpoint("/debug", guard(serve), builtin=True)
    for method in ("GET", "PUT"):
        yield method, f"{ROOT}{{path:.*}}", endpoint
