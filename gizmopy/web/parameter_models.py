"""Bind a model whose fields come from the query, from headers, from cookies or from a form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_origin, get_type_hints

from aiohttp import web
from multidict import MultiMapping
from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_core import ValidationError

from gizmopy.declaration import REQUIRED, Parameter
from gizmopy.errors import DeclarationError, source_of
from gizmopy.untrusted.json_text import finite_validator
from gizmopy.untrusted.text import is_unicode
from gizmopy.web.annotations import (
    converts,
    file_kind,
    is_converted,
    is_repeated,
    is_structure,
    non_text_part,
    structure_of,
)
from gizmopy.web.cookies import cookies_of
from gizmopy.web.parameters import Function, ParameterLocation, type_adapter
from gizmopy.web.problems import FieldError, field_error, field_errors

_FIELDS = ("dataclass-args", "model-fields", "typed-dict")
_DESCRIPTION = ("title", "description", "examples", "deprecated", "json_schema_extra")
"""What the document says of a field."""
NOT_UTF8 = "Input should be encoded as UTF-8"

Keys = tuple[tuple[str, str], ...]
"""The keys by which pydantic takes a field, each with its name in the request."""


FieldLocation = ParameterLocation | Literal["form"]
"""The part of a request that a field comes from."""


@dataclass(frozen=True, slots=True)
class ModelField:
    """One field of a model of parameters, or of a form, as the document describes it."""

    location: FieldLocation
    declared: Parameter
    keys: Keys
    repeated: bool
    is_file: bool = False

    @property
    def key(self) -> str:
        """Its name in the request; the first one, if it has several."""
        return self.keys[0][1]

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.declared.required


class ModelParameter:
    """Bind a parameter to a model whose fields come from ``location``.

    Raises DeclarationError if a field cannot be read from there.
    """

    __slots__ = (
        "_names",
        "_others",
        "_validate",
        "declared",
        "extra",
        "fields",
        "location",
        "name",
        "required",
    )

    def __init__(self, function: Function, parameter: Parameter, location: FieldLocation) -> None:
        adapter = type_adapter(function, parameter)
        model = _Model(function, parameter, location, adapter.core_schema)
        self.declared = parameter
        self.name = parameter.name
        self.location = location
        self.required = parameter.required
        self.fields = tuple(model.fields())
        self.extra = model.extra
        if self.keeps_extra and location == "header":
            reason = f"{model.title} has extra={model.extra!r}, but clients send headers that it"
            raise DeclarationError(function, f"{reason} does not know; remove it")
        self._names = {key: name for each in self.fields for key, name in each.keys}
        self._others: frozenset[str] = frozenset()
        # validate_strings takes no lists. In lax mode validate_python reads each text by the same
        # rules, also if the model is strict: then a number could not be sent at all.
        self._validate: Callable[..., Any] = finite_validator(adapter).validate_python

    @property
    def keeps_extra(self) -> bool:
        """Whether the model refuses or keeps the names that it does not know."""
        return self.extra != "ignore"

    def leave_out(self, names: frozenset[str]) -> None:
        """Do not count ``names``, which other parameters take, as extra fields of the model."""
        self._others = names - set(self._names.values())

    def bind(
        self, request: web.Request, arguments: dict[str, Any], errors: list[FieldError]
    ) -> None:
        """Put the model into ``arguments``, or each fault into ``errors``.

        If all fields are absent and the parameter has a default, both stay unchanged, so that the
        function's own default applies.
        """
        source = _SOURCES[self.location](request)
        values: dict[str, Any] = {}
        for field in self.fields:
            for key, name in field.keys:
                text = source.getall(name, None) if field.repeated else source.get(name)
                if text is not None:
                    values[key] = text
        if self.keeps_extra:
            values |= self.unknown(source)
        wrong = [key for key, text in values.items() if not _is_unicode(key, text)]
        if wrong:
            names = (self._names.get(key, key) for key in wrong)
            errors += (
                field_error(self.location, name, NOT_UTF8, "string_unicode") for name in names
            )
            return
        self.validate(values, arguments, errors)

    def validate(
        self, values: dict[str, Any], arguments: dict[str, Any], errors: list[FieldError]
    ) -> None:
        """Put the model of ``values`` into ``arguments``, or each fault into ``errors``."""
        if not values and not self.required:
            return
        try:
            arguments[self.name] = self._validate(values, strict=False)
        except ValidationError as error:
            location = "body" if self.location == "form" else self.location
            errors += field_errors(location, "", error, self._names)

    def unknown(self, source: MultiMapping[Any]) -> dict[str, Any]:
        """Return what the model may refuse, or keep: the names that no parameter takes."""
        known = self._others.union(self._names.values())
        unknown = {name: source.getall(name) for name in source if name not in known}
        return {name: texts if len(texts) > 1 else texts[0] for name, texts in unknown.items()}


def _is_unicode(key: str, text: str | list[str]) -> bool:
    # aiohttp decodes bytes of a header that are not UTF-8 to lone surrogates.
    whole = text if isinstance(text, str) else "".join(text)
    return is_unicode(whole) and is_unicode(key)


_SOURCES: Mapping[str, Callable[[web.Request], MultiMapping[str]]] = {
    "query": lambda request: request.query,
    "header": lambda request: request.headers,
    "cookie": cookies_of,
}


class _Model:
    """The fields of a model, as pydantic's schema has them."""

    def __init__(
        self,
        function: Function,
        parameter: Parameter,
        location: str,
        schema: Mapping[str, Any],
    ) -> None:
        self._function = function
        self._location: Any = location
        self._kind = structure_of(parameter.annotation)
        self._definitions = {each["ref"]: each for each in schema.get("definitions", ())}
        self._config: Mapping[str, Any] = {}
        node = self._inner(schema)
        while node["type"] not in _FIELDS:
            self._config = node.get("config") or self._config
            node = self._inner(node["schema"])
        self._config = node.get("config") or self._config
        self._node = node
        extra = node.get("extra_behavior") or self._config.get("extra_fields_behavior")
        self.extra: str = extra or "ignore"

    @property
    def title(self) -> str:
        """Its name with its file and line, which are read from a file: for errors only."""
        return source_of(get_origin(self._kind) or self._kind)

    def _inner(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return ``schema`` without what surrounds it: definitions, None, validators, a default."""
        if schema["type"] == "definition-ref":
            return self._inner(self._definitions[schema["schema_ref"]])
        is_wrapped = schema["type"].startswith("function-") and "schema" in schema
        if is_wrapped or schema["type"] in ("default", "definitions", "nullable"):
            return self._inner(schema["schema"])
        return schema

    def fields(self) -> Iterator[ModelField]:
        """Yield each field. Raises DeclarationError if one cannot be read from the request."""
        try:
            annotations = _annotations(self._kind)
        except NameError as error:
            reason = f"the types of the fields of {self.title} cannot be resolved: {error}"
            raise DeclarationError(self._function, f"{reason}; import them") from error
        declared = self._node["fields"]
        pairs = (
            declared.items()
            if isinstance(declared, Mapping)
            else ((each["name"], each) for each in declared if each.get("init", True))
        )
        for name, field in pairs:
            annotation = annotations[name]
            parameter = Parameter(name, annotation, _default(field))
            keys = self._keys(name, field)
            if self._location == "form" and (files := file_kind(annotation)) is not None:
                yield ModelField("form", parameter, keys, files == "many", is_file=True)
                continue
            reads_text = is_converted(annotation) or self._reads_text(field["schema"])
            repeated = not reads_text and (
                is_repeated(annotation) or self._is_collection(field["schema"])
            )
            if not reads_text:
                self._check(name, annotation, repeated=repeated)
            yield ModelField(self._location, parameter, keys, repeated)

    def _reads_text(self, schema: Mapping[str, Any]) -> bool:
        """Return whether a validator of the model reads one text, such as a field_validator."""
        return converts(_without_default(schema))

    def _is_collection(self, schema: Mapping[str, Any]) -> bool:
        """Return whether a field is a list, whose type may be a type variable of its class."""
        return _without_default(schema)["type"] in ("frozenset", "list", "set", "tuple")

    def _check(self, name: str, annotation: Any, *, repeated: bool) -> None:
        if is_structure(annotation):
            reason = "is one text, which cannot be an object; write Json[...] to send it as JSON"
        elif (part := non_text_part(annotation)) is not None:
            reason = f"is read from text, which cannot give {part!r}"
        elif repeated and self._location == "cookie":
            reason = "is one cookie, which has one value; write BeforeValidator to split it"
        else:
            return
        subject = f"{self._location} field {name!r} of {self.title}"
        raise DeclarationError(self._function, f"{subject} {reason}")

    def _keys(self, name: str, field: Mapping[str, Any]) -> Keys:
        # A text, or a path, or several paths: [["a"], ["b", 0]]
        alias = field.get("validation_alias")
        if alias is None:
            return ((name, self._name_of(name)),)
        paths = [[alias]] if isinstance(alias, str) else alias
        paths = [paths] if paths and isinstance(paths[0], str) else paths
        if any(len(path) > 1 for path in paths):
            reason = f"field {name!r} of {self.title} has an AliasPath; a parameter has one name"
            raise DeclarationError(self._function, f"{reason}: write alias='...'")
        keys = tuple((path[0], path[0]) for path in paths)
        by_name = self._config.get("validate_by_name") or self._config.get("populate_by_name")
        if self._config.get("validate_by_alias") is False:
            keys = ()
        return (*keys, (name, self._name_of(name))) if by_name else keys

    def _name_of(self, field: str) -> str:
        # Proxies drop headers with an underscore: nginx by default, Apache always.
        return field.replace("_", "-") if self._location == "header" else field


def _without_default(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while schema["type"] in ("default", "nullable", "function-after"):
        schema = schema["schema"]
    return schema


def _annotations(kind: Any) -> Mapping[str, Any]:
    """Return the type of each field with its metadata, such as a description."""
    infos = getattr(kind, "__pydantic_fields__", None)
    if infos is not None:
        return {name: _with_metadata(info) for name, info in infos.items()}
    hints = get_type_hints(get_origin(kind) or kind, include_extras=True)
    return {name: _without_qualifiers(hint) for name, hint in hints.items()}


def _with_metadata(info: FieldInfo) -> Any:
    """Return the type of a field of a model, without its alias, which only a model can have."""
    words = {word: getattr(info, word) for word in _DESCRIPTION}
    annotation: Any = info.annotation
    for each in (*info.metadata, Field(**words)):
        annotation = Annotated[annotation, each]
    return annotation


def _without_qualifiers(hint: Any) -> Any:
    name = getattr(get_origin(hint), "_name", "")
    return hint.__args__[0] if name in ("NotRequired", "Required", "ReadOnly") else hint


def _default(field: Mapping[str, Any]) -> Any:
    """Return the default of a field; None if it is made, or absent from a TypedDict."""
    schema = field["schema"]
    if schema["type"] == "default":
        return schema.get("default")
    return None if field.get("required") is False else REQUIRED
