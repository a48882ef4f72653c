"""Describe routes as an OpenAPI 3.1 document, from the signatures of their endpoints.

The document describes every response. If an endpoint chooses the status when it returns, the
document has a range of statuses. Errors that only the endpoint knows of are its ``default``
response: a problem (RFC 9457).
"""

from __future__ import annotations

import inspect
import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # on Python 3.11 pydantic rejects typing's

from gizmopy.declaration import REQUIRED, Parameter
from gizmopy.web.binding import Binder, bind_parameters
from gizmopy.web.declared_problems import DeclaredProblem, declared_problems
from gizmopy.web.decorators import EndpointFunction, Route
from gizmopy.web.events import EVENT_STREAM
from gizmopy.web.openapi.bodies import DescribedBody, describe_body
from gizmopy.web.openapi.results import (
    ANY_SUCCESS,
    PARTIAL,
    HeaderSchema,
    MediaTypes,
    headers_of,
    responses_of,
)
from gizmopy.web.openapi.schemas import (
    Schema,
    TypeSchema,
    default_of,
    fill_schemas,
    without_null,
)
from gizmopy.web.openapi.security import SecuritySchemes
from gizmopy.web.parameter_models import ModelField, ModelParameter
from gizmopy.web.parameters import TextParameter
from gizmopy.web.problems import CONTENT_TYPE
from gizmopy.web.responses import JSON
from gizmopy.web.security.declared import Security
from gizmopy.web.statuses import phrase_of

logger = logging.getLogger("gizmopy.web.openapi")

# A variable of a template: its name, and its regex if any. The groups are separated by a colon that
# neither contains: otherwise the regex would try every split, which takes quadratic time.
_VARIABLE = re.compile(r"\{([^{}:]*)(?::((?:[^{}]|\{[^{}]*\})*))?\}")
_PYTHON_ONLY = re.compile(r"\(\?(?:P|[aiLmsux-]+[:)]|[#(>])|\\[AZ]|[*+?}]\+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|\n\s*\n")

_TEXTS = ("description", "deprecated", "examples")
_CHALLENGE = {
    "WWW-Authenticate": {
        "description": "How to send credentials, and the error of a bearer token.",
        "schema": {"type": "string"},
    }
}
_DESCRIPTIONS = {ANY_SUCCESS: "Success", "default": "Any other answer"}

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


DescribedParameter = TextParameter | ModelField
"""A parameter of the document: of an endpoint, or a field of a model of parameters."""


@dataclass(frozen=True, slots=True)
class _Operation:
    """The parameters, body and responses of one route; ``path`` names its path parameters."""

    route: Route
    path: str
    parameters: Sequence[tuple[DescribedParameter, TypeSchema]]
    body: DescribedBody | None
    responses: Mapping[str, MediaTypes]
    headers: Mapping[str, Sequence[HeaderSchema]]

    def types(self) -> Iterator[TypeSchema]:
        """Yield every type that needs a schema."""
        for _, schema in self.parameters:
            yield schema
        if self.body is not None:
            yield from self.body.types
        for media_types in self.responses.values():
            for schemas in media_types.values():
                yield from schemas
        for headers in self.headers.values():
            for header in headers:
                yield header.schema


def openapi_document(
    routes: Sequence[Route],
    *,
    title: str,
    version: str,
    description: str = "",
    json_content_type: str = JSON,
    service: object = None,
    prefix: str = "",
    security: Security | None = None,
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of ``routes``, ready for JSON.

    ``json_content_type`` is the type of JSON responses. Endpoints without
    tags that are methods of ``service`` are tagged with ``title``, methods of other objects with
    the name of their class. ``prefix`` is the part of the paths that a proxy removes. ``security``
    is that of the whole document; an operation that has another one says so.

    Two things are logged as a warning and left
    out: the schema of a type without a JSON schema; and a route that differs from an earlier one
    only in the patterns of its path, because OpenAPI has no patterns in paths.

    Takes some milliseconds of CPU for each route: call it outside of the event loop. Raises
    DeclarationError if ``compile_endpoint`` does.
    """
    problem = TypeSchema("a problem", "serialization", ProblemDetails)
    operations = [_read(path, route, json_content_type) for path, route in _distinct(routes)]
    components = fill_schemas([problem, *(each for one in operations for each in one.types())])
    ids: set[str] = set()
    schemes = SecuritySchemes([security, *(each.route.security for each in operations)])
    of_document = schemes.requirements(security)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = {
            **_tags(operation.route, service, title),
            **_describe(operation, problem, _new_id(operation.route, ids)),
        }
        if (required := schemes.requirements(operation.route.security)) != of_document:
            described["security"] = required
        paths.setdefault(operation.path, {})[operation.route.method.lower()] = described
    about = {"description": description} if description else {}
    secured: Schema = {"securitySchemes": schemes.components} if schemes.components else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, **about},
        "servers": [{"url": prefix or "/"}],
        **({"security": of_document} if of_document else {}),
        "paths": paths,
        "components": {"schemas": components, **secured},
    }


# Read the operations.


def _distinct(routes: Iterable[Route]) -> Iterator[tuple[str, Route]]:
    """Yield routes with their paths in OpenAPI.

    Templates that differ only in the names of variables have one path: that of the first.
    """
    paths: dict[str, str] = {}
    first: dict[tuple[str, str], Route] = {}
    for route in routes:
        path = paths.setdefault(_VARIABLE.sub("{}", route.path), _VARIABLE.sub(r"{\1}", route.path))
        other = first.setdefault((route.method, path), route)
        if other is route:
            yield path, route
        else:
            logger.warning(
                "%s %s is left out of the OpenAPI document: its path there, %s, is that of %s",
                route.method,
                route.path,
                path,
                other.path,
            )


def _read(path: str, route: Route, json_content_type: str) -> _Operation:
    name = f"{route.method} {route.path}"
    parameters, body = bind_parameters(route)
    texts = list(_described(parameters))
    return _Operation(
        route,
        path,
        [
            (each, _schema_of(f"{name}: {each.location} parameter {each.key!r}", each.declared))
            for each in (*_read_from_request(route, texts), *texts)
        ],
        None if body is None else describe_body(f"{name}: the body", body),
        responses_of(f"{name}: the response", route, json_content_type),
        headers_of(f"{name}: the response", route),
    )


def _schema_of(location: str, declared: Parameter) -> TypeSchema:
    return TypeSchema(location, "validation", declared.annotation)


def _described(parameters: Iterable[Binder]) -> Iterator[DescribedParameter]:
    """Yield the parameters that the document has: of a model, each of its fields."""
    for each in parameters:
        if isinstance(each, ModelParameter):
            yield from each.fields
        elif isinstance(each, TextParameter):
            yield each


def _read_from_request(
    route: Route, texts: Sequence[DescribedParameter]
) -> Iterator[TextParameter]:
    """Yield the path variables that no parameter takes: the endpoint reads the request itself."""
    bound = [each.key for each in texts if each.location == "path"]
    for name, _ in _VARIABLE.findall(route.path):
        if name not in bound:
            yield TextParameter(route.function, Parameter(name, str, REQUIRED), "path", name)


# Describe an operation.


def _describe(operation: _Operation, problem: TypeSchema, operation_id: str) -> Schema:
    function = operation.route.function
    described: Schema = {**_texts(function), "operationId": operation_id}
    if hasattr(function, "__deprecated__"):
        described["deprecated"] = True
    if operation.parameters:
        described["parameters"] = _parameters(operation)
    if operation.body is not None:
        described["requestBody"] = operation.body.describe()
    described["responses"] = _responses(operation, problem)
    return described


def _new_id(route: Route, ids: set[str]) -> str:
    """Return the function's name, with a number if an earlier operation has the same name."""
    name = getattr(route.function, "__name__", route.method.lower())
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    new = next(each for each in itertools.chain([name], numbered) if each not in ids)
    ids.add(new)
    return new


def _tags(route: Route, service: object, title: str) -> Schema:
    """Return the tags of the route; by default the name of the object that has the endpoint."""
    if route.tags:
        return {"tags": list(route.tags)}
    # A static method is bound to nothing, and a class method to the class.
    owner = route.owner or getattr(route.function, "__self__", None)
    if owner is None:
        return {}
    return {"tags": [title if owner is service else type(owner).__name__]}


def _texts(function: EndpointFunction) -> Schema:
    """Return the first sentence of the docstring as the summary, the rest as the description."""
    text = inspect.getdoc(function) or ""
    summary, *rest = _SENTENCE_END.split(text, maxsplit=1)
    texts = {"summary": " ".join(summary.split()), "description": "".join(rest).strip()}
    return {word: text for word, text in texts.items() if text}


def _parameters(operation: _Operation) -> list[Schema]:
    """Return the parameters; those of the path have the names that the document's path has."""
    names = [name for name, _ in _VARIABLE.findall(operation.path)]
    variables = _VARIABLE.findall(operation.route.path)
    renamed = {own: name for name, (own, _) in zip(names, variables, strict=True)}
    patterns = dict(variables)
    return [
        _parameter(parameter, renamed[parameter.key], schema.schema, patterns[parameter.key])
        if parameter.location == "path"
        else _parameter(parameter, parameter.key, schema.schema)
        for parameter, schema in operation.parameters
    ]


def _parameter(
    parameter: DescribedParameter, name: str, schema: Schema, pattern: str = ""
) -> Schema:
    """Return one parameter. Text is never null, and the default is that of the function."""
    described: Schema = {"name": name, "in": parameter.location, "required": parameter.required}
    schema = {key: value for key, value in without_null(schema).items() if key != "default"}
    if not parameter.repeated and schema.get("type") in ("array", "object"):
        # The metadata of the type reads one text.
        schema = {"type": "string", **{key: schema[key] for key in _TEXTS if key in schema}}
    if "description" in schema:
        described["description"] = schema.pop("description")
    if (default := default_of(parameter.declared.default)) is not None:
        schema["default"] = default
    if schema.get("type") == "string" and _is_portable(pattern):
        schema.setdefault("pattern", f"^(?:{pattern})$")
    if parameter.repeated and parameter.location == "query":
        described["explode"] = True
    elif parameter.repeated:
        # A list in OpenAPI is one header with commas. Ours is a header that is sent several times,
        # which OpenAPI cannot describe.
        schema = schema.get("items", {})
        text = f"{described.get('description', '')} May be sent several times."
        described["description"] = text.strip()
    return {**described, "schema": schema}


def _is_portable(pattern: str) -> bool:
    """Return whether ``pattern`` restricts a text, and JSON Schema's dialect of regexes has it."""
    return pattern not in ("", ".*") and _PYTHON_ONLY.search(pattern) is None


def _responses(operation: _Operation, problem: TypeSchema) -> Schema:
    """Return the responses by status.

    If the endpoint chooses the status, an error may also have the body that it returns.
    """
    responses = operation.responses
    any_success = responses.get(ANY_SUCCESS, {})
    errors: dict[str, MediaTypes] = {
        status: {**any_success, **responses.get(status, {}), CONTENT_TYPE: [problem]}
        for status in (*_error_statuses(operation), "default")
    }
    described = {
        status: _response(status, each) for status, each in {**responses, **errors}.items()
    }
    for header_status, headers in operation.headers.items():
        described[header_status]["headers"] = {each.name: _header(each) for each in headers}
    for problem_status, text in _texts_of_problems(operation.route):
        described[problem_status]["description"] = text
    if operation.route.security is not None:
        described["401"]["headers"] = _CHALLENGE
    return described


def _error_statuses(operation: _Operation) -> list[str]:
    """Return the statuses of errors that may occur before the endpoint is called, and in it."""
    statuses = {500, 503, 504}
    if "{" in operation.path:
        statuses |= {404, 405} if operation.route.options.unsafe_path else {400, 404, 405}
    if operation.parameters or operation.body is not None:
        statuses |= {422}
    if operation.body is not None:
        statuses |= {400, 408, 413, 415}
    if PARTIAL in operation.responses:
        statuses |= {404, 412, 416}
    if operation.route.security is not None:
        statuses |= {400, 401, 403}
    statuses |= {each.status for each in _declared_problems(operation.route)}
    return [str(status) for status in sorted(statuses)]


def _header(header: HeaderSchema) -> Schema:
    """Return one header. It is never null, and a list is a line for each item."""
    schema = without_null(header.schema.schema)
    if schema.get("type") == "array":
        schema = schema.get("items", {})
    return {"required": header.is_required, "schema": schema}


def _declared_problems(route: Route) -> Sequence[DeclaredProblem]:
    return declared_problems(route.function, route.options.problems, route.problems)


def _texts_of_problems(route: Route) -> Iterator[tuple[str, str]]:
    """Yield each status whose problem has a description: those of the exceptions, a line each."""
    texts: dict[str, list[str]] = {}
    for each in _declared_problems(route):
        if each.description:
            texts.setdefault(str(each.status), []).append(each.description)
    for status, lines in texts.items():
        yield status, "\n".join(dict.fromkeys(lines))


def _response(status: str, media_types: MediaTypes) -> Schema:
    description = _DESCRIPTIONS.get(status) or phrase_of(int(status), f"Status {status}")
    return {
        "description": description,
        **({"content": _content(media_types)} if media_types else {}),
    }


def _stream_of(media_type: str, schema: Schema) -> Schema:
    """Return the schema of a stream of JSON texts.

    OpenAPI 3.1 has no ``itemSchema``. The schema of an event stream is that of each event, an
    object with the fields that OpenAPI 3.2 has for it: tools, such as Schemathesis, parse the
    events and apply it to each.
    """
    note = "A stream: contentSchema is that of each item."
    data: Schema = {"type": "string", "contentMediaType": JSON, "contentSchema": schema}
    if media_type != EVENT_STREAM:
        return {**data, "description": note}
    texts = {name: {"type": "string"} for name in ("event", "id")}
    fields: Schema = {"data": data, **texts, "retry": {"type": "integer", "minimum": 0}}
    return {"type": "object", "description": "A stream of such events.", "properties": fields}


def _content(media_types: MediaTypes) -> Schema:
    """Return the schema of each media type; none if one of its types has no schema."""
    content: Schema = {}
    for media_type, types in media_types.items():
        schemas = [each.schema for each in types]
        if not schemas or not all(schemas):
            content[media_type] = {}
        else:
            schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
            is_stream = types[0].is_item
            content[media_type] = {
                "schema": _stream_of(media_type, schema) if is_stream else schema
            }
    return content
