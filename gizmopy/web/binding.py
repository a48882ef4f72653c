"""Compile an endpoint: bind a request to its parameters, call it, and encode its result.

The signature says which part of a request each parameter comes from:

- a name in the path template: the path
- ``Annotated[T, Header("X-Name")]``: a header
- ``Annotated[T, Query("page-size")]``: this name in the query
- ``aiohttp.web.Request``: the request itself
- a model, a dataclass, a TypedDict, a dict, or a type that contains one: the JSON body
- any other: the query; a list, set or tuple takes each value of a repeated name

Signatures are read once, at start, and a mistake in one fails there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from gizmopy.declaration import Parameter, read_signature
from gizmopy.errors import DeclarationError
from gizmopy.web.annotations import Header, Query, is_structure, marks_of
from gizmopy.web.body import JSONBody
from gizmopy.web.decorators import Route
from gizmopy.web.parameters import ParameterLocation, RequestParameter, TextParameter
from gizmopy.web.problems import FieldError, validation_problem
from gizmopy.web.request import Handler, Request
from gizmopy.web.responses import JSON, RawResponse, Response, response_encoder
from gizmopy.web.router import parse_template

EndpointCall = Callable[[web.Request], Awaitable[Response]]
"""Serves a request. Unlike a Handler, it may return a RawResponse, which is cheaper to write."""

_REQUEST_TYPES = (Request, web.Request, web.BaseRequest)


def compile_endpoint(
    route: Route, *, read_timeout: float = 10.0, json_content_type: str = JSON
) -> Handler:
    """Return the handler that binds a request, calls the endpoint and encodes its result.

    A body must arrive within ``read_timeout`` seconds. JSON responses have the type
    ``json_content_type``. The handler raises Problem for a bad request: 400 if the body is not
    JSON; 408, 413 or 415 if it cannot be read; 422 with a list of the wrong values (of more than
    100, their number). Raises DeclarationError if no request could be bound to the endpoint.
    """
    return as_handler(
        compile_call(route, read_timeout=read_timeout, json_content_type=json_content_type)
    )


def as_handler(call: EndpointCall) -> Handler:
    """Return ``call`` as a handler, which returns aiohttp's responses only."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = await call(request)
        return response.to_aiohttp() if isinstance(response, RawResponse) else response

    return handle


def compile_call(
    route: Route, *, read_timeout: float = 10.0, json_content_type: str = JSON
) -> EndpointCall:
    """Return the same as ``compile_endpoint``, but leave each RawResponse as it is."""
    function = route.function
    parameters, body = bind_parameters(route, read_timeout)
    encode = response_encoder(route, json_content_type)

    async def call(request: web.Request) -> Response:
        arguments: dict[str, Any] = {}
        errors: list[FieldError] = []
        for parameter in parameters:
            parameter.bind(request, arguments, errors)
        if body is not None:
            await body.bind(request, arguments, errors)
        if errors:
            raise validation_problem(errors)
        return encode(await function(**arguments))

    return call


def bind_parameters(
    route: Route, read_timeout: float = 10.0
) -> tuple[tuple[RequestParameter | TextParameter, ...], JSONBody | None]:
    """Return the binders of the endpoint's parameters, and that of its body, if it takes one.

    Raises DeclarationError if a parameter can come from no part of a request.
    """
    declared = read_signature(route.function, route.owner).parameters
    _check_foreign_style(route, declared)
    names = [name for segment in parse_template(route.path) for name in segment.names]
    bodies = [each for each in declared if _is_body(each, names)]
    others = [each for each in declared if not _is_body(each, names)]
    parameters = tuple(_bind(route, each, names) for each in others)
    _check_path_variables(route, names, parameters)
    _check_distinct_keys(route, parameters)
    return parameters, _bind_body(route, bodies, read_timeout)


def _check_foreign_style(route: Route, declared: tuple[Parameter, ...]) -> None:
    """Raise DeclarationError for the notation of other frameworks, which has no effect here."""
    for each in declared:
        mark = each.default
        if isinstance(mark, (Header, Query)) or mark in (Header, Query):
            kind = getattr(mark, "__name__", type(mark).__name__)
            reason = f"parameter {each.name!r} has a {kind} as its default; write "
            remedy = f'{each.name}: Annotated[..., {kind}("...")]'
            raise DeclarationError(route.function, reason + remedy)
        if f"/:{each.name}" in route.path or f"<{each.name}>" in route.path:
            reason = f"the path {route.path!r} has no variable; write {{{each.name}}}"
            raise DeclarationError(route.function, reason)
        for kind in ("int", "str", "float", "path", "uuid"):
            variable = f"{{{each.name}:{kind}}}"
            if variable in route.path:
                pattern = "{path:.*}" if kind == "path" else f"{{{each.name}}}"
                reason = f"{kind!r} in {variable!r} is a regular expression, not a type; write "
                raise DeclarationError(
                    route.function, f"{reason}{pattern} and annotate the parameter"
                )


def _is_body(parameter: Parameter, path_names: list[str]) -> bool:
    annotation = parameter.annotation
    # A request is a mapping, too, but not the body. A structure in the path, the query or a header
    # is a mistake, which TextParameter reports.
    if annotation in _REQUEST_TYPES or parameter.name in path_names or marks_of(annotation):
        return False
    return is_structure(annotation)


def _bind(
    route: Route, parameter: Parameter, path_names: list[str]
) -> RequestParameter | TextParameter:
    function, name = route.function, parameter.name
    if parameter.annotation in _REQUEST_TYPES:
        return RequestParameter(name)
    if marks := marks_of(parameter.annotation):
        return TextParameter(function, parameter, *_marked_location(route, name, marks))
    return TextParameter(function, parameter, "path" if name in path_names else "query", name)


def _marked_location(
    route: Route, name: str, marks: list[Header | Query]
) -> tuple[ParameterLocation, str]:
    """Return the location and the key that a parameter's mark gives."""
    if len(marks) > 1:
        reason = f"parameter {name!r} is marked as {' and '.join(map(repr, marks))}; keep one"
        raise DeclarationError(route.function, reason)
    (mark,) = marks
    kind, example = ("Header", "X-Name") if isinstance(mark, Header) else ("Query", "page-size")
    if not mark.name:
        reason = f'parameter {name!r} has a {kind} without a name; write {kind}("{example}")'
        raise DeclarationError(route.function, reason)
    return ("header" if kind == "Header" else "query"), mark.name


def _check_path_variables(
    route: Route, names: list[str], parameters: tuple[RequestParameter | TextParameter, ...]
) -> None:
    """Raise DeclarationError if the endpoint takes neither a path variable nor the request."""
    if any(isinstance(parameter, RequestParameter) for parameter in parameters):
        return
    keys = [each.key for each in parameters if isinstance(each, TextParameter)]
    for name in names:
        if name not in keys:
            reason = f"has no parameter for {name!r} of its path {route.path!r}; add {name}: str"
            raise DeclarationError(route.function, reason)


def _check_distinct_keys(
    route: Route, parameters: tuple[RequestParameter | TextParameter, ...]
) -> None:
    """Raise DeclarationError if two parameters have one key; header names ignore case."""
    names: dict[tuple[str, str], str] = {}
    for each in parameters:
        if isinstance(each, RequestParameter):
            continue
        key = each.key.lower() if each.location == "header" else each.key
        other = names.setdefault((each.location, key), each.name)
        if other != each.name:
            source = f"{each.key!r} in the {each.location}"
            reason = f"takes {other!r} and {each.name!r} both from {source}; keep one"
            raise DeclarationError(route.function, reason)


def _bind_body(route: Route, bodies: list[Parameter], read_timeout: float) -> JSONBody | None:
    if not bodies:
        return None
    if len(bodies) > 1:
        both = " and ".join(repr(body.name) for body in bodies)
        reason = f"takes {both} from the body, which is one value; combine them in one model"
        raise DeclarationError(route.function, reason)
    if route.method in ("GET", "HEAD"):
        reason = f"takes {bodies[0].name!r} from the body, but a {route.method} request has none"
        raise DeclarationError(route.function, f"{reason}; use POST, PUT or PATCH")
    return JSONBody(route.function, bodies[0], read_timeout)
