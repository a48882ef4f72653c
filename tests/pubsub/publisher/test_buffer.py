"""The buffer: its bounds, the turns of callers that wait for room, and batches that linger."""

from __future__ import annotations

import asyncio

import pytest

from gizmopy.observe.metrics import Metrics
from tests.pubsub.publisher.support import (
    GatedSender,
    HandClock,
    bodies,
    buffered,
    forever,
    publish_each,
    publisher,
)
from tests.pubsub.support import turns, until


async def test_the_buffer_is_bounded_by_messages() -> None:
    """With a full buffer, publish waits for room: the message is neither dropped nor buffered."""
    sender, metrics = GatedSender(), Metrics()
    async with publisher(sender, metrics, buffered=2) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(str(n), key="k")) for n in range(10)]
        await turns()
        assert buffered(metrics) == 2
        sender.gate.set()
        await asyncio.gather(*calls)
        assert buffered(metrics) == 0
    assert bodies(sender) == [str(n) for n in range(10)]


async def test_the_buffer_is_bounded_by_bytes() -> None:
    """A message larger than the bound is buffered when the buffer is empty."""
    sender, metrics = GatedSender(), Metrics()
    size = len("content-typeapplication/octet-stream")
    async with publisher(sender, metrics, buffered_bytes=2 * (size + 10)) as out:
        sender.gate.clear()
        lengths = (1, 10, 10, 10, 500, 1)
        calls = [asyncio.create_task(out.publish(b"x" * n)) for n in lengths]
        await turns()
        assert buffered(metrics) == 2
        sender.gate.set()
        await asyncio.gather(*calls)
    assert [[len(body) for body in batch] for batch in sender.batches] == [
        [1],
        [10, 10],
        [10],
        [500],
        [1],
    ]


async def test_a_call_that_waits_for_room_is_not_overtaken() -> None:
    """A later call with the same key is sent later, even if nothing is in flight."""
    sender = GatedSender()
    async with publisher(sender, buffered=1) as out:
        sender.gate.clear()
        first = asyncio.create_task(out.publish("0"))

        async def second_then_fourth() -> None:
            await out.publish("1", key="k")
            await out.publish("3", key="k")

        await turns()
        others = asyncio.create_task(second_then_fourth())
        await turns()
        third = asyncio.create_task(out.publish("2", key="k"))
        await turns()
        sender.gate.set()
        await asyncio.gather(first, others, third)
    assert bodies(sender) == ["0", "1", "2", "3"]


async def test_a_cancelled_call_does_not_free_its_room() -> None:
    """Its message stays in the buffer until a batch skips it: cancelled calls are bounded."""
    sender, metrics = GatedSender(), Metrics()
    async with publisher(sender, metrics, buffered=2) as out:
        sender.gate.clear()
        first = asyncio.create_task(out.publish("0"))
        await turns()
        for number in range(1, 10):
            call = asyncio.create_task(out.publish(str(number)))
            await turns(5)
            call.cancel()
            await turns(5)
        assert buffered(metrics) == 2
        sender.gate.set()
        await first
        await asyncio.gather(*(out.publish(n) for n in "ab"))
    assert bodies(sender) == ["0", "a", "b"]


@pytest.mark.parametrize("which", [0, 1, 2, 3])
async def test_cancelling_one_call_does_not_affect_the_others(which: int) -> None:
    """The message may be in a send, in the buffer, or behind its key: the others are sent."""
    sender = GatedSender()
    async with publisher(sender, buffered=2) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(str(n), key="k")) for n in range(5)]
        await turns()
        calls[which].cancel()
        await turns()
        sender.gate.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(r, asyncio.CancelledError) for r in results].count(True) == 1
        await out.publish("last", key="k")
    assert bodies(sender) == [str(n) for n in range(5) if n != which] + ["last"]


async def test_a_batch_waits_to_be_full() -> None:
    """Messages that arrive during ``linger`` join the batch; it is sent when the time is over."""
    sender, clock = GatedSender(), HandClock()
    async with publisher(sender, linger=5.0, sleep=clock.sleep) as out:
        calls = publish_each(3, out)
        await turns()
        assert not sender.batches
        (wait,) = clock.waits
        assert 4 < wait <= 5
        clock.end()
        await asyncio.gather(*calls)
        again = publish_each(1, out)
        await turns()
        assert len(clock.waits) == 2
        clock.end()
        await asyncio.gather(*again)
    assert sender.batches == [["0", "1", "2"], ["0"]]


async def test_a_full_batch_does_not_wait() -> None:
    """A batch that is full by count or by bytes is sent at once; the remaining messages linger."""
    sender, clock = GatedSender(), HandClock()
    async with publisher(sender, linger=5.0, sleep=clock.sleep) as out:
        calls = publish_each(12, out)
        await turns()
        assert [len(batch) for batch in sender.batches] == [10]
        clock.end()
        await asyncio.gather(*calls)
    sender = GatedSender()
    size = len("content-typetext/plain; charset=utf-8") + 1
    async with publisher(sender, linger=5.0, sleep=clock.sleep, batch_bytes=2 * size) as out:
        await asyncio.gather(*publish_each(4, out))
    assert [len(batch) for batch in sender.batches] == [2, 2]


async def test_a_batch_that_becomes_full_leaves_no_timer() -> None:
    """The timer of ``linger`` is cancelled when the batch is full."""
    sender = GatedSender()
    async with publisher(sender, linger=5.0, sleep=forever) as out:
        calls = publish_each(3, out)
        await turns()
        await asyncio.gather(*calls, *publish_each(7, out))
        await turns()
        assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [len(batch) for batch in sender.batches] == [10]


async def test_nothing_lingers_while_a_call_waits_for_room() -> None:
    """A buffer that is smaller than a batch does not delay the messages in it."""
    sender = GatedSender()
    async with publisher(sender, linger=5.0, sleep=forever, buffered=2) as out:
        calls = publish_each(5, out)
        await asyncio.gather(*calls[:4])
        await out.aclose()
        await calls[4]
    assert len(sender.sent) == 5


async def test_aclose_sends_lingering_messages_at_once() -> None:
    """The batch is sent at once, and no task is left."""
    sender = GatedSender()
    out = publisher(sender, linger=5.0, sleep=forever)
    calls = publish_each(2, out)
    await turns()
    await out.aclose()
    await asyncio.gather(*calls)
    assert sender.batches == [["0", "1"]]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_linger_counts_from_the_publish() -> None:
    """A message that waited for another send does not wait for ``linger`` again."""
    sender, clock = GatedSender(), HandClock()
    async with publisher(sender, linger=1e-9, sleep=clock.sleep) as out:
        await out.publish("1")
    assert sender.batches == [["1"]]
    assert not clock.waits


@pytest.mark.parametrize("linger", [0, 0.001], ids=["direct", "buffered"])
async def test_a_send_that_hangs_is_a_problem(linger: float) -> None:
    """The health check shows it after ``stall`` seconds, before any send has failed."""
    sender = GatedSender()
    sender.gate.clear()
    async with publisher(sender, stall=0.02, linger=linger) as out:
        assert out.problem == ""
        sending = asyncio.create_task(out.publish("x"))
        await until(lambda: "has not confirmed a send" in out.problem)
        sender.gate.set()
        await sending
        assert out.problem == ""
