"""An error that comes of the request's deadline is 504, whoever noticed the deadline first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

import pubsubtest
from gizmopy import Problem, Service, get, time_left

BOTH_LOOPS = True

_HOW: dict[str, Callable[[str], Awaitable[Any]]] = {}


def _how(function: Callable[[str], Awaitable[Any]]) -> Callable[[str], Awaitable[Any]]:
    _HOW[function.__name__[1:]] = function
    return function


def _use_up(left: float) -> None:
    """Use the CPU until ``left`` seconds are left: the server's own timer cannot fire before."""
    while (time_left() or 0) > left:
        pass


@_how
async def _client(url: str) -> Any:
    timeout = aiohttp.ClientTimeout(total=time_left())
    async with aiohttp.ClientSession(timeout=timeout) as client, client.get(f"{url}/hang") as got:
        return await got.text()


@_how
async def _timeout(url: str) -> Any:
    async with asyncio.timeout(time_left()):
        await asyncio.Event().wait()


@_how
async def _timeout_after_work(url: str) -> Any:
    _use_up(0.05)
    await _timeout(url)


@_how
async def _wait_for(url: str) -> Any:
    await asyncio.wait_for(asyncio.Event().wait(), time_left())


@_how
async def _groups(url: str) -> Any:
    async with asyncio.TaskGroup() as group, asyncio.TaskGroup() as inner:
        group.create_task(_waits(url))
        inner.create_task(_client(url))  # type: ignore[arg-type]
        inner.create_task(_wait_for(url))  # type: ignore[arg-type]


async def _waits(url: str) -> None:
    await _timeout(url)


@_how
async def _group_of_others(url: str) -> Any:
    async def fail() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("a library's own error, when it is cancelled")

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())


@_how
async def _chained(url: str) -> Any:
    try:
        await _timeout(url)
    except TimeoutError as error:
        raise RuntimeError("the database did not answer") from error


@_how
async def _unchained(url: str) -> Any:
    class ReadTimeout(Exception):
        """That of httpx."""

    _use_up(0)
    raise ReadTimeout


@_how
async def _code(url: str) -> Any:
    class Code:
        name = "DEADLINE_EXCEEDED"

    class RpcError(Exception):
        def code(self) -> Code:
            return Code()

    _use_up(0)
    raise RpcError


@_how
async def _a_little_early(url: str) -> Any:
    _use_up(0.004)
    raise TimeoutError


@_how
async def _a_problem_in_a_group(url: str) -> Any:
    _use_up(0)
    raise ExceptionGroup("", [ExceptionGroup("", [TimeoutError()]), Problem(404)])


class Example(Service):
    url = ""

    @get("/hang")
    async def hang(self) -> None:
        await asyncio.Event().wait()

    @get("/overdue/{how}")
    async def overdue(self, how: str) -> Any:
        return await _HOW[how](self.url)

    @get("/patient/{how}", cancel_on_disconnect=False)
    async def patient(self, how: str) -> Any:
        return await _HOW[how](self.url)

    @get("/fault/{kind}", timeout=20)
    async def fault(self, kind: str) -> None:
        errors: dict[str, Exception] = {
            "early": TimeoutError(),
            "group": ExceptionGroup("", [Problem(404), ValueError()]),
        }
        raise errors[kind]

    @get("/late-fault", timeout=0.02)
    async def late_fault(self) -> None:
        _use_up(0)
        raise ValueError

    @get("/no-deadline")
    async def no_deadline(self) -> None:
        raise TimeoutError

    @get("/problems")
    async def two_problems(self) -> None:
        raise ExceptionGroup(
            "", [Problem(404), web.HTTPConflict(), ExceptionGroup("", [Problem(402)])]
        )


async def _status(path: str, **headers: str) -> int:
    async with pubsubtest.serve(Example) as served:
        served.service.url = served.url
        async with served.http.get(path, headers=headers) as response:
            assert response.content_type == "application/problem+json"
            return response.status


@pytest.mark.parametrize("how", _HOW)
@pytest.mark.parametrize("kind", ["overdue", "patient"])
async def test_an_error_that_comes_of_the_deadline_is_504(
    how: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no fault of the service, so nothing is logged and no traceback is written."""
    if kind == "patient" and how == "group_of_others":
        return  # such a handler is not cancelled, so nothing ends it
    assert await _status(f"/{kind}/{how}", **{"X-Request-Timeout": "100ms"}) == 504
    assert "failed" not in caplog.text


@pytest.mark.parametrize("path", ["/fault/early", "/fault/group", "/late-fault", "/no-deadline"])
async def test_any_other_error_stays_a_fault_of_the_service(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A timeout long before the deadline or without one, and another error after it, are 500."""
    assert await _status(path) == 500
    assert f"GET {path} failed" in caplog.text


async def test_a_group_of_problems_is_answered_by_the_highest_status(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A task group puts the problem of a child into a group."""
    assert await _status("/problems") == 409
    assert "failed" not in caplog.text
