"""Make a request handler of an endpoint: what its signature declares, it is given.

- a name in the path's template is a path parameter
- ``Annotated[T, Header("X-Name")]`` is a header
- ``Annotated[T, Query("page-size")]`` is that name in the query
- ``aiohttp.web.Request`` is the request itself
- a model, a dataclass, a TypedDict or a dict, or what holds one, is the JSON body
- all else is the query: a list, set or tuple takes a name that is repeated

Everything that can be looked up at start is; a mistake in a signature fails there.
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
from gizmopy.web.parameters import Place, RequestParameter, TextParameter
from gizmopy.web.problems import FieldError, wrong_values
from gizmopy.web.request import Handler, Request
from gizmopy.web.responses import JSON, RawResponse, Response, answer_encoder
from gizmopy.web.router import parse_template

EndpointCall = Callable[[web.Request], Awaitable[Response]]
"""What answers a request, plain answers being left plain."""

_REQUESTS = (Request, web.Request, web.BaseRequest)


def compile_endpoint(
    route: Route, *, read_timeout: float = 10.0, json_content_type: str = JSON
) -> Handler:
    """Return the handler that binds a request, calls the endpoint and encodes what it returns.

    ``read_timeout`` is how many seconds a body may take to arrive, and ``json_content_type`` the
    type of the answers. The handler raises Problem for a bad request: 400 where the body is no
    JSON, 408, 413 and 415 if it cannot be read, 422 with every wrong value (of more than
    100, their number). Raises DeclarationError if the endpoint is declared so that no request
    could be served.
    """
    return as_handler(
        compile_call(route, read_timeout=read_timeout, json_content_type=json_content_type)
    )


def as_handler(answer: EndpointCall) -> Handler:
    """Return ``answer`` as a handler, whose answers are aiohttp's responses."""

    async def handle(request: web.Request) -> web.StreamResponse:
        given = await answer(request)
        return given.response() if isinstance(given, RawResponse) else given

    return handle


def compile_call(
    route: Route, *, read_timeout: float = 10.0, json_content_type: str = JSON
) -> EndpointCall:
    """Return what ``compile_endpoint`` does, with plain answers left plain."""
    function = route.function
    parameters, body = bind_parameters(route, read_timeout)
    encode = answer_encoder(route, json_content_type)

    async def answer(request: web.Request) -> Response:
        arguments: dict[str, Any] = {}
        errors: list[FieldError] = []
        for parameter in parameters:
            parameter.bind(request, arguments, errors)
        if body is not None:
            await body.bind(request, arguments, errors)
        if errors:
            raise wrong_values(errors)
        return encode(await function(**arguments))

    return answer


def bind_parameters(
    route: Route, read_timeout: float = 10.0
) -> tuple[tuple[RequestParameter | TextParameter, ...], JSONBody | None]:
    """Return what gives each parameter of the endpoint its value, the body apart.

    Raises DeclarationError where something in the signature has no place that it could come from.
    """
    declared = read_signature(route.function).parameters
    names = [name for segment in parse_template(route.path) for name in segment.names]
    bodies = [each for each in declared if _is_body(each, names)]
    others = [each for each in declared if not _is_body(each, names)]
    parameters = tuple(_bind(route, each, names) for each in others)
    _check_template(route, names, parameters)
    _check_keys(route, parameters)
    return parameters, _body(route, bodies, read_timeout)


def _is_body(parameter: Parameter, names: list[str]) -> bool:
    annotation = parameter.annotation
    if annotation in _REQUESTS or parameter.name in names or marks_of(annotation):
        return False  # a request is a mapping itself; for the others a structure is a mistake
    return is_structure(annotation)


def _bind(route: Route, parameter: Parameter, names: list[str]) -> RequestParameter | TextParameter:
    function, name = route.function, parameter.name
    if parameter.annotation in _REQUESTS:
        return RequestParameter(name)
    if marks := marks_of(parameter.annotation):
        return TextParameter(function, parameter, *_marked(route, name, marks))
    return TextParameter(function, parameter, "path" if name in names else "query", name)


def _marked(route: Route, name: str, marks: list[Header | Query]) -> tuple[Place, str]:
    """Return the place and key that a parameter's mark says."""
    if len(marks) > 1:
        reason = f"parameter {name!r} is marked as {' and '.join(map(repr, marks))}; keep one"
        raise DeclarationError(route.function, reason)
    (mark,) = marks
    kind, example = ("Header", "X-Name") if isinstance(mark, Header) else ("Query", "page-size")
    if not mark.name:
        reason = f'parameter {name!r} has a {kind} without a name; write {kind}("{example}")'
        raise DeclarationError(route.function, reason)
    return ("header" if kind == "Header" else "query"), mark.name


def _check_template(
    route: Route, names: list[str], parameters: tuple[RequestParameter | TextParameter, ...]
) -> None:
    """Refuse variables of the path that the endpoint has no way to learn."""
    if any(isinstance(parameter, RequestParameter) for parameter in parameters):
        return
    taken = [each.key for each in parameters if isinstance(each, TextParameter)]
    for name in names:
        if name not in taken:
            reason = f"does not take {name!r} of its path {route.path!r}; declare {name}: str"
            raise DeclarationError(route.function, reason)


def _check_keys(route: Route, parameters: tuple[RequestParameter | TextParameter, ...]) -> None:
    """Refuse two parameters that are one to the client; the names of headers know no case."""
    taken: dict[tuple[str, str], str] = {}
    for each in parameters:
        if isinstance(each, RequestParameter):
            continue
        key = each.key.lower() if each.place == "header" else each.key
        other = taken.setdefault((each.place, key), each.name)
        if other != each.name:
            reason = f"takes {other!r} and {each.name!r} both from {each.key!r} in the {each.place}"
            raise DeclarationError(route.function, f"{reason}; keep one")


def _body(route: Route, bodies: list[Parameter], read_timeout: float) -> JSONBody | None:
    if not bodies:
        return None
    if len(bodies) > 1:
        both = " and ".join(repr(body.name) for body in bodies)
        reason = f"takes {both} from the body, which is one value; make one model of them"
        raise DeclarationError(route.function, reason)
    if route.method in ("GET", "HEAD"):
        reason = f"takes {bodies[0].name!r} from the body, but {route.method} has none"
        raise DeclarationError(route.function, f"{reason}; serve POST, PUT or PATCH")
    return JSONBody(route.function, bodies[0], read_timeout)
