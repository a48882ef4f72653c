"""Models and helpers for tests of the OpenAPI document."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel, ConfigDict, Field, computed_field
from typing_extensions import TypeAliasType, TypedDict

from gizmopy.web.decorators import Route
from gizmopy.web.openapi.document import openapi_document

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

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order
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
    """Return the document of ``routes`` as a client parses it; it must be valid."""
    made = [route if isinstance(route, Route) else Route(*route) for route in routes]
    options = {"title": "Cats", "version": "1.2", **options}
    text = json.dumps(openapi_document(made, **options), allow_nan=False)
    parsed: dict[str, Any] = json.loads(text)
    OpenAPIV31SpecValidator(parsed).validate()
    return parsed


def parameters_of(path: str, function: Function) -> dict[str, Any]:
    """Return the parameters of a GET endpoint by name."""
    written = document(("GET", path, function))["paths"]
    ((_, item),) = written.items()
    return {each.pop("name"): each for each in item["get"]["parameters"]}


def returning(annotation: Any) -> Function:
    """Return an endpoint whose result has this annotation."""

    async def endpoint(): ...  # type: ignore[no-untyped-def]  # it gets its annotation below

    endpoint.__annotations__["return"] = annotation
    return endpoint


def responses_for(returns: Any, **options: Any) -> dict[str, Any]:
    """Return the responses of an endpoint whose result has this annotation."""
    paths = document(("GET", "/", returning(returns)), **options)["paths"]
    responses: dict[str, Any] = paths["/"]["get"]["responses"]
    return responses


def content_for(returns: Any, status: str, **options: Any) -> Any:
    """Return the schema of each media type of one response."""
    return responses_for(returns, **options)[status].get("content")


async def nothing() -> None:
    """Do nothing."""
