"""Compile an endpoint: bind a request to its parameters, call it, and encode its result.

The signature says which part of a request each parameter comes from:

- a name in the path template: the path
- ``Annotated[T, Header("X-Name")]``: a header
- ``Annotated[T, Query("page-size")]``: this name in the query
- ``Annotated[T, Cookie("session")]``: a cookie
- a model with one of these marks: each field from the query, a header or a cookie
- ``aiohttp.web.Request``: the request itself
- ``bytes``, or ``Annotated[T, Body()]``: the whole body, of a text if T is ``str``
- ``Caller[User]``: the caller, which a security scheme found
- ``UploadFile``, or ``Annotated[T, Form()]``: a file or a field of a form
- a model, a dataclass, a TypedDict, a dict, or a type that contains one: the JSON body
- one of these with a ``BeforeValidator``, for GET and HEAD: the query, where it is one text
- any other: the query; a list, set or tuple takes each value of a repeated name

Signatures are read once, at start, and a mistake in one fails there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, cast

from aiohttp import web

from gizmopy.declaration import Parameter, is_generator, read_signature
from gizmopy.errors import DeclarationError
from gizmopy.web.annotations import (
    Body,
    Cookie,
    Form,
    Header,
    Query,
    has_bare_mark,
    is_converted,
    marks_of,
    structure_of,
)
from gizmopy.web.bodies import WITHOUT_BODY, bind_body, is_from_body
from gizmopy.web.body import RequestBody
from gizmopy.web.decorators import EndpointFunction, Route
from gizmopy.web.foreign import check_foreign_style, check_mark
from gizmopy.web.forms import FormBody
from gizmopy.web.parameter_models import ModelParameter
from gizmopy.web.parameters import (
    CallerParameter,
    ParameterLocation,
    RequestParameter,
    TextParameter,
)
from gizmopy.web.problems import FieldError, validation_problem
from gizmopy.web.request import Handler, Request
from gizmopy.web.responses import JSON, RawResponse, Response, response_encoder
from gizmopy.web.router import parse_template
from gizmopy.web.security.caller import is_caller
from gizmopy.web.security.check import Check, compile_check
from gizmopy.web.streams import Sleep

EndpointCall = Callable[[web.Request], Awaitable[Response]]
"""Serves a request. Unlike a Handler, it may return a RawResponse, which is cheaper to write."""

Binder = CallerParameter | RequestParameter | TextParameter | ModelParameter
"""Binds one parameter of an endpoint to a part of a request other than its body."""

_REQUEST_TYPES = (Request, web.Request, web.BaseRequest)
_LOCATIONS: Mapping[type, ParameterLocation] = {
    Header: "header",
    Query: "query",
    Cookie: "cookie",
}


def compile_endpoint(
    route: Route, *, read_timeout: float = 10.0, json_content_type: str = JSON
) -> Handler:
    """Return the handler that binds a request, calls the endpoint and encodes its result.

    A body must arrive within ``read_timeout`` seconds. JSON responses have the type
    ``json_content_type``. The handler raises Problem for a bad request: 400 if the body is not
    JSON; 408, 413 or 415 if it cannot be read; 422 with a list of the wrong values (of more than
    100, their number). Raises DeclarationError if no request could be bound to the endpoint.
    """
    call = compile_call(route, read_timeout=read_timeout, json_content_type=json_content_type)
    if route.security is not None:
        call = _checked(compile_check(route.security), call)
    return as_handler(call)


def _checked(check: Check, call: EndpointCall) -> EndpointCall:
    async def checked(request: web.Request) -> Response:
        await check(request)
        return await call(request)

    return checked


def as_handler(call: EndpointCall) -> Handler:
    """Return ``call`` as a handler, which returns aiohttp's responses only."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = await call(request)
        return response.to_aiohttp() if isinstance(response, RawResponse) else response

    return handle


def compile_call(
    route: Route,
    *,
    read_timeout: float = 10.0,
    json_content_type: str = JSON,
    sleep: Sleep = asyncio.sleep,
) -> EndpointCall:
    """Return the same as ``compile_endpoint``, but leave each RawResponse as it is.

    It does not ask for the caller: the server does, ahead of the middleware. ``sleep`` measures the
    pauses of streams.
    """
    function = _awaitable(route.function)
    parameters, body = bind_parameters(route, read_timeout)
    encode = response_encoder(route, json_content_type, sleep)

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


def _awaitable(function: EndpointFunction) -> Callable[..., Awaitable[object]]:
    """Return ``function``; an async generator as a function that returns its iterator."""
    if not is_generator(function):
        return cast(Callable[..., Awaitable[object]], function)

    async def call(**arguments: Any) -> object:
        return function(**arguments)

    return call


def bind_parameters(
    route: Route, read_timeout: float = 10.0
) -> tuple[tuple[Binder, ...], RequestBody | None]:
    """Return the binders of the endpoint's parameters, and that of its body, if it takes one.

    Raises DeclarationError if a parameter can come from no part of a request.
    """
    declared = read_signature(route.function, route.owner, takes_generator=True).parameters
    check_foreign_style(route, declared)
    names = [name for segment in parse_template(route.path) for name in segment.names]
    for each in declared:
        _check_mark(route, each)
    bodies = [each for each in declared if _is_body(route, each, names)]
    others = [each for each in declared if each not in bodies]
    parameters = tuple(_bind(route, each, names) for each in others)
    _check_path_variables(route, names, parameters)
    _check_distinct_keys(route, parameters)
    body = bind_body(route, bodies, read_timeout)
    if not any(isinstance(each, RequestParameter) for each in parameters):
        _check_limits(route, body)
    return parameters, body


def _check_limits(route: Route, body: RequestBody | None) -> None:
    """Raise DeclarationError for a limit of a body that the endpoint does not read."""
    if route.options.max_parts is not None and not isinstance(body, FormBody):
        reason = f"max_parts={route.options.max_parts} has no effect, because it takes no form"
        raise DeclarationError(route.function, f"{reason}; remove it")
    if route.options.max_body is not None and body is None and route.method in WITHOUT_BODY:
        reason = f"max_body={route.options.max_body!r} has no effect, because a {route.method} "
        raise DeclarationError(route.function, f"{reason}request has no body; remove it")


def _is_body(route: Route, parameter: Parameter, path_names: list[str]) -> bool:
    # A request is a mapping, too, but not the body. A structure in the path is a mistake, which
    # TextParameter reports.
    if parameter.annotation in _REQUEST_TYPES or parameter.name in path_names:
        return False
    if is_caller(parameter.annotation):  # a model, which must never come from the body
        return False
    # Metadata that reads a model from one text: without a body the text is in the query.
    if route.method in WITHOUT_BODY and not marks_of(parameter.annotation):
        return is_from_body(parameter) and not is_converted(parameter.annotation)
    return is_from_body(parameter)


def _bind(route: Route, parameter: Parameter, path_names: list[str]) -> Binder:
    function, name = route.function, parameter.name
    if is_caller(parameter.annotation):
        return CallerParameter(function, parameter, route.security)
    if parameter.annotation in _REQUEST_TYPES:
        return RequestParameter(name)
    marks = marks_of(parameter.annotation)
    if not marks:
        return TextParameter(function, parameter, "path" if name in path_names else "query", name)
    (mark,) = marks
    location = _LOCATIONS.get(type(mark))
    if location is None:
        reason = f"parameter {name!r} is a variable of the path, which {mark!r} is not"
        raise DeclarationError(function, f"{reason}; rename the variable or the parameter")
    assert not isinstance(mark, Body | Form)
    if structure_of(parameter.annotation) is not None:
        if mark.name:
            kind = type(mark).__name__
            reason = f"parameter {name!r} is a model, whose fields have names of their own"
            raise DeclarationError(function, f"{reason}; write {kind}() instead of {mark!r}")
        return ModelParameter(function, parameter, location)
    if isinstance(mark, Header) and not mark.name:
        example = 'write Header("X-Name")'
        reason = f"parameter {name!r} has a Header without a name; {example}"
        raise DeclarationError(function, reason)
    return TextParameter(function, parameter, location, mark.name or name)


def _check_mark(route: Route, parameter: Parameter) -> None:
    """Raise DeclarationError unless a parameter has at most one mark, which is an object."""
    name, marks = parameter.name, marks_of(parameter.annotation)
    if len(marks) > 1:
        reason = f"parameter {name!r} is marked as {' and '.join(map(repr, marks))}; keep one"
        raise DeclarationError(route.function, reason)
    if marks and not isinstance(marks[0], Header) and has_bare_mark(parameter.annotation):
        kind = type(marks[0]).__name__
        reason = f"parameter {name!r} has the class {kind} as its mark; write {kind}()"
        raise DeclarationError(route.function, reason)
    check_mark(route, parameter)


def _check_path_variables(route: Route, names: list[str], parameters: tuple[Binder, ...]) -> None:
    """Raise DeclarationError if the endpoint takes neither a path variable nor the request."""
    if any(isinstance(parameter, RequestParameter) for parameter in parameters):
        return
    keys = [each.key for each in parameters if isinstance(each, TextParameter)]
    for name in names:
        if name not in keys:
            reason = f"has no parameter for {name!r} of its path {route.path!r}; add {name}: str"
            raise DeclarationError(route.function, reason)


def _check_distinct_keys(route: Route, parameters: tuple[Binder, ...]) -> None:
    """Raise DeclarationError if two parameters have one key; header names ignore case.

    Tell each model which keys are those of other parameters.
    """
    names: dict[tuple[str, str], str] = {}
    for owner, location, key in _keys(parameters):
        folded = key.lower() if location == "header" else key
        other = names.setdefault((location, folded), owner)
        if other != owner:
            source = f"{key!r} in the {location}"
            reason = f"takes {other!r} and {owner!r} both from {source}; keep one"
            raise DeclarationError(route.function, reason)
    for each in parameters:
        if isinstance(each, ModelParameter):
            each.leave_out(frozenset(key for at, key in names if at == each.location))


def _keys(parameters: tuple[Binder, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield each parameter or field of a model, its location and its key there."""
    for each in parameters:
        if isinstance(each, TextParameter):
            yield each.name, each.location, each.key
        elif isinstance(each, ModelParameter):
            for field in each.fields:
                for _, key in field.keys:
                    yield f"{each.name}.{field.declared.name}", each.location, key
