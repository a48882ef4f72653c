"""Declare the endpoints of a service: by decorators on its methods, or by Gizmo's table."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar, Unpack

from gizmopy.errors import DeclarationError
from gizmopy.web.router import RouteConflict, Router, parse_template

EndpointFunction = Callable[..., Awaitable[object]]
EndpointT = TypeVar("EndpointT", bound=EndpointFunction)

EndpointTable = Mapping[str, Mapping[str, EndpointFunction]]
"""Gizmo's table of endpoints: ``{path: {method: endpoint}}``."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_ROUTES = "__gizmo_routes__"


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """Override settings for one route.

    ``timeout``: seconds that the endpoint may take until its response begins (None: the setting
    GIZMO_HANDLER_TIMEOUT, 0: no limit).

    ``cancel_on_disconnect``: whether the endpoint is cancelled if the client disconnects (None:
    only for GET and HEAD). Cancellation could stop an endpoint that stores and then publishes
    between the two.

    ``cross_origin``: whether pages of every origin may send requests that change something, or open
    a WebSocket (False: only pages of the service's own origin and of GIZMO_CORS_ORIGINS). CORS
    still decides whether a page may read the response.

    ``max_body_bytes``: the maximum size of a body, decompressed, in bytes (None: the setting
    GIZMO_MAX_BODY_BYTES, 0: no limit).

    ``unsafe_path``: whether path parameters may contain dot segments (``..``) and NUL, and begin
    with a slash. Otherwise such a request is 400, because a file name made from it could leave its
    folder.

    ``min_send_rate``: bytes of the response that a client has to accept each second while any wait
    to be sent (None: the setting GIZMO_MIN_SEND_RATE, 0: no limit).
    """

    timeout: float | None = None
    cancel_on_disconnect: bool | None = None
    cross_origin: bool = False
    max_body_bytes: int | None = None
    unsafe_path: bool = False
    min_send_rate: int | None = None


class RouteKeywords(TypedDict, total=False):
    """Type the keyword arguments of a decorator: the fields of RouteOptions."""

    timeout: float | None
    cancel_on_disconnect: bool | None
    cross_origin: bool
    max_body_bytes: int | None
    unsafe_path: bool
    min_send_rate: int | None


@dataclass(frozen=True, slots=True)
class Route:
    """Serve ``method`` by ``function`` at the paths that the template ``path`` matches."""

    method: str
    path: str
    function: EndpointFunction
    options: RouteOptions = RouteOptions()

    @property
    def name(self) -> str:
        """The qualified name of the function: ``Cats.get_cat``."""
        return getattr(self.function, "__qualname__", repr(self.function))

    @property
    def source(self) -> str:
        """The qualified name of the function, and the file and line of its code."""
        code = getattr(self.function, "__code__", None)
        location = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
        return f"{self.name}{location}"


_Declaration = tuple[str, str, EndpointFunction, RouteOptions]
"""The method, path, function and options of an endpoint, not yet checked."""


def get(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve GET, and HEAD, at a path template such as ``/cats/{id}``; see RouteOptions."""
    return _declare("GET", path, RouteOptions(**options))


def put(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve PUT at a path template such as ``/cats/{id}``; see RouteOptions."""
    return _declare("PUT", path, RouteOptions(**options))


def post(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve POST at a path template such as ``/cats/{id}``; see RouteOptions."""
    return _declare("POST", path, RouteOptions(**options))


def delete(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve DELETE at a path template such as ``/cats/{id}``; see RouteOptions."""
    return _declare("DELETE", path, RouteOptions(**options))


def patch(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve PATCH at a path template such as ``/cats/{id}``; see RouteOptions."""
    return _declare("PATCH", path, RouteOptions(**options))


def _declare(method: str, path: str, options: RouteOptions) -> Callable[[EndpointT], EndpointT]:
    if callable(path):
        name = method.lower()
        raise DeclarationError(path, f'is decorated without a path; write @{name}("/path")')

    def declare(function: EndpointT) -> EndpointT:
        # Python applies decorators from the bottom up. Put this one first, so that routes are in
        # the order in which a reader sees them.
        declared = ((method, path, options), *getattr(function, _ROUTES, ()))
        setattr(function, _ROUTES, declared)
        return function

    return declare


def collect_routes(service: object, prefix: str = "") -> list[Route]:
    """Return the routes of ``service`` in order of declaration, each path after ``prefix``.

    First come its decorated methods, base classes first; then the table that
    ``service.endpoints()`` returns. A method that overrides another takes over its routes, unless
    it is decorated itself; an attribute None removes them. Raises DeclarationError if a path or a
    method is malformed, or two endpoints have the same.
    """
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        reason = f"prefix {prefix!r} must begin with '/' and not end with one"
        raise DeclarationError(type(service), reason)
    router: Router[Route] = Router()
    routes = []
    for method, path, function, options in (*_from_methods(service), *_from_table(service)):
        _check(method, path, function, options)
        route = Route(method, prefix + path, function, options)
        try:
            router.add(method, route.path, route, unsafe=options.unsafe_path)
        except RouteConflict as conflict:
            reason = f"{method} {path!r} {conflict}; see {conflict.target.source}"
            raise DeclarationError(function, reason) from conflict
        routes.append(route)
    return routes


def _from_methods(service: object) -> Iterator[_Declaration]:
    """Yield the endpoints that decorators declare; an override keeps the place of its original."""
    declared: dict[str, tuple[tuple[str, str, RouteOptions], ...]] = {}
    for kind in reversed(type(service).__mro__):
        for name, member in vars(kind).items():
            function = getattr(member, "__func__", member)  # a static or class method wraps one
            routes = getattr(function, _ROUTES, None)
            if isinstance(routes, tuple):
                declared[name] = routes
    for name, routes in declared.items():
        function = getattr(service, name)
        if function is not None:
            for method, path, options in routes:
                yield method, path, function, options


def _from_table(service: object) -> Iterator[_Declaration]:
    endpoints: Callable[[], Mapping[str, Any]] | None = getattr(service, "endpoints", None)
    if endpoints is None:
        return
    for path, methods in endpoints().items():
        if not isinstance(methods, Mapping):
            raise DeclarationError(endpoints, "must return a table {path: {method: endpoint}}")
        for method, function in methods.items():
            yield method, path, function, RouteOptions()


def _check(method: str, path: str, function: EndpointFunction, options: RouteOptions) -> None:
    """Raise DeclarationError if the method, the template or an option is invalid."""
    if options.timeout is not None and not 0 <= options.timeout < math.inf:
        reason = f"timeout={options.timeout!r} is not a number of seconds; use 0 for no limit"
        raise DeclarationError(function, reason)
    for name in ("max_body_bytes", "min_send_rate"):
        value = getattr(options, name)
        if value is not None and value < 0:
            reason = f"{name}={value!r} is negative; use 0 for no limit"
            raise DeclarationError(function, reason)
    if method not in METHODS:
        reason = f"{method!r} is not an HTTP method; use one of: {', '.join(METHODS)}"
        raise DeclarationError(function, reason)
    try:
        parse_template(path)
    except ValueError as error:
        raise DeclarationError(function, f"{path!r} {error}") from error
