"""The OpenAPI document: valid for an independent validator, with every operation and path."""

from __future__ import annotations

from typing import Annotated

import pytest
from aiohttp import web
from pydantic import Field

from gizmopy.errors import DeclarationError
from gizmopy.web import get, put
from gizmopy.web.decorators import Route, collect_routes
from gizmopy.web.openapi.document import openapi_document
from tests.cats import Cats
from tests.web.openapi.support import (
    document,
    nothing,
    parameters_of,
)


def test_the_example_is_described() -> None:
    """The document of the example service agrees with its code."""
    cats = Cats()
    written = document(*collect_routes(cats, "/svc"), title="cats", service=cats)
    assert written["info"] == {"title": "cats", "version": "1.2"}
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


def test_a_document_may_have_no_routes() -> None:
    """A service that only subscribes has a valid document, with a description."""
    written = document(description="For cats.")
    assert written["paths"] == {}
    assert written["info"]["description"] == "For cats."


def test_a_signature_error_is_the_same_as_at_start() -> None:
    """An endpoint that compile_endpoint refuses is refused here, too."""

    async def endpoint(a: bytearray) -> None: ...

    with pytest.raises(DeclarationError, match="cannot give <class 'bytearray'>"):
        openapi_document([Route("GET", "/", endpoint)], title="", version="")


def test_operations_are_named_by_their_functions() -> None:
    """Ids are unique, and a new endpoint does not change the ids of those before it."""

    class Cats:
        @get("/a")
        @put("/a")
        async def cat(self) -> None: ...

    class Dogs:
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


def test_texts_come_from_the_docstring() -> None:
    """The first sentence, on one line or several, is the summary; the rest is the description."""

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


def test_a_deprecated_endpoint_is_marked() -> None:
    """The mark is the one that warnings.deprecated sets."""

    async def old() -> None: ...

    old.__deprecated__ = "use the new one"  # type: ignore[attr-defined]  # the attribute that the decorator sets
    paths = document(("GET", "/old", old), ("GET", "/new", nothing))["paths"]
    assert paths["/old"]["get"]["deprecated"] is True
    assert "deprecated" not in paths["/new"]["get"]


def test_patterns_of_paths_become_patterns_of_their_parameters() -> None:
    """A pattern is anchored; it is left out for numbers, and if only Python's dialect has it."""

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
    """Templates that differ only in names are one path, with the names of the first."""

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


def test_a_route_that_openapi_cannot_distinguish_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of two templates that differ only in a pattern, the first is described."""

    async def by_id(id: int) -> None: ...
    async def by_name(name: str) -> None: ...

    routes = (("GET", "/cats/{id:[0-9]+}", by_id), ("GET", "/cats/{name}", by_name))
    paths = document(*routes)["paths"]
    assert [item["get"]["operationId"] for item in paths.values()] == ["by_id"]
    assert caplog.messages == [
        "GET /cats/{name} is left out of the OpenAPI document: "
        "its path there, /cats/{id}, is that of /cats/{id:[0-9]+}"
    ]


def test_path_variables_without_a_parameter_are_described() -> None:
    """An endpoint may read a path variable from the request, as text."""

    async def endpoint(request: web.Request, b: int) -> None: ...

    found = parameters_of("/{a:x+}/{b}", endpoint)
    assert {name: each["schema"] for name, each in found.items()} == {
        "a": {"type": "string", "pattern": "^(?:x+)$"},
        "b": {"type": "integer"},
    }
    assert all(each["in"] == "path" and each["required"] for each in found.values())
