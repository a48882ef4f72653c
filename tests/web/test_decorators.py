"""The routes that a service declares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from gizmopy.errors import DeclarationError
from gizmopy.web import delete, get, patch, post, put
from gizmopy.web.decorators import Route, collect_routes


class Base:
    @get("/base")
    async def base(self) -> str:
        return "base"

    @get("/kept")
    async def kept(self) -> str:
        return "base"

    @get("/replaced")
    async def replaced(self) -> str:
        return "base"

    @get("/removed")
    async def removed(self) -> str:
        return "base"


class Derived(Base):
    @put("/own")
    async def own(self) -> str:
        return "own"

    async def kept(self) -> str:
        return "derived"

    @post("/replacement")
    async def replaced(self) -> str:
        return "derived"

    removed = None  # type: ignore[assignment]  # Python's way to remove an inherited attribute


def declared(service: object, prefix: str = "") -> list[tuple[str, str]]:
    """Return the method and path of each route."""
    return [(route.method, route.path) for route in collect_routes(service, prefix)]


def test_each_decorator_declares_its_method() -> None:
    """One method may have several decorators; their order is from the top down."""

    class Service:
        @get("/a")
        @put("/b")
        @post("/c")
        @patch("/d")
        @delete("/e")
        async def all(self) -> None: ...

    assert declared(Service()) == [
        ("GET", "/a"),
        ("PUT", "/b"),
        ("POST", "/c"),
        ("PATCH", "/d"),
        ("DELETE", "/e"),
    ]


async def result_of(route: Route) -> object:
    """Return what the endpoint of a route returns."""
    result = route.function()
    assert isinstance(result, Awaitable)
    return await result


async def test_routes_are_inherited() -> None:
    """An override takes over the routes unless it is decorated; None removes them."""
    routes = collect_routes(Derived())

    assert [(route.method, route.path, await result_of(route)) for route in routes] == [
        ("GET", "/base", "base"),
        ("GET", "/kept", "derived"),
        ("POST", "/replacement", "derived"),
        ("PUT", "/own", "own"),
    ]


def test_a_derived_class_does_not_change_its_base() -> None:
    """The routes of a subclass are not added to its base class."""
    assert declared(Base()) == [
        ("GET", "/base"),
        ("GET", "/kept"),
        ("GET", "/replaced"),
        ("GET", "/removed"),
    ]


async def test_static_and_class_methods_are_endpoints() -> None:
    """The decorator may be applied before staticmethod and classmethod."""

    class Service:
        @staticmethod
        @get("/static")
        async def one() -> str:
            return "one"

        @classmethod
        @get("/class")
        async def two(cls) -> str:
            return cls.__name__

    routes = collect_routes(Service())
    assert [(route.path, await result_of(route)) for route in routes] == [
        ("/static", "one"),
        ("/class", "Service"),
    ]


def test_a_table_of_endpoints_follows_the_decorated_methods() -> None:
    """Gizmo's table comes last, and every path begins with the prefix."""

    class Service(Base):
        def endpoints(self) -> Mapping[str, Mapping[str, Callable[..., Awaitable[object]]]]:
            return {"/table": {"HEAD": self.base, "OPTIONS": self.kept}}

    service = Service()
    assert collect_routes(service, "/svc")[-2:] == [
        Route("HEAD", "/svc/table", service.base),
        Route("OPTIONS", "/svc/table", service.kept),
    ]
    assert declared(service, "/svc")[0] == ("GET", "/svc/base")


def test_a_service_without_endpoints_has_no_routes() -> None:
    """An object without declarations has no routes."""
    assert collect_routes(object()) == []


def table_of(table: Any) -> object:
    """Return a service with this table of endpoints."""

    class Service:
        def endpoints(self) -> Any:
            return table

    return Service()


async def endpoint() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"cats": {"GET": endpoint}}, "endpoint: 'cats' is not a path template: begin with '/'"),
        ({"/{id": {"GET": endpoint}}, "endpoint: '/{id' is not a path template"),
        ({"/{a}/{a}": {"GET": endpoint}}, "endpoint: '/{a}/{a}' has two variables named 'a'"),
        (
            {"/": {"FETCH": endpoint}},
            "endpoint: 'FETCH' is not an HTTP method; use one of: GET",
        ),
        ({"/": {"get": endpoint}}, "endpoint: 'get' is not an HTTP method"),
        ({"/": endpoint}, "must return a table {path: {method: endpoint}}"),
    ],
)
def test_a_mistake_names_the_source(table: Any, reason: str) -> None:
    """The error of an invalid route has the file, the line and the function."""
    with pytest.raises(DeclarationError) as refused:
        collect_routes(table_of(table), "/svc")
    assert reason in str(refused.value)
    assert f"{__file__}:" in str(refused.value)


@pytest.mark.parametrize("prefix", ["svc", "/svc/", "/"])
def test_a_prefix_must_be_a_path(prefix: str) -> None:
    """A prefix begins with a slash and does not end with one."""
    with pytest.raises(DeclarationError, match=r"Derived: prefix '.*' must begin with '/'"):
        collect_routes(Derived(), prefix)


def test_a_route_declared_twice_names_both_endpoints() -> None:
    """If a method and path are declared twice, the error has the source of each."""

    class Service:
        @get("/cats")
        async def first(self) -> None: ...

        @get("/cats")
        async def second(self) -> None: ...

    with pytest.raises(DeclarationError) as refused:
        collect_routes(Service())
    message = str(refused.value)
    assert "Service.second: GET '/cats' is declared for GET already; see " in message
    assert f"Service.first ({__file__}:" in message


def test_templates_that_differ_only_in_names_are_refused() -> None:
    """Each path has only one template."""

    class Service:
        @get("/cats/{id}")
        async def read(self, id: int) -> None: ...

        @put("/cats/{cat}")
        async def write(self, cat: int) -> None: ...

    with pytest.raises(
        DeclarationError, match=r"write: PUT '/cats/\{cat\}' matches the same"
    ) as refused:
        collect_routes(Service())
    assert "Service.read (" in str(refused.value)


def test_a_decorator_without_a_path_is_refused() -> None:
    """To forget the parentheses fails when the class is defined."""
    with pytest.raises(DeclarationError, match=r'endpoint: .*; write @get\("/path"\)'):
        get(endpoint)  # type: ignore[arg-type]  # the mistake in question


@pytest.mark.parametrize(
    ("max_body", "size"), [("10MB", 10_000_000), ("1.5 MiB", 1_572_864), ("7", 7), (5, 5), (0, 0)]
)
def test_the_size_of_a_body_may_be_a_text(max_body: int | str, size: int) -> None:
    """MB are millions of bytes, MiB are 1,048,576 bytes."""

    class Service:
        @post("/a", max_body=max_body)
        async def a(self) -> None: ...

    (route,) = collect_routes(Service())
    assert route.options.max_body_bytes == size


def test_the_old_name_of_max_body_is_deprecated() -> None:
    """The warning has the line of the decorator."""
    with pytest.warns(DeprecationWarning, match="write max_body=") as warned:

        class Service:
            @post("/a", max_body_bytes=7)
            async def a(self) -> None: ...

    assert warned[0].filename == __file__
    (route,) = collect_routes(Service())
    assert route.options.max_body == 7
