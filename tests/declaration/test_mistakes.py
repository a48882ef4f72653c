"""Mistakes in declarations: each error has the file, the line, the method and the remedy."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Literal, cast

import pytest
from aiohttp import web
from annotated_types import Gt, MinLen
from pydantic import Field

from gizmopy import LastEventID, Problem, Settings
from gizmopy.declaration.signatures import REQUIRED
from gizmopy.errors import DeclarationError
from gizmopy.pubsub import collect_subscriptions, subscribe
from gizmopy.web import Body, Header, Query, get, put
from gizmopy.web.binding import compile_endpoint
from gizmopy.web.decorators import collect_routes

wrong_get: Any = get
wrong_put: Any = put
wrong_subscribe: Any = subscribe


def refusal(decorate: Callable[[Any], Any], method: Any = None) -> str:
    """Return the error of a service with one decorated method."""

    async def endpoint(self: Any, body: bytes = b"") -> None: ...

    def start() -> None:
        service = type("Service", (), {"method": decorate(method or endpoint)})()
        for route in collect_routes(service):
            compile_endpoint(route)
        collect_subscriptions(service, "service")

    with pytest.raises(DeclarationError, match=rf"^{__file__}:\d+: \S+: ") as refused:
        start()
    return str(refused.value)


@pytest.mark.parametrize(
    ("decorate", "remedy"),
    [
        (
            lambda f: wrong_subscribe("a", deadletter="b")(f),
            "no option deadletter=; write dead_letter=",
        ),
        (lambda f: wrong_subscribe("a", batchsize=5)(f), "write batch_size="),
        (lambda f: wrong_subscribe()(f), 'write @subscribe("channel")'),
        (lambda f: wrong_subscribe("a", "b")(f), 'write @subscribe("channel")'),
        (
            lambda f: wrong_subscribe("a", concurrency="5")(f),
            "concurrency='5' is not a whole number",
        ),
        (
            lambda f: wrong_subscribe("a", concurrency=2.5)(f),
            "concurrency=2.5 is not a whole number",
        ),
        (lambda f: wrong_subscribe("a", batch_size=2, batch_wait="soon")(f), "a number of seconds"),
        (lambda f: wrong_subscribe("a", retry=5)(f), "such as RetryPolicy(attempts=5)"),
        (lambda f: wrong_subscribe("a", dead_letter=None)(f), "is not the name of a channel"),
        (lambda f: wrong_subscribe("a", middleware=print)(f), "is not a list of functions"),
        (lambda f: wrong_subscribe(5)(f), "channel=5 is not the name of a channel"),
        (lambda f: wrong_get("/a", time_out=5)(f), "no option time_out=; write timeout="),
        (lambda f: wrong_get("/a", response_model=int)(f), "use one of: cancel_on_disconnect, "),
        (lambda f: wrong_get()(f), 'write @get("/path")'),
        (lambda f: wrong_get("/a", 5)(f), 'write @get("/path")'),
        (lambda f: wrong_get(5)(f), 'has the path 5, which is no text; write @get("/path")'),
        (lambda f: wrong_get("/a", timeout="soon")(f), "'soon' is not a duration"),
        (lambda f: wrong_put("/a", max_body="10 cats")(f), 'write max_body="10MB"'),
        (lambda f: wrong_put("/a", max_body=True)(f), "max_body=True is not a number of bytes"),
    ],
)
def test_a_wrong_call_of_a_decorator_names_the_method(
    decorate: Callable[[Any], Any], remedy: str
) -> None:
    """Python's own error has neither the method nor the option that was meant."""
    assert remedy in refusal(decorate)


async def generator(self: Any) -> AsyncIterator[int]:
    """Yield a number."""
    yield 1


def not_async(self: Any) -> None:
    """Do nothing."""


async def without_self() -> None:
    """Do nothing."""


def test_a_handler_is_no_generator() -> None:
    """An endpoint may be one: it streams."""
    remedy = "has a 'yield', so it is an async generator; return one value"
    assert remedy in refusal(subscribe("a"), generator)


@pytest.mark.parametrize("decorator", [get("/a"), subscribe("a")])
@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        (not_async, "is not async; declare it with 'async def'"),
        (without_self, "has no parameter for its object; add self"),
    ],
)
def test_a_method_of_a_wrong_kind_is_named(decorator: Any, method: Any, remedy: str) -> None:
    """Endpoints and handlers have the same errors."""

    def copy(*_: Any) -> Any:
        return type(method)(method.__code__, method.__globals__, method.__name__)

    made = copy()
    made.__annotations__ = method.__annotations__
    assert remedy in refusal(decorator, made)


@pytest.mark.parametrize("default", [Header("X"), Query("x"), Header, Query])
def test_a_mark_is_no_default(default: Any) -> None:
    """``name: str = Header("X")`` is FastAPI's notation; the method would be given the mark."""

    async def endpoint(self: Any, name: str = default) -> None: ...

    assert "as its default; write name: Annotated[..., " in refusal(get("/a"), endpoint)


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("/a/:id", "has no variable; write {id}"),
        ("/a/<id>", "has no variable; write {id}"),
        ("/a/{id:int}", "'int' in '{id:int}' is a regular expression, not a type; write {id} and"),
    ],
)
def test_a_path_in_the_notation_of_others_is_refused(path: str, remedy: str) -> None:
    """The path would match no number, and the parameter would come from the query."""

    async def endpoint(self: Any, id: int) -> None: ...

    assert remedy in refusal(get(path), endpoint)


@pytest.mark.parametrize("table", [5, None, [], {"/a": 5}, {"/a": {"GET": "a"}}])
def test_a_table_of_a_wrong_shape_is_refused(table: Any) -> None:
    """The error has the place of the method that returns it."""

    class Service:
        def endpoints(self) -> Any:
            return table

    with pytest.raises(DeclarationError, match=rf"^{__file__}:\d+: .*must return a table"):
        collect_routes(Service())


def test_endpoints_is_a_plain_method() -> None:
    """Neither an attribute nor an async method."""

    class Attribute:
        endpoints: Any = {}  # noqa: RUF012 - the mistake in question

    class Async:
        async def endpoints(self) -> Any:
            return {}

    for service in (Attribute(), Async()):
        with pytest.raises(DeclarationError, match=rf"^{__file__}:\d+: .*method without async"):
            collect_routes(service)


class Color(StrEnum):
    """The values of a parameter."""

    RED = "red"


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (int, "five"),
        (int, "5"),
        (int | None, "five"),
        (list[int], 5),
        (str, 5),
        (bool, "yes"),
        (date, "2026-12-01"),
        (Color, "red"),
        (Literal["a", "b"], "c"),
        (Annotated[int, Query("limit")], 2.5),
    ],
)
def test_a_default_of_another_type_is_refused(annotation: Any, default: Any) -> None:
    """A request without the parameter would give the endpoint a value of a wrong type."""

    async def endpoint(self: Any, limit: Any = default) -> None: ...

    endpoint.__annotations__["limit"] = annotation
    text = refusal(get("/a"), endpoint)
    assert f"parameter 'limit' has the default {default!r}, which is no " in text


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (int, None),
        (float, 5),
        (str, ""),
        (Annotated[str, MinLen(1)], ""),
        (Annotated[int, Gt(0)], 0),
        (Color, Color.RED),
        (int | str, "all"),
        (Sequence[int], ()),
        (Literal["a", "b"], "a"),
    ],
)
def test_a_default_may_break_a_constraint(annotation: Any, default: Any) -> None:
    """Such a value may say that the request had none."""

    async def endpoint(self: Any, limit: Any = default) -> None: ...

    endpoint.__annotations__["limit"] = annotation
    service = type("Service", (), {"method": get("/a")(endpoint)})()
    for route in collect_routes(service):
        compile_endpoint(route)


def _of_fastapi(name: str) -> Any:
    return type(name, (), {"__module__": "fastapi.params"})


@pytest.mark.parametrize(
    ("annotation", "default", "remedy"),
    [
        (int, Field(1, ge=1), r"write x: Annotated\[..., Field\(...\)\], and the default behind"),
        (str, _of_fastapi("Depends")(), "Depends of fastapi, which has no effect here; set what"),
        (Annotated[str, _of_fastapi("Depends")()], REQUIRED, "Depends of fastapi"),
        (_of_fastapi("Request"), REQUIRED, "write request: aiohttp.web.Request"),
        (_of_fastapi("BackgroundTasks"), REQUIRED, "publish a message"),
        (web.Response, REQUIRED, "is a response, which an endpoint returns; remove it"),
        (web.Application, REQUIRED, "is an application of aiohttp"),
        (Settings, REQUIRED, "use self.settings, or take them in __init__"),
        (Annotated[str, Header("X T")], REQUIRED, r'no name of a header; write Header\("X-Name"\)'),
        (Annotated[str, Header(cast(Any, 5))], REQUIRED, "whose name is no text"),
        (Annotated[str, Query(cast(Any, int))], REQUIRED, "whose name is no text"),
        (LastEventID, REQUIRED, "EventSource has no Last-Event-ID"),
    ],
)
def test_a_parameter_in_the_notation_of_others_is_refused(
    annotation: Any, default: Any, remedy: str
) -> None:
    """It would have no effect, or be read from the wrong part of the request."""

    async def endpoint(self: Any, x: Any = default) -> None: ...

    if default is REQUIRED:
        endpoint.__defaults__ = None
    endpoint.__annotations__["x"] = annotation
    assert re.search(remedy, refusal(get("/a"), endpoint))


def test_a_media_type_of_a_body_has_two_parts() -> None:
    """No request could have it: each would be 415."""

    async def endpoint(self: Any, data: Annotated[bytes, Body("png")]) -> None: ...

    assert "Body of 'png', which is no media type" in refusal(put("/a"), endpoint)


@pytest.mark.parametrize("path", ["/a/<int:id>", "/a/<id>", "/a/:id"])
def test_a_variable_of_a_path_is_in_braces(path: str) -> None:
    """The path would match only its own text."""

    async def endpoint(self: Any, id: int) -> None: ...

    assert "has no variable; write {id}" in refusal(get(path), endpoint)


@pytest.mark.parametrize("name", ["cross_origin", "endless", "unsafe_path", "cancel_on_disconnect"])
def test_the_text_no_is_not_false(name: str) -> None:
    """It would count as true."""

    assert f"{name}='no' is not True or False" in refusal(wrong_put("/a", **{name: "no"}))


def test_a_limit_of_a_body_that_is_not_read_is_refused() -> None:
    """An endpoint that takes the request may read the body itself."""

    async def endpoint(self: Any) -> None: ...

    async def raw(self: Any, request: web.Request) -> None: ...

    assert "max_parts=5 has no effect" in refusal(put("/a", max_parts=5), endpoint)
    assert "a GET request has no body" in refusal(get("/a", max_body="1MB"), endpoint)
    service = type("Service", (), {"raw": put("/a", max_parts=5, max_body=5)(raw)})()
    assert [compile_endpoint(route) for route in collect_routes(service)]


@pytest.mark.parametrize(
    ("annotation", "remedy"),
    [
        (tuple[Literal[99], int], "returns the status 99; write 200 to 599"),
        (tuple[Literal[204], int], "no body; write tuple[Literal[204], None]"),
        (tuple[Literal[200], int] | tuple[Literal[1000], str], "the status 1000"),
        (Problem, "returns a Problem; raise it"),
        (int | Problem, "returns a Problem; raise it"),
    ],
)
def test_a_result_that_cannot_be_sent_is_refused(annotation: Any, remedy: str) -> None:
    """Each request would be 500, or lose its body."""

    async def endpoint(self: Any) -> Any: ...

    endpoint.__annotations__["return"] = annotation
    assert remedy in refusal(get("/a"), endpoint)


@pytest.mark.parametrize(
    "annotation",
    [tuple[Literal[204], None], tuple[Literal[204], Any], tuple[Literal[200, 204], int]],
)
def test_a_status_without_a_body_may_be_declared(annotation: Any) -> None:
    """With None, or beside a status that has a body."""

    async def endpoint(self: Any) -> Any: ...

    endpoint.__annotations__["return"] = annotation
    service = type("Service", (), {"method": get("/a")(endpoint)})()
    assert [compile_endpoint(route) for route in collect_routes(service)]


def test_a_method_without_self_is_refused() -> None:
    """The value of the request would be ignored."""

    async def endpoint(x: int) -> int:
        return x

    assert "takes its object as 'x'; add self" in refusal(get("/a"), endpoint)
    assert "takes its object as 'x'; add self" in refusal(wrong_subscribe("a"), endpoint)
