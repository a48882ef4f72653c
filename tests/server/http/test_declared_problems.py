"""The problem of each exception, as a service and its mounted objects declare it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, ClassVar

import pytest
from aiohttp import ClientError, web

import pubsubtest
from gizmopy import Endpoints, Problem, Service, get, http_bearer
from gizmopy.errors import DeclarationError
from gizmopy.server import SimpleServer
from gizmopy.web import Handler


class DomainError(Exception):
    """Something is wrong with an order."""


class OutOfStock(DomainError):
    """The item is sold out.

    Only this line is in the document.
    """

    def __init__(self, item: str = "apple") -> None:
        super().__init__(f"secret shelf of {item}")
        self.item = item


class SoldForever(OutOfStock):
    """It does not come back."""


class Unpaid(DomainError):
    """An invoice is open."""


class UpstreamDown(Exception):
    """Another service is down."""


ERRORS: dict[str, Exception] = {
    "domain": DomainError("secret"),
    "stock": OutOfStock(),
    "forever": SoldForever("pear"),
    "unpaid": Unpaid("secret"),
    "upstream": UpstreamDown("10.0.0.7 is down"),
    "key": KeyError("secret"),
    "problem": Problem(418, "Tea."),
    "group": ExceptionGroup("g", [OutOfStock(), ExceptionGroup("h", [DomainError()])]),
    "mixed": ExceptionGroup("g", [OutOfStock(), ValueError("secret")]),
    "timeout": TimeoutError(),
}


async def fail(name: str) -> None:
    """Raise one of the errors."""
    raise ERRORS[name]


class Orders(Endpoints):
    """Has a table of its own, after that of the service."""

    prefix = "/orders"
    problems: ClassVar = {Unpaid: 402, DomainError: 422}

    @get("/{name}")
    async def order(self, name: str) -> None:
        await fail(name)


def broken(handler: Handler) -> Handler:
    """Return a middleware that fails for one path."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path == "/middleware":
            raise OutOfStock
        return await handler(request)

    return handle


class Base(Service):
    """The table of a base class is one part."""

    problems: ClassVar = {DomainError: 409, TimeoutError: 502}


class Shop(Base):
    """Adds to the table of its base."""

    middleware = (broken,)
    problems: ClassVar = {
        OutOfStock: lambda error: Problem(410, f"{error.item} is sold out.", item=error.item),
        Unpaid: Problem(402, "Pay first.", headers={"X-Invoice": "1"}),
        UpstreamDown: 502,
    }

    @get("/rest/{name}", problems=(404, DomainError))
    async def rest(self, name: str) -> None:
        await fail(name)

    @get("/raw/{name}")
    async def raw(self, request: web.Request) -> web.StreamResponse:
        await fail(request.match_info["name"])
        return web.Response()

    @get("/begun")
    async def begun(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        raise OutOfStock

    @get("/middleware")
    async def behind(self) -> None: ...

    @get("/hangs", timeout=0.01)
    async def hangs(self) -> None:
        await asyncio.get_running_loop().create_future()

    def endpoints(self) -> Any:
        return {"/table/{name}": {"GET": fail}}

    def mounts(self) -> Iterable[Endpoints]:
        yield Orders()


@pytest.mark.parametrize("path", ["rest", "raw", "table"])
@pytest.mark.parametrize(
    ("name", "status", "detail"),
    [
        ("domain", 409, ""),
        ("stock", 410, "apple is sold out."),
        ("forever", 410, "pear is sold out."),
        ("unpaid", 402, "Pay first."),
        ("upstream", 502, ""),
        ("timeout", 502, ""),
        ("problem", 418, "Tea."),
        ("group", 410, "apple is sold out."),
    ],
)
async def test_an_exception_is_answered_with_its_problem(
    path: str, name: str, status: int, detail: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The nearest base decides, no text of the exception is sent, and nothing is a panic."""
    async with pubsubtest.serve(Shop) as shop:
        async with shop.http.get(f"/{path}/{name}") as response:
            problem = await response.json(content_type="application/problem+json")
            assert (response.status, problem.get("detail", "")) == (status, detail)
            assert "secret" not in str(problem)
            if name == "unpaid":
                assert response.headers["X-Invoice"] == "1"
        async with shop.http.get("/metrics") as response:
            assert "gizmo_panics_total 0" in await response.text()
    assert not [each for each in caplog.records if each.exc_info]
    errors = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    # The cause of a 5xx is in the log, in one line.
    assert errors == (
        [f"GET /{path}/upstream failed: 10.0.0.7 is down"] * (name == "upstream")
        or [f"GET /{path}/timeout failed: "] * (name == "timeout")
    )


@pytest.mark.parametrize("name", ["key", "mixed"])
async def test_an_exception_without_a_problem_is_500(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its traceback. A group is 500 if one of its members is."""
    async with pubsubtest.serve(Shop) as shop:
        async with shop.http.get(f"/rest/{name}") as response:
            assert response.status == 500
            assert "secret" not in await response.text()
    assert [each for each in caplog.records if each.exc_info]


@pytest.mark.parametrize(
    ("name", "status"),
    [("unpaid", 402), ("domain", 422), ("stock", 410), ("upstream", 502), ("key", 500)],
)
async def test_a_mounted_object_adds_to_the_table_of_the_service(name: str, status: int) -> None:
    """Its own entry counts for the same class, and a nearer base of the service before that."""
    async with pubsubtest.serve(Shop) as shop, shop.http.get(f"/orders/{name}") as response:
        assert response.status == status


async def test_the_table_applies_to_middleware_but_not_to_the_deadline() -> None:
    """An error of a middleware is an error of the endpoint; a deadline that is over is 504."""
    async with pubsubtest.serve(Shop) as shop:
        async with shop.http.get("/middleware") as response:
            assert response.status == 410
        async with shop.http.get("/hangs") as response:
            assert response.status == 504


async def test_a_problem_after_a_response_has_begun_ends_the_connection() -> None:
    """The client must not take the part for the whole."""
    async with pubsubtest.serve(Shop) as shop:
        with pytest.raises((ClientError, ConnectionError)):
            async with shop.http.get("/begun") as response:
                await response.read()


async def test_a_table_has_no_effect_on_a_checker() -> None:
    """Its errors are faults: an entry for KeyError must not turn them into an answer."""

    class Vault(Service):
        problems: ClassVar = {KeyError: 404}

        @http_bearer
        def user(self, token: str) -> str:
            raise KeyError(token)

        security = (user,)

        @get("/gold")
        async def gold(self) -> None: ...

        @get("/open", security=None)
        async def open(self) -> None:
            raise KeyError("x")

    async with pubsubtest.serve(Vault) as vault:
        headers = {"Authorization": "Bearer t"}
        async with vault.http.get("/gold", headers=headers) as response:
            assert response.status == 500
        async with vault.http.get("/open") as response:
            assert response.status == 404


@pytest.mark.parametrize("result", [None, 409, web.Response()])
async def test_a_function_of_the_table_that_fails_is_500(
    result: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the function and the exception that it was called for."""

    def broken_maker(error: Exception) -> Any:
        if result is None:
            raise ValueError("broken")
        return result

    class Broken(Service):
        problems: ClassVar = {DomainError: broken_maker}

        @get("/")
        async def fails(self) -> None:
            raise DomainError("the cause")

    async with pubsubtest.serve(Broken) as served, served.http.get("/") as response:
        assert response.status == 500
    text = "".join(logging.Formatter().format(each) for each in caplog.records if each.exc_info)
    assert "the cause" in text
    assert ("broken" if result is None else "broken_maker of problems returned") in text


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ((404,), r"problems is \(404,\); write \{OutOfStock: 409\}"),
        ({"DomainError": 409}, "'DomainError', which is not a class of exceptions"),
        ({DomainError(): 409}, "which is not a class of exceptions"),
        ({Exception: 400}, "Exception, which would hide each fault of the service"),
        ({Problem: 400}, "Problem, which is a response already"),
        ({web.HTTPNotFound: 400}, "HTTPNotFound, which is a response already"),
        ({asyncio.CancelledError: 400}, "CancelledError, which ends the task"),
        ({ExceptionGroup: 400}, "whose members are looked up one by one"),
        ({DomainError: 200}, "the status 200; write 400 to 599"),
        ({DomainError: True}, "True, which is no status"),
        ({DomainError: "409"}, "'409', which is no status"),
        ({DomainError: fail}, "fail, which is async"),
    ],
)
def test_a_wrong_table_ends_the_start(table: Any, reason: str) -> None:
    """The error names the class and the line."""

    class Broken(Service):
        problems: ClassVar = table

        @get("/")
        async def index(self) -> None: ...

    with pytest.raises(DeclarationError, match=rf"{__file__}:\d+: \S+: .*{reason}"):
        SimpleServer(Broken())


def test_a_table_of_an_object_ends_the_start() -> None:
    """It would have no effect."""

    class Broken(Service):
        def __init__(self, settings: Any = None) -> None:
            super().__init__(settings)
            vars(self)["problems"] = {DomainError: 409}

    with pytest.raises(DeclarationError, match="sets problems on an object; set it on the class"):
        SimpleServer(Broken())


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (404, r"problems=404 is not a list of statuses; write problems=\(404, 409\)"),
        ("404", "is not a list of statuses"),
        ((200,), "200, which is not the status of an error"),
        ((True,), "True, which is neither a status nor an exception"),
        ((ValueError,), "ValueError, which has no status; add it to the table"),
        ((OutOfStock,), "OutOfStock, whose status a function decides; write the status"),
    ],
)
def test_a_wrong_problem_of_an_endpoint_ends_the_start(option: Any, reason: str) -> None:
    """The error names the method and the line."""

    class Broken(Shop):
        @get("/wrong", problems=option)
        async def index(self) -> None: ...

    with pytest.raises(DeclarationError, match=rf"{__file__}:\d+: \S+index: .*{reason}"):
        SimpleServer(Broken())
