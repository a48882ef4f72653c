"""The declarations of background work: found under every inheritance, refused if wrong."""

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any, Generic, TypeVar

import pytest

import pubsubtest
from gizmopy import Endpoints, Service, background, every, get
from gizmopy.errors import DeclarationError
from gizmopy.server import SimpleServer
from gizmopy.server.jobs.declaration import (
    BackgroundOptions,
    DeclaredJob,
    EveryOptions,
    collect_jobs,
)

T = TypeVar("T")


async def _job(self: object) -> None: ...


def _jobs(*owners: object) -> dict[str, DeclaredJob]:
    return {each.name: each for each in collect_jobs(owners[0], owners[1:])}


class Shop(Service):
    @every("30s")
    async def expire(self) -> None: ...

    @background
    async def watch(self) -> None: ...


class Orders(Endpoints):
    @every(2.5, timeout="1s", jitter=0, immediately=True, critical=True)
    async def expire(self) -> None: ...

    @background(backoff="100ms", max_backoff=timedelta(seconds=5), critical=True)
    async def follow(self) -> None: ...


def test_a_service_and_its_mounts_have_jobs() -> None:
    """A job is named after the class and the method of its object."""
    jobs = _jobs(Shop(), Orders())
    assert list(jobs) == ["Shop.expire", "Shop.watch", "Orders.expire", "Orders.follow"]
    assert jobs["Shop.expire"].options == EveryOptions(30, 3, None, False, False)
    assert jobs["Shop.watch"].options == BackgroundOptions(1, 60, False)
    assert jobs["Orders.expire"].options == EveryOptions(2.5, 0, 1, True, True)
    assert jobs["Orders.follow"].options == BackgroundOptions(0.1, 5, True)


def test_two_objects_of_one_class_have_numbered_jobs() -> None:
    """A class may be mounted twice, so the names of its jobs differ by a number."""
    assert list(_jobs(Service(), Orders(), Orders())) == [
        *("Orders.expire", "Orders.follow", "Orders.expire-2", "Orders.follow-2"),
    ]


async def test_a_job_is_still_a_method() -> None:
    """A decorated method is called like any other: a unit test needs no daemon."""

    class Counting(Service):
        runs = 0

        @every("1h")
        async def count(self) -> int:
            self.runs += 1
            return self.runs

    counting = Counting()
    assert await counting.count() == 1


def test_an_override_takes_over_the_declaration() -> None:
    """A method that overrides a job is one; a decorator of its own replaces the declaration."""

    class Slow(Shop):
        async def expire(self) -> None: ...

        @background(critical=True)
        async def watch(self) -> None: ...

    class Fast(Shop):
        expire = None  # type: ignore[assignment]

    assert _jobs(Slow())["Slow.expire"].options == EveryOptions(30, 3, None, False, False)
    assert _jobs(Slow())["Slow.watch"].options == BackgroundOptions(1, 60, True)
    assert list(_jobs(Fast())) == ["Fast.watch"]


def test_an_override_is_checked() -> None:
    """An override without a decorator is refused if it could not run."""

    class Sync(Shop):
        def expire(self) -> None:  # type: ignore[override]
            ...

    class Taking(Shop):
        async def watch(self, seconds: int = 1) -> None: ...

    with pytest.raises(DeclarationError, match=r"Sync.expire: is not async"):
        _jobs(Sync())
    with pytest.raises(DeclarationError, match=r"Taking.watch: takes seconds, and background"):
        _jobs(Taking())


def test_two_bases_with_one_name_are_refused() -> None:
    """A job of an unrelated base is not lost in silence."""

    class Cats:
        @every("1s")
        async def refresh(self) -> None: ...

    class Dogs:
        @background
        async def refresh(self) -> None: ...

    class Helper:
        async def refresh(self) -> None: ...

    for bases in ((Cats, Dogs), (Helper, Cats)):
        zoo = type("Zoo", (*bases, Service), {})
        with pytest.raises(DeclarationError, match="hides 'refresh' of"):
            _jobs(zoo())


def test_a_name_used_twice_in_one_class_is_refused() -> None:
    """A job that a later method of its name replaces is not lost in silence."""

    class Twice(Service):
        @every("1s")
        async def refresh(self) -> None: ...

        async def refresh(self) -> None:  # type: ignore[no-redef]  # noqa: F811
            ...

    with pytest.raises(DeclarationError, match="is replaced by"):
        _jobs(Twice())


def test_static_and_class_methods_are_jobs() -> None:
    """The decorator may be above or below @staticmethod and @classmethod."""

    class Mixed(Service):
        @every("1s")
        @staticmethod
        async def one() -> None: ...

        @every("1s")
        @classmethod
        async def other(cls) -> None: ...

        @classmethod
        @background
        async def third(cls) -> None: ...

    assert list(_jobs(Mixed())) == ["Mixed.one", "Mixed.other", "Mixed.third"]


async def test_a_wrapped_method_is_a_job() -> None:
    """A decorator with functools.wraps, above or below the declaration, is called."""
    called = []

    def logged(method: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        @functools.wraps(method)
        async def call(self: Any) -> None:
            called.append(method.__name__)
            await method(self)

        return call

    class Wrapped(Service):
        @every("1s")
        @logged
        async def below(self) -> None: ...

        @logged
        @every("1s")
        async def above(self) -> None: ...

    for job in _jobs(Wrapped()).values():
        await job.method()
    assert called == ["below", "above"]


def test_a_generic_class_has_jobs() -> None:
    """The type variables of a generic class do not matter to its jobs."""

    class Keeper(Endpoints, Generic[T]):
        @every("1s")
        async def expire(self) -> None: ...

    assert list(_jobs(Service(), Keeper[int]())) == ["Keeper.expire"]


def test_an_endpoint_may_be_a_job() -> None:
    """One method may be an endpoint and run periodically as well."""

    class Both(Service):
        @get("/refresh")
        @every("1s")
        async def refresh(self) -> None: ...

    server = SimpleServer(Both())
    assert [job.name for job in server.application.jobs.all] == ["Both.refresh"]
    assert [route.path for route in server.routes] == ["/refresh"]


async def _generator(self: object) -> AsyncIterator[int]:
    yield 1


def _sync(self: object) -> None: ...


async def _taking(self: object, number: int) -> None: ...


async def _defaulting(self: object, number: int = 1) -> None: ...


async def _variadic(self: object, *numbers: int) -> None: ...


async def _bare() -> None: ...


_any_every: Any = every
_any_background: Any = background


@pytest.mark.parametrize(
    ("decorate", "method", "reason"),
    [
        (every("1s"), _sync, "is not async; declare it with 'async def'"),
        (background, _sync, "is not async"),
        (every("1s"), _generator, "has a 'yield', so it is an async generator; background work"),
        (background(), _generator, "has a 'yield'"),
        (every("1s"), _taking, "takes number, and background work takes no arguments"),
        (every("1s"), _defaulting, "takes number, "),
        (background, _variadic, "takes numbers, "),
        (background, _bare, "has no parameter for its object; add self"),
        (every, _job, 'is decorated without an interval; write @every("30s")'),
        (_any_every(), _job, 'write @every("30s")'),
        (every(0), _job, "interval=0 is out of range; use 1ms to 8784h"),
        (every("0s"), _job, "interval='0s' is out of range"),
        (every(-1), _job, "interval=-1 is out of range"),
        (every("500us"), _job, "interval='500us' is out of range"),
        (
            every("-1s"),
            _job,
            "interval: '-1s' is negative; write a number of seconds, a text like '1m30s'",
        ),
        (every("soon"), _job, "interval: 'soon' is not a duration; write a number of seconds"),
        (every("1 day"), _job, "interval: '1 day' is not a duration"),
        (every(timedelta(0)), _job, "interval=datetime.timedelta(0) is out of range"),
        (every(float("nan")), _job, "interval: nan is not a duration; write"),
        (every(float("inf")), _job, "interval: inf is not a duration"),
        (every(1e300), _job, "interval=1e+300 is out of range"),
        (every(True), _job, "interval: True is not a duration"),
        (_any_every(None), _job, "interval: None is not a duration"),
        (every("1s", timeout=0), _job, "timeout=0 is out of range"),
        (every("1s", timeout="x"), _job, "timeout: 'x' is not a duration"),
        (every("1s", jitter="2s"), _job, "jitter='2s' is longer than the interval; use at most"),
        (every("1s", jitter=-1), _job, "jitter=-1 is out of range; use 0s to 8784h"),
        (_any_every("1s", immediately=1), _job, "immediately=1 is not True or False"),
        (_any_every("1s", critical="yes"), _job, "critical='yes' is not True or False"),
        (background(backoff=0), _job, "backoff=0 is out of range"),
        (background(backoff="2m"), _job, "max_backoff='1m' is shorter than backoff='2m'"),
        (_any_background(critical=0), _job, "critical=0 is not True or False"),
        (_any_every("1s", timout=1), _job, "there is no option timout=; write timeout="),
        (_any_every("1s", workers="one"), _job, "workers= is reserved: a later version"),
        (_any_every("1s", once="fleet"), _job, "once= is reserved: a later version"),
        (_any_background(workers="each"), _job, "workers= is reserved"),
        (_any_background(once="fleet"), _job, "so remove it, and use a lock in your database"),
        (every("1s"), "refresh", "'refresh'"),
        (background, Shop, "decorate an async method"),
    ],
)
def test_a_wrong_declaration_is_refused_where_it_is_made(
    decorate: Any, method: Any, reason: str
) -> None:
    """The error has the reason, and the file and line of the method."""
    with pytest.raises(DeclarationError) as caught:
        decorate(method)
    assert reason in str(caught.value)
    if inspect.isfunction(method):
        line = method.__code__.co_firstlineno
        assert str(caught.value).startswith(f"{__file__}:{line}: {method.__name__}: ")


def test_background_takes_no_duration() -> None:
    """A mistaken @background("30s") has the right call in its error."""
    with pytest.raises(
        DeclarationError, match=r"_job: is decorated with '30s'; write @every\('30s"
    ):
        _any_background("30s")(_job)


def test_a_method_is_declared_once() -> None:
    """A method is not both @every and @background, nor one of them twice."""
    others: list[Any] = [background, every("1s")]
    for other in others:

        async def method(self: object) -> None: ...

        with pytest.raises(DeclarationError, match="is declared as background work twice"):
            other(every("1s")(method))


def test_a_class_is_refused_while_it_is_made() -> None:
    """The mistake is reported on import, before anything runs."""
    with pytest.raises(DeclarationError, match="is not async"):

        class Wrong(Service):
            @every("1s")  # type: ignore[type-var]
            def refresh(self) -> None: ...


def test_a_job_does_not_replace_a_member_of_its_base() -> None:
    """A job cannot be called as a method of Service or Endpoints."""

    async def publish(self: Any) -> None: ...

    for base in (Service, Endpoints):
        with pytest.raises(DeclarationError, match="'publish' is a member of"):
            type("Wrong", (base,), {"publish": every("1s")(publish)})
        del publish.__dict__["__gizmo_job__"]


async def test_a_mounted_object_alone_has_its_jobs() -> None:
    """pubsubtest.serve runs the jobs of an object of Endpoints."""

    class Warm(Endpoints):
        is_warm = False

        @every("1h", immediately=True)
        async def warm(self) -> None:
            self.is_warm = True

    async with pubsubtest.serve(Warm(), clock=pubsubtest.Clock()) as warm:
        await warm.idle()
        assert warm.service.is_warm


def test_mounts_come_after_the_service() -> None:
    """SimpleServer reads the jobs of all mounted objects."""

    class Market(Shop):
        def mounts(self) -> Iterable[Endpoints]:
            return [Orders()]

    names = [job.name for job in SimpleServer(Market()).application.jobs.all]
    assert names == ["Market.expire", "Market.watch", "Orders.expire", "Orders.follow"]
