"""Who handles a message next: workers sleep while there is none, and wake one another."""

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
    """Let workers collect while the context lasts; yields what they have, in order."""
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
    """First in, first out, and None where there is nothing."""
    ready = ReadyQueue(lambda: None)
    first, second = messages(2)
    ready.put(first)
    ready.put(second)
    assert [ready.take(), ready.take(), ready.take()] == [first, second, None]


async def test_one_message_wakes_one_worker() -> None:
    """The others sleep on."""
    ready = ReadyQueue(lambda: None)
    sleepers = [asyncio.create_task(ready.wait()) for _ in range(3)]
    await turns(2)
    ready.put(message())
    await turns()
    assert [sleeper.done() for sleeper in sleepers] == [True, False, False]
    ready.close()
    await asyncio.gather(*sleepers)


async def test_many_messages_wake_as_many_workers() -> None:
    """Each that takes one wakes the next, so that none sleeps while there is work."""
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


async def test_a_sleeper_that_was_cancelled_is_forgotten() -> None:
    """The next message wakes one that still sleeps."""
    ready = ReadyQueue(lambda: None)
    gone, here = (asyncio.create_task(ready.wait()) for _ in range(2))
    await turns(2)
    gone.cancel()
    await asyncio.wait([gone])
    ready.put(message())
    assert await asyncio.wait_for(here, 5)


async def test_a_message_that_was_withdrawn_leaves_the_worker_asleep() -> None:
    """A wake-up for nothing does not hand out nothing, and the next message is taken."""
    ready = ReadyQueue(lambda: None)
    async with workers(ready, 1) as batches:
        ready.put(message(id="lost"))
        ready.messages.clear()
        await turns()
        assert batches == []
        ready.put(message(id="next"))
        await until(lambda: batches)
    assert batches == [["next"]]


async def test_the_end_wakes_all_and_returns_what_is_left() -> None:
    """Who waits is told that there will be nothing; later ones are told at once."""
    ready = ReadyQueue(lambda: None)
    sleepers = [asyncio.create_task(ready.wait()) for _ in range(3)]
    await turns(2)
    left = messages(2)
    ready.messages.extend(left)
    assert ready.close() == left
    assert await asyncio.gather(*sleepers) == [False] * 3
    assert await ready.collect(1, 0) == []
    assert ready.take() is None


async def test_the_end_may_come_twice() -> None:
    """A drain that was cut short ends it again."""
    ready = ReadyQueue(lambda: None)
    ready.put(message())
    assert len(ready.close()) == 1
    assert ready.close() == []


async def test_a_batch_holds_what_is_there() -> None:
    """Without a wait, and up to the size."""
    ready = ReadyQueue(lambda: None)
    ready.messages.extend(messages(5))
    assert [len(await ready.collect(3, 0)) for _ in range(2)] == [3, 2]


async def test_a_full_batch_does_not_wait() -> None:
    """The wait is for what is missing."""
    ready = ReadyQueue(lambda: None)
    ready.messages.extend(messages(2))
    async with asyncio.timeout(5):
        assert len(await ready.collect(2, 60)) == 2


async def test_a_batch_is_filled_while_it_waits() -> None:
    """What comes within the seconds goes along; the size ends the wait."""
    ready = ReadyQueue(lambda: None)
    async with workers(ready, 1, size=3, seconds=60) as batches:
        for each in messages(3):
            ready.put(each)
            await turns()
        await until(lambda: batches)
    assert batches == [["0", "1", "2"]]


async def test_the_seconds_count_from_the_first_message() -> None:
    """A batch that is not full is handed out when they are over."""
    ready = ReadyQueue(lambda: None)
    async with workers(ready, 1, size=3, seconds=0.01) as batches:
        ready.put(message(id="0"))
        await until(lambda: batches)
    assert batches == [["0"]]


async def test_the_end_hands_out_a_batch_that_still_waits() -> None:
    """What a worker has taken is its own to handle."""
    ready = ReadyQueue(lambda: None)
    async with workers(ready, 1, size=3, seconds=60) as batches:
        ready.put(message(id="0"))
        await turns()
        assert ready.close() == []
        await until(lambda: batches)
    assert batches == [["0"]]


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_no_message_waits_while_a_worker_sleeps(cancelled_first: bool) -> None:
    """Whether a sleeper is cancelled before or after it is woken: another one is woken."""
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
    """Put messages in bursts, end waits in their midst, and see all of them taken once."""
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
    """Whenever messages come, and whichever workers are cancelled in their sleep meanwhile."""
    asyncio.run(_trickle(count, pauses, size, ends))


async def test_ready_wakes_nobody_who_was_just_cancelled() -> None:
    """A message that comes in the turn in which a sleeper's wait ends is no InvalidStateError."""
    ready = ReadyQueue(lambda: None)
    sleeper = asyncio.create_task(ready.wait())
    await turns(3)
    sleeper.cancel()
    ready.put(message())  # raises InvalidStateError
    await asyncio.wait([sleeper])


async def test_ready_hands_on_a_wake_up_that_came_too_late() -> None:
    """A worker that is woken and cancelled in one turn leaves the message to another sleeper."""
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


async def test_engine_survives_a_message_at_the_end_of_a_batch_wait() -> None:
    """A message received in the very turn in which batch_wait ends does not kill the engine."""
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
