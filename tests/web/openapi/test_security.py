"""Security schemes in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator

from gizmopy import Endpoints, Service, api_key, get, http_basic, http_bearer
from gizmopy.server import SimpleServer
from gizmopy.web.openapi.document import openapi_document
from gizmopy.web.security.declared import security_of


class Staff(Endpoints):
    @http_basic
    def user(self, username: str, password: str) -> bool:
        return True

    security = (user,)

    @get("/staff")
    async def staff(self) -> None: ...


class Shop(Service):
    @http_bearer(format="JWT")
    async def user(self, token: str) -> str:
        """Issued by the identity provider."""
        return token

    @api_key(query="key")
    def link(self, key: str) -> bool:
        return True

    security = (user, link)

    @get("/both")
    async def both(self) -> None: ...

    @get("/link", security=link)
    async def by_link(self) -> None: ...

    @get("/optional", security=(user, None))
    async def optional(self) -> None: ...

    @get("/open", security=None)
    async def open(self) -> None: ...

    def mounts(self) -> Iterable[Endpoints]:
        yield Staff()


def document() -> dict[str, Any]:
    """Return the document of the shop, which is valid."""
    shop = Shop()
    security = security_of(shop, (), None, "")
    routes = SimpleServer(shop).routes
    written = openapi_document(routes, title="t", version="1", security=security)
    OpenAPIV31SpecValidator(written).validate()
    return written


def test_each_checker_is_a_scheme() -> None:
    """Its name is that of the method, and a second one of that name gets a number."""
    assert document()["components"]["securitySchemes"] == {
        "user": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "Issued by the identity provider.",
        },
        "link": {"type": "apiKey", "in": "query", "name": "key"},
        "user_2": {"type": "http", "scheme": "basic"},
    }


def test_an_operation_says_how_it_differs_from_the_document() -> None:
    """Alternatives are a list, and none is an empty one."""
    written = document()
    assert written["security"] == [{"user": []}, {"link": []}]
    found = {path: item["get"].get("security") for path, item in written["paths"].items()}
    assert found == {
        "/both": None,
        "/link": [{"link": []}],
        "/optional": [{"user": []}, {}],
        "/open": [],
        "/staff": [{"user_2": []}],
    }


def test_a_refusal_is_a_response() -> None:
    """401 comes with a challenge; an open endpoint has neither."""
    paths = document()["paths"]
    responses = paths["/both"]["get"]["responses"]
    assert {"400", "401", "403"} <= responses.keys()
    assert list(responses["401"]["headers"]) == ["WWW-Authenticate"]
    assert not {"401", "403"} & paths["/open"]["get"]["responses"].keys()


def test_a_service_without_schemes_has_none_in_its_document() -> None:
    """The document is as it was."""

    class Plain(Service):
        @get("/open")
        async def open(self) -> None: ...

    written = openapi_document(SimpleServer(Plain()).routes, title="t", version="1")
    assert "security" not in written
    assert "securitySchemes" not in written["components"]
    assert "security" not in written["paths"]["/open"]["get"]
