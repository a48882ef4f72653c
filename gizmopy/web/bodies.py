"""Choose how the body of a request is read, from the parameters that take it."""

from __future__ import annotations

from collections.abc import Sequence

from gizmopy.declaration import Parameter
from gizmopy.errors import DeclarationError
from gizmopy.web.annotations import Body, is_bytes, is_structure, marks_of, plain_type
from gizmopy.web.body import JSONBody, RequestBody
from gizmopy.web.decorators import Route
from gizmopy.web.raw_body import RawBody

_DEFAULT_LIMIT = 1024 * 1024
"""The size of a body that has to arrive within the read timeout."""
_WITHOUT_BODY = ("GET", "HEAD")


def is_from_body(parameter: Parameter) -> bool:
    """Return whether a parameter comes from the body: by its mark, or else by its type."""
    annotation = parameter.annotation
    if marks := marks_of(annotation):
        return any(isinstance(mark, Body) for mark in marks)
    return is_structure(annotation) or is_bytes(annotation)


def bind_body(
    route: Route, parameters: Sequence[Parameter], read_timeout: float
) -> RequestBody | None:
    """Return what binds ``parameters`` to the body of a request; None if there are none.

    Raises DeclarationError if no body could be bound to them.
    """
    if not parameters:
        return None
    names = " and ".join(repr(each.name) for each in parameters)
    if route.method in _WITHOUT_BODY:
        reason = f"takes {names} from the body, but a {route.method} request has none"
        raise DeclarationError(route.function, f"{reason}; use POST, PUT or PATCH")
    if len(parameters) > 1:
        reason = f"takes {names} from the body, which is one value; combine them in one model"
        raise DeclarationError(route.function, reason)
    return _whole_body(route, parameters[0], _timeout(route, read_timeout))


def _timeout(route: Route, read_timeout: float) -> float | None:
    """Return how long a body may take: longer if it may be larger; None if it may have any size.

    Clients that send hardly anything are found by the server's check of all connections.
    """
    limit = route.options.max_body_bytes
    if limit is None:
        return read_timeout
    return read_timeout * max(1.0, limit / _DEFAULT_LIMIT) if limit else None


def _whole_body(route: Route, parameter: Parameter, timeout: float | None) -> JSONBody | RawBody:
    function, annotation = route.function, parameter.annotation
    marks = marks_of(annotation)
    media_types = [
        kind.lower() for mark in marks if isinstance(mark, Body) for kind in mark.media_types
    ]
    plain = plain_type(annotation)
    if plain is bytes or plain is str:
        return RawBody(function, parameter, timeout, media_types, is_text=plain is str)
    for each in media_types:
        if each != "application/json" and not each.endswith("+json"):
            reason = f"takes {parameter.name!r} from a body of {each!r}, which is not JSON"
            raise DeclarationError(function, f"{reason}; annotate it with str or bytes")
    return JSONBody(function, parameter, timeout, media_types)
