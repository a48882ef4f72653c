"""Refuse the notation of other frameworks, which would have no effect here, and say what to write.

Without this, ``x: int = Field(1, ge=1)`` would be an ``int`` that no rule checks, and whose default
is the mark itself; ``Depends(...)`` would be a value of the query.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any, get_args

from aiohttp import web
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from gizmopy.declaration import Parameter
from gizmopy.errors import DeclarationError
from gizmopy.web.annotations import Header, Mark, marks_of, parts
from gizmopy.web.decorators import Route, is_media_type

_MARKS = get_args(Mark)
_FRAMEWORKS = ("fastapi", "starlette", "litestar", "faststream")
_TOKEN = frozenset(string.ascii_letters + string.digits + "!#$%&'*+.^_`|~-")

_REMEDIES = {
    "Depends": "set what it needs as an attribute of the object, and open it in lifespan",
    "Security": "write Caller[...], and security= with a checker",
    "Request": "write request: aiohttp.web.Request",
    "Response": "return the header in a tuple with the value, or a response of aiohttp.web",
    "BackgroundTasks": "publish a message, and do the work in its @subscribe handler",
    "UploadFile": "import UploadFile from gizmopy",
}


def check_foreign_style(route: Route, declared: Sequence[Parameter]) -> None:
    """Raise DeclarationError for a parameter that is written as another framework wants it."""
    for each in declared:
        for reason in (_fault_of_default(each), _fault_of_type(each), _fault_of_path(route, each)):
            if reason:
                raise DeclarationError(route.function, reason)


def check_mark(route: Route, parameter: Parameter) -> None:
    """Raise DeclarationError if a mark has a name or a media type that no request can have."""
    name = parameter.name
    for mark in marks_of(parameter.annotation):
        for text in getattr(mark, "media_types", ()):
            if not is_media_type(text):
                reason = f"parameter {name!r} has a Body of {text!r}, which is no media type"
                raise DeclarationError(route.function, f'{reason}; write Body("image/png")')
        key: object = getattr(mark, "name", "")
        kind = type(mark).__name__
        if not isinstance(key, str):
            reason = f'parameter {name!r} has {mark!r}, whose name is no text; write {kind}("name")'
            raise DeclarationError(route.function, reason)
        if key and isinstance(mark, Header) and not _TOKEN.issuperset(key):
            reason = f"parameter {name!r} has {mark!r}, which is no name of a header"
            raise DeclarationError(route.function, f'{reason}; write Header("X-Name")')
        # The first request of a browser has no such header, and would always be answered 422.
        if key.lower() == "last-event-id" and parameter.required:
            reason = f"parameter {name!r} is required, and the first request of an EventSource has "
            raise DeclarationError(route.function, f"{reason}no Last-Event-ID; write = None")


def _fault_of_default(parameter: Parameter) -> str:
    default, name = parameter.default, parameter.name
    if parameter.required:
        return ""
    if isinstance(default, _MARKS) or default in _MARKS:
        kind = getattr(default, "__name__", type(default).__name__)
        remedy = f'{name}: Annotated[..., {kind}("...")]'
        return f"parameter {name!r} has a {kind} as its default; write {remedy}"
    if reason := _fault_of_part(default):
        return f"parameter {name!r} has {reason}"
    if isinstance(default, FieldInfo):
        remedy = f"write {name}: Annotated[..., Field(...)], and the default behind it"
        return f"parameter {name!r} has a Field as its default, which only a model reads; {remedy}"
    return ""


def _fault_of_type(parameter: Parameter) -> str:
    name = parameter.name
    for part in parts(parameter.annotation):
        if reason := _fault_of_part(part):
            return f"parameter {name!r} has {reason}"
        if not isinstance(part, type):
            continue
        if issubclass(part, web.StreamResponse):
            return f"parameter {name!r} is a response, which an endpoint returns; remove it"
        if issubclass(part, web.Application):
            return f"parameter {name!r} is an application of aiohttp, and there is none; use self"
        if issubclass(part, BaseSettings):
            remedy = "use self.settings, or take them in __init__"
            return f"parameter {name!r} is the settings, which no request may send; {remedy}"
    return ""


def _fault_of_part(part: Any) -> str:
    kind = part if isinstance(part, type) else type(part)
    framework = kind.__module__.partition(".")[0]
    if framework not in _FRAMEWORKS:
        return ""
    name = kind.__name__
    remedy = _REMEDIES.get(name, f"import {name} from gizmopy, if it has one")
    return f"{name} of {framework}, which has no effect here; {remedy}"


def _fault_of_path(route: Route, parameter: Parameter) -> str:
    name = parameter.name
    if f"/:{name}" in route.path or f"<{name}>" in route.path or f":{name}>" in route.path:
        return f"the path {route.path!r} has no variable; write {{{name}}}"
    for kind in ("int", "str", "float", "path", "uuid"):
        variable = f"{{{name}:{kind}}}"
        if variable in route.path:
            pattern = "{path:.*}" if kind == "path" else f"{{{name}}}"
            reason = f"{kind!r} in {variable!r} is a regular expression, not a type"
            return f"{reason}; write {pattern} and annotate the parameter"
    return ""
