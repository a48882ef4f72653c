"""Mistakes in security schemes: the start ends, and the error names the place and the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pytest
from aiohttp import web

import pubsubtest
from gizmopy import Caller, Endpoints, Service, api_key, get, http_basic, http_bearer
from gizmopy.errors import DeclarationError
from gizmopy.server import SimpleServer
from gizmopy.web import Problem, same_secret
from gizmopy.web.decorators import collect_routes
from tests.web.support import serve

T = TypeVar("T")
BARE: Any = Caller
wrong: Any = api_key
wrong_bearer: Any = http_bearer


@dataclass
class User:
    name: str


@dataclass
class Admin(User):
    pass


@dataclass
class Robot:
    name: str


async def generator(token: str) -> Any:
    """Is no checker."""
    yield token


def sync_generator(token: str) -> Any:
    """Is no checker."""
    yield token


def function(parameters: str = "token: str", returns: str = " -> User") -> Any:
    """Return a new async function that is no checker yet."""
    scope: dict[str, Any] = dict(globals())
    exec(f"async def user({parameters}){returns}: ...", scope)
    return scope["user"]


def bearer(parameters: str = "token: str", returns: str = " -> User") -> Any:
    """Return a new checker of bearer tokens."""
    return http_bearer(function(parameters, returns))


def key(returns: str) -> Any:
    """Return a new checker of API keys."""
    return api_key(header="X-Key")(function("key: str", returns))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: bearer("token"), "parameter 'token' has no type"),
        (lambda: bearer(returns=""), "annotate its result"),
        (lambda: bearer(returns=" -> None"), "returns only None, which refuses each request"),
        (lambda: bearer("token: int"), r"is a checker, which takes \(token: str\)"),
        (lambda: bearer('token: str = ""'), r"is a checker, which takes \(token: str\)"),
        (lambda: bearer("a: str, b: str"), r"is a checker, which takes \(token: str\)"),
        (lambda: http_basic(function()), r"\(username: str, password: str\)"),
        (lambda: http_bearer(generator), "is an async generator"),
        (lambda: http_bearer(sync_generator), "has a 'yield', so it returns a generator"),
        (lambda: bearer(returns=" -> User | Problem"), "returns Problem, which would let the"),
        (lambda: bearer(returns=" -> web.Response"), "returns Response, which would let the"),
        (lambda: bearer(returns=" -> Caller[User]"), "annotate it with the type itself"),
        (lambda: wrong_bearer(realm="Zoë")(function()), "'Zoë' is not printable ASCII"),
        (lambda: wrong()(generator), 'write one of header="X-API-Key"'),
        (lambda: wrong(header="A", query="b")(generator), 'write one of header="X-API-Key"'),
        (lambda: wrong(header="X Key")(generator), "the header 'X Key', no valid name"),
        (lambda: wrong(cookie="a;b")(generator), "the cookie 'a;b', no valid name"),
        (lambda: function(), "which is no checker; decorate it with"),
        (lambda: "user", "security has 'user', which is no checker"),
        (list, r"security=\[\] has no checker; write None"),
        (lambda: [None], "has no checker; write None"),
        (lambda: [bearer(returns=" -> User | None")] * 2, "has the checker 'user' twice"),
    ],
)
def test_a_wrong_checker_ends_the_start(make: Callable[[], Any], reason: str) -> None:
    """The error names the function, its file and its line."""

    class Shop(Service):
        @get("/me")
        async def me(self) -> None: ...

    def start() -> None:
        Shop.security = make()
        if callable(Shop.security):
            Shop.security = (Shop.security,)
        SimpleServer(Shop())

    with pytest.raises(DeclarationError, match=reason) as refused:
        start()
    assert re.match(r"\S+:\d+: |<string>:1: ", str(refused.value))


@pytest.mark.parametrize(
    ("checkers", "annotation", "reason"),
    [
        (None, Caller[User], "nothing asks for credentials"),
        ([bearer()], Caller[Admin], "does not take the User of its checker user"),
        ([bearer(), key(" -> Robot")], Caller[User], "does not take the Robot of its checker"),
        (
            [bearer(), None],
            Caller[User],
            r"None if no credentials are sent; write \| None",
        ),
        ([bearer()], BARE, "nothing sets the type variable"),
    ],
)
def test_a_caller_that_no_checker_gives_ends_the_start(
    checkers: Any, annotation: Any, reason: str
) -> None:
    """A model that no checker gives is never taken from the body."""

    async def me(self: Any, user: Any) -> None: ...

    me.__annotations__["user"] = annotation
    shop = type("Shop", (Service,), {"me": get("/me", security=checkers)(me)})
    with pytest.raises(DeclarationError, match=reason):
        SimpleServer(shop())


@pytest.mark.parametrize(
    ("checkers", "annotation"),
    [
        ([bearer(returns=" -> Admin")], Caller[User]),
        ([bearer(returns=" -> User | None")], Caller[User]),
        ([bearer(), key(" -> Robot")], BARE[User | Robot]),
        ([bearer(), None], BARE[User | None]),
        ([bearer()], BARE[Any]),
        ([bearer()], BARE[object]),
    ],
)
def test_a_caller_may_have_a_wider_type(checkers: Any, annotation: Any) -> None:
    """A base class, a union and Any accept the result of each checker."""

    async def me(self: Any, user: Any) -> None: ...

    me.__annotations__["user"] = annotation
    shop = type("Shop", (Service,), {"me": get("/me", security=checkers)(me)})
    assert SimpleServer(shop()).routes


def test_a_checker_that_protects_nothing_ends_the_start() -> None:
    """The author would believe that it does."""

    class Shop(Service):
        @http_bearer
        async def user(self, token: str) -> User:
            raise NotImplementedError

        @get("/me")
        async def me(self) -> None: ...

    with pytest.raises(DeclarationError, match=r"no endpoint uses; write security = \(user,\)"):
        SimpleServer(Shop())
    Shop.security = (Shop.user,)
    assert str(SimpleServer(Shop()).routes[0].security) == "user"


def test_a_hidden_checker_ends_the_start() -> None:
    """A decorator above it that returns another function would lose the scheme."""

    class Shop(Service):
        def staff(self, key: str) -> bool:
            return True

        kept = api_key(header="X-Key")(staff)

        def staff(self, key: str) -> bool:  # type: ignore[no-redef]
            return False

        del kept

        @get("/me")
        async def me(self) -> None: ...

    with pytest.raises(DeclarationError, match="is replaced by"):
        SimpleServer(Shop())


def test_one_function_is_not_the_security_of_a_class() -> None:
    """It would become a method of the class."""
    with pytest.raises(DeclarationError, match=r"security is a function; write \(user,\)"):

        class Vault(Endpoints):
            @http_bearer
            async def user(self, token: str) -> User:
                raise NotImplementedError

            security = user  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("sent", "secret", "same"),
    [
        ("key", "key", True),
        ("kéy", "kéy", True),
        ("key", "key2", False),
        ("", "", False),
        ("", "key", False),
        ("\udcff", "key", False),
    ],
)
def test_an_empty_secret_is_never_the_same(sent: str, secret: str, same: bool) -> None:
    """A setting that is not set must not let a request pass."""
    assert same_secret(sent, secret) is same


async def test_a_checker_may_have_two_schemes() -> None:
    """Either of them lets a request pass."""

    class Shop(Service):
        @http_bearer
        @api_key(query="token")
        def user(self, token: str) -> str | None:
            return token if token == "ann" else None

        security = (user,)

        @get("/me")
        async def me(self, user: Caller[str]) -> str:
            return user

    async with pubsubtest.serve(Shop) as shop:
        for path, headers, status in (
            ("/me?token=ann", {}, 200),
            ("/me", {"Authorization": "Bearer ann"}, 200),
            ("/me?token=bob", {}, 401),
            ("/me", {}, 401),
        ):
            async with shop.http.get(path, headers=headers) as response:
                assert response.status == status


@pytest.mark.parametrize("answer", [Problem(401), web.Response(status=401), ValueError()])
async def test_a_returned_refusal_does_not_let_the_request_pass(answer: Any) -> None:
    """It was meant to be raised: the request is 500."""

    class Shop(Service):
        @http_bearer
        def user(self, token: str) -> Any:
            return answer

        security = (user,)

        @get("/me")
        async def me(self) -> str:
            return "passed"

    async with pubsubtest.serve(Shop) as shop:
        async with shop.http.get("/me", headers={"Authorization": "Bearer x"}) as response:
            assert response.status == 500


class Keys(Endpoints, Generic[T]):
    """Checkers that services inherit."""

    @staticmethod
    @api_key(header="X-Static")
    def static(key: str) -> str:
        return f"static {key}"

    @classmethod
    @api_key(header="X-Class")
    def of_class(cls, key: str) -> str:
        return f"{cls.__name__} {key}"

    @api_key(header="X-Abstract")
    def of_subclass(self, key: str) -> T:
        raise NotImplementedError

    security = (static, of_class, of_subclass)


async def test_checkers_are_inherited() -> None:
    """A static or class method, and an override that sets the type, are checkers of a subclass."""

    class Shop(Keys[str], Service):
        def of_subclass(self, key: str) -> str:
            return f"subclass {key}"

        @get("/me")
        async def me(self, caller: Caller[str]) -> str:
            return caller

    async with pubsubtest.serve(Shop) as shop:
        for name, caller in (
            ("X-Static", "static 1"),
            ("X-Class", "Shop 1"),
            ("X-Abstract", "subclass 1"),
        ):
            async with shop.http.get("/me", headers={name: "1"}) as response:
                assert await response.json() == caller


def test_a_removed_checker_ends_the_start() -> None:
    """An attribute None removes it, and security still names it."""

    class Shop(Keys[str], Service):
        of_subclass = None  # type: ignore[assignment]

        @get("/me")
        async def me(self) -> None: ...

    with pytest.raises(DeclarationError, match="which of_subclass = None removes"):
        SimpleServer(Shop())


async def test_an_endpoint_compiled_alone_is_checked() -> None:
    """There is no way to the function without its checkers."""

    class Shop:
        @http_bearer
        def user(self, token: str) -> str:
            return token

        @get("/me", security=user)
        async def me(self) -> None: ...

    async with serve(*collect_routes(Shop())) as client:
        for headers, status in (({}, 401), ({"Authorization": "Bearer x"}, 204)):
            async with client.get("/me", headers=headers) as response:
                assert response.status == status
