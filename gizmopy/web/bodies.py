"""Choose how the body of a request is read, from the parameters that take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gizmopy.declaration import Parameter
from gizmopy.errors import DeclarationError
from gizmopy.untrusted.json_text import NO_SCHEMA
from gizmopy.web.annotations import (
    Body,
    Form,
    file_kind,
    is_bytes,
    is_structure,
    marks_of,
    plain_type,
    structure_of,
)
from gizmopy.web.body import JSONBody, RequestBody
from gizmopy.web.decorators import Route
from gizmopy.web.forms import FormBody, FormField, FormModel
from gizmopy.web.parameters import type_adapter
from gizmopy.web.raw_body import RawBody
from gizmopy.web.uploads import UploadFile

_DEFAULT_LIMIT = 1024 * 1024
"""The size of a body that has to arrive within the read timeout."""
WITHOUT_BODY = ("GET", "HEAD")
"""The methods whose requests have no body."""


def is_from_body(parameter: Parameter) -> bool:
    """Return whether a parameter comes from the body: by its mark, or else by its type."""
    annotation = parameter.annotation
    if marks := marks_of(annotation):
        return any(isinstance(mark, Body | Form) for mark in marks)
    return is_structure(annotation) or is_bytes(annotation) or file_kind(annotation) is not None


def _is_from_form(parameter: Parameter) -> bool:
    marks = marks_of(parameter.annotation)
    if marks:
        return isinstance(marks[0], Form)
    return file_kind(parameter.annotation) is not None


def bind_body(
    route: Route, parameters: Sequence[Parameter], read_timeout: float
) -> RequestBody | None:
    """Return what binds ``parameters`` to the body of a request; None if there are none.

    Raises DeclarationError if no body could be bound to them.
    """
    if not parameters:
        return None
    names = " and ".join(repr(each.name) for each in parameters)
    if route.method in WITHOUT_BODY:
        reason = f"takes {names} from the body, but a {route.method} request has none"
        raise DeclarationError(route.function, f"{reason}; use POST, PUT or PATCH")
    in_form = [each for each in parameters if _is_from_form(each)]
    whole = [each for each in parameters if not _is_from_form(each)]
    if in_form and whole:
        reason = f"takes {in_form[0].name!r} from a form and {whole[0].name!r} from a whole body"
        remedy = "a request has one body: mark both with Form(), or Json[...] for JSON in a field"
        raise DeclarationError(route.function, f"{reason}; {remedy}")
    timeout = _timeout(route, read_timeout)
    if in_form:
        return _form(route, in_form, timeout)
    if len(whole) > 1:
        reason = f"takes {names} from the body, which is one value; combine them in one model"
        raise DeclarationError(route.function, reason)
    return _whole_body(route, whole[0], timeout)


def _form(route: Route, parameters: Sequence[Parameter], timeout: float | None) -> FormBody:
    binders: list[FormField | FormModel] = []
    for each in parameters:
        mark = next((one for one in marks_of(each.annotation) if isinstance(one, Form)), Form())
        if structure_of(each.annotation) is None:
            binders.append(FormField(route.function, each, mark.name or each.name))
        elif mark.name:
            reason = f"parameter {each.name!r} is a model, whose fields have names of their own"
            raise DeclarationError(route.function, f"{reason}; write Form() instead of {mark!r}")
        else:
            binders.append(FormModel(route.function, each))
    _check_distinct(route, binders)
    return FormBody(binders, timeout, route.options.max_parts)


def _check_distinct(route: Route, binders: Sequence[FormField | FormModel]) -> None:
    """Raise DeclarationError if two parameters take one field of the form.

    Tell each model which fields are those of other parameters.
    """
    owners: dict[str, str] = {}
    for each in binders:
        for field in each.fields:
            own = each.name if isinstance(each, FormField) else f"{each.name}.{field.declared.name}"
            for _, key in field.keys:
                if (other := owners.setdefault(key, own)) != own:
                    reason = f"takes {other!r} and {own!r} both from {key!r} in the form; keep one"
                    raise DeclarationError(route.function, reason)
    for each in binders:
        if isinstance(each, FormModel):
            each.leave_out(frozenset(owners))


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
    if _has_file(type_adapter(function, parameter).core_schema):
        reason = f"takes {parameter.name!r} from JSON, which has no files"
        remedy = f"write {parameter.name}: Annotated[..., Form()]"
        raise DeclarationError(function, f"{reason}; {remedy}")
    return JSONBody(function, parameter, timeout, media_types)


def _has_file(schema: Any) -> bool:
    """Return whether a schema of pydantic has an UploadFile."""
    if isinstance(schema, Mapping):
        parts = (value for key, value in schema.items() if key not in NO_SCHEMA)
        return schema.get("cls") is UploadFile or any(map(_has_file, parts))
    return isinstance(schema, list | tuple) and any(map(_has_file, schema))
