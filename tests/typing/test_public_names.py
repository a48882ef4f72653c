"""The types of the public names, as mypy infers them in a service: ``make check`` fails otherwise.

``assert_type`` does nothing at run time; pytest runs the same code, so that it stays valid. Each
``type: ignore`` stands at an error that mypy must report: an unused one fails ``make check``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any, assert_type

import pytest
from aiohttp import web
from pydantic import BaseModel

import pubsubtest
from gizmopy import (
    Body,
    Caller,
    CloudEvent,
    Cookie,
    Duration,
    Endpoints,
    Event,
    EventStream,
    FileResponse,
    Form,
    Header,
    LastEventID,
    Message,
    Problem,
    Query,
    Reject,
    Retry,
    RetryPolicy,
    Service,
    Settings,
    UploadFile,
    api_key,
    background,
    every,
    get,
    health_check,
    http_basic,
    http_bearer,
    post,
    subscribe,
)
from gizmopy.errors import DeclarationError, UsageError
from gizmopy.pubsub.middleware import timeout
from gizmopy.web import (
    CORS,
    EndpointTable,
    Handler,
    HTTPMiddleware,
    json_response,
    no_cache,
    same_secret,
)
from pubsubtest.serve import Served


class Cat(BaseModel):
    name: str


class CatSettings(Settings):
    nap: Duration = timedelta(minutes=20)


class SoldOut(Exception):
    item = "apple"


def sold_out(error: SoldOut) -> Problem:
    """Return the problem of an exception."""
    return Problem(410, f"{error.item} is sold out.")


class Users(Endpoints):
    problems = {  # noqa: RUF012 - without ClassVar, as most users write it
        LookupError: 404,
        SoldOut: sold_out,
        PermissionError: Problem(403),
        OSError: lambda error: Problem(503, str(error)),
    }

    @http_bearer
    async def user(self, token: str) -> Cat | None:
        return Cat(name=token)

    @http_basic(realm="users")
    def member(self, username: str, password: str) -> Cat:
        return Cat(name=username)

    @api_key(header="X-API-Key")
    def machine(self, key: str, request: web.Request) -> bool:
        return same_secret(key, "secret")

    security = (user, member, None)

    @get("/me")
    async def me(self, caller: Caller[Cat | None]) -> Cat | None:
        assert_type(caller, Cat | None)
        assert_type(await self.user("token"), Cat | None)
        return caller

    @get("/tagged")
    async def tagged(self) -> tuple[Cat, Annotated[str | None, Header("ETag")]] | None:
        return Cat(name="Tom"), '"1"'

    @get("/open", security=None, problems=(404, LookupError))
    async def open(self) -> None: ...

    @get("/machine", security=machine)
    async def for_machines(self, caller: Caller[bool]) -> bool:
        return caller


class Wardens(Endpoints):
    def __init__(self, users: Users) -> None:
        self.security = [users.user]

    @get("/cat", security=[])
    async def cat(self, caller: Caller[Cat]) -> str:
        return caller.name


class Cats(Service):
    settings: CatSettings
    middleware = (no_cache, CORS(["https://app.example.com"]))
    message_middleware = (timeout(5),)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield

    @get("/cats/{id}", timeout=2.5)
    async def get_cat(self, id: int, tenant: Annotated[str, Header("X-Tenant")] = "") -> Cat:
        raise Problem(404, f"There is no cat {id}.", headers={"X-Tenant": tenant}, cat=id)

    @post("/cats")
    async def post_cat(self, new: Cat, size: Annotated[int, Query("page-size")] = 1) -> None: ...

    @post("/photos", max_body="10MB", max_parts=3)
    async def photos(
        self, photo: UploadFile, more: list[UploadFile], cat: Annotated[Cat, Form()]
    ) -> bytes:
        assert_type(photo.filename, str)
        assert_type(photo.size, int)
        async for piece in photo:
            assert_type(piece, bytes)
        await photo.save(cat.name)
        return await photo.read(7)

    @post("/texts", max_body=10)
    async def texts(self, text: Annotated[str, Body("text/csv", "text/plain")]) -> None: ...

    @get("/cats")
    async def cats(
        self, page: Annotated[Cat, Query()], session: Annotated[str | None, Cookie()] = None
    ) -> str:
        return page.name

    @subscribe("cats", concurrency=4, order="key", retry=RetryPolicy(attempts=2))
    async def on_cat(self, cat: Cat, message: Message) -> None:
        raise Retry(after=timedelta(seconds=1)) if message.attempt == 1 else Reject("no")

    @subscribe("naps", batch_size=10)
    async def on_naps(self, naps: list[Cat]) -> None: ...

    @health_check
    async def store(self) -> None: ...

    @every("30s", timeout=5, jitter=timedelta(0), immediately=True, critical=True)
    async def feed(self) -> int:
        return 3

    @background
    async def watch(self) -> None: ...

    @background(backoff="100ms", max_backoff=30, critical=True)
    async def listen(self) -> None: ...

    def endpoints(self) -> EndpointTable:
        return {"/table": {"GET": self.get_cat}}


class Streams(Service):
    @get("/lines")
    async def lines(self) -> AsyncIterator[Cat]:
        yield Cat(name="Tom")
        yield "Tom"  # type: ignore[misc]

    @get("/returned", endless=True)
    async def returned(self) -> AsyncIterator[Cat] | None:
        return self.lines()

    @get("/text", media_type="text/csv")
    async def text(self) -> AsyncIterator[str]:
        yield "a,b"

    @get("/events")
    async def events(self, last: LastEventID = None) -> EventStream[Cat]:
        assert_type(last, str | None)
        yield Cat(name="Tom")
        yield Event(Cat(name="Kit"), id=1, event="born", retry=500)
        yield Event(comment="nothing new")
        yield Event("Tom")  # type: ignore[arg-type]

    @get("/file")
    async def file(self) -> FileResponse:
        return FileResponse("a.pdf", root="/srv", filename="Ü.pdf", disposition="inline")

    @get("/sync")  # type: ignore[type-var]
    def sync(self) -> Iterable[Cat]:
        return ()


class Dogs(Endpoints):
    prefix = "/dogs"
    tags = ("dogs", "animals")
    middleware = (no_cache,)
    message_middleware = (timeout(5),)

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    @get("/{id}")
    async def get_dog(self, id: int) -> str:
        return self.names[id]

    @post("")
    async def post_dog(self, name: str) -> None:
        await self.publish("dogs", name, key=name)
        assert_type(await self.publish_many("dogs", [name]), Sequence[Exception | None])


class Puppies(Dogs):
    def __init__(self, number: int) -> None:
        super().__init__(["Rex"])
        self.prefix = f"/puppies/{number}"
        self.tags = ("puppies", "animals")


class Zoo(Service):
    def mounts(self) -> Iterable[Endpoints]:
        yield Dogs(["Pluto"])
        yield Puppies(1)


class List(Service):
    def mounts(self) -> list[Endpoints]:
        return [Dogs([])]


class Wrong(Service):
    def mounts(self) -> Iterable[Endpoints]:
        return [Dogs]  # type: ignore[list-item]


async def test_a_served_object_of_endpoints_keeps_its_class() -> None:
    """A test of a mounted object reaches its attributes; a class of Endpoints is not served."""
    async with pubsubtest.serve(Puppies(2)) as served:
        assert_type(served, Served[Puppies])
        assert_type(served.service.names, Sequence[str])
        response = await served.http.get("/puppies/2/0")
        assert await response.json() == "Rex"
    async with pubsubtest.serve(Zoo()) as zoo:
        assert_type(zoo.service, Zoo)
    assert len(list(List().mounts())) == 1
    with pytest.raises(UsageError, match="mounted, not run"):
        async with pubsubtest.serve(Dogs):  # type: ignore[type-var]
            pass


def test_decorators_keep_the_types_of_methods() -> None:
    """A decorated method can be called, and overridden, with its own signature."""
    cats = Cats()
    handled: Callable[[Cat, Message], Coroutine[Any, Any, None]] = cats.on_cat
    batch: Callable[[list[Cat]], Coroutine[Any, Any, None]] = cats.on_naps
    checked: Callable[[], Coroutine[Any, Any, None]] = cats.store
    assert handled == cats.on_cat
    assert batch == cats.on_naps
    assert checked == cats.store
    with pytest.raises(Problem):
        asyncio.run(assert_type(cats.get_cat(1), Coroutine[Any, Any, Cat]))


async def _handle(name: str) -> None:
    """Do nothing: it is declared only."""


def test_an_unknown_option_is_an_error() -> None:
    """mypy reports an option that a decorator does not have, and so does the decorator."""
    with pytest.raises(DeclarationError, match="retries"):
        get("/cats", retries=3)(_handle)  # type: ignore[call-arg]
    with pytest.raises(DeclarationError, match="workers"):
        subscribe("cats", workers=3)(_handle)  # type: ignore[call-arg]


def test_settings_have_the_types_of_the_annotated_class() -> None:
    """The settings of a service are those of its own class."""
    cats = Cats()
    assert_type(cats.settings, CatSettings)
    assert_type(cats.settings.nap, timedelta)
    assert_type(cats.settings.http_port, int)


def test_a_problem_has_typed_parts() -> None:
    """The status and the detail of a problem can be read, such as by a middleware."""
    problem = Problem(404, "There is no cat.")
    assert_type(problem.status, int)
    assert_type(problem.detail, str)
    with pytest.raises(ValueError, match="status"):
        Problem(200)


async def test_a_middleware_wraps_a_handler() -> None:
    """A function from a handler to a handler is an HTTP middleware."""

    def quiet(handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await handler(request)

        return handle

    async def answer(request: web.Request) -> web.StreamResponse:
        return json_response({"a": 1})

    middleware: Sequence[HTTPMiddleware] = (quiet, no_cache, CORS(["*"]))
    assert len(middleware) == 3
    response = await quiet(answer)(None)  # type: ignore[arg-type]
    assert_type(response, web.StreamResponse)
    assert response.status == 200


async def test_a_served_service_keeps_its_class() -> None:
    """A test reaches the attributes of its own service."""
    async with pubsubtest.serve(Cats) as served:
        assert_type(served, Served[Cats])
        assert_type(served.service, Cats)
        assert_type(served.service.settings.nap, timedelta)


def test_a_cloudevent_has_typed_parts() -> None:
    """An event is read from a message, and written as attributes or as a message."""
    event = CloudEvent(type="t", source="/s", extensions={"count": 5, "flag": True, "word": "x"})
    message = event.structured({"a": 1}, key="k")
    assert_type(message, Message)
    assert_type(CloudEvent.from_message(message), CloudEvent)
    assert_type(event.attributes(), dict[str, str])
    assert_type(message.request_id, str)
    assert_type(message.origin, str)
    with pytest.raises(UsageError):
        CloudEvent(type="t", source="/s", extensions={"ratio": 0.5})  # type: ignore[dict-item]


async def test_background_work_stays_a_method() -> None:
    """A job has the type of its method, and options that do not exist are errors of mypy."""
    assert_type(await Cats().feed(), int)
    assert_type(await Cats().watch(), None)
    assert_type(await Cats().listen(), None)

    def run(self: Cats) -> None: ...

    async def wait(self: Cats) -> None: ...

    for wrong in (
        lambda: every("30s")(run),  # type: ignore[type-var]
        lambda: background(run),  # type: ignore[type-var]
        lambda: every("30s", workers="one")(wait),  # type: ignore[call-arg]
        lambda: background(once="fleet")(wait),  # type: ignore[call-overload]
        lambda: every(None)(wait),  # type: ignore[arg-type]
    ):
        with pytest.raises(DeclarationError):
            wrong()
