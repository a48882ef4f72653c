"""aclose: the buffer is sent, for a bounded time, and each caller gets an answer."""

from __future__ import annotations

import asyncio

import pytest

from gizmopy.errors import PubSubError, UsageError
from gizmopy.observe.metrics import Metrics
from tests.pubsub.publisher.support import (
    TRANSIENT,
    GatedSender,
    buffered,
    failures,
    forever,
    publisher,
)
from tests.pubsub.support import turns


async def test_aclose_sends_the_buffer() -> None:
    """Messages published before aclose are sent, retries included; then the sender is closed."""
    sender = GatedSender()
    fail = [TRANSIENT]
    sender.verdict = lambda m: fail.pop() if m.body == b"3" and fail else None
    out = publisher(sender, buffered=2)
    sender.gate.clear()
    calls = [asyncio.create_task(out.publish(str(n))) for n in range(6)]
    await turns()
    closing = asyncio.create_task(out.aclose())
    await turns()
    assert not closing.done()
    sender.gate.set()
    await closing
    await asyncio.gather(*calls)
    assert len(sender.sent) == 6
    assert sender.closes == 1


async def test_aclose_waits_for_a_direct_send() -> None:
    """It returns as soon as the message that is being sent is confirmed."""
    sender = GatedSender()
    out = publisher(sender)
    sender.gate.clear()
    call = asyncio.create_task(out.publish("1"))
    await turns()
    closing = asyncio.create_task(out.aclose(3600))
    await turns()
    assert not closing.done()
    sender.gate.set()
    await turns()
    assert closing.done()
    await asyncio.gather(call, closing)


async def test_publish_on_a_closed_publisher_raises() -> None:
    """It raises UsageError; a second aclose does nothing."""
    sender = GatedSender()
    out = publisher(sender)
    await out.aclose()
    await out.aclose()
    with pytest.raises(UsageError, match="closed"):
        await out.publish("1")


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_aclose_ends_if_the_broker_does_not_answer(is_cancelled: bool) -> None:
    """At its deadline, or cancelled, it fails every call that waits, and leaves no task."""
    sender = GatedSender()
    out = publisher(sender, buffered=3, sleep=forever)
    sender.verdict = lambda m: TRANSIENT if m.body == b"retried" else None
    retried = asyncio.create_task(out.publish("retried", key="k"))
    await turns()
    sender.gate.clear()
    keys = ["k", None, "k", "l", None]
    calls = [asyncio.create_task(out.publish(str(n), key=key)) for n, key in enumerate(keys)]
    await turns()
    closing = asyncio.create_task(out.aclose(60 if is_cancelled else 0))
    await turns(5)
    if is_cancelled:
        closing.cancel()
    results = await asyncio.gather(retried, *calls, closing, return_exceptions=True)
    closed = results.pop()
    assert [type(error) for error in results] == [PubSubError] * 6
    assert isinstance(closed, asyncio.CancelledError) == is_cancelled
    await out.aclose()
    assert sender.closes == 2 - is_cancelled


async def test_aclose_fails_the_calls_behind_a_send_that_hangs() -> None:
    """A direct send belongs to its caller; the calls that wait for its key or for room fail."""
    sender = GatedSender()
    out = publisher(sender, buffered=2)
    sender.gate.clear()
    calls = [asyncio.create_task(out.publish(str(n), key="k")) for n in range(5)]
    await turns()
    await out.aclose(0)
    done, (hanging,) = await asyncio.wait(calls, timeout=1)
    assert [type(call.exception()) for call in done] == [PubSubError] * 4
    hanging.cancel()
    await asyncio.wait([hanging])


async def test_messages_that_aclose_stops_are_counted_as_closed() -> None:
    """They are counted neither as transient nor as permanent failures."""
    sender, metrics = GatedSender(), Metrics()
    out = publisher(sender, metrics, buffered=2)
    sender.gate.clear()
    first = asyncio.create_task(out.publish("0"))
    calls = [asyncio.create_task(out.publish("1")) for _ in range(4)]
    await turns()
    await out.aclose(0)
    await asyncio.wait(calls)
    sender.gate.set()
    await asyncio.gather(first, *calls, return_exceptions=True)
    assert failures(metrics) == {"closed": 4}
    assert buffered(metrics) == 0
