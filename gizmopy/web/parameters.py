"""Bind the parameters of an endpoint that come as text: from the path, query, headers, cookies."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

from aiohttp import web
from pydantic import TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import SchemaError, ValidationError

from gizmopy.declaration import Parameter
from gizmopy.errors import DeclarationError, source_of
from gizmopy.untrusted.json_text import finite_validator
from gizmopy.untrusted.text import is_unicode
from gizmopy.web.annotations import is_converted, is_repeated, is_structure, non_text_part
from gizmopy.web.cookies import cookies_of
from gizmopy.web.problems import FieldError, field_error, field_errors
from gizmopy.web.request import Request
from gizmopy.web.security.caller import is_accepted
from gizmopy.web.security.declared import Security

ParameterLocation = Literal["path", "query", "header", "cookie"]
"""The part of a request that a parameter comes from; OpenAPI calls it ``in``."""

Function = Callable[..., Any]

UNKNOWN_TYPE = (PydanticUserError, PydanticUndefinedAnnotation, SchemaError, TypeError)
"""The errors that pydantic raises for a type that it cannot validate."""

_OTHER_TYPE = ("_type", "_parsing", "_from_float", "is_instance_of", "literal_error", "enum")
"""How pydantic's error types end if a value has another type than its field."""


class RequestParameter:
    """Bind a parameter to the request itself."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def bind(
        self, request: web.Request, arguments: dict[str, Any], errors: list[FieldError]
    ) -> None:
        """Put the request into ``arguments``."""
        arguments[self.name] = request


class CallerParameter:
    """Bind a parameter to the caller.

    Raises DeclarationError if ``security`` does not give a caller of the parameter's type.
    """

    __slots__ = ("name",)

    def __init__(self, function: Function, parameter: Parameter, security: Security | None) -> None:
        self.name = name = parameter.name
        if security is None:
            reason = f"parameter {name!r} is the caller, but nothing asks for credentials; write "
            remedy = "security=..., a checker, here or on the class"
            raise DeclarationError(function, reason + remedy)
        if not parameter.required:
            reason = f"parameter {name!r} is the caller, which is always set; remove the default"
            raise DeclarationError(function, reason)
        if security.is_optional and not is_accepted(None, parameter.annotation):
            reason = f"parameter {name!r} is None if no credentials are sent; write | None"
            raise DeclarationError(function, reason)
        for each in security.alternatives:
            for kind in each.callers:
                if not is_accepted(kind, parameter.annotation):
                    shown = getattr(kind, "__name__", str(kind))
                    reason = f"parameter {name!r} does not take the {shown} of its checker "
                    raise DeclarationError(function, reason + source_of(each.function))

    def bind(
        self, request: web.Request, arguments: dict[str, Any], errors: list[FieldError]
    ) -> None:
        """Put the caller into ``arguments``."""
        assert isinstance(request, Request)
        arguments[self.name] = request.caller


class TextParameter:
    """Bind a parameter to the text of ``key`` in ``location``, validated as the parameter's type.

    Raises DeclarationError if the type cannot be read from text, or not be validated.
    """

    __slots__ = (
        "_read",
        "_validate",
        "declared",
        "key",
        "location",
        "name",
        "repeated",
        "required",
    )

    def __init__(
        self, function: Function, parameter: Parameter, location: ParameterLocation, key: str
    ) -> None:
        check_text_type(function, parameter, location)
        validator = finite_validator(type_adapter(function, parameter))
        self.declared = parameter
        self.name = parameter.name
        self.location = location
        self.key = key
        self.required = parameter.required
        self.repeated = is_repeated(parameter.annotation)
        self._read = _reader(location, key, repeated=self.repeated)
        # pydantic's validate_strings does not accept lists. validate_python does, and reads each
        # string in the list by the same rules.
        self._validate = validator.validate_python if self.repeated else validator.validate_strings

    def bind(
        self, request: web.Request, arguments: dict[str, Any], errors: list[FieldError]
    ) -> None:
        """Put the value into ``arguments``, or each fault into ``errors``.

        If the text is absent and the parameter has a default, both stay unchanged, so that the
        function's own default applies.
        """
        text = self._read(request)
        if text is None:
            if self.required:
                errors.append(field_error(self.location, self.key, "Field required", "missing"))
            return
        whole = "".join(text) if self.repeated else text
        # aiohttp decodes bytes that are not UTF-8 to lone surrogates. They cannot be encoded
        # again: a log, a database or a response would fail later, far from the cause.
        if not (whole.isascii() or is_unicode(whole)):
            message = "Input should be encoded as UTF-8"
            errors.append(field_error(self.location, self.key, message, "string_unicode"))
            return
        try:
            arguments[self.name] = self._validate(text)
        except ValidationError as error:
            errors += field_errors(self.location, self.key, error)


@lru_cache(1024)
def _shared_adapter(annotation: type) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


def type_adapter(function: Function, parameter: Parameter) -> TypeAdapter[Any]:
    """Return pydantic's validator for a parameter.

    Raises DeclarationError if there is none, or if the default is text or a number and the
    parameter cannot be one.
    """
    annotation = parameter.annotation
    try:
        # One validator serves every parameter of a class, which saves time and memory at start.
        # Unions and other generic forms are not shared, because different ones compare equal:
        # ``int | str == str | int``, yet pydantic tries the members in order.
        shared = isinstance(annotation, type)
        adapter = _shared_adapter(annotation) if shared else TypeAdapter(annotation)
    except UNKNOWN_TYPE as error:
        why = str(error).partition("\n\n")[0]  # without pydantic's hints and its link to a page
        reason = f"parameter {parameter.name!r} has a type that cannot be validated: {why}"
        raise DeclarationError(function, reason) from error
    _check_default(function, parameter, adapter)
    return adapter


def _check_default(function: Function, parameter: Parameter, adapter: TypeAdapter[Any]) -> None:
    # The default reaches the function as it is, unlike the text of a request: ``y: int = "5"``
    # would be a str there. It may break a constraint (an empty text that means "none was sent"),
    # and be an object of the user's that means the same.
    default = parameter.default
    if not isinstance(default, (str, bytes, int, float)):
        return
    try:
        adapter.validate_python(default, strict=isinstance(default, (str, bytes)))
    except ValidationError as error:
        kind = error.errors(include_url=False, include_input=False)[0]["type"]
        if not kind.endswith(_OTHER_TYPE):
            return
        reason = f"parameter {parameter.name!r} has the default {default!r}, which is no "
        reason += f"{getattr(parameter.annotation, '__name__', parameter.annotation)}"
        raise DeclarationError(function, f"{reason}; write a value of that type") from error


def check_text_type(function: Function, parameter: Parameter, location: str) -> None:
    """Raise DeclarationError if no text in ``location`` can give the type of a parameter."""
    annotation, name = parameter.annotation, parameter.name
    if (is_structure(annotation) and not is_converted(annotation)) or (
        location in ("path", "cookie") and is_repeated(annotation)
    ):
        reason = f"{location} parameter {name!r} is one text, which cannot be a {annotation!r}"
        raise DeclarationError(function, reason)
    if (part := non_text_part(annotation)) is not None:
        reason = f"{location} parameter {name!r} is read from text, which cannot give {part!r}"
        # A form is the one place where bytes are meant as a file.
        file = ", or UploadFile for a file" if location == "form" else ""
        raise DeclarationError(
            function, f"{reason}; use a type such as str, int or list[str]{file}"
        )
    if location == "path" and not parameter.required:
        reason = f"path parameter {name!r} has a default, but is always present; remove the default"
        raise DeclarationError(function, reason)


def _reader(location: ParameterLocation, key: str, *, repeated: bool) -> Callable[[Any], Any]:
    """Return the function that reads ``key``.

    It returns the first text, or all of them if the parameter is ``repeated``; None if absent.
    """
    if location == "path":
        return lambda request: request.path_parameters[key]
    if location == "query":
        if repeated:
            return lambda request: request.query.getall(key, None)
        return lambda request: request.query.get(key)
    if location == "cookie":
        return lambda request: cookies_of(request).get(key)
    if repeated:
        return lambda request: request.headers.getall(key, None)
    return lambda request: request.headers.get(key)
