"""The ready queue: idle workers wait, and wake one another for the messages that arrive."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gizmopy.pubsub import Message
from gizmopy.pubsub.engine.ready_queue import ReadyQueue
from tests.pubsub.support import message, nothing, running, turns, until


def messages(count: int) -> list[Message]:
    """Return messages with ids from 0."""
    return [message(id=str(n)) for n in range(count)]


@asynccontextmanager
async def workers(
    ready: ReadyQueue, count: int, size: int = 1, seconds: float = 0
) -> AsyncIterator[list[list[str]]]:
    """Let workers collect while the context lasts; yield their batches, in order."""
    batches: list[list[str]] = []

    async def work() -> None:
        while batch := await ready.collect(size, seconds):
            batches.append([each.id for each in batch])
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(work()) for _ in range(count)]
    await turns(2)
    yield batches
    ready.close()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)


async def test_messages_are_taken_in_their_order() -> None:
    """First in, first out, and None if there is no message."""
    ready = ReadyQueue(lambda: None)
    first, second = messages(2)
    ready.put(first)
    ready.put(second)
    assert [ready.take(), ready.take(), ready.take()] == [first, second, None]


async def test_one_message_wakes_one_worker() -> None:
    """The others keep waiting."""
    ready = ReadyQueue(lambda: None)
    sleepers = [asyncio.create_task(ready.wait()) for _ in range(3)]
    await turns(2)
    ready.put(message())
    await turns()
    assert [sleeper.done() for sleeper in sleepers] == [True, False, False]
    ready.close()
    await asyncio.gather(*sleepers)


async def test_many_messages_wake_as_many_workers() -> None:
    """Each worker that takes a message wakes the next one."""
    ready = ReadyQueue(lambda: None)
    taken = []
    go_on = asyncio.Event()

    async def work() -> None:
        taken.append(await ready.collect(1, 0))
        await go_on.wait()

    tasks = [asyncio.create_task(work()) for _ in range(5)]
    await turns(2)
    ready.messages.extend(messages(4))
    ready.wake()
    await turns()
    assert len(taken) == 4
    go_on.set()
    ready.close()
    await asyncio.gather(*tasks)


async def test_a_cancelled_worker_is_not_woken() -> None:
    """The next message wakes another worker."""
    ready = ReadyQueue(lambda: None)
    gone, here = (asyncio.create_task(ready.wait()) for _ in range(2))
    await turns(2)
    gone.cancel()
    await asyncio.wait([gone])
    ready.put(message())
    assert await asyncio.wait_for(here, 5)


async def test_a_worker_woken_for_a_removed_message_waits_again() -> None:
    """It collects nothing, and takes the next message."""
    ready = ReadyQueue(lambda: None)
    async with workers(ready, 1) as batches:
        ready.put(message(id="lost"))
        ready.messages.clear()
        await turns()
        assert batches == []
        ready.put(message(id="next"))
        await until(lambda: batches)
    assert batches == [["next"]]


async def test_close_wakes_all_workers_and_returns_the_rest() -> None:
    """Waiting workers end, and later ones do not begin to wait."""
    ready = ReadyQueue(lambda: None)
    sleepers = [asyncio.create_task(ready.wait()) for _ in range(3)]
    await turns(2)
    left = messages(2)
    ready.messages.extend(left)
    assert ready.close() == left
    assert await asyncio.gather(*sleepers) == [False] * 3
    assert await ready.collect(1, 0) == []
    assert ready.take() is None


async def test_close_may_be_called_twice() -> None:
    """A drain that was cancelled closes it again."""
    ready = ReadyQueue(lambda: None)
    ready.put(message())
    assert len(ready.close()) == 1
    assert ready.close() == []


async def test_a_batch_holds_the_ready_messages() -> None:
    """Without a wait, up to its size."""
    ready = ReadyQueue(lambda: None)
    ready.messages.extend(messages(5))
    assert [len(await ready.collect(3, 0)) for _ in range(2)] == [3, 2]


async def test_a_full_batch_does_not_wait() -> None:
    """Only an incomplete batch waits."""
    ready = ReadyQueue(lambda: None)
    ready.messages.extend(messages(2))
    async with asyncio.timeout(5):
        assert len(await ready.collect(2, 60)) == 2


async def test_a_batch_is_filled_while_it_waits() -> None:
    """Messages that arrive in time are added, until the batch is full."""
    ready = ReadyQueue(lambda: None)
    async with workers(ready, 1, size=3, seconds=60) as batches:
        for each in messages(3):
            ready.put(each)
            await turns()
        await until(lambda: batches)
    assert batches == [["0", "1", "2"]]


async def test_the_seconds_count_from_the_first_message() -> None:
    """An incomplete batch is returned when they are over."""
    ready = ReadyQueue(lambda: None)
    async with workers(ready, 1, size=3, seconds=0.01) as batches:
        ready.put(message(id="0"))
        await until(lambda: batches)
    assert batches == [["0"]]


async def test_close_returns_a_batch_that_still_waits() -> None:
    """Its messages were taken by the worker, which handles them."""
    ready = ReadyQueue(lambda: None)
    async with workers(ready, 1, size=3, seconds=60) as batches:
        ready.put(message(id="0"))
        await turns()
        assert ready.close() == []
        await until(lambda: batches)
    assert batches == [["0"]]


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_no_message_waits_while_a_worker_is_idle(cancelled_first: bool) -> None:
    """If the woken worker is cancelled, before or after, another one is woken."""
    ready = ReadyQueue(lambda: None)
    gone, here = (asyncio.create_task(ready.wait()) for _ in range(2))
    await turns(2)
    if cancelled_first:
        gone.cancel()
    ready.put(message())
    gone.cancel()
    assert await asyncio.wait_for(here, 5)
    await asyncio.wait([gone])


async def _trickle(count: int, pauses: list[int], size: int, ends: list[int]) -> None:
    """Put messages in bursts, cancel waiting workers, and check that each is taken once."""
    ready = ReadyQueue(lambda: None)
    taken: list[str] = []

    async def work() -> None:
        while batch := await ready.collect(size, 0):
            taken.extend(each.id for each in batch)

    tasks = [asyncio.create_task(work()) for _ in range(count)]
    for number, pause in enumerate(pauses):
        await turns(pause)
        if number in ends and size == 1:  # a batch would go with its worker
            tasks.append(asyncio.create_task(work()))
            tasks[0].cancel()
            done = tasks.pop(0)
            ready.put(message(id=str(number)))
            await asyncio.wait([done])
        else:
            ready.put(message(id=str(number)))
    await turns()
    assert Counter(taken) == Counter(str(number) for number in range(len(pauses)))
    ready.close()
    await asyncio.gather(*tasks)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.integers(1, 3),
    st.lists(st.integers(0, 11), max_size=4),
)
def test_every_message_is_taken_once(
    count: int, pauses: list[int], size: int, ends: list[int]
) -> None:
    """Whenever messages arrive, and whichever waiting workers are cancelled."""
    asyncio.run(_trickle(count, pauses, size, ends))


async def test_a_worker_cancelled_in_the_same_turn_is_not_woken() -> None:
    """To wake it would raise InvalidStateError."""
    ready = ReadyQueue(lambda: None)
    sleeper = asyncio.create_task(ready.wait())
    await turns(3)
    sleeper.cancel()
    ready.put(message())  # raises InvalidStateError
    await asyncio.wait([sleeper])


async def test_a_worker_cancelled_after_it_was_woken_wakes_another() -> None:
    """The message is left to another waiting worker."""
    ready = ReadyQueue(lambda: None)
    first = asyncio.create_task(ready.wait())
    await turns(3)
    second = asyncio.create_task(ready.wait())
    await turns(3)
    ready.put(message())  # wakes the first
    first.cancel()
    await asyncio.wait([first])
    await turns()
    assert second.done()
    second.cancel()


async def test_a_message_at_the_end_of_a_batch_wait_does_not_end_the_engine() -> None:
    """It arrives in the turn of the loop in which batch_wait is over."""
    loop = asyncio.get_running_loop()
    batches: list[int] = []

    async def batch_handler(batch: Sequence[Message]) -> list[None]:
        batches.append(len(batch))
        return [None] * len(batch)

    async with running(
        nothing, batch_handler=batch_handler, batch_size=5, batch_wait=0.05
    ) as bench:
        bench.receiver.put(message(id="1"))
        await until(lambda: bench.receiver.limits)
        await until(lambda: not bench.receiver.queue)
        await turns()
        # the receive task admits in the loop iteration in which the timer fires
        scheduled: Any = loop
        when = min(h.when() for h in scheduled._scheduled if not h.cancelled())
        loop.call_at(when - 0.00002, lambda: bench.receiver.put(message(id="2")))
        await until(lambda: len(bench.settled) == 2)
