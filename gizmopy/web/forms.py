"""Bind parameters, and the fields of models, to a form: its texts and its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qsl

from aiohttp import web
from multidict import MultiDict
from pydantic_core import ValidationError

from gizmopy.declaration import Parameter
from gizmopy.untrusted.json_text import finite_validator
from gizmopy.untrusted.text import escape, is_unicode
from gizmopy.web.annotations import file_kind, is_repeated
from gizmopy.web.body import check_media_type, media_type_of, read_body
from gizmopy.web.multipart import check_charset, reading
from gizmopy.web.multipart_form import FormShape, FormValue, MultipartForm
from gizmopy.web.parameter_models import NOT_UTF8, ModelField, ModelParameter
from gizmopy.web.parameters import Function, check_text_type, type_adapter
from gizmopy.web.problems import (
    FieldError,
    Problem,
    field_error,
    field_errors,
    validation_problem,
)
from gizmopy.web.uploads import UploadFile

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
MAX_PARTS = 1000
"""The most fields and files of a form, unless the endpoint has ``max_parts=``."""

Form = MultiDict[FormValue]
Validate = Callable[..., Any]


class FormBinder(Protocol):
    """Binds one parameter of an endpoint to a form."""

    @property
    def fields(self) -> Sequence[ModelField]:
        """The fields of the form that it takes."""

    @property
    def required(self) -> bool:
        """Whether its parameter has no default."""

    @property
    def keeps_extra(self) -> bool:
        """Whether other fields are of interest, too."""

    def bind_form(self, form: Form, arguments: dict[str, Any], errors: list[FieldError]) -> None:
        """Put the value into ``arguments``, or each fault into ``errors``."""


class FormField:
    """Bind a parameter to one field of a form.

    Raises DeclarationError if the type is neither a file nor read from text.
    """

    __slots__ = ("_validate", "fields", "name", "required")

    keeps_extra = False

    def __init__(self, function: Function, parameter: Parameter, key: str) -> None:
        is_file = file_kind(parameter.annotation)
        if is_file is None:
            check_text_type(function, parameter, "form")
        adapter = type_adapter(function, parameter)
        repeated = is_file == "many" if is_file else is_repeated(parameter.annotation)
        validator = adapter.validator if is_file else finite_validator(adapter)
        self.name = parameter.name
        self.required = parameter.required
        self.fields = (
            ModelField("form", parameter, ((key, key),), repeated, is_file=is_file is not None),
        )
        by_python = repeated or is_file
        self._validate = validator.validate_python if by_python else validator.validate_strings

    def bind_form(self, form: Form, arguments: dict[str, Any], errors: list[FieldError]) -> None:
        """Put the value into ``arguments``, or each fault into ``errors``."""
        (field,) = self.fields
        value = _take(form, field, field.key, errors)
        if value is None:
            if self.required and field.key not in form:
                errors.append(field_error("body", field.key, "Field required", "missing"))
            return
        try:
            arguments[self.name] = self._validate(value)
        except ValidationError as error:
            if value != "" or self.required:
                errors += field_errors("body", field.key, error)


class FormModel(ModelParameter):
    """Bind a parameter to a model whose fields are those of a form."""

    __slots__ = ("_may_be_empty",)

    def __init__(self, function: Function, parameter: Parameter) -> None:
        super().__init__(function, parameter, "form")
        self._may_be_empty = frozenset(
            field.key for field in self.fields if not _has_default_for_empty(function, field)
        )

    def bind_form(self, form: Form, arguments: dict[str, Any], errors: list[FieldError]) -> None:
        """Put the model into ``arguments``, or each fault into ``errors``."""
        values: dict[str, Any] = {}
        before = len(errors)
        for field in self.fields:
            for key, name in field.keys:
                value = _take(form, field, name, errors)
                if value is not None and (value != "" or field.key in self._may_be_empty):
                    values[key] = value
        if self.keeps_extra:
            self._add_unknown(form, values, errors)
        if len(errors) == before:
            self.validate(values, arguments, errors)

    def _add_unknown(self, form: Form, values: dict[str, Any], errors: list[FieldError]) -> None:
        """Add the fields that no parameter takes. Their files were skipped."""
        for name, value in self.unknown(form).items():
            each = value if isinstance(value, list) else [value]
            if any(isinstance(one, str) and not is_unicode(one) for one in each):
                errors.append(field_error("body", name, NOT_UTF8, "string_unicode"))
            elif not any(isinstance(one, UploadFile) for one in each):
                values[name] = value
            elif self.extra == "forbid":
                values[name] = ""


def _take(form: Form, field: ModelField, name: str, errors: list[FieldError]) -> Any | None:
    """Return the value, or the list of values, of a field; None if it is absent or wrong."""
    values = form.getall(name, None)
    if values is None:
        return None
    if not field.repeated and len(values) > 1:
        message = f"Field should be sent once, and was sent {len(values)} times"
        errors.append(field_error("body", name, message, "repeated_field"))
        return None
    for value in values:
        if isinstance(value, UploadFile) is not field.is_file:
            expected, kind = ("file", "file_type") if field.is_file else ("text", "string_type")
            message = f"Input should be a {expected}"
        elif isinstance(value, str) and not is_unicode(value):
            message, kind = NOT_UTF8, "string_unicode"
        else:
            continue
        errors.append(field_error("body", name, message, kind))
        return None
    return values if field.repeated else values[0]


def _has_default_for_empty(function: Function, field: ModelField) -> bool:
    """Return whether an empty text stands for the default of a field.

    Browsers send an empty text for each input that is left empty, such as that of a number.
    """
    if field.required or field.is_file or field.repeated:
        return False
    try:
        type_adapter(function, field.declared).validate_strings("")
    except Exception:  # noqa: BLE001 - a validator of the user's may raise any
        return True
    return False


class FormBody:
    """Bind the parameters of an endpoint that come from a form."""

    __slots__ = ("_read_timeout", "_shape", "binders", "media_types", "required")

    def __init__(
        self, binders: Sequence[FormBinder], read_timeout: float | None, max_parts: int | None
    ) -> None:
        self.binders = tuple(binders)
        fields = [field for each in binders for field in each.fields]
        self.required = any(field.required for each in binders for field in each.fields)
        texts = {name for each in fields if not each.is_file for _, name in each.keys}
        files = {name for each in fields if each.is_file for _, name in each.keys}
        self._shape = FormShape(
            frozenset(texts),
            frozenset(files),
            MAX_PARTS if max_parts is None else max_parts,
            keeps_unknown=any(each.keeps_extra for each in binders),
        )
        needs_file = any(each.is_file and each.required for each in fields)
        self.media_types: tuple[str, ...] = (URLENCODED, MULTIPART)
        if files:
            self.media_types = (MULTIPART,) if needs_file else (MULTIPART, URLENCODED)
        self._read_timeout = read_timeout

    async def bind(
        self, request: web.Request, arguments: dict[str, Any], errors: list[FieldError]
    ) -> None:
        """Put the values into ``arguments``, or each fault into ``errors``.

        Raises Problem if the body is no form (400), is too large or has too many fields (413), or
        has another content type or a charset that is not supported (415); and as JSON bodies do.
        """
        form = await self._read(request)
        for each in self.binders:
            each.bind_form(form, arguments, errors)

    async def _read(self, request: web.Request) -> Form:
        if not (request.body_exists and (request.can_read_body or request.content.total_bytes)):
            return MultiDict()
        check_media_type(request, self.media_types)
        if media_type_of(request) == MULTIPART:
            return await MultipartForm(request, self._shape).read()
        return _urlencoded(request, await read_body(request, self._read_timeout), self._shape)


def _urlencoded(request: web.Request, data: bytes, shape: FormShape) -> Form:
    """Return the fields of a form.

    Raises Problem: 413 if it has too many fields, 415 for an unknown charset, 422 if a name does
    not fit the charset.
    """
    if data.count(b"&") >= shape.max_parts:
        raise Problem(413, f"The form has more than {shape.max_parts} fields.")
    charset = request.charset or "utf-8"
    check_charset(charset)
    with reading("a form"):
        # Bytes that do not fit become lone surrogates, which the field reports.
        text = data.rstrip(b"\r\n").decode(charset, "surrogateescape")
        pairs = parse_qsl(text, keep_blank_values=True, encoding=charset, errors="surrogateescape")
    wrong = [name for name, _ in pairs if not is_unicode(name)]
    if wrong:
        faults = [field_error("body", escape(each), NOT_UTF8, "string_unicode") for each in wrong]
        raise validation_problem(faults[:100])
    return MultiDict(pairs)
