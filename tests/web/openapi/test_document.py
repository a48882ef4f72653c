"""The OpenAPI document: valid for an independent validator, and true to what endpoints do."""

from __future__ import annotations

import enum
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal, NamedTuple, NoReturn
from uuid import UUID

import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel, ConfigDict, Field, computed_field
from typing_extensions import TypeAliasType, TypedDict

from gizmopy.errors import DeclarationError
from gizmopy.web import Header, Query, get, put
from gizmopy.web.decorators import Route, RouteOptions, collect_routes
from gizmopy.web.openapi.document import openapi_document
from tests.cats import Cats

Function = Callable[..., Any]

PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}


class Colour(enum.Enum):
    BLACK = "black"
    WHITE = "white"


class Cat(BaseModel):
    """A cat."""

    name: str = Field(alias="catName")
    lives: int = 9


class Tree(BaseModel):
    branches: list[Tree] = []


class Counted(BaseModel):
    names: list[str]

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way
    @property
    def count(self) -> int:
        """How many."""
        return len(self.names)


class Lion(BaseModel):
    kind: Literal["lion"]


class Tiger(BaseModel):
    kind: Literal["tiger"]


Feline = Annotated[Lion | Tiger, Field(discriminator="kind")]
MaybeCat = TypeAliasType("MaybeCat", Cat | None)


@dataclass
class Bird:
    name: str


class Dog(TypedDict):
    name: str


class Point(NamedTuple):
    x: int
    y: int


class Opaque:
    pass


class Holder(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    opaque: Opaque


class Explosive(BaseModel):
    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        raise RuntimeError("no schema today")


def document(*routes: Route | tuple[str, str, Function], **options: Any) -> dict[str, Any]:
    """Return the document of ``routes``, as a client reads it, and valid."""
    made = [route if isinstance(route, Route) else Route(*route) for route in routes]
    options = {"title": "Cats", "version": "1.2", **options}
    text = json.dumps(openapi_document(made, **options), allow_nan=False)
    parsed: dict[str, Any] = json.loads(text)
    OpenAPIV31SpecValidator(parsed).validate()
    return parsed


def parameters(path: str, function: Function) -> dict[str, Any]:
    """Return the parameters of a GET endpoint by name."""
    written = document(("GET", path, function))["paths"]
    ((_, item),) = written.items()
    return {each.pop("name"): each for each in item["get"]["parameters"]}


def returning(annotation: Any) -> Function:
    """Return an endpoint that is annotated to return that."""

    async def endpoint(): ...  # type: ignore[no-untyped-def]  # it gets its annotation below

    endpoint.__annotations__["return"] = annotation
    return endpoint


def answers(returns: Any, **options: Any) -> dict[str, Any]:
    """Return the responses of an endpoint that is annotated to return that."""
    paths = document(("GET", "/", returning(returns)), **options)["paths"]
    responses: dict[str, Any] = paths["/"]["get"]["responses"]
    return responses


def content(returns: Any, status: str, **options: Any) -> Any:
    """Return what a body of an answer may be, by media type."""
    return answers(returns, **options)[status].get("content")


async def nothing() -> None:
    """Do nothing."""


# the whole


def test_the_example_is_described() -> None:
    """The example service's document says what its code says."""
    written = document(*collect_routes(Cats(), "/svc"))
    assert written["info"] == {"title": "Cats", "version": "1.2"}
    assert list(written["paths"]) == ["/svc/cats/stats", "/svc/cats/{id}"]
    operation = written["paths"]["/svc/cats/{id}"]["put"]
    assert (operation["operationId"], operation["summary"]) == (
        "put_cat",
        "Store a cat, and publish it.",
    )
    assert operation["tags"] == ["cats"]
    assert operation["parameters"] == [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}
    ]
    assert operation["requestBody"] == {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NewCat"}}},
    }
    assert operation["responses"]["200"]["content"] == {
        "application/json": {"schema": {"$ref": "#/components/schemas/Cat"}}
    }
    assert written["components"]["schemas"]["NewCat"]["properties"] == {
        "name": {"type": "string", "minLength": 1, "maxLength": 100}
    }


def test_no_routes_are_a_document_too() -> None:
    """A service that only subscribes has a valid document; a description stands in it."""
    written = document(description="For cats.")
    assert written["paths"] == {}
    assert written["info"]["description"] == "For cats."


def test_a_mistake_in_a_declaration_is_the_same_as_at_start() -> None:
    """What compile_endpoint refuses is no document."""

    async def endpoint(a: bytes) -> None: ...

    with pytest.raises(DeclarationError, match="cannot give <class 'bytes'>"):
        openapi_document([Route("GET", "/", endpoint)], title="", version="")


# operations


def test_operations_are_named_by_their_functions() -> None:
    """Ids are unique, and an endpoint that is added last changes none before it."""

    class Cats:
        @get("/a")
        @put("/a")
        async def cat(self) -> None: ...

    class Dogs:
        service_name = "a text, not a method"

        @get("/b")
        async def cat(self) -> None: ...

        @get("/c")
        async def cat_2(self) -> None: ...

    routes = [*collect_routes(Cats()), *collect_routes(Dogs()), Route("GET", "/d", nothing)]
    paths = document(*routes)["paths"]
    operations = [operation for item in paths.values() for operation in item.values()]
    assert [each["operationId"] for each in operations] == [
        "cat",
        "cat_2",
        "cat_3",
        "cat_2_2",
        "nothing",
    ]
    assert [each.get("tags") for each in operations] == [["Cats"]] * 2 + [["Dogs"]] * 2 + [None]


def test_texts_are_those_of_the_docstring() -> None:
    """The first sentence is the summary, though it may go over lines; the rest, as it stands."""

    async def long() -> None:
        """Give a cat, by its
        number. Cats are kept in memory.

        - one
        - two
        """

    async def short() -> None:
        """Give a cat

        or a dog.
        """

    async def none() -> None: ...

    paths = document(("GET", "/l", long), ("GET", "/s", short), ("GET", "/n", none))["paths"]
    texts = [
        (item["get"].get("summary"), item["get"].get("description")) for item in paths.values()
    ]
    assert texts == [
        ("Give a cat, by its number.", "Cats are kept in memory.\n\n- one\n- two"),
        ("Give a cat", "or a dog."),
        (None, None),
    ]


def test_what_is_deprecated_is_marked() -> None:
    """The mark is that of warnings.deprecated."""

    async def old() -> None: ...

    old.__deprecated__ = "use the new one"  # type: ignore[attr-defined]  # what the decorator sets
    paths = document(("GET", "/old", old), ("GET", "/new", nothing))["paths"]
    assert paths["/old"]["get"]["deprecated"] is True
    assert "deprecated" not in paths["/new"]["get"]


# paths


def test_patterns_of_paths_become_patterns_of_their_parameters() -> None:
    """They bind the whole text, not numbers, and stay out where only Python reads them."""

    async def endpoint(
        a: str, b: int, c: str, d: str, e: Annotated[str, Field(pattern="^x")], rest: str
    ) -> None: ...

    path = r"/é/{a:[a-z]{2,3}|x}/{b:[0-9]+}/v{c}.{d:(?i:x)}/{e:..}/{rest:.*}"
    written = document(("GET", path, endpoint))["paths"]
    assert list(written) == ["/é/{a}/{b}/v{c}.{d}/{e}/{rest}"]
    schemas = {
        each["name"]: each["schema"]
        for item in written.values()
        for each in item["get"]["parameters"]
    }
    assert schemas == {
        "a": {"type": "string", "pattern": "^(?:[a-z]{2,3}|x)$"},
        "b": {"type": "integer"},
        "c": {"type": "string"},
        "d": {"type": "string"},
        "e": {"type": "string", "pattern": "^x"},
        "rest": {"type": "string"},
    }


def test_one_path_of_openapi_has_one_set_of_names(caplog: pytest.LogCaptureFixture) -> None:
    """Templates that differ in names only are one path there; their parameters go by its names."""

    async def by_id(id: int) -> None: ...
    async def by_name(name: str) -> None: ...
    async def by_request(request: web.Request) -> None: ...

    paths = document(
        ("GET", "/cats/{id:[0-9]+}", by_id),
        ("PUT", "/cats/{name}", by_name),
        ("POST", "/cats/{x:[a-z]+}", by_request),
    )["paths"]
    assert list(paths) == ["/cats/{id}"]
    parameters = {method: item["parameters"] for method, item in paths["/cats/{id}"].items()}
    assert {method: (each["name"], each["schema"]) for method, (each,) in parameters.items()} == {
        "get": ("id", {"type": "integer"}),
        "put": ("id", {"type": "string"}),
        "post": ("id", {"type": "string", "pattern": "^(?:[a-z]+)$"}),
    }
    assert not caplog.records


def test_a_route_that_openapi_cannot_tell_apart_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Of two templates that only a pattern tells apart the first is described."""

    async def by_id(id: int) -> None: ...
    async def by_name(name: str) -> None: ...

    routes = (("GET", "/cats/{id:[0-9]+}", by_id), ("GET", "/cats/{name}", by_name))
    paths = document(*routes)["paths"]
    assert [item["get"]["operationId"] for item in paths.values()] == ["by_id"]
    assert caplog.messages == [
        "GET /cats/{name} is left out of the OpenAPI document: "
        "its path there, /cats/{id}, is that of /cats/{id:[0-9]+}"
    ]


def test_variables_that_the_request_holds_are_described() -> None:
    """An endpoint may read a variable from the request, as text."""

    async def endpoint(request: web.Request, b: int) -> None: ...

    found = parameters("/{a:x+}/{b}", endpoint)
    assert {name: each["schema"] for name, each in found.items()} == {
        "a": {"type": "string", "pattern": "^(?:x+)$"},
        "b": {"type": "integer"},
    }
    assert all(each["in"] == "path" and each["required"] for each in found.values())


# parameters


def test_parameters_are_described() -> None:
    """Place, name, need, default and description of each are told, and what its type allows."""

    async def endpoint(
        day: date,
        size: Annotated[int, Query("page-size"), Field(ge=1, description="How many.")] = 20,
        colour: Colour = Colour.BLACK,
        trace: Annotated[UUID | None, Header("X-Trace")] = None,
        wait: timedelta = timedelta(seconds=90),
        number: int | float | None = None,
    ) -> None: ...

    assert parameters("/", endpoint) == {
        "day": {
            "in": "query",
            "required": True,
            "schema": {"type": "string", "format": "date"},
        },
        "page-size": {
            "in": "query",
            "required": False,
            "description": "How many.",
            "schema": {"type": "integer", "minimum": 1, "default": 20},
        },
        "colour": {
            "in": "query",
            "required": False,
            "schema": {"$ref": "#/components/schemas/Colour", "default": "black"},
        },
        "X-Trace": {
            "in": "header",
            "required": False,
            "schema": {"type": "string", "format": "uuid"},
        },
        "wait": {
            "in": "query",
            "required": False,
            "schema": {"type": "string", "format": "duration", "default": "PT1M30S"},
        },
        "number": {
            "in": "query",
            "required": False,
            "schema": {"anyOf": [{"type": "integer"}, {"type": "number"}]},
        },
    }


def test_repeated_parameters_are_described() -> None:
    """In the query they are a list; OpenAPI has no header that comes several times."""

    async def endpoint(
        tags: list[str],
        ids: tuple[int, ...] | None = (1, 2),
        token: Annotated[list[int], Header("X-Token"), Field(description="A token.")] = [1],  # noqa: B006 - not changed
    ) -> None: ...

    assert parameters("/", endpoint) == {
        "tags": {
            "in": "query",
            "required": True,
            "explode": True,
            "schema": {"type": "array", "items": {"type": "string"}},
        },
        "ids": {
            "in": "query",
            "required": False,
            "explode": True,
            "schema": {"type": "array", "items": {"type": "integer"}, "default": [1, 2]},
        },
        "X-Token": {
            "in": "header",
            "required": False,
            "description": "A token. May be sent several times.",
            "schema": {"type": "integer"},
        },
    }


def test_a_default_without_a_json_form_is_left_out() -> None:
    """A default may be anything that the function likes."""

    async def endpoint(a: int = Opaque(), b: float = float("inf")) -> None: ...  # type: ignore[assignment]  # the point of it

    assert [each["schema"] for each in parameters("/", endpoint).values()] == [
        {"type": "integer"},
        {"type": "number"},
    ]


# bodies and answers


def test_models_are_shared_and_differ_where_their_directions_do() -> None:
    """A model that is read and written alike is one component; a computed field makes it two."""

    async def endpoint(new: Cat) -> Cat:
        raise NotImplementedError

    async def counted(new: Counted | None = None) -> Counted:
        raise NotImplementedError

    written = document(("PUT", "/a", endpoint), ("PUT", "/b", counted))
    schemas = written["components"]["schemas"]
    assert set(schemas) == {
        "Cat",
        "Counted-Input",
        "Counted-Output",
        "FieldError",
        "ProblemDetails",
    }
    assert set(schemas["Cat"]["properties"]) == {"catName", "lives"}
    assert set(schemas["Counted-Output"]["properties"]) == {"names", "count"}
    body = written["paths"]["/b"]["put"]["requestBody"]
    assert body["required"] is False
    assert body["content"]["application/json"]["schema"]["anyOf"] == [
        {"$ref": "#/components/schemas/Counted-Input"},
        {"type": "null"},
    ]


def test_a_model_may_hold_itself() -> None:
    """What is recursive is a component that refers to itself."""
    written = document(("GET", "/", returning(Tree)))
    assert written["components"]["schemas"]["Tree"]["properties"]["branches"]["items"] == {
        "$ref": "#/components/schemas/Tree"
    }


def test_models_of_the_same_name_are_told_apart() -> None:
    """Even one that is named as our own."""

    class ProblemDetails(BaseModel):
        mine: int

    content_ = content(ProblemDetails, "200")["application/json"]["schema"]
    error = content(ProblemDetails, "500")["application/problem+json"]["schema"]
    assert content_ != error


@pytest.mark.parametrize(
    ("returns", "schema"),
    [
        (Cat, {"$ref": "#/components/schemas/Cat"}),
        (Bird, {"$ref": "#/components/schemas/Bird"}),
        (Dog, {"$ref": "#/components/schemas/Dog"}),
        (list[Cat], {"type": "array", "items": {"$ref": "#/components/schemas/Cat"}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (int, {"type": "integer"}),
        (Point, {"$ref": "#/components/schemas/Point"}),
        (tuple[str, int], None),
        (tuple[bool, int], None),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
    ],
)
def test_values_are_answered_as_json(returns: Any, schema: Any) -> None:
    """What is no response, no bytes and no status is JSON, with 200; so is a tuple without one."""
    written = answers(returns)
    assert [status for status in written if status < "4"] == ["200"]
    assert list(written["200"]["content"]) == ["application/json"]
    found = written["200"]["content"]["application/json"]["schema"]
    assert found == schema if schema is not None else found["prefixItems"]


def test_the_type_of_json_answers_is_the_servers() -> None:
    """A server may call its JSON otherwise."""
    assert list(content(int, "200", json_content_type="application/hal+json")) == [
        "application/hal+json"
    ]


def test_none_is_an_answer_without_a_body() -> None:
    """None is 204, alone and in a union, by a name too."""
    assert answers(None)["204"] == {"description": "No Content"}
    for returns in (Cat | None, MaybeCat):
        written = answers(returns)
        assert written["204"] == {"description": "No Content"}
        assert written["200"]["content"]["application/json"]["schema"] == {
            "$ref": "#/components/schemas/Cat"
        }


def test_bytes_are_a_stream_of_octets() -> None:
    """Bytes have a type, and no schema."""
    assert content(bytes, "200") == {"application/octet-stream": {}}
    assert set(content(bytes | Cat, "200")) == {"application/octet-stream", "application/json"}


def test_a_union_may_be_any_of_its_members() -> None:
    """Those that are JSON are one answer; what tells them apart stays."""
    assert content(Cat | Bird, "200")["application/json"]["schema"] == {
        "anyOf": [{"$ref": "#/components/schemas/Cat"}, {"$ref": "#/components/schemas/Bird"}]
    }
    found = content(Feline | None, "200")["application/json"]["schema"]
    assert found["discriminator"]["propertyName"] == "kind"


def test_a_status_may_be_known() -> None:
    """A literal status is told as it is; an error among them may be a problem, too."""
    schema = {"$ref": "#/components/schemas/Cat"}
    written = answers(tuple[Literal[200, HTTPStatus.CREATED], Cat] | tuple[Literal[500], Bird])
    assert [status for status in written if status < "4"] == ["200", "201"]
    assert written["201"] == {
        "description": "Created",
        "content": {"application/json": {"schema": schema}},
    }
    assert set(written["500"]["content"]) == {"application/json", "application/problem+json"}
    assert answers(tuple[Literal[205], Cat])["205"] == {"description": "Reset Content"}
    assert answers(tuple[Literal[299], Cat])["299"]["description"] == "Status 299"


@pytest.mark.parametrize("status", [int, HTTPStatus])
def test_a_status_that_the_handler_chooses_may_be_any(status: Any) -> None:
    """Its value may come with an error as well."""
    written = answers(tuple[status, Cat | None])
    assert [code for code in written if code < "4"] == ["2XX"]
    own = {"application/json": {"schema": {"$ref": "#/components/schemas/Cat"}}}
    assert written["2XX"]["content"] == own
    assert written["default"]["content"] == written["500"]["content"] == {**own, **PROBLEM}


@pytest.mark.parametrize("returns", [web.Response, web.StreamResponse, Any, object])
def test_what_is_unknown_has_no_schema(returns: Any) -> None:
    """A response of aiohttp may be of any status and type."""
    written = answers(returns)
    assert written["2XX"] == {"description": "Success", "content": {"*/*": {}}}
    assert written["default"]["content"] == {"*/*": {}, **PROBLEM}


def test_no_annotation_says_nothing() -> None:
    """An endpoint need not say what it returns."""

    async def endpoint(): ...  # type: ignore[no-untyped-def]  # the point of it

    responses = document(("GET", "/", endpoint))["paths"]["/"]["get"]["responses"]
    assert responses["2XX"]["content"] == {"*/*": {}}


def test_an_endpoint_may_only_fail() -> None:
    """One that never returns has errors only."""
    assert set(answers(NoReturn)) == {"500", "503", "504", "default"}


def test_errors_are_those_that_can_be() -> None:
    """Every one is a problem: by the path, by the values, by the body, and in general."""

    async def query(a: int) -> None: ...
    async def variable(a: int) -> None: ...
    async def body(a: Cat) -> None: ...

    routes = [
        Route("GET", "/", nothing),
        Route("GET", "/q", query),
        Route("GET", "/{a}", variable),
        Route("GET", "/any/{a}", variable, RouteOptions(unsafe_path=True)),
        Route("PUT", "/b", body),
    ]
    general = {"500", "503", "504", "default"}
    expected = [
        general,
        general | {"422"},
        general | {"400", "404", "405", "422"},
        general | {"404", "405", "422"},
        general | {"400", "408", "413", "415", "422"},
    ]
    for item, statuses in zip(document(*routes)["paths"].values(), expected, strict=True):
        (operation,) = item.values()
        errors = {
            status: each["content"]
            for status, each in operation["responses"].items()
            if status != "204"
        }
        assert errors == dict.fromkeys(statuses, PROBLEM)


@pytest.mark.parametrize("kind", [Opaque, Holder, Explosive, list[Opaque], Cat | Opaque])
def test_a_type_without_a_schema_is_logged(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The rest of the document stands; the log says once what has no schema, and why."""

    async def endpoint(new: Cat) -> None: ...

    endpoint.__annotations__["return"] = kind
    written = document(("PUT", "/", endpoint))
    operation = written["paths"]["/"]["put"]
    assert operation["responses"]["200"]["content"] == {"application/json": {}}
    assert "Cat" in written["components"]["schemas"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    start = "PUT /: the response has no schema in the OpenAPI document: "
    assert record.getMessage().startswith(start)


def test_a_body_without_a_schema_is_a_body_still(caplog: pytest.LogCaptureFixture) -> None:
    """What can be validated need not have a schema."""

    async def endpoint(new: Holder) -> None: ...

    operation = document(("PUT", "/", endpoint))["paths"]["/"]["put"]
    assert operation["requestBody"] == {"required": True, "content": {"application/json": {}}}
    assert "PUT /: the body has no schema" in caplog.text
