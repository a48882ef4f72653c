"""timeout: a limit on the time of a handling."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gizmopy.errors import UndecodableMessage, UsageError
from gizmopy.pubsub import Message, RetryPolicy
from gizmopy.pubsub.middleware import timeout
from tests.pubsub.support import always, message, nothing, running, until


async def forever(_: Message) -> None:
    """Sleep until cancelled."""
    await asyncio.Event().wait()


async def test_a_handling_that_takes_too_long_has_failed() -> None:
    """The handler is cancelled, and a TimeoutError has the seconds."""
    with pytest.raises(TimeoutError, match=r"longer than 0\.01 s"):
        await timeout(0.01)(forever)(message())


async def test_a_timeout_is_an_ordinary_failure() -> None:
    """The message is retried as after any error."""
    handler = timeout(0.001)(forever)
    async with running(handler, retry=RetryPolicy(attempts=2)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    ((_, outcome, error),) = bench.settled
    assert outcome == "nack"
    assert isinstance(error, TimeoutError)
    assert len(bench.sleeps) == 1


async def test_a_handling_in_time_is_not_affected() -> None:
    """A handler that returns in time is not affected."""
    await timeout(60)(nothing)(message())


async def test_a_timeout_of_the_handler_itself_is_passed_on() -> None:
    """A TimeoutError that the handler raises is passed on unchanged."""
    own = TimeoutError("the database")
    with pytest.raises(TimeoutError) as caught:
        await timeout(60)(always(own))(message())
    assert caught.value is own


async def test_a_cancellation_from_outside_is_passed_on() -> None:
    """A cancelled handling is cancelled, not timed out."""
    task = asyncio.create_task(timeout(60)(forever)(message()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_handler_that_returns_on_cancellation_has_succeeded() -> None:
    """A handler that returns when it is cancelled has succeeded."""
    finished = []

    async def handler(received: Message) -> None:
        try:
            await forever(received)
        except asyncio.CancelledError:
            finished.append(received.id)

    await timeout(0.001)(handler)(message())
    assert finished == ["1"]


async def test_a_decoding_error_is_passed_on() -> None:
    """A decoding error, raised before the first await, is passed on."""

    def undecodable(_: Message) -> Any:
        raise UndecodableMessage("no JSON")

    with pytest.raises(UndecodableMessage):
        await timeout(60)(undecodable)(message())


@pytest.mark.parametrize("seconds", [0, -1, "0s"])
def test_invalid_seconds_are_rejected(seconds: float) -> None:
    """Seconds not above 0 raise UsageError at the declaration."""
    with pytest.raises(UsageError, match="use seconds above 0"):
        timeout(seconds)
