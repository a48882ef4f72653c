"""Bind the parameters of an endpoint that come as text: in the path, the query or a header."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

from aiohttp import web
from pydantic import TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import SchemaError, ValidationError

from gizmopy.declaration import Parameter
from gizmopy.errors import DeclarationError
from gizmopy.web.annotations import is_repeated, is_structure, wordless_part
from gizmopy.web.problems import FieldError, field_error, wrong_fields

Place = Literal["path", "query", "header"]
Function = Callable[..., Any]


class RequestParameter:
    """Give an endpoint the request itself."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def bind(
        self, request: web.Request, arguments: dict[str, Any], errors: list[FieldError]
    ) -> None:
        """Put the request into ``arguments``."""
        arguments[self.name] = request


class TextParameter:
    """Give an endpoint what the text ``key`` in ``place`` says, as the parameter's type."""

    __slots__ = ("_read", "_validate", "declared", "key", "name", "place", "repeated", "required")

    def __init__(self, function: Function, parameter: Parameter, place: Place, key: str) -> None:
        _check_text(function, parameter, place)
        validator = type_adapter(function, parameter).validator
        self.declared = parameter
        self.name = parameter.name
        self.place = place
        self.key = key
        self.required = parameter.required
        self.repeated = is_repeated(parameter.annotation)
        self._read = _reader(place, key, repeated=self.repeated)
        # pydantic's rules for strings know no lists; those for Python values read strings alike.
        self._validate = validator.validate_python if self.repeated else validator.validate_strings

    def bind(
        self, request: web.Request, arguments: dict[str, Any], errors: list[FieldError]
    ) -> None:
        """Put the value into ``arguments``, or what is wrong with it into ``errors``.

        Where the text is absent and need not be there, the function's own default applies.
        """
        text = self._read(request)
        if text is None:
            if self.required:
                errors.append(field_error(self.place, self.key, "Field required", "missing"))
            return
        whole = "".join(text) if self.repeated else text
        if not (whole.isascii() or _is_unicode(whole)):
            message = "Input should be encoded as UTF-8"
            errors.append(field_error(self.place, self.key, message, "string_unicode"))
            return
        try:
            arguments[self.name] = self._validate(text)
        except ValidationError as error:
            errors += wrong_fields(self.place, self.key, error)


@lru_cache(1024)
def _shared_adapter(annotation: type) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


def type_adapter(function: Function, parameter: Parameter) -> TypeAdapter[Any]:
    """Return pydantic's validator for a parameter, or raise DeclarationError if there is none."""
    annotation = parameter.annotation
    try:
        # One validator for all routes that have a class: less to build, and to keep in caches. What
        # is made of several compares equal to what is not: int | str to str | int.
        shared = isinstance(annotation, type)
        return _shared_adapter(annotation) if shared else TypeAdapter(annotation)
    except (PydanticUserError, PydanticUndefinedAnnotation, SchemaError, TypeError) as error:
        why = str(error).partition("\n\n")[0]  # pydantic goes on with hints and an address
        reason = f"parameter {parameter.name!r} has a type that cannot be validated: {why}"
        raise DeclarationError(function, reason) from error


def _check_text(function: Function, parameter: Parameter, place: Place) -> None:
    annotation, name = parameter.annotation, parameter.name
    if is_structure(annotation) or (place == "path" and is_repeated(annotation)):
        reason = f"{place} parameter {name!r} is one text, which cannot be a {annotation!r}"
        raise DeclarationError(function, reason)
    if (part := wordless_part(annotation)) is not None:
        reason = f"{place} parameter {name!r} comes as text, which cannot give {part!r}"
        raise DeclarationError(function, f"{reason}; declare a type that is written in words")
    if place == "path" and not parameter.required:
        reason = f"path parameter {name!r} has a default, but is always there; remove the default"
        raise DeclarationError(function, reason)


def _reader(place: Place, key: str, *, repeated: bool) -> Callable[[Any], Any]:
    """Return the function that reads ``key``: one text (the first), a list of them, or None."""
    if place == "path":
        return lambda request: request.path_parameters[key]
    if place == "query":
        if repeated:
            return lambda request: request.query.getall(key, None)
        return lambda request: request.query.get(key)
    if repeated:
        return lambda request: request.headers.getall(key, None)
    return lambda request: request.headers.get(key)


def _is_unicode(text: str) -> bool:
    """Whether ``text`` is free of the surrogates that stand for bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
