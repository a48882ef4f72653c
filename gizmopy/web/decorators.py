"""Declare the endpoints of a service: by decorators on its methods, or by Gizmo's table."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import warnings
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypedDict, TypeVar, Unpack, cast

from gizmopy.declaration import add_mark, declared_methods, reports_wrong_calls
from gizmopy.errors import DeclarationError, source_of
from gizmopy.untrusted.durations import HOW_TO_WRITE, DurationLike, as_seconds
from gizmopy.web.declared_problems import (
    NO_PROBLEMS,
    ProblemOption,
    Problems,
    declared_problems,
    problems_of,
)
from gizmopy.web.request import HTTPMiddleware
from gizmopy.web.router import RouteConflict, Router, parse_template
from gizmopy.web.security.declared import (
    Inherited,
    Security,
    SecurityOption,
    check_use,
    resolve,
    security_of,
)
from gizmopy.web.sizes import size_of

EndpointFunction = Callable[..., Awaitable[object] | AsyncIterable[object]]
EndpointT = TypeVar("EndpointT", bound=EndpointFunction)

EndpointTable = Mapping[str, Mapping[str, EndpointFunction]]
"""Gizmo's table of endpoints: ``{path: {method: endpoint}}``."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_ROUTES = "__gizmo_routes__"


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """Override settings for one route.

    ``timeout``: the time that the endpoint may take until its response begins, as a number of
    seconds, a text such as ``1m30s``, or a timedelta (None: the setting GIZMO_HANDLER_TIMEOUT, 0:
    no limit). As an attribute it is in seconds.

    ``cancel_on_disconnect``: whether the endpoint is cancelled if the client disconnects (None:
    only for GET and HEAD). Cancellation could stop an endpoint that stores and then publishes
    between the two.

    ``cross_origin``: whether pages of every origin may send requests that change something, or open
    a WebSocket (False: only pages of the service's own origin and of GIZMO_CORS_ORIGINS). CORS
    still decides whether a page may read the response.

    ``max_body``: the maximum size of a body, decompressed, in bytes or as a text such as ``"10MB"``
    or ``"10MiB"`` (None: the setting GIZMO_MAX_BODY_BYTES, 0: no limit).

    ``max_parts``: the maximum number of fields and files of a form (None: 1,000).

    ``media_type``: the Content-Type of bytes, of text, and of the items of a stream, such as
    ``text/csv`` (None: that of the declared type). Text is then sent as it is, and not as JSON.

    ``endless``: whether a stream has no end of its own. It is ended, with its last chunk, when the
    daemon stops. A stream of events always is.

    ``unsafe_path``: whether path parameters may contain dot segments (``..``) and NUL, and begin
    with a slash. Otherwise such a request is 400, because a file name made from it could leave its
    folder.

    ``min_send_rate``: bytes of the response that a client has to accept each second while any wait
    to be sent (None: the setting GIZMO_MIN_SEND_RATE, 0: no limit).

    ``problems``: statuses of errors, and exceptions of the table ``problems`` of the class, for the
    OpenAPI document. Others are sent as well.

    ``security``: the checker, or several, one of which has to accept a request; None: everybody may
    call. By default it is that of the object, else of the service.
    """

    timeout: float | None = None
    cancel_on_disconnect: bool | None = None
    cross_origin: bool = False
    max_body: int | str | None = None
    max_parts: int | None = None
    media_type: str | None = None
    endless: bool = False
    unsafe_path: bool = False
    min_send_rate: int | None = None
    problems: ProblemOption = ()
    security: SecurityOption = Inherited.INHERITED

    @property
    def max_body_bytes(self) -> int | None:
        """``max_body`` as a number. Raises ValueError if it is no size."""
        return None if self.max_body is None else size_of(self.max_body)


_OPTIONS = (*(field.name for field in fields(RouteOptions)), "max_body_bytes")


class RouteKeywords(TypedDict, total=False):
    """Type the keyword arguments of a decorator: the fields of RouteOptions."""

    timeout: DurationLike | None
    cancel_on_disconnect: bool | None
    cross_origin: bool
    max_body: int | str | None
    max_body_bytes: int | None
    """The name of ``max_body`` before 0.2."""
    max_parts: int | None
    media_type: str | None
    endless: bool
    unsafe_path: bool
    min_send_rate: int | None
    problems: ProblemOption
    security: SecurityOption


@dataclass(frozen=True, slots=True)
class Route:
    """Serve ``method`` by ``function`` at the paths that the template ``path`` matches."""

    method: str
    path: str
    function: EndpointFunction
    options: RouteOptions = RouteOptions()
    owner: object = None
    """The object whose method the function is; None: the object that it is bound to."""
    tags: tuple[str, ...] = ()
    """Its tags in the OpenAPI document; none: the name of the service, or of the class."""
    middleware: tuple[HTTPMiddleware, ...] = ()
    """The middleware of the mounted object that declares it, inside that of the service."""
    security: Security | None = None
    """The checkers of which one has to accept a request; None: everybody may call."""
    problems: Problems = NO_PROBLEMS
    """The problems of exceptions: the table of the object, after that of the service."""

    @property
    def name(self) -> str:
        """The qualified name of the function: ``Cats.get_cat``."""
        return getattr(self.function, "__qualname__", repr(self.function))

    @property
    def source(self) -> str:
        """The qualified name of the function, and the file and line of its code."""
        return source_of(self.function)


@reports_wrong_calls('@get("/path")', _OPTIONS)
def get(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve GET, and HEAD, at a path template such as ``/cats/{id}``; see RouteOptions."""
    return _declare("GET", path, _options(options))


@reports_wrong_calls('@put("/path")', _OPTIONS)
def put(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve PUT at a path template such as ``/cats/{id}``; see RouteOptions."""
    return _declare("PUT", path, _options(options))


@reports_wrong_calls('@post("/path")', _OPTIONS)
def post(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve POST at a path template such as ``/cats/{id}``; see RouteOptions."""
    return _declare("POST", path, _options(options))


@reports_wrong_calls('@delete("/path")', _OPTIONS)
def delete(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve DELETE at a path template such as ``/cats/{id}``; see RouteOptions."""
    return _declare("DELETE", path, _options(options))


@reports_wrong_calls('@patch("/path")', _OPTIONS)
def patch(path: str, **options: Unpack[RouteKeywords]) -> Callable[[EndpointT], EndpointT]:
    """Serve PATCH at a path template such as ``/cats/{id}``; see RouteOptions."""
    return _declare("PATCH", path, _options(options))


def _options(keywords: RouteKeywords) -> RouteOptions:
    if "max_body_bytes" in keywords:
        old = 'max_body_bytes= is deprecated until 0.3; write max_body=, also as a text: "10MB"'
        warnings.warn(old, DeprecationWarning, stacklevel=4)  # the line of the decorator
        keywords["max_body"] = keywords.pop("max_body_bytes")
    values: dict[str, Any] = {**keywords}
    if values.get("timeout") is not None:
        with contextlib.suppress(ValueError):  # _check refuses it, with the place of the endpoint
            values["timeout"] = as_seconds(values["timeout"])
    return RouteOptions(**values)


def _declare(method: str, path: str, options: RouteOptions) -> Callable[[EndpointT], EndpointT]:
    if callable(path):
        name = method.lower()
        raise DeclarationError(path, f'is decorated without a path; write @{name}("/path")')

    def declare(function: EndpointT) -> EndpointT:
        if not isinstance(path, str):
            reason = f'has the path {path!r}, which is no text; write @{method.lower()}("/path")'
            raise DeclarationError(function, reason)
        add_mark(function, _ROUTES, (method, path, options))
        return function

    return declare


class Mounted(Protocol):
    """An object whose endpoints a service serves beside its own."""

    prefix: str
    tags: Sequence[str]
    middleware: Sequence[HTTPMiddleware]


def collect_routes(
    service: object, prefix: str = "", mounts: Iterable[Mounted] = (), *, realm: str = ""
) -> list[Route]:
    """Return the routes of ``service`` in order of declaration, then those of each of ``mounts``.

    Each path is after ``prefix``; that of a mounted object is also after its own prefix. First come
    the decorated methods of an object, base classes first; then the table that its ``endpoints()``
    returns. A method that overrides another takes over its routes, unless it is decorated itself;
    an attribute None removes them. ``realm`` is that of security schemes without one of their own.

    Raises DeclarationError if a path or a method is malformed, two endpoints have the same, a
    security scheme is no checker or protects nothing, or a problem is wrong.
    """
    mounts = tuple(mounts)
    security = security_of(service, (), None, realm)
    problems = Problems(problems_of(service))
    routes = [
        _completed(route, (service,), security, realm, problems, tags=_tags_of(service))
        for route in _routes_of(service, prefix, prefix)
    ]
    for mounted in mounts:
        tags = _tags_of(mounted) or (type(mounted).__name__,)
        middleware = tuple(mounted.middleware)
        owners = (mounted, service)
        own = security_of(mounted, (service,), security, realm)
        table = Problems({**problems.table, **problems_of(mounted)})
        routes += (
            _completed(route, owners, own, realm, table, tags=tags, middleware=middleware)
            for route in _routes_of(mounted, prefix + mounted.prefix, mounted.prefix)
        )
    check_use((service, *mounts), (route.security for route in routes))
    router: Router[Route] = Router()
    for route in routes:
        path = route.path.removeprefix(prefix)
        try:
            router.add(route.method, route.path, route, unsafe=route.options.unsafe_path)
        except RouteConflict as conflict:
            reason = f"{route.method} {path!r} {conflict}; see {conflict.target.source}"
            raise DeclarationError(route.function, reason) from conflict
        except ValueError as error:
            raise DeclarationError(route.function, f"{path!r} {error}") from error
    return routes


def _completed(
    route: Route,
    owners: Sequence[object],
    inherited: Security | None,
    realm: str,
    problems: Problems,
    **changes: Any,
) -> Route:
    """Return ``route`` with what its object and the service declare."""
    security = resolve(route.options.security, owners, inherited, realm, route.function)
    declared_problems(route.function, route.options.problems, problems)
    return replace(route, security=security, problems=problems, **changes)


def _tags_of(owner: object) -> tuple[str, ...]:
    return tuple(getattr(owner, "tags", ()))


def _routes_of(owner: object, prefix: str, own_prefix: str) -> Iterator[Route]:
    """Yield the routes of one object; ``own_prefix`` is the part of ``prefix`` that it declares."""
    if own_prefix:
        _check_prefix(owner, own_prefix)
    for route in (*_from_methods(owner, prefix), *_from_table(owner, prefix)):
        _check(route, prefix)
        yield route


def _check_prefix(owner: object, prefix: str) -> None:
    if not prefix.startswith("/") or prefix.endswith("/"):
        reason = f"prefix {prefix!r} must begin with '/' and not end with one"
        raise DeclarationError(type(owner), reason)
    try:
        parse_template(prefix)
    except ValueError as error:
        raise DeclarationError(type(owner), f"prefix {prefix!r} {error}") from error


def _from_methods(service: object, prefix: str) -> Iterator[Route]:
    """Yield the endpoints that decorators declare; an override keeps the place of its original."""
    for _, function, marks in declared_methods(service, _ROUTES):
        for method, path, options in marks:
            yield Route(method, prefix + path, function, options, service)


def _from_table(service: object, prefix: str) -> Iterator[Route]:
    endpoints: Callable[[], Mapping[str, Any]] | None = getattr(service, "endpoints", None)
    if endpoints is None:
        return
    table = _read_table(endpoints, type(service))
    _check_tables_of_bases(type(service), service, table)
    for (method, path), function in table.items():
        yield Route(method, prefix + path, function)


def _read_table(endpoints: Any, kind: type) -> dict[tuple[str, str], EndpointFunction]:
    shape = "must return a table {path: {method: endpoint}}"
    if not callable(endpoints) or inspect.iscoroutinefunction(endpoints):
        reason = "endpoints must be a method without async that returns a table"
        owner = endpoints if callable(endpoints) else kind
        raise DeclarationError(owner, f"{reason} {{path: {{method: endpoint}}}}")
    table = endpoints()
    if not isinstance(table, Mapping):
        raise DeclarationError(endpoints, f"{shape}, not {table!r}")
    found = {}
    for path, methods in table.items():
        if not isinstance(path, str) or not isinstance(methods, Mapping):
            raise DeclarationError(endpoints, shape)
        for method, function in methods.items():
            if not callable(function):
                reason = f"{shape}; {function!r}, at {method} {path!r}, cannot be called"
                raise DeclarationError(endpoints, reason)
            found[method, path] = function
    return found


def _check_tables_of_bases(
    kind: type, service: object, table: Mapping[tuple[str, str], EndpointFunction]
) -> None:
    """Raise DeclarationError if a base has a table that the table of an unrelated base hides."""
    definitions = [
        (base, vars(base)["endpoints"]) for base in kind.__mro__ if "endpoints" in vars(base)
    ]
    for base, hidden in definitions[1:]:
        nearest, endpoints = definitions[0]
        if base in nearest.__mro__ or not inspect.isfunction(hidden):
            continue
        for method, path in _read_table(functools.partial(hidden, service), base):
            if (method, path) not in table:
                reason = (
                    f"hides {method} {path!r} in the table of {base.__name__}, an unrelated base "
                    f"of {kind.__name__}: {source_of(hidden)}; merge both in {kind.__name__}"
                )
                raise DeclarationError(endpoints, reason)


def _check(route: Route, prefix: str) -> None:
    """Raise DeclarationError if the method, the template or an option is invalid."""
    method, function, options = route.method, route.function, route.options
    path = route.path.removeprefix(prefix)
    if options.timeout is not None:
        _check_timeout(options.timeout, function)
    for name in ("cross_origin", "endless", "unsafe_path", "cancel_on_disconnect"):
        flag: object = getattr(options, name)
        # The text "no" would count as true, and open what it means to close.
        if not isinstance(flag, bool) and (flag is not None or name != "cancel_on_disconnect"):
            raise DeclarationError(function, f"{name}={flag!r} is not True or False")
    if options.min_send_rate is not None and not _is_number(options.min_send_rate, int):
        reason = f"min_send_rate={options.min_send_rate!r} is not a number of bytes"
        raise DeclarationError(function, f"{reason}; use 0 for no limit")
    if options.max_parts is not None and (
        not _is_number(options.max_parts, int) or not options.max_parts
    ):
        reason = f"max_parts={options.max_parts!r} is not a number of fields and files"
        raise DeclarationError(function, f"{reason}; write max_parts=10")
    try:
        _ = options.max_body_bytes
    except ValueError as error:
        reason = f"max_body={options.max_body!r} is not a number of bytes"
        remedy = 'write max_body="10MB", or 0 for no limit'
        raise DeclarationError(function, f"{reason}; {remedy}") from error
    if options.media_type is not None and not is_media_type(options.media_type):
        reason = f"media_type={options.media_type!r} is not a media type; write text/csv"
        raise DeclarationError(function, reason)
    if method not in METHODS:
        reason = f"{method!r} is not an HTTP method; use one of: {', '.join(METHODS)}"
        raise DeclarationError(function, reason)
    if not path and prefix:  # the path of the prefix itself
        return
    try:
        parse_template(path)
    except ValueError as error:
        raise DeclarationError(function, f"{path!r} {error}") from error


def _check_timeout(timeout: object, function: EndpointFunction) -> None:
    try:
        seconds = as_seconds(timeout)
    except ValueError as error:
        raise DeclarationError(function, f"timeout: {error}, or 0 for no limit") from None
    if seconds < 0:
        reason = f"timeout={timeout!r} is negative; {HOW_TO_WRITE}, or 0 for no limit"
        raise DeclarationError(function, reason)


def is_media_type(value: object) -> bool:
    """Return whether a value is the text of a media type, such as ``text/csv`` or ``image/*``."""
    if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
        return False
    kind, slash, name = value.partition(";")[0].rstrip().partition("/")
    return bool(kind and slash and name) and not {" ", "/"} & {*kind, *name}


def _is_number(value: object, kind: type | tuple[type, ...]) -> bool:
    """Return whether a value is a number of this kind, finite and not negative."""
    is_kind = isinstance(value, kind) and not isinstance(value, bool)
    return is_kind and 0 <= cast(float, value) < math.inf
