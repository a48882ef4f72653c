"""Generic services: endpoints and message handlers see the types that a subclass sets."""

from __future__ import annotations

import sys
import textwrap
from typing import Any, Generic

import pytest
from pydantic import BaseModel
from typing_extensions import TypeVar

from gizmopy import Message, Service, Settings, get, post, put, subscribe
from gizmopy.declaration import read_signature
from gizmopy.errors import DeclarationError
from gizmopy.pubsub import collect_subscriptions
from gizmopy.server.service import settings_class
from gizmopy.web.binding import bind_parameters
from gizmopy.web.decorators import Route, collect_routes
from gizmopy.web.openapi.document import openapi_document
from tests.web.support import errors_of, json_of, serve

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class Item(BaseModel):
    name: str


class Page(BaseModel, Generic[T]):
    items: list[T]


class Crud(Service, Generic[M]):
    def __init__(self) -> None:
        super().__init__()
        self.got: list[object] = []

    @put("/items/{id}")
    async def put_item(self, id: int, item: M) -> M:
        return item

    @post("/pages")
    async def post_page(self, page: Page[M]) -> Page[M]:
        return page

    @get("/sizes")
    async def sizes(self, tag: list[str] | None = None) -> int:
        return 1

    @subscribe("items")
    async def on_item(self, item: M, message: Message) -> None:
        self.got.append(item)

    @subscribe("many", batch_size=2)
    async def on_many(self, items: list[M]) -> None:
        self.got.append(items)


class ItemCrud(Crud[Item]):
    pass


def routes_of(service: object) -> list[Route]:
    """Return the routes of ``service``."""
    return collect_routes(service)


async def test_an_endpoint_takes_the_body_that_the_subclass_names() -> None:
    """A model is the body, not a query parameter, and is validated as that model."""
    async with serve(*routes_of(ItemCrud())) as client:
        answer = await json_of(await client.put("/items/1", json={"name": "Tom"}))
        assert answer == {"name": "Tom"}
        answer = await json_of(await client.post("/pages", json={"items": [{"name": "Tom"}]}))
        assert answer == {"items": [{"name": "Tom"}]}
        assert await errors_of(await client.put("/items/1", json={})) == [
            ("body", "name", "missing")
        ]
        assert await errors_of(await client.post("/pages", json={"items": [{}]})) == [
            ("body", "items.0.name", "missing")
        ]


def test_the_document_has_the_types_of_the_subclass() -> None:
    """The body and the answer have the schema of the model."""
    document = openapi_document(routes_of(ItemCrud()), title="t", version="1")
    operation = document["paths"]["/items/{id}"]["put"]
    item = {"schema": {"$ref": "#/components/schemas/Item"}}
    assert operation["requestBody"]["content"] == {"application/json": item}
    assert operation["responses"]["200"]["content"] == {"application/json": item}
    page = document["paths"]["/pages"]["post"]["requestBody"]["content"]["application/json"]
    assert page == {"schema": {"$ref": "#/components/schemas/Page_Item_"}}


async def test_a_handler_is_given_the_model_of_the_subclass() -> None:
    """The payload has its fields; a message without them is undecodable."""
    service = ItemCrud()
    one, many = collect_subscriptions(service, "s")
    assert (one.payload, many.payload) == (Item, Item)
    await one.handler(Message("items", b'{"name": "Tom"}'))
    await many.handler(Message("many", b'{"name": "Tim"}'))
    assert service.got == [Item(name="Tom"), [Item(name="Tim")]]


def test_a_generic_service_itself_cannot_be_served() -> None:
    """Without a type pydantic would validate the bound, an empty model, and lose the fields."""
    service: Any = Crud()
    refused = "Crud.*'(item|page)'.*nothing sets the type variable M; serve a subclass"
    for route in routes_of(service)[:2]:
        with pytest.raises(DeclarationError, match=refused):
            bind_parameters(route)
    with pytest.raises(DeclarationError, match=refused):
        collect_subscriptions(service, "s")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is new in Python 3.12")
@pytest.mark.parametrize("postponed", ["", "from __future__ import annotations\n"])
def test_the_syntax_of_python_312(postponed: str) -> None:
    """``class Crud[T]`` works too, also with postponed annotations."""
    source = """
    class Crud[T, K = int]:
        type Many = list[T]
        class Inner: ...
        async def put(self, item: T, key: K, many: Many) -> list[T]: ...
        async def own[S](self, item: S) -> None: ...

    class Sub(Crud[str]): ...
    """
    if sys.version_info < (3, 13):
        source = source.replace("K = int", "K").replace("Crud[str]", "Crud[str, int]")
    scope: dict[str, Any] = {"__name__": __name__}
    exec(compile(postponed + textwrap.dedent(source), "<test>", "exec", dont_inherit=True), scope)
    signature = read_signature(scope["Sub"]().put)
    assert [each.annotation for each in signature.parameters] == [str, int, list[str]]
    assert signature.returns == list[str]
    with pytest.raises(DeclarationError, match="nothing sets the type variable S; replace it"):
        read_signature(scope["Sub"]().own)


class CatSettings(Settings):
    naps: int = 5


SettingsT = TypeVar("SettingsT", bound=Settings)


class Configured(Service, Generic[SettingsT]):
    settings: SettingsT


class Between(Configured[SettingsT]):
    pass


class ConfiguredCats(Configured[CatSettings]):
    pass


class ConfiguredKittens(Between["CatSettings"]):
    pass


class Unset(Configured):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize("kind", [ConfiguredCats, ConfiguredKittens])
def test_a_subclass_sets_the_settings_of_a_generic_service(kind: type[Service]) -> None:
    """``settings: S`` is the class that the subclass gives for ``S``."""
    assert settings_class(kind) is CatSettings
    assert isinstance(kind().settings, CatSettings)


@pytest.mark.parametrize("kind", [Unset, Configured, Between])
def test_settings_without_a_class_are_refused(kind: type[Service]) -> None:
    """The error names the variable and what to write."""
    with pytest.raises(DeclarationError, match=r"type variable SettingsT .*\[MySettings\]\)"):
        settings_class(kind)


class WrongSettings(Configured[int]):  # type: ignore[type-var]
    pass


def test_the_argument_must_be_a_settings_class() -> None:
    """It is checked like an annotation."""
    with pytest.raises(DeclarationError, match=r"use a subclass of gizmopy\.Settings"):
        settings_class(WrongSettings)
