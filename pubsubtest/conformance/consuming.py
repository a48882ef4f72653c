"""Receivers hand out what there is, within limit and time, to whom it belongs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable

from gizmopy.errors import PubSubError, TopicNotFound
from gizmopy.pubsub import Status
from pubsubtest.conformance.checking import (
    ORDER,
    OUTAGE,
    REFUSES_UNKNOWN,
    CheckFailed,
    Checks,
    expect,
)
from pubsubtest.conformance.context import UNKNOWN, Bench, let_go

check = Checks()


@check()
async def receive_returns_at_most_its_limit(bench: Bench) -> None:
    """However much there is, no more than ``limit`` is returned."""
    receiver = await bench.receiver()
    await bench.send_numbers(10)
    got = 0
    async with bench.in_time("the receipt of 10 messages"):
        while got < 10:
            batch = await receiver.receive(3, 1.0)
            expect(len(batch) <= 3, f"receive(3) returned {len(batch)} messages")
            await bench.ack(receiver, *batch)
            got += len(batch)


@check()
async def an_empty_receive_ends_after_its_wait(bench: Bench) -> None:
    """Where there is nothing, receive returns nothing after about ``wait`` seconds."""
    receiver = await bench.receiver()
    loop = asyncio.get_running_loop()
    await receiver.receive(1, 0.1)  # the first may have a subscription to join
    begun = loop.time()
    batch = await receiver.receive(1, 0.5)
    took = loop.time() - begun
    expect(not batch, f"received {len(batch)} messages that nobody sent")
    expect(0.3 <= took <= 5.0, f"receive(wait=0.5) took {took:.2f} s")


@check()
async def a_pending_receive_gets_what_comes(bench: Bench) -> None:
    """A receive that waits returns when a message is sent, not when its wait is over."""
    receiver = await bench.receiver()
    wait = bench.patience
    pending = asyncio.create_task(receiver.receive(1, wait))
    await asyncio.sleep(0.05)
    begun = asyncio.get_running_loop().time()
    await bench.send(bench.message(b"x"))
    batch = await pending
    took = asyncio.get_running_loop().time() - begun
    expect(len(batch) == 1, "a pending receive missed a message")
    expect(took < 0.8 * wait, f"it came after {took:.1f} s: at the end of the wait")
    await bench.ack(receiver, *batch)


@check()
async def other_calls_do_not_wait_for_a_receive(bench: Bench) -> None:
    """Acks, extensions and nacks go through, together, while a receive is pending."""
    receiver = await bench.receiver()
    await bench.send_numbers(3)
    messages = await bench.collect(receiver, 3)
    pending = asyncio.create_task(receiver.receive(1, 10 * bench.patience))
    await asyncio.sleep(0.05)
    calls: list[Awaitable[object]] = [bench.ack(receiver, messages[-1])]
    if bench.can.lease is not None:
        calls.append(receiver.extend(messages[1:2], bench.lease))
    try:
        async with bench.in_time("settling while a receive is pending"):
            await asyncio.gather(*calls)
            if bench.can.can_nack:  # at the end: it may end the receive that is pending
                await receiver.nack(messages[:1], 0)
    finally:
        await receiver.aclose()
        await pending


@check()
async def receivers_of_one_subscription_share_it(bench: Bench) -> None:
    """Each message goes to one of them, and all messages arrive."""
    first, second = await bench.receiver(), await bench.receiver()
    await bench.send_numbers(40, keys=[str(number) for number in range(8)])
    seen: Counter[bytes | None] = Counter()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + bench.patience
    while len(seen) < 40 and loop.time() < deadline:
        for receiver in (first, second):
            batch = await receiver.receive(3, 0.1)
            seen.update(message.body for message in batch)
            await bench.ack(receiver, *batch)
    expect(len(seen) == 40, f"{len(seen)} of 40 messages arrived")
    twice = [body for body, times in seen.items() if times > 1]
    expect(bench.can.positions or not twice, f"{len(twice)} messages went to both")


@check()
async def each_subscription_gets_all(bench: Bench) -> None:
    """Two subscriptions to a topic do not take messages from each other."""
    first = await bench.receiver()
    second = await bench.receiver(bench.second_subscription)
    await bench.send_numbers(10)
    for receiver in (first, second):
        got = {message.body for message in await bench.collect(receiver, 10, settle=True)}
        expect(len(got) == 10, f"a subscription got {len(got)} of 10 messages")


@check()
async def a_receiver_that_leaves_does_not_disturb_the_other(bench: Bench) -> None:
    """When one of two is closed, the other one gets what comes."""
    first, second = await bench.receiver(), await bench.receiver()
    await first.receive(1, 0.1)
    await first.aclose()
    await bench.send_numbers(10, keys=[str(number) for number in range(8)])
    got = {message.body for message in await bench.collect(second, 10, settle=True)}
    expect(len(got) == 10, f"the one that stayed got {len(got)} of 10 messages")


@check()
async def a_subscription_outlives_its_receivers(bench: Bench) -> None:
    """What is sent while nobody receives is there for the next receiver."""
    first = await bench.receiver()
    await first.receive(1, 0.1)
    await first.aclose()
    await bench.send_numbers(5)
    second = await bench.receiver()
    got = {message.body for message in await bench.collect(second, 5, settle=True)}
    expect(len(got) == 5, f"{len(got)} of 5 messages waited")


@check()
async def the_status_is_cheap(bench: Bench) -> None:
    """``status`` answers at once, and a backlog that it knows is true."""
    receiver = await bench.receiver()
    await bench.send_numbers(5)
    status = receiver.status()
    expect(isinstance(status, Status), f"status() returned {status!r}")
    known = status.backlog is None or 0 <= status.backlog <= 5
    expect(known, f"the backlog of 5 messages is {status.backlog}")
    expect(not status.stalled, f"a receiver that works is called stalled: {status.stalled}")
    await bench.collect(receiver, 5, settle=True)
    expect(not receiver.status().backlog, f"the empty backlog is {receiver.status().backlog}")


@check()
async def the_status_is_told_at_any_time(bench: Bench) -> None:
    """Before ``connect`` and after ``aclose`` it is asked for too, by whoever looks at metrics."""
    receiver = bench.driver.receiver(bench.topic, bench.subscription, ordered=False)
    bench.close_at_the_end(receiver.aclose)
    before = receiver.status()
    await receiver.aclose()
    for status in (before, receiver.status()):
        expect(isinstance(status, Status), f"status() returned {status!r}")


@check(ORDER)
async def an_ordered_receiver_gets_all(bench: Bench) -> None:
    """Where order is kept, every message of every key arrives, and those without a key."""
    receiver = await bench.receiver(ordered=True)
    await bench.send_numbers(30, keys=["a", "b", None])
    got = {message.body for message in await bench.collect(receiver, 30, settle=True)}
    expect(len(got) == 30, f"{len(got)} of 30 messages arrived")


@check(REFUSES_UNKNOWN)
async def an_unknown_source_is_not_found(bench: Bench) -> None:
    """To consume what does not exist raises TopicNotFound at once: the start ends there."""
    receiver = bench.driver.receiver(UNKNOWN, bench.subscription, ordered=False)
    bench.close_at_the_end(receiver.aclose)
    try:
        async with bench.in_time("the refusal"):
            await receiver.connect(let_go)
    except TopicNotFound:
        return
    raise CheckFailed("a topic that does not exist was connected to")


@check(OUTAGE)
async def a_receiver_says_that_a_broker_is_away_for_now(bench: Bench) -> None:
    """To connect to a broker that is unreachable is a transient error, and can be tried again."""
    receiver = bench.driver.receiver(bench.topic, bench.subscription, ordered=False)
    bench.close_at_the_end(receiver.aclose)
    async with bench.outage(), bench.in_time("the answer of a connect"):
        try:
            await receiver.connect(let_go)
        except PubSubError as error:
            expect(error.transient, f"it is called permanent: {error!r}")
        else:
            raise CheckFailed("a broker that is away was connected to")
    async with bench.in_time("the next connect"):
        await receiver.connect(let_go)
    await bench.send(bench.message(b"x"))
    await bench.collect(receiver, 1, settle=True)
