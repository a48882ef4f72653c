"""Declared problems in the OpenAPI document."""

from __future__ import annotations

from typing import ClassVar

from gizmopy import Problem, Service, get
from gizmopy.server import SimpleServer
from gizmopy.web.openapi.document import openapi_document
from tests.web.openapi.support import PROBLEM


class SoldOut(Exception):
    """The item is sold out.

    Only this line is in the document.
    """


class Reserved(Exception):
    """The item is reserved."""


class Shop(Service):
    problems: ClassVar = {SoldOut: Problem(409, "Sold out."), Reserved: 409}

    @get("/item", problems=(404, SoldOut, Reserved))
    async def item(self) -> str:
        return ""

    @get("/other")
    async def other(self) -> str:
        return ""


def test_a_declared_problem_is_a_response() -> None:
    """It has the schema of problems, and the first line of each exception's docstring."""
    routes = SimpleServer(Shop()).routes
    paths = openapi_document(routes, title="t", version="1")["paths"]
    responses = paths["/item"]["get"]["responses"]
    assert responses["404"] == {"description": "Not Found", "content": PROBLEM}
    text = "The item is sold out.\nThe item is reserved."
    assert responses["409"] == {"description": text, "content": PROBLEM}
    assert not {"404", "409"} & paths["/other"]["get"]["responses"].keys()
