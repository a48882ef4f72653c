"""Make a request handler of an endpoint: what its signature declares, it is given.

- a name in the path's template is a path parameter
- ``Annotated[T, Header("X-Name")]`` is a header
- ``aiohttp.web.Request`` is the request itself
- a model, a dataclass, a TypedDict or a dict, or what holds one, is the JSON body
- all else is the query: a list, set or tuple takes a name that is repeated

Everything that can be looked up at start is; a mistake in a signature fails there.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gizmopy.declaration import Parameter, read_signature
from gizmopy.errors import DeclarationError
from gizmopy.web.annotations import header_of, is_structure
from gizmopy.web.answers import JSON, answer_encoder
from gizmopy.web.body import JSONBody
from gizmopy.web.parameters import RequestParameter, TextParameter
from gizmopy.web.problems import FieldError, wrong_values
from gizmopy.web.request import Handler, Request
from gizmopy.web.router import parse_template
from gizmopy.web.routing import Route

_REQUESTS = (Request, web.Request, web.BaseRequest)


def compile_endpoint(
    route: Route, *, read_timeout: float = 10.0, json_content_type: str = JSON
) -> Handler:
    """Return the handler that binds a request, calls the endpoint and encodes what it returns.

    ``read_timeout`` is how many seconds a body may take to arrive, and ``json_content_type`` the
    type of the answers. The handler raises Problem for a bad request: 400 where the body is no
    JSON, 408, 413 and 415 where it cannot be read, 422 with every wrong value. Raises
    DeclarationError where the endpoint is declared so that no request could be served.
    """
    function = route.function
    parameters, body = _sort(route, read_timeout)
    encode = answer_encoder(route, json_content_type)

    async def handle(request: web.Request) -> web.StreamResponse:
        arguments: dict[str, Any] = {}
        errors: list[FieldError] = []
        for parameter in parameters:
            parameter.bind(request, arguments, errors)
        if body is not None:
            await body.bind(request, arguments, errors)
        if errors:
            raise wrong_values(errors)
        return encode(await function(**arguments))

    return handle


def _sort(
    route: Route, read_timeout: float
) -> tuple[tuple[RequestParameter | TextParameter, ...], JSONBody | None]:
    """Tell where each parameter of the endpoint comes from."""
    declared = read_signature(route.function).parameters
    names = [name for segment in parse_template(route.path) for name in segment.names]
    bodies = [each for each in declared if _is_body(each, names)]
    others = [each for each in declared if not _is_body(each, names)]
    parameters = tuple(_bind(route, each, names) for each in others)
    _check_template(route, names, parameters)
    return parameters, _body(route, bodies, read_timeout)


def _is_body(parameter: Parameter, names: list[str]) -> bool:
    annotation = parameter.annotation
    if annotation in _REQUESTS or parameter.name in names or header_of(annotation) is not None:
        return False  # a request is a mapping itself; for the others a structure is a mistake
    return is_structure(annotation)


def _bind(route: Route, parameter: Parameter, names: list[str]) -> RequestParameter | TextParameter:
    function, name = route.function, parameter.name
    if parameter.annotation in _REQUESTS:
        return RequestParameter(name)
    header = header_of(parameter.annotation)
    if header is not None:
        if not header.name:
            reason = f'parameter {name!r} has a Header without a name; write Header("X-Name")'
            raise DeclarationError(function, reason)
        return TextParameter(function, parameter, "header", header.name)
    if name in names:
        return TextParameter(function, parameter, "path", name)
    return TextParameter(function, parameter, "query", name)


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
