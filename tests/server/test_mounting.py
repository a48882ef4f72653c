"""Endpoints, handlers and health checks in objects that a service mounts."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pytest
from aiohttp import web
from pydantic import BaseModel

import pubsubtest
from gizmopy import (
    Endpoints,
    Message,
    Service,
    Settings,
    get,
    health_check,
    post,
    put,
    subscribe,
)
from gizmopy.errors import DeclarationError, UsageError
from gizmopy.pubsub import collect_subscriptions
from gizmopy.pubsub.handlers import Handler as MessageHandler
from gizmopy.server import SimpleServer
from gizmopy.server.mounting import mounted_on
from gizmopy.web import CORS, EndpointTable, Handler, HTTPMiddleware
from pubsubtest import FakeSubscriber


def noted(seen: list[str], name: str) -> HTTPMiddleware:
    """Return a middleware that records its name for each request."""

    def wrap(handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            seen.append(name)
            return await handler(request)

        return handle

    return wrap


def noted_message(seen: list[str], name: str) -> Any:
    """Return a message middleware that records its name for each message."""

    def wrap(handler: MessageHandler) -> MessageHandler:
        async def handle(message: Message) -> None:
            seen.append(name)
            await handler(message)

        return handle

    return wrap


@dataclass
class Store:
    """A resource that the lifespan opens."""

    orders: dict[int, str]
    is_open: bool = False


class Orders(Endpoints):
    """Takes orders."""

    prefix = "/orders"
    tags = ("sales",)

    def __init__(self, store: Store, seen: list[str]) -> None:
        self.store = store
        self.seen = seen
        self.middleware = (noted(seen, "orders"),)
        self.message_middleware = (noted_message(seen, "on orders"),)

    @get("/{id}")
    async def get_order(self, id: int) -> str:
        """Return an order."""
        return self.store.orders[id]

    @post("")
    async def create_order(self) -> tuple[int, bool]:
        """Publish an order."""
        await self.publish("orders", "apple")
        assert await self.publish_many("orders", ["pear"]) == [None]
        return 201, self.store.is_open

    @subscribe("orders")
    async def on_order(self, order: str) -> None:
        """Store an order."""
        self.store.orders[len(self.store.orders)] = order

    @health_check(critical=True)
    async def store_is_open(self) -> None:
        """Fail while the store is closed."""
        assert self.store.is_open

    def endpoints(self) -> EndpointTable:
        """Return a table, which has the prefix and the tags of the object, too."""

        async def plain() -> int:
            return len(self.store.orders)

        return {"/table/count": {"GET": plain}}


class Customers(Endpoints):
    """Knows customers."""

    @get("/customers/{id}")
    async def get_customer(self, id: str) -> str:
        """Return a customer."""
        return id

    @staticmethod
    @get("/static")
    async def static() -> str:
        """Return a text."""
        return "static"

    @classmethod
    @get("/class")
    async def class_method(cls) -> str:
        """Return a text."""
        return cls.__name__

    def endpoints(self) -> EndpointTable:
        """Return a function that is no method: its tag is the class of this object, too."""
        return {"/plain": {"GET": plain}}


async def plain() -> str:
    """Return a text."""
    return "plain"


class Shop(Service):
    """Sells things."""

    prefix = "/v1"

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.seen: list[str] = []
        self.calls = 0
        self.middleware = (noted(self.seen, "shop"),)
        self.message_middleware = (noted_message(self.seen, "on shop"),)
        self.store = Store({})
        self.orders = Orders(self.store, self.seen)

    def mounts(self) -> Iterable[Endpoints]:
        self.calls += 1
        yield self.orders
        yield Customers()

    @asynccontextmanager
    async def lifespan(self) -> Any:
        self.store.is_open = True
        yield

    @get("/own")
    async def own(self) -> str:
        """Return a text."""
        return "own"

    @classmethod
    @get("/own/class")
    async def own_class_method(cls) -> str:
        """Return a text."""
        return "own"

    @subscribe("own")
    async def on_own(self, text: str) -> None:
        """Handle a message."""


async def test_a_service_serves_what_it_mounts() -> None:
    """Endpoints have both prefixes, publish, and use what the lifespan opened."""
    async with pubsubtest.serve(Shop) as shop:
        response = await shop.http.post("/v1/orders")
        assert (response.status, await response.json()) == (201, True)
        await shop.idle()
        assert shop.service.store.orders == {0: "apple", 1: "pear"}
        for path, expected in {
            "/v1/orders/1": "pear",
            "/v1/orders/table/count": 2,
            "/v1/customers/tom": "tom",
            "/v1/static": "static",
            "/v1/class": "Customers",
            "/v1/own": "own",
        }.items():
            assert await (await shop.http.get(path)).json() == expected
        assert (await shop.http.get("/orders/1")).status == 404
        assert shop.service.calls == 1


async def test_the_middleware_of_the_service_is_outside() -> None:
    """A mounted object adds its own middleware; the rest of the service is not wrapped by it."""
    async with pubsubtest.serve(Shop) as shop:
        seen = shop.service.seen
        await shop.http.get("/v1/orders/table/count")
        assert seen == ["shop", "orders"]
        seen.clear()
        await shop.http.get("/v1/own")
        await shop.http.get("/v1/customers/tom")
        assert seen == ["shop", "shop"]
        seen.clear()
        assert await shop.deliver("orders", "apple") == "ack"
        assert seen == ["on shop", "on orders"]
        seen.clear()
        assert await shop.deliver("own", "apple") == "ack"
        assert seen == ["on shop"]


async def test_the_document_the_metrics_and_the_probes_know_mounted_objects() -> None:
    """Tags are those of the object, or its class; metrics have the whole route."""
    async with pubsubtest.serve(Shop) as shop:
        document = await (await shop.http.get("/openapi.json")).json()
        tags = {
            path: operation["tags"]
            for path, operations in document["paths"].items()
            for operation in operations.values()
        }
        assert tags == {
            "/v1/own": ["shop"],
            "/v1/own/class": ["shop"],
            "/v1/orders": ["sales"],
            "/v1/orders/{id}": ["sales"],
            "/v1/orders/table/count": ["sales"],
            "/v1/customers/{id}": ["Customers"],
            "/v1/static": ["Customers"],
            "/v1/class": ["Customers"],
            "/v1/plain": ["Customers"],
        }
        await shop.http.get("/v1/customers/tom")
        metrics = await (await shop.http.get("/metrics")).text()
        assert 'route="/v1/customers/{id}"' in metrics
        assert "[+]store_is_open ok" in await (await shop.http.get("/readyz?verbose")).text()
        names = {each.name for each in shop.server.subscriptions}
        assert names == {"Shop.on_own", "Orders.on_order"}
        await asyncio.get_running_loop().shutdown_default_executor()  # it made the document


async def test_a_mounted_object_is_served_alone() -> None:
    """``serve`` takes an object of Endpoints, without the service that mounts it."""
    orders = Orders(Store({7: "plum"}, is_open=True), [])
    async with pubsubtest.serve(orders) as served:
        assert served.service is orders
        assert await (await served.http.get("/orders/7")).json() == "plum"
        assert await served.deliver("orders", "fig") == "ack"
        assert orders.store.orders == {7: "plum", 1: "fig"}
        assert (await served.http.post("/orders")).status == 201
        assert len(served.published("orders")) == 2


async def test_a_class_of_endpoints_is_not_served_alone() -> None:
    """The error asks for an object, because the class may need arguments."""
    with pytest.raises(UsageError, match=r"serve an object of it, Customers\(\.\.\.\)"):
        async with pubsubtest.serve(Customers):  # type: ignore[type-var]
            pass


async def test_a_handler_of_a_mounted_object_is_tested_without_a_daemon() -> None:
    """FakeSubscriber runs it, with the middleware of the object."""
    orders = Orders(Store({}), [])
    assert await FakeSubscriber(orders.on_order).run(["apple"]) == ["ack"]
    assert orders.seen == ["on orders"]
    with pytest.raises(UsageError, match="Orders is not mounted on a running service: publish"):
        await orders.create_order()


async def test_one_class_is_mounted_twice_under_two_prefixes() -> None:
    """The prefix and the tags may belong to the object; a prefix may have variables."""

    class Items(Endpoints):
        def __init__(self, kind: str) -> None:
            self.prefix = f"/{{tenant}}/{kind}"
            self.tags = (kind,)

        @get("/{id}")
        async def get_item(self, tenant: str, id: int) -> list[Any]:
            return [tenant, self.tags[0], id]

    class Both(Service):
        def mounts(self) -> list[Endpoints]:
            return [Items("cats"), Items("dogs")]

    async with pubsubtest.serve(Both) as both:
        assert await (await both.http.get("/acme/dogs/2")).json() == ["acme", "dogs", 2]
        assert await (await both.http.get("/acme/cats/1")).json() == ["acme", "cats", 1]


class Cat(BaseModel):
    name: str


class Dog(BaseModel):
    weight: float


T = TypeVar("T")


class Collection(Endpoints, Generic[T]):
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    @put("/{id}")
    async def put_item(self, id: int, item: T) -> T:
        return item


async def test_a_generic_class_is_mounted_with_several_types() -> None:
    """``Collection[Cat](...)`` needs no subclass; each object has types of its own."""

    class Animals(Service):
        def mounts(self) -> Iterable[Endpoints]:
            yield Collection[Cat]("/cats")
            yield Collection[Dog]("/dogs")

    async with pubsubtest.serve(Animals) as animals:
        response = await animals.http.put("/dogs/1", json={"weight": "2.5"})
        assert await response.json() == {"weight": 2.5}
        assert (await animals.http.put("/cats/1", json={"weight": 2.5})).status == 422
    assert "nothing sets the type variable T" in refused(Collection("/animals"))


async def test_a_mounted_object_may_be_a_frozen_dataclass() -> None:
    """It needs no constructor of its own to hold references."""

    @dataclass(frozen=True)
    class Names(Endpoints):
        names: Sequence[str]

        @post("/names")
        async def publish_names(self) -> None:
            await self.publish_many("names", self.names)

    async with pubsubtest.serve(Names(["Tom"])) as served:
        assert (await served.http.post("/names")).status == 204
        assert [each.value(str) for each in served.published("names")] == ["Tom"]


async def test_a_class_of_endpoints_may_be_a_mixin() -> None:
    """The same class can be mounted, or inherited by a service."""

    class Mixed(Customers, Service):
        pass

    async with pubsubtest.serve(Mixed) as mixed:
        assert await (await mixed.http.get("/customers/tom")).json() == "tom"


def refused(*mounts: Any, service: type[Service] = Service) -> str:
    """Return the error of the start of a service that mounts these objects."""

    class Refused(service):  # type: ignore[misc, valid-type]
        def mounts(self) -> Any:
            return mounts

    with pytest.raises(DeclarationError) as error:
        SimpleServer(Refused())
    return str(error.value)


def places(text: str) -> int:
    """Count the lines of this file that an error names."""
    return len(set(re.findall(r"test_mounting\.py:\d+", text)))


class Twin(Endpoints):
    """Has the declarations of others."""

    @get("/customers/{id}")
    async def get_same_path(self, id: str) -> None: ...

    @subscribe("orders")
    async def on_same(self, order: str) -> None: ...

    @health_check
    async def store_is_open(self) -> None: ...


def test_duplicates_are_refused_with_both_places() -> None:
    """Two objects may not serve one path, share one subscription, or have checks of one name."""

    class Route(Endpoints):
        get_same_path = Twin.get_same_path

    class Subscription(Endpoints):
        on_same = Twin.on_same

    class Check(Endpoints):
        store_is_open = Twin.store_is_open

    orders = Orders(Store({}), [])
    for pair, reason in {
        (Customers(), Route()): "GET '/customers/{id}' is declared for GET already",
        (orders, Subscription()): "already handles 'orders' in the subscription 'refused'",
        (orders, Check()): "another health check is called 'store_is_open'",
    }.items():
        text = refused(*pair)
        assert reason in text
        assert places(text) == 2


def test_duplicates_of_the_service_itself_are_refused() -> None:
    """The service's own declarations come first, and the mounted one is reported."""

    class Own(Service):
        @get("/customers/{name}")
        async def own(self, name: str) -> None: ...

        @subscribe("orders")
        async def on_own(self, order: str) -> None: ...

        @health_check
        async def store_is_open(self) -> None: ...

    text = refused(Customers(), service=Own)
    assert "GET '/customers/{id}' matches the same paths as '/customers/{name}'" in text
    assert places(text) == 2
    text = refused(Orders(Store({}), []), service=Own)
    assert "Own.on_own" in text
    assert places(text) == 2


class WithLifespan(Endpoints):
    @asynccontextmanager
    async def lifespan(self) -> Any:
        yield


class WithMounts(Endpoints):
    def mounts(self) -> Sequence[Endpoints]:
        return ()


class WithSettings(Endpoints):
    settings: Settings


class WithCORS(Endpoints):
    middleware = (CORS(["https://a.example"]),)


class WithOneMiddleware(Endpoints):
    middleware = noted([], "one")  # type: ignore[assignment]


class WithTextTags(Endpoints):
    tags = "orders"


class WithBadPrefix(Endpoints):
    prefix = "orders/"


class WithBadTemplate(Endpoints):
    prefix = "/{id"


class WithTheSameVariable(Endpoints):
    prefix = "/{id}"

    @get("/{id}")
    async def get_it(self, id: str) -> None: ...


@pytest.mark.parametrize(
    ("mounted", "reason"),
    [
        (Orders, r"returns the class Orders; return an object of it: Orders\(...\)"),
        (Service(), "returns a Service, Service; a service is run, not mounted"),
        (3, "returns 3, which is not an object of a subclass of Endpoints"),
        (WithLifespan(), "WithLifespan.lifespan: is not called, .*open the resource in"),
        (WithMounts(), "WithMounts.mounts: is not called, .* on the service"),
        (WithSettings(), "WithSettings: annotates settings, which only a service loads"),
        (WithCORS(), "WithCORS.middleware: middleware has CORS in it"),
        (WithOneMiddleware(), r"write a tuple: \(middleware,\)"),
        (WithTextTags(), r"WithTextTags.tags: tags is the text 'orders'; write \('orders',\)"),
        (WithBadPrefix(), "WithBadPrefix: prefix 'orders/' must begin with '/'"),
        (WithBadTemplate(), "WithBadTemplate: prefix '/{id'"),
        (WithTheSameVariable(), "get_it: '/{id}/{id}'"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value)[:40],
)
def test_an_object_that_would_not_work_whole_is_refused(mounted: Any, reason: str) -> None:
    """Nothing that a mounted object declares is ignored in silence."""
    text = refused(mounted)
    assert re.search(reason, text), text
    assert places(text) >= 1


async def aiohttp_style(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Handle a request as a middleware of aiohttp does."""
    return await handler(request)


class OfAClass:
    """Handle requests as a middleware of another framework does."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Return what the handler returns."""
        return await handler(request)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("prefix", None, "prefix is None; write a text"),
        ("prefix", 5, "prefix is 5; write a text"),
        ("name", 5, "name is 5; write a text"),
        ("middleware", None, r"middleware is None; write a tuple: \(middleware,\)"),
        ("middleware", "log", "middleware is 'log'; write a tuple"),
        ("middleware", ["log"], "middleware has 'log', which is not a function; remove it"),
        ("message_middleware", 5, "message_middleware is 5; write a tuple"),
        ("message_middleware", (None,), "message_middleware has None, which is not a function"),
        ("middleware", (aiohttp_style,), "which is async; write a function without async"),
        ("middleware", (OfAClass,), "which does not take one handler .*; write def wrap"),
        ("message_middleware", (lambda: None,), "which does not take one handler"),
        ("publish", {"orders": int}, r"hides the method; write publishes = \{...\}"),
        ("publish_many", 5, "publish_many is 5, which hides the method"),
        ("tags", None, "tags is None; write a tuple of names"),
        ("tags", (1,), r"tags is \(1,\); write a tuple of names"),
    ],
)
def test_an_attribute_of_a_wrong_type_is_refused(name: str, value: Any, reason: str) -> None:
    """The error has the place and the remedy, for the service as for a mounted object."""
    for base in (Service, Endpoints):
        kind: Any = type("Wrong", (base,), {name: value, "__module__": __name__})
        if name == "name" and base is Endpoints:
            continue
        text = refused(kind()) if base is Endpoints else refused(service=kind)
        assert re.search(rf"Wrong\.{name}: .*{reason}", text), text


@pytest.mark.parametrize("name", ["mounts", "lifespan"])
def test_a_method_of_the_service_is_not_hidden_by_a_value(name: str) -> None:
    """A list of mounts, or a lifespan that is None, would fail far from its line."""
    kind: Any = type("Wrong", (Service,), {name: None, "__module__": __name__})
    with pytest.raises(DeclarationError, match=f"Wrong.{name}: {name} is None, which hides the me"):
        SimpleServer(kind())


def test_the_channels_of_an_object_are_those_of_its_class() -> None:
    """Those that ``__init__`` sets would declare nothing."""

    class Shop(Service):
        def __init__(self, settings: Any = None) -> None:
            super().__init__(settings)
            self.publishes = {"orders": int}  # type: ignore[misc]

    with pytest.raises(DeclarationError, match="sets publishes on an object; set it on the class"):
        SimpleServer(Shop())


async def test_a_mounted_object_may_have_an_endpoint_called_name() -> None:
    """Only a service has a name."""

    class Profile(Endpoints):
        @get("/name")
        async def name(self) -> str:
            return "Ann"

    class Tag(Endpoints):
        name = 5

    class Site(Service):
        def mounts(self) -> Iterable[Endpoints]:
            return [Profile(), Tag()]

    async with pubsubtest.serve(Site) as site, site.http.get("/name") as response:
        assert await response.json() == "Ann"


def test_a_middleware_that_returns_no_function_is_refused() -> None:
    """It would fail each request and each message."""

    def forgets(handler: Any) -> Any:
        """Lack a return."""

    class Pages(Service):
        middleware = (forgets,)

        @get("/a")
        async def a(self) -> None: ...

    class Consumer(Service):
        message_middleware = (forgets,)

        @subscribe("a")
        async def on_a(self, a: str) -> None: ...

    for kind in (Pages, Consumer):
        with pytest.raises(
            DeclarationError, match=r"test_mounting\.py:\d+: .*forgets: returned None"
        ):
            SimpleServer(kind())


async def starlette_lifespan(self: Any, app: Any) -> Any:
    """Open resources as a lifespan of Starlette does."""
    yield


async def without_yield(self: Any) -> None:
    """Open resources, and never close them."""


@pytest.mark.parametrize(
    ("lifespan", "reason"),
    [
        (asynccontextmanager(starlette_lifespan), "is called without arguments .*'app'.*; write"),
        (asynccontextmanager(without_yield), "has no 'yield'.*; add it"),  # type: ignore[arg-type]
        (without_yield, "has no 'yield'.*; add it"),
        (lambda self: None, "decorate it with @asynccontextmanager"),
    ],
)
async def test_a_lifespan_of_another_shape_is_refused(lifespan: Any, reason: str) -> None:
    """The error names its place, and not a line of contextlib."""
    kind: Any = type("Wrong", (Service,), {"lifespan": lifespan, "__module__": __name__})
    with pytest.raises(DeclarationError, match=rf"test_mounting\.py:\d+: .*{reason}"):
        async with pubsubtest.serve(kind):
            pass


def test_the_error_names_the_line_of_a_wrong_attribute() -> None:
    """The class may be long."""

    class Wrong(Endpoints):
        tags = ("orders",)
        prefix = None  # type: ignore[assignment]

    line = inspect.getsourcelines(Wrong)[1] + 2
    assert f"{__file__}:{line}: " in refused(Wrong())


def test_one_object_is_mounted_once() -> None:
    """Neither twice on one service, nor on two that run."""
    customers = Customers()
    assert "returns the same Customers object twice" in refused(customers, customers)

    class One(Service):
        def mounts(self) -> Any:
            return [customers]

    SimpleServer(One())
    with pytest.raises(UsageError, match="this Customers already has a server"):
        SimpleServer(One())


@pytest.mark.parametrize("returned", [None, Customers(), "customers"])
def test_mounts_returns_a_list(returned: Any) -> None:
    """Another type is a mistake, with the place of the method."""

    class Wrong(Service):
        def mounts(self) -> Any:
            return returned

    with pytest.raises(DeclarationError, match=r"Wrong\.mounts: must return a list of Endpoints"):
        mounted_on(Wrong())


def test_mounts_is_not_async() -> None:
    """The start calls it without an event loop."""

    class Wrong(Service):
        async def mounts(self) -> Any:  # type: ignore[override]
            return []

    with pytest.raises(DeclarationError, match="is async; write: def mounts"):
        mounted_on(Wrong())


def test_the_mounts_of_an_unrelated_base_are_not_lost() -> None:
    """``mounts()`` of one base hides that of another, unless it calls ``super()``."""
    one, two = Customers(), Twin()

    class First(Service):
        def mounts(self) -> Iterable[Endpoints]:
            return [one]

    class Second(Service):
        def mounts(self) -> Iterable[Endpoints]:
            return [two]

    class Calling(Service):
        def mounts(self) -> Iterable[Endpoints]:
            return [*super().mounts(), one]

    class Hidden(First, Second):
        pass

    class Merged(First, Second):
        def mounts(self) -> Iterable[Endpoints]:
            return [*First.mounts(self), *Second.mounts(self)]

    class Called(Calling, Second):
        pass

    with pytest.raises(DeclarationError, match=r"hides mounts\(\) of Second") as hidden:
        mounted_on(Hidden())
    assert places(str(hidden.value)) == 2
    assert mounted_on(Merged()) == (one, two)
    assert mounted_on(Called()) == (two, one)


def test_a_decorated_method_may_not_hide_a_member_of_endpoints() -> None:
    """``publish`` of a mounted object has to stay the method that publishes."""
    with pytest.raises(DeclarationError, match="'publish' is a member of Endpoints; rename"):

        class Wrong(Endpoints):
            @post("/publish")
            async def publish(self) -> None: ...  # type: ignore[override]


def test_subscriptions_are_listed_in_order() -> None:
    """Those of the service come first."""
    shop = Shop()
    found = collect_subscriptions(shop, "shop", mounted_on(shop))
    assert [each.channel for each in found] == ["own", "orders"]


def test_the_channels_that_a_mounted_object_declares_are_those_of_the_service() -> None:
    """They are merged; two objects may not give one channel different types."""

    class Texts(Endpoints):
        publishes = {"texts": str, "audit": None}  # noqa: RUF012

    class Same(Service):
        publishes = {"texts": str, "own": None}  # noqa: RUF012

        def mounts(self) -> list[Endpoints]:
            return [Texts()]

    class Different(Service):
        publishes = {"texts": bytes}  # noqa: RUF012

    declared = SimpleServer(Same()).application.publishes
    assert declared == {"texts": str, "own": None, "audit": None}
    text = refused(Texts(), service=Different)
    assert "publishes['texts'] is <class 'str'>, but <class 'bytes'> in" in text
    assert places(text) == 2
