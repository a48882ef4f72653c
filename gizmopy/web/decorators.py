"""Declare what a service serves: decorators on its methods, or Gizmo's table of endpoints."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar, Unpack

from gizmopy.errors import DeclarationError
from gizmopy.web.router import RouteConflict, Router, parse_template

Endpoint = Callable[..., Awaitable[object]]
EndpointT = TypeVar("EndpointT", bound=Endpoint)

EndpointTable = Mapping[str, Mapping[str, Endpoint]]
"""Gizmo's table of endpoints: path, method, and what answers."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_ROUTES = "__gizmo_routes__"


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """Say how a route is served, where that is not as the settings say.

    ``timeout`` is how many seconds the endpoint may take to begin its answer (None: as
    GIZMO_HANDLER_TIMEOUT says, 0: no limit). ``cancel_on_disconnect`` is whether it is cancelled
    when the client goes away (None: GET and HEAD are): what stores and then publishes must not be
    cut in between. ``cross_origin`` is whether pages of every origin may send it requests that
    change something, or open a WebSocket there (False: those of its own origin, and of
    GIZMO_CORS_ORIGINS); CORS still decides about reading. ``max_body_bytes`` is how many
    bytes of a body, decompressed, may be read (None: as GIZMO_MAX_BODY_BYTES says, 0: any).
    ``unsafe_path`` lets path parameters hold dot segments (``..``), NUL, and a slash at the
    beginning, which are 400 otherwise: such a value, joined to the path of a folder, names any
    file.
    ``min_send_rate`` is how many bytes of the answer a client has to take each second while some
    wait to be sent (None: as GIZMO_MIN_SEND_RATE says, 0: any).
    """

    timeout: float | None = None
    cancel_on_disconnect: bool | None = None
    cross_origin: bool = False
    max_body_bytes: int | None = None
    unsafe_path: bool = False
    min_send_rate: int | None = None


class RouteKeywords(TypedDict, total=False):
    """Name the RouteOptions that a decorator takes."""

    timeout: float | None
    cancel_on_disconnect: bool | None
    cross_origin: bool
    max_body_bytes: int | None
    unsafe_path: bool
    min_send_rate: int | None


@dataclass(frozen=True, slots=True)
class Route:
    """Say which function answers ``method`` at the paths that the template ``path`` matches."""

    method: str
    path: str
    function: Endpoint
    options: RouteOptions = RouteOptions()

    @property
    def name(self) -> str:
        """The function as its source names it: ``Cats.get_cat``."""
        return getattr(self.function, "__qualname__", repr(self.function))

    @property
    def place(self) -> str:
        """The function's name, and the file and line of its source."""
        return _place(self.function)


Declared = tuple[str, str, Endpoint, RouteOptions]
"""Method, path, function and options, as they were declared."""


def get(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve GET (and HEAD) at ``path``, a template such as ``/cats/{id}``, with these Options."""
    return _declare("GET", path, RouteOptions(**options))


def put(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve PUT at ``path``, a template such as ``/cats/{id}``, with these Options."""
    return _declare("PUT", path, RouteOptions(**options))


def post(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve POST at ``path``, a template such as ``/cats/{id}``, with these Options."""
    return _declare("POST", path, RouteOptions(**options))


def delete(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve DELETE at ``path``, a template such as ``/cats/{id}``, with these Options."""
    return _declare("DELETE", path, RouteOptions(**options))


def patch(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve PATCH at ``path``, a template such as ``/cats/{id}``, with these Options."""
    return _declare("PATCH", path, RouteOptions(**options))


def _declare(method: str, path: str, options: RouteOptions) -> Callable[[EndpointT], EndpointT]:
    if callable(path):
        name = method.lower()
        raise DeclarationError(path, f'is decorated without a path; write @{name}("/path")')

    def declare(function: EndpointT) -> EndpointT:
        # Decorators apply from the bottom up, and are read from the top down.
        declared = ((method, path, options), *getattr(function, _ROUTES, ()))
        setattr(function, _ROUTES, declared)
        return function

    return declare


def collect_routes(service: object, prefix: str = "") -> list[Route]:
    """Return the routes of ``service``, each path behind ``prefix``, in order of declaration.

    They are its decorated methods, those of its base classes first, then the table that
    ``service.endpoints()`` returns, ``{path: {method: handler}}``. A method that overrides another
    takes over its routes, unless it is decorated itself; one that is overridden by None is left
    out. Raises DeclarationError where a path or method is malformed, or served twice.
    """
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        reason = f"prefix {prefix!r} must begin with '/' and not end with one"
        raise DeclarationError(type(service), reason)
    router: Router[Route] = Router()
    routes = []
    for method, path, function, options in (*_decorated(service), *_tabled(service)):
        _check(method, path, function, options)
        route = Route(method, prefix + path, function, options)
        try:
            router.add(method, route.path, route, unsafe=options.unsafe_path)
        except RouteConflict as conflict:
            reason = f"{method} {path!r} {conflict}: by {conflict.target.place}"
            raise DeclarationError(function, reason) from conflict
        routes.append(route)
    return routes


def _decorated(service: object) -> Iterator[Declared]:
    """Yield what decorators declare; an override comes in the place of what it overrides."""
    declared: dict[str, tuple[tuple[str, str, RouteOptions], ...]] = {}
    for kind in reversed(type(service).__mro__):
        for name, member in vars(kind).items():
            function = getattr(member, "__func__", member)  # within a static or class method
            routes = getattr(function, _ROUTES, None)
            if isinstance(routes, tuple):
                declared[name] = routes
    for name, routes in declared.items():
        function = getattr(service, name)
        if function is not None:
            for method, path, options in routes:
                yield method, path, function, options


def _tabled(service: object) -> Iterator[Declared]:
    endpoints: Callable[[], Mapping[str, Any]] | None = getattr(service, "endpoints", None)
    if endpoints is None:
        return
    for path, methods in endpoints().items():
        if not isinstance(methods, Mapping):
            raise DeclarationError(endpoints, "must return a table {path: {method: handler}}")
        for method, handler in methods.items():
            yield method, path, handler, RouteOptions()


def _check(method: str, path: str, function: Endpoint, options: RouteOptions) -> None:
    if options.timeout is not None and not 0 <= options.timeout < math.inf:
        reason = f"timeout={options.timeout!r} is no number of seconds; use 0 for no limit"
        raise DeclarationError(function, reason)
    for name in ("max_body_bytes", "min_send_rate"):
        value = getattr(options, name)
        if value is not None and value < 0:
            reason = f"{name}={value!r} is negative; use 0 for no limit"
            raise DeclarationError(function, reason)
    if method not in METHODS:
        reason = f"{method!r} is no HTTP method; use one of: {', '.join(METHODS)}"
        raise DeclarationError(function, reason)
    try:
        parse_template(path)
    except ValueError as error:
        raise DeclarationError(function, f"{path!r} {error}") from error


def _place(function: Endpoint) -> str:
    code = getattr(function, "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return f"{getattr(function, '__qualname__', repr(function))}{where}"
