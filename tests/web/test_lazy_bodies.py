"""Types that pydantic validates late, or that metadata reads from one text."""

from collections.abc import Generator, Iterable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, BeforeValidator

from gizmopy.web import Query
from gizmopy.web.decorators import Route
from gizmopy.web.openapi.document import openapi_document
from tests.web.support import errors_of, json_of, serve


class Cat(BaseModel):
    age: int


class House(BaseModel):
    cats: Iterable[Cat]


class Point(BaseModel):
    x: int
    y: int


def split(value: object) -> object:
    """Read ``1,2`` as a point."""
    if isinstance(value, str):
        return dict(zip("xy", value.split(","), strict=False))
    return value


SplitPoint = Annotated[Point, BeforeValidator(split)]


async def _cats(cats: Iterable[Cat]) -> list[int]:
    return [cat.age for cat in cats]


async def _generated(cats: Generator[Cat, None, None]) -> list[int]:
    return [cat.age for cat in cats]


async def _by_name(cats: dict[str, Iterable[Cat]]) -> list[int]:
    return [cat.age for each in cats.values() for cat in each]


async def _house(house: House) -> list[int]:
    return [cat.age for cat in house.cats]


@pytest.mark.parametrize(
    ("endpoint", "wrap", "place"),
    [
        (_cats, lambda cats: cats, "1.age"),
        (_generated, lambda cats: cats, "1.age"),
        (_by_name, lambda cats: {"a": cats}, "a.1.age"),
        (_house, lambda cats: {"cats": cats}, "cats.1.age"),
    ],
)
async def test_an_iterable_is_validated_before_the_endpoint(
    endpoint: Any, wrap: Any, place: str
) -> None:
    """A wrong item is 422 with its place, not an error of the endpoint."""
    async with serve(Route("POST", "/cats", endpoint)) as client:
        response = await client.post("/cats", json=wrap([{"age": 1}, {"age": 2}]))
        assert await json_of(response) == [1, 2]
        response = await client.post("/cats", json=wrap([{"age": 1}, {"age": "old"}]))
        assert response.status == 422
        assert [field for _, field, _ in await errors_of(response)] == [place]


async def _at(at: SplitPoint) -> int:
    return at.x


async def _marked(at: Annotated[SplitPoint, Query("p")]) -> int:
    return at.x


async def _on_path(at: SplitPoint) -> int:
    return at.x


@pytest.mark.parametrize(
    ("path", "endpoint", "good", "wrong"),
    [
        ("/p", _at, "/p?at=1,2", "/p?at=1"),
        ("/p", _marked, "/p?p=1,2", "/p?p=1"),
        ("/p/{at}", _on_path, "/p/1,2", "/p/1"),
    ],
)
async def test_a_model_that_metadata_reads_is_one_text(
    path: str, endpoint: Any, good: str, wrong: str
) -> None:
    """A GET has no body, so the text is in the query, or where a mark or the path says."""
    route = Route("GET", path, endpoint)
    async with serve(route) as client:
        assert await json_of(await client.get(good)) == 1
        assert (await client.get(wrong)).status == 422
    (parameter,) = openapi_document([route], title="t", version="1")["paths"][path]["get"][
        "parameters"
    ]
    assert parameter["in"] in ("query", "path")


async def test_a_model_that_metadata_reads_may_be_a_body() -> None:
    """A POST takes it from its body, as before."""
    async with serve(Route("POST", "/p", _at)) as client:
        assert await json_of(await client.post("/p", json={"x": 1, "y": 2})) == 1
        assert await json_of(await client.post("/p", json="1,2")) == 1
