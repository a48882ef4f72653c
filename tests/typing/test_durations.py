"""One rule for durations: seconds, a text such as ``1m30s``, or a timedelta, in every public call.

mypy checks the types of this file (``make check``); pytest runs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, assert_type

import pytest

import gizmopy
import pubsubtest
from gizmopy import (
    Retry,
    RetryPolicy,
    Service,
    Settings,
    SimpleServer,
    background,
    every,
    get,
    health_check,
    subscribe,
)
from gizmopy.config import DurationLike
from gizmopy.errors import DeclarationError, UsageError
from gizmopy.pubsub.middleware import MemoryStore, circuit_breaker, idempotent, timeout
from gizmopy.pubsub.subscription import collect_subscriptions
from gizmopy.server.health.checks import collect_health_checks
from gizmopy.server.jobs.declaration import BackgroundOptions, EveryOptions, collect_jobs
from gizmopy.web import CORS
from gizmopy.web.decorators import collect_routes

ALIKE: tuple[DurationLike, ...] = (90, 90.0, "90", "1m30s", "1.5m", timedelta(minutes=1.5))
WRONG: tuple[Any, ...] = ("soon", "", "-5s", "5 s", math.nan, math.inf, 10**400, True, b"5s", [5])


def _timeout_of_an_endpoint(value: DurationLike) -> float | None:
    class Cats(Service):
        @get("/cats", timeout=value)
        async def cats(self) -> int:
            return 1

    return collect_routes(Cats())[0].options.timeout


def _timeout_of_a_check(value: DurationLike) -> float:
    class Cats(Service):
        @health_check(timeout=value)
        async def store(self) -> None: ...

    return collect_health_checks(Cats())[0].timeout


def _interval(value: DurationLike) -> float:
    class Cats(Service):
        @every(value)
        async def feed(self) -> None: ...

    return _every_options(Cats()).interval


def _options_of_a_job(value: DurationLike) -> float:
    class Cats(Service):
        @every("1h", timeout=value, jitter=value)
        async def feed(self) -> None: ...

    options = _every_options(Cats())
    assert options.timeout == options.jitter
    return options.jitter


def _every_options(service: Service) -> EveryOptions:
    (job,) = collect_jobs(service)
    assert isinstance(job.options, EveryOptions)
    return job.options


def _backoff(value: DurationLike) -> float:
    class Cats(Service):
        @background(backoff=value, max_backoff=value)
        async def watch(self) -> None: ...

    options = collect_jobs(Cats())[0].options
    assert isinstance(options, BackgroundOptions)
    assert options.backoff == options.max_backoff
    return options.backoff


def _wait_of_a_batch(value: DurationLike) -> float:
    class Cats(Service):
        @subscribe("cats", batch_size=10, batch_wait=value)
        async def on_cats(self, cats: list[str]) -> None: ...

    return collect_subscriptions(Cats(), "cats")[0].batch_wait


def _max_age(value: DurationLike) -> float:
    return float(CORS(["https://app.example.com"], max_age=value)._max_age)


READ: dict[str, Callable[[DurationLike], float | None]] = {
    "@get(timeout=)": _timeout_of_an_endpoint,
    "@health_check(timeout=)": _timeout_of_a_check,
    "@every()": _interval,
    "@every(timeout=, jitter=)": _options_of_a_job,
    "@background(backoff=, max_backoff=)": _backoff,
    "@subscribe(batch_wait=)": _wait_of_a_batch,
    "Retry(after=)": lambda value: Retry(after=value).after,
    "RetryPolicy(base=)": lambda value: RetryPolicy(base=value).base,
    "RetryPolicy(cap=)": lambda value: RetryPolicy(cap=value).cap,
    "CORS(max_age=)": _max_age,
    "Settings(shutdown_timeout=)": lambda value: Settings(
        shutdown_timeout=value
    ).shutdown_timeout.total_seconds(),
}
MADE: dict[str, Callable[[DurationLike], object]] = {
    "timeout()": timeout,
    "circuit_breaker(seconds=)": lambda value: circuit_breaker(seconds=value),
    "idempotent(in_progress=)": lambda value: idempotent(MemoryStore(), in_progress=value),
    "idempotent(done=)": lambda value: idempotent(MemoryStore(), done=value),
}


@pytest.mark.parametrize("where", READ)
def test_a_duration_is_read_alike_everywhere(where: str) -> None:
    """A number, a text and a timedelta are the same number of seconds."""
    assert [READ[where](value) for value in ALIKE] == [90] * len(ALIKE)


@pytest.mark.parametrize("where", MADE)
def test_a_middleware_takes_every_kind_of_duration(where: str) -> None:
    """None of them is refused."""
    for value in ALIKE:
        assert callable(MADE[where](value))


@pytest.mark.parametrize("where", [*READ, *MADE])
@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:10])
def test_what_is_no_duration_is_refused(where: str, value: Any) -> None:
    """The error says how to write one; that of a declaration has its place."""
    read = {**READ, **MADE}[where]
    with pytest.raises((DeclarationError, UsageError, ValueError)) as refused:
        read(value)
    assert "1m30s" in str(refused.value)
    if where.startswith("@"):
        assert isinstance(refused.value, DeclarationError)
        assert __file__ in str(refused.value)


async def test_a_test_takes_every_kind_of_duration() -> None:
    """``deliver`` of pubsubtest reads its timeout like the rest."""

    class Cats(Service):
        @subscribe("cats")
        async def on_cat(self, cat: str) -> None: ...

    async with pubsubtest.serve(Cats) as cats:
        for value in ALIKE:
            assert await cats.deliver("cats", "Tom", timeout=value) == "ack"


class CatSettings(Settings):
    naps: int = 1


class Cats(Service):
    settings: CatSettings
    name = "cats"
    prefix = "/svc"
    tags = ("cats",)
    publishes = ("cats",)


def test_a_server_takes_every_service() -> None:
    """``SimpleServer(MyService())`` needs no cast, whatever class attributes the service has."""
    server = SimpleServer(Cats(CatSettings(naps=3, shutdown_timeout="5s")))
    assert_type(server, SimpleServer)
    assert_type(Cats().settings, CatSettings)
    assert_type(gizmopy.time_left(), float | None)
    assert_type(Retry(after="5s").after, float | None)
    assert_type(RetryPolicy(cap="1m").cap, float)
    with pytest.raises(UsageError):
        Retry(after=b"5s")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"call it: Cats\(\)"):
        SimpleServer(Cats)  # type: ignore[arg-type]
