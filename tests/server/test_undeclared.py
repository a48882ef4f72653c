"""Decorated functions beside the classes of a service, and tasks that lifespan leaves behind."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import pubsubtest
from gizmopy import Service, get, health_check, subscribe
from gizmopy.server.lifecycle.unawaited_tasks import WatchedLifespan


@get("/lost")
async def lost() -> int:
    """Be in no class."""
    return 1


@subscribe("cats")
async def lost_handler(cat: str) -> None:
    """Be in no class."""


@health_check
async def lost_check() -> None:
    """Be in no class."""


@get("/found")
async def found(self: object) -> int:
    """Be an attribute of a class."""
    return 1


class Cats(Service):
    method = found

    @get("/cats")
    async def cats(self) -> int:
        return 1


async def test_a_decorated_function_of_the_module_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One warning for each, with its place and the remedy; one that a class has is served."""
    async with pubsubtest.serve(Cats) as cats:
        assert await (await cats.http.get("/found")).json() == 1
    told = [each.getMessage() for each in caplog.records if "is in no class" in each.getMessage()]
    assert len(told) == 3
    for function, text in zip((lost, lost_handler, lost_check), told, strict=True):
        assert text.startswith(f"{function.__name__} ({__file__}:")
        assert text.endswith("make it a method of Cats")


@pytest.mark.parametrize("patience", [False, True])
async def test_a_task_made_after_the_yield_of_lifespan_is_logged(
    patience: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error is in the log, once, also if the loop ends at once."""
    tasks = []

    async def fail() -> None:
        raise RuntimeError("the flush failed")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        tasks.append(asyncio.create_task(fail(), name="flush"))
        await asyncio.wait(tasks)
        if patience:
            with pytest.raises(RuntimeError):
                await tasks[0]  # it has an owner

    watched = WatchedLifespan(lifespan())
    await watched.__aenter__()
    await watched.__aexit__(None, None, None)
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == (0 if patience else 1)
    if errors:
        assert "the task flush of lifespan has failed" in errors[0].getMessage()
        assert "the flush failed" in errors[0].getMessage()
