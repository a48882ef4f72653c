"""Describe routes as an OpenAPI 3.1 document: all of it is read from the endpoints' signatures.

What is said holds for every answer: a status that an endpoint chooses as it runs is a range, and
errors that only a handler knows of are the ``default`` one, a problem as RFC 9457 defines it.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from types import NoneType
from typing import Any, Literal, Never, NoReturn, NotRequired, get_args, get_origin

from aiohttp import web
from pydantic import ConfigDict, TypeAdapter, with_config
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from pydantic_core import PydanticSerializationError, to_jsonable_python
from typing_extensions import TypedDict  # pydantic reads no other on Python 3.11

from gizmopy.declaration import REQUIRED, Parameter, read_signature
from gizmopy.web.annotations import UNIONS, aliased
from gizmopy.web.binding import bind_parameters
from gizmopy.web.body import JSONBody
from gizmopy.web.decorators import Endpoint, Route
from gizmopy.web.parameters import TextParameter
from gizmopy.web.problems import CONTENT_TYPE
from gizmopy.web.responses import JSON

logger = logging.getLogger("gizmopy.web.openapi")

Schema = dict[str, Any]

# Its name, and its regex if any. Without the colon between them, each split would be tried.
_VARIABLE = re.compile(r"\{([^{}:]*)(?::((?:[^{}]|\{[^{}]*\})*))?\}")
_PYTHON_ONLY = re.compile(r"\(\?(?:P|[aiLmsux-]+[:)]|[#(>])|\\[AZ]|[*+?}]\+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|\n\s*\n")

_ANY_STATUS = "2XX"
_ANY_TYPE = "*/*"
_WITHOUT_BODY = ("204", "205", "304")
_DESCRIPTIONS = {_ANY_STATUS: "Success", "default": "Any other answer"}

FieldError = TypedDict("FieldError", {"in": str, "field": str, "message": str, "type": str})


@with_config(ConfigDict(extra="allow"))
class ProblemDetails(TypedDict):
    """What went wrong with a request, as RFC 9457 defines it."""

    type: str
    title: str
    status: int
    detail: NotRequired[str]
    errors: NotRequired[list[FieldError]]
    request_id: NotRequired[str]


@dataclass(slots=True, eq=False)
class _Typed:
    """A type that stands at ``place`` in the document; its schema is empty where it has none."""

    place: str
    mode: JsonSchemaMode
    annotation: Any
    schema: Schema = field(default_factory=dict)


_Contents = Mapping[str, Sequence[_Typed]]
"""What a body may be: by media type, the types that are known of it."""


@dataclass(frozen=True, slots=True)
class _Operation:
    """What one route takes and gives; its parameters go by the names that ``path`` has."""

    route: Route
    path: str
    parameters: Sequence[tuple[TextParameter, _Typed]]
    body: tuple[JSONBody, _Typed] | None
    answers: Mapping[str, _Contents]

    def types(self) -> Iterator[_Typed]:
        """Yield every type that needs a schema."""
        for _, typed in self.parameters:
            yield typed
        if self.body is not None:
            yield self.body[1]
        for contents in self.answers.values():
            for types in contents.values():
                yield from types


def openapi_document(
    routes: Sequence[Route],
    *,
    title: str,
    version: str,
    description: str = "",
    json_content_type: str = JSON,
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of ``routes``, ready for JSON.

    ``json_content_type`` is the type of the answers in JSON. What cannot be described is logged as
    a warning and left out: the schema of a type that has none in JSON, and a route that OpenAPI
    does not tell from one before it, as it knows no patterns in paths. Takes some milliseconds of
    CPU a route: call it outside of the event loop. Raises DeclarationError where
    ``compile_endpoint`` does.
    """
    problem = _Typed("a problem", "serialization", ProblemDetails)
    operations = [_read(path, route, json_content_type) for path, route in _distinct(routes)]
    components = _fill([problem, *(typed for each in operations for typed in each.types())])
    ids: set[str] = set()
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        written = _operation(operation, problem, _new_id(operation.route, ids))
        paths.setdefault(operation.path, {})[operation.route.method.lower()] = written
    about = {"description": description} if description else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, **about},
        "paths": paths,
        "components": {"schemas": components},
    }


# what there is


def _distinct(routes: Iterable[Route]) -> Iterator[tuple[str, Route]]:
    """Yield routes with their paths as OpenAPI writes them: those that differ in names are one."""
    paths: dict[str, str] = {}
    taken: dict[tuple[str, str], Route] = {}
    for route in routes:
        path = paths.setdefault(_VARIABLE.sub("{}", route.path), _VARIABLE.sub(r"{\1}", route.path))
        other = taken.setdefault((route.method, path), route)
        if other is route:
            yield path, route
        else:
            message = "%s %s is left out of the OpenAPI document: it is %s there, as %s is"
            logger.warning(message, route.method, route.path, path, other.path)


def _read(path: str, route: Route, json_content_type: str) -> _Operation:
    place = f"{route.method} {route.path}"
    parameters, body = bind_parameters(route)
    texts = [each for each in parameters if isinstance(each, TextParameter)]
    return _Operation(
        route,
        path,
        [
            (each, _typed(f"{place}: {each.place} parameter {each.key!r}", each.declared))
            for each in (*_untaken(route, texts), *texts)
        ],
        None if body is None else (body, _typed(f"{place}: its body", body.declared)),
        _answers(f"{place}: its answer", read_signature(route.function).returns, json_content_type),
    )


def _typed(place: str, declared: Parameter) -> _Typed:
    return _Typed(place, "validation", declared.annotation)


def _untaken(route: Route, texts: Sequence[TextParameter]) -> Iterator[TextParameter]:
    """Yield the variables of the path that the endpoint reads from the request itself."""
    taken = [each.key for each in texts if each.place == "path"]
    for name, _ in _VARIABLE.findall(route.path):
        if name not in taken:
            yield TextParameter(route.function, Parameter(name, str, REQUIRED), "path", name)


def _answers(place: str, returns: Any, json_content_type: str) -> dict[str, _Contents]:
    """Return by status what an endpoint that ``returns`` that may answer with."""
    answers: dict[str, dict[str, list[_Typed]]] = {}
    for member in _members(returns):
        statuses, value = _split(member)
        for status, each in ((status, each) for status in statuses for each in _members(value)):
            contents = answers.setdefault(status, {})
            if each is NoneType or status in _WITHOUT_BODY:
                continue
            if _is(each, (bytes, bytearray)):
                contents["application/octet-stream"] = []
            elif _is_unknown(each):
                contents[_ANY_TYPE] = []
            else:
                typed = _Typed(place, "serialization", each)
                contents.setdefault(json_content_type, []).append(typed)
    return dict(answers)


def _split(member: Any) -> tuple[list[str], Any]:
    """Return the statuses that ``member`` may give, and what it gives with them."""
    arguments = get_args(member)
    if get_origin(member) is tuple and len(arguments) == 2 and arguments[1] is not Ellipsis:
        status, value = arguments
        literals = get_args(status) if get_origin(status) is Literal else ()
        if literals and all(_is_status(type(each)) for each in literals):
            return [str(int(each)) for each in literals], value
        if _is_status(status):
            return [_ANY_STATUS], value
    if member is NoneType:
        return ["204"], member
    if member in (NoReturn, Never):
        return [], member
    return [_ANY_STATUS if _is_unknown(member) else "200"], member


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union, or the one type there is."""
    if annotation is None:
        return [NoneType]
    if (meant := aliased(annotation)) is not None and get_origin(meant) in UNIONS:
        return _members(meant)
    if get_origin(annotation) in UNIONS:
        return [each for member in get_args(annotation) for each in _members(member)]
    return [annotation]


def _is_status(annotation: Any) -> bool:
    return _is(annotation, int) and annotation is not bool


def _is(annotation: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, kinds)


def _is_unknown(annotation: Any) -> bool:
    """Whether it says nothing of what is answered: no annotation, or a response of aiohttp."""
    return annotation in (REQUIRED, Any, object) or _is(annotation, web.StreamResponse)


# the schemas of types


class _Generator(GenerateJsonSchema):
    """Leave out titles that repeat names, and silently, defaults that have no JSON form."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - its type

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return that only titles which were given are set."""
        return False


def _fill(types: Sequence[_Typed]) -> Schema:
    """Give each type its schema, and return the components that they share."""
    inputs = []
    for key, typed in enumerate(types):
        try:
            adapter = TypeAdapter(typed.annotation)
            adapter.json_schema(mode=typed.mode, schema_generator=_Generator)
        except Exception as error:  # noqa: BLE001 - a type may have hooks, which raise what they like
            why = str(error).partition("\n")[0]
            logger.warning("%s has no schema in the OpenAPI document: %s", typed.place, why)
        else:
            inputs.append((key, typed.mode, adapter))
    schemas, shared = TypeAdapter.json_schemas(
        inputs, ref_template="#/components/schemas/{model}", schema_generator=_Generator
    )
    for (key, _), schema in schemas.items():
        types[key].schema = schema
    components: Schema = shared.get("$defs", {})
    return components


# what is written of it


def _operation(operation: _Operation, problem: _Typed, id: str) -> Schema:
    function = operation.route.function
    written: Schema = {**_tags(function), **_texts(function), "operationId": id}
    if hasattr(function, "__deprecated__"):
        written["deprecated"] = True
    if operation.parameters:
        written["parameters"] = _parameters(operation)
    if operation.body is not None:
        body, typed = operation.body
        written["requestBody"] = {"content": _content({JSON: [typed]}), "required": body.required}
    written["responses"] = _responses(operation, problem)
    return written


def _new_id(route: Route, ids: set[str]) -> str:
    """Return the function's name, with a number where an operation before has the same."""
    name = getattr(route.function, "__name__", route.method.lower())
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    new = next(each for each in itertools.chain([name], numbered) if each not in ids)
    ids.add(new)
    return new


def _tags(function: Endpoint) -> Schema:
    """Return the name of the service that the endpoint is a method of."""
    service = getattr(function, "__self__", None)
    if service is None:
        return {}
    name = getattr(service, "service_name", None)
    return {"tags": [name() if callable(name) else type(service).__name__]}


def _texts(function: Endpoint) -> Schema:
    """Return the first sentence of the docstring as the summary, the rest as the description."""
    text = inspect.getdoc(function) or ""
    summary, *rest = _SENTENCE_END.split(text, maxsplit=1)
    texts = {"summary": " ".join(summary.split()), "description": "".join(rest).strip()}
    return {word: text for word, text in texts.items() if text}


def _parameters(operation: _Operation) -> list[Schema]:
    """Return the parameters: those of the path go by the names that it has in the document."""
    names = [name for name, _ in _VARIABLE.findall(operation.path)]
    variables = _VARIABLE.findall(operation.route.path)
    renamed = {own: name for name, (own, _) in zip(names, variables, strict=True)}
    patterns = dict(variables)
    return [
        _parameter(parameter, renamed[parameter.key], typed.schema, patterns[parameter.key])
        if parameter.place == "path"
        else _parameter(parameter, parameter.key, typed.schema)
        for parameter, typed in operation.parameters
    ]


def _parameter(parameter: TextParameter, name: str, schema: Schema, pattern: str = "") -> Schema:
    """Return one parameter; text is never null, and its default is the function's."""
    written: Schema = {"name": name, "in": parameter.place, "required": parameter.required}
    schema = {word: each for word, each in _without_null(schema).items() if word != "default"}
    if "description" in schema:
        written["description"] = schema.pop("description")
    if (default := _default(parameter.declared.default)) is not None:
        schema["default"] = default
    if schema.get("type") == "string" and _is_portable(pattern):
        schema.setdefault("pattern", f"^(?:{pattern})$")
    if parameter.repeated and parameter.place == "query":
        written["explode"] = True
    elif parameter.repeated:  # OpenAPI knows lists within a header, and we headers of that name
        schema = schema.get("items", {})
        described = f"{written.get('description', '')} May be sent several times."
        written["description"] = described.strip()
    return {**written, "schema": schema}


def _is_portable(pattern: str) -> bool:
    """Whether ``pattern`` says something, in the dialect of regexes that JSON Schema has, too."""
    return pattern not in ("", ".*") and _PYTHON_ONLY.search(pattern) is None


def _without_null(schema: Schema) -> Schema:
    kinds = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(kinds) == len(schema.get("anyOf", ())):
        return schema
    rest = {word: each for word, each in schema.items() if word != "anyOf"}
    return {**kinds[0], **rest} if len(kinds) == 1 else {"anyOf": kinds, **rest}


def _default(value: Any) -> Any:
    """Return a default as JSON has it, or None where it has none."""
    if value is REQUIRED:
        return None
    try:
        return to_jsonable_python(value, inf_nan_mode="null")
    except PydanticSerializationError:
        return None


def _responses(operation: _Operation, problem: _Typed) -> Schema:
    """Return every answer by status; where the endpoint chooses it, errors may be its own, too."""
    answers = operation.answers
    chosen = answers.get(_ANY_STATUS, {})
    errors: dict[str, _Contents] = {
        status: {**chosen, **answers.get(status, {}), CONTENT_TYPE: [problem]}
        for status in (*_errors(operation), "default")
    }
    return {
        status: _response(status, contents) for status, contents in {**answers, **errors}.items()
    }


def _errors(operation: _Operation) -> list[str]:
    """Return the statuses of what can go wrong before the endpoint is called, and in any."""
    statuses = {500, 503, 504}
    if "{" in operation.path:
        statuses |= {404, 405} if operation.route.options.unsafe_path else {400, 404, 405}
    if operation.parameters or operation.body is not None:
        statuses |= {422}
    if operation.body is not None:
        statuses |= {400, 408, 413, 415}
    return [str(status) for status in sorted(statuses)]


def _response(status: str, contents: _Contents) -> Schema:
    description = _DESCRIPTIONS.get(status) or _phrase(int(status))
    return {"description": description, **({"content": _content(contents)} if contents else {})}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


def _content(contents: _Contents) -> Schema:
    """Return the schema of each media type, where all that it may be has one."""
    written: Schema = {}
    for media_type, types in contents.items():
        schemas = [typed.schema for typed in types]
        if not schemas or not all(schemas):
            written[media_type] = {}
        else:
            written[media_type] = {
                "schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
            }
    return written
