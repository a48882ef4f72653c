"""A bound on the time that handling may take."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gizmopy.errors import UndecodableMessage, UsageError
from gizmopy.pubsub import Message, RetryPolicy
from gizmopy.pubsub.middleware import timeout
from tests.pubsub.support import always, message, nothing, running, until


async def forever(_: Message) -> None:
    """Wait for what never comes."""
    await asyncio.Event().wait()


async def test_a_handling_that_takes_too_long_has_failed() -> None:
    """The handler is cancelled, and a TimeoutError says after how long."""
    with pytest.raises(TimeoutError, match=r"longer than 0\.01 s"):
        await timeout(0.01)(forever)(message())


async def test_a_timeout_is_an_ordinary_failure() -> None:
    """The message is tried again like after any error."""
    handler = timeout(0.001)(forever)
    async with running(handler, retry=RetryPolicy(attempts=2)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    ((_, outcome, error),) = bench.settled
    assert outcome == "nack"
    assert isinstance(error, TimeoutError)
    assert len(bench.sleeps) == 1


async def test_a_handling_in_time_is_let_be() -> None:
    """Returning in time is returning."""
    await timeout(60)(nothing)(message())


async def test_a_timeout_of_the_handlers_own_is_told_apart() -> None:
    """What the handler has waited for too long is its own error, as it was raised."""
    own = TimeoutError("the database")
    with pytest.raises(TimeoutError) as caught:
        await timeout(60)(always(own))(message())
    assert caught.value is own


async def test_a_cancellation_from_outside_is_told_apart() -> None:
    """Who cancels the handling sees it cancelled, not timed out."""
    task = asyncio.create_task(timeout(60)(forever)(message()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_heeds_its_end_and_returns_is_handled() -> None:
    """A handler that finishes when it is cancelled has finished."""
    finished = []

    async def handler(received: Message) -> None:
        try:
            await forever(received)
        except asyncio.CancelledError:
            finished.append(received.id)

    await timeout(0.001)(handler)(message())
    assert finished == ["1"]


async def test_what_cannot_be_decoded_is_told() -> None:
    """An error of decoding, raised before there is anything to wait for, passes through."""

    def undecodable(_: Message) -> Any:
        raise UndecodableMessage("no JSON")

    with pytest.raises(UndecodableMessage):
        await timeout(60)(undecodable)(message())


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_timeout_without_time_is_refused(seconds: float) -> None:
    """No seconds, no handling: it is said where it is written."""
    with pytest.raises(UsageError, match="use seconds above 0"):
        timeout(seconds)
