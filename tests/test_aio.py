"""Tasks in the background, the first of two, cancellation, deadlines, and batches."""

import asyncio
import logging
from math import inf

import pytest

from gizmopy._aio import (
    Deadline,
    background,
    batched,
    cancel_and_wait,
    first_of,
    is_being_cancelled,
)


async def never() -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


async def fail() -> None:
    """Raise at once."""
    raise ValueError("no cats")


async def test_a_background_task_ends_with_its_context() -> None:
    """It runs while the body does, and has ended when the context is left."""
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await never()
        finally:
            await asyncio.sleep(0)
            ended = True

    async with background(work(), name="work") as task:
        await asyncio.sleep(0)
        assert (task.get_name(), task.done()) == ("work", False)
    assert ended
    assert task.cancelled()


async def test_an_error_of_the_body_is_not_hidden_by_one_of_the_background_task() -> None:
    """The body's error is raised; the task has its own."""
    tasks: list[asyncio.Task[None]] = []

    async def body() -> None:
        async with background(fail()) as task:
            tasks.append(task)
            await asyncio.wait(tasks)
            raise KeyError

    with pytest.raises(KeyError):
        await body()
    with pytest.raises(ValueError, match="no cats"):
        tasks[0].result()


async def test_the_first_of_two_ends_and_the_other_is_cancelled() -> None:
    """Whichever ends first, both futures are done, and the other one was cancelled."""
    one, other = await first_of(asyncio.sleep(0, "cat"), never())
    assert (one.result(), other.cancelled()) == ("cat", True)
    never_done, dog = await first_of(never(), asyncio.sleep(0, "dog"))
    assert (never_done.cancelled(), dog.result()) == (True, "dog")


async def test_neither_of_two_ends_in_time() -> None:
    """After the timeout both are cancelled."""
    one, other = await first_of(never(), never(), timeout=0)
    assert one.cancelled()
    assert other.cancelled()


async def test_an_error_of_the_first_is_raised_by_its_result() -> None:
    """An awaitable that fails has ended, too."""
    one, other = await first_of(fail(), never())
    with pytest.raises(ValueError, match="no cats"):
        one.result()
    assert other.cancelled()


async def test_cancelling_the_wait_for_two_cancels_both() -> None:
    """A caller that is cancelled leaves neither of them running."""
    one, other = asyncio.create_task(never()), asyncio.create_task(never())
    waiting = asyncio.create_task(first_of(one, other))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert one.cancelled()
    assert other.cancelled()


async def test_cancelled_tasks_are_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """They may have ended, or fail as they end; nothing is logged."""

    async def fail_at_the_end() -> None:
        try:
            await never()
        finally:
            raise ValueError("no cats")

    tasks = [asyncio.create_task(each) for each in (never(), fail_at_the_end(), asyncio.sleep(0))]
    await asyncio.sleep(0)
    with caplog.at_level(logging.DEBUG):
        assert await cancel_and_wait(tasks) == set()
        assert all(task.done() for task in tasks)
        tasks.clear()
    assert not caplog.records
    assert await cancel_and_wait([]) == set()


async def test_a_task_that_ignores_its_cancellation_is_returned() -> None:
    """The timeout bounds the wait, and the caller learns which task is still running."""
    may_end = asyncio.Event()

    async def stubborn() -> None:
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    assert await cancel_and_wait([task], timeout=0) == {task}
    may_end.set()
    await task


async def test_a_cancellation_of_the_task_differs_from_one_of_what_it_awaits() -> None:
    """Only the first means that the current task has to end."""
    seen = []

    async def work(awaited: asyncio.Future[None]) -> None:
        try:
            await awaited
        except asyncio.CancelledError:
            seen.append(is_being_cancelled())

    for cancel_awaited in (True, False):
        awaited = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(work(awaited))
        await asyncio.sleep(0)
        (awaited if cancel_awaited else task).cancel()
        await asyncio.wait((task,))
    assert seen == [False, True]


async def test_a_deadline_ends_a_wait() -> None:
    """A result in time is returned; at the deadline the awaitable is cancelled."""
    assert await Deadline(3600).wait_for(asyncio.sleep(0, "cat")) == "cat"
    assert await Deadline().wait_for(asyncio.sleep(0, "cat")) == "cat"
    with pytest.raises(TimeoutError):
        await Deadline(0).wait_for(never())


async def test_a_deadline_is_only_brought_closer() -> None:
    """The earliest one counts; by default there is none; after it, 0 seconds remain."""
    deadline = Deadline()
    assert deadline.remaining() == inf
    deadline.shorten(60)
    deadline.shorten(3600)
    assert 50 < deadline.remaining() <= 60.001
    deadline.shorten(-1)
    assert deadline.remaining() == 0


@pytest.mark.parametrize("seconds", [None, 3600])
async def test_a_deadline_that_is_shortened_ends_waits_that_run(seconds: float | None) -> None:
    """Each running wait ends early; a wait that expires already is not affected."""
    deadline = Deadline(seconds)
    waits = [asyncio.create_task(deadline.wait_for(never())) for _ in range(2)]
    await asyncio.sleep(0)
    deadline.shorten(0)
    asyncio.get_running_loop().call_soon(deadline.shorten, 0)  # while the timeouts expire
    results = await asyncio.gather(*waits, return_exceptions=True)
    assert list(map(type, results)) == [TimeoutError] * 2


def test_batches_hold_every_item_once() -> None:
    """All are full but the last."""
    assert list(batched([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(batched([], 2)) == []
