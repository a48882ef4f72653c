"""Receivers return messages within limit and wait, and subscriptions get all of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from typing import cast

from gizmopy.errors import PubSubError, TopicNotFound
from gizmopy.pubsub import Receiver, Status
from gizmopy.pubsub.driver import MeasuredReceiver
from pubsubtest.conformance.checking import (
    FAN_OUT,
    ONE_QUEUE,
    ORDER,
    OUTAGE,
    REFUSES_UNKNOWN,
    CheckFailed,
    Checks,
    expect,
)
from pubsubtest.conformance.context import UNKNOWN, CheckContext, revoke_at_once

check = Checks()


@check()
async def receive_returns_at_most_its_limit(context: CheckContext) -> None:
    """``receive`` returns at most ``limit`` messages."""
    receiver = await context.receiver()
    await context.send_numbers(10)
    got = 0
    async with context.in_time("the receipt of 10 messages"):
        while got < 10:
            batch = await receiver.receive(3, 1.0)
            expect(len(batch) <= 3, f"receive(3) returned {len(batch)} messages")
            await context.ack(receiver, *batch)
            got += len(batch)


@check()
async def an_empty_receive_ends_after_its_wait(context: CheckContext) -> None:
    """Without messages, ``receive`` returns none after about ``wait`` seconds."""
    receiver = await context.receiver()
    loop = asyncio.get_running_loop()
    await receiver.receive(1, 0.1)  # the first one may join the subscription
    begun = loop.time()
    batch = await receiver.receive(1, 0.5)
    took = loop.time() - begun
    expect(not batch, f"received {len(batch)} messages that were not sent")
    expect(0.3 <= took <= 5.0, f"receive(wait=0.5) took {took:.2f} s")


@check()
async def a_pending_receive_gets_what_comes(context: CheckContext) -> None:
    """A pending ``receive`` returns when a message arrives, before its wait is over."""
    receiver = await context.receiver()
    wait = context.max_wait
    pending = asyncio.create_task(receiver.receive(1, wait))
    await asyncio.sleep(0.05)
    begun = asyncio.get_running_loop().time()
    await context.send(context.message(b"x"))
    batch = await pending
    took = asyncio.get_running_loop().time() - begun
    expect(len(batch) == 1, "a pending receive missed a message")
    expect(took < 0.8 * wait, f"it came after {took:.1f} s: at the end of the wait")
    await context.ack(receiver, *batch)


@check()
async def other_calls_do_not_wait_for_a_receive(context: CheckContext) -> None:
    """Acks, extensions and nacks work at the same time, while a receive is pending."""
    receiver = await context.receiver()
    await context.send_numbers(3)
    messages = await context.collect(receiver, 3)
    pending = asyncio.create_task(receiver.receive(1, 10 * context.max_wait))
    await asyncio.sleep(0.05)
    calls: list[Awaitable[object]] = [context.ack(receiver, messages[-1])]
    if context.can.lease is not None:
        calls.append(receiver.extend(messages[1:2], context.lease))
    try:
        async with context.in_time("settling while a receive is pending"):
            await asyncio.gather(*calls)
            if context.can.can_nack:  # at the end: it may end the receive that is pending
                await receiver.nack(messages[:1], 0)
    finally:
        await receiver.aclose()
        await pending


@check()
async def receivers_of_one_subscription_share_it(context: CheckContext) -> None:
    """Each message goes to one of the receivers, and all messages arrive."""
    first, second = await context.receiver(), await context.receiver()
    await context.send_numbers(40, keys=[str(number) for number in range(8)])
    seen: Counter[bytes | None] = Counter()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + context.max_wait
    while len(seen) < 40 and loop.time() < deadline:
        for receiver in (first, second):
            batch = await receiver.receive(3, 0.1)
            seen.update(message.body for message in batch)
            await context.ack(receiver, *batch)
    expect(len(seen) == 40, f"{len(seen)} of 40 messages arrived")
    twice = [body for body, times in seen.items() if times > 1]
    expect(context.can.positions or not twice, f"{len(twice)} messages went to both")


@check(FAN_OUT)
async def each_subscription_gets_all(context: CheckContext) -> None:
    """Two subscriptions to a topic do not take messages from each other."""
    first = await context.receiver()
    second = await context.receiver(context.second_subscription)
    await context.send_numbers(10)
    for receiver in (first, second):
        got = {message.body for message in await context.collect(receiver, 10, settle=True)}
        expect(len(got) == 10, f"a subscription got {len(got)} of 10 messages")


@check(ONE_QUEUE)
async def a_topic_without_fan_out_is_one_queue(context: CheckContext) -> None:
    """Without ``fan_out``, receivers with different subscriptions share the messages."""
    first = await context.receiver()
    second = await context.receiver(context.second_subscription)
    await context.send_numbers(10)
    await context.collect(first, 10, settle=True)
    await context.expect_nothing(second)


@check()
async def a_receiver_that_leaves_does_not_disturb_the_other(context: CheckContext) -> None:
    """When one of two receivers is closed, the other one gets all new messages."""
    first, second = await context.receiver(), await context.receiver()
    await first.receive(1, 0.1)
    await first.aclose()
    await context.send_numbers(10, keys=[str(number) for number in range(8)])
    got = {message.body for message in await context.collect(second, 10, settle=True)}
    expect(len(got) == 10, f"the one that stayed got {len(got)} of 10 messages")


@check()
async def a_subscription_outlives_its_receivers(context: CheckContext) -> None:
    """Messages sent while there is no receiver are there for the next one."""
    first = await context.receiver()
    await first.receive(1, 0.1)
    await first.aclose()
    await context.send_numbers(5)
    second = await context.receiver()
    got = {message.body for message in await context.collect(second, 5, settle=True)}
    expect(len(got) == 5, f"{len(got)} of 5 messages waited")


@check()
async def the_status_is_cheap(context: CheckContext) -> None:
    """``status`` returns at once, and a backlog that it reports is correct."""
    receiver = await context.receiver()
    await context.send_numbers(5)
    status = receiver.status()
    expect(isinstance(status, Status), f"status() returned {status!r}")
    known = status.backlog is None or 0 <= status.backlog <= 5
    expect(known, f"the backlog of 5 messages is {status.backlog}")
    expect(not status.stalled, f"a receiver that works reports a stall: {status.stalled}")
    await context.collect(receiver, 5, settle=True)
    expect(not receiver.status().backlog, f"the empty backlog is {receiver.status().backlog}")


@check()
async def the_age_of_the_backlog_is_true(context: CheckContext) -> None:
    """``status`` reports as ``oldest`` the age of a message that waits, or 0, or nothing."""
    receiver = await context.receiver()
    await context.send_numbers(1)
    for _ in range(2):
        oldest = receiver.status().oldest
        expect(oldest is None or 0 <= oldest < 300, f"a new message is {oldest} s old")
        await context.collect(receiver, 1, settle=True)
        await context.send_numbers(1)
    await context.collect(receiver, 1, settle=True)
    oldest = receiver.status().oldest
    expect(not oldest, f"nothing waits, and the oldest message is {oldest} s old")


@check()
async def what_is_measured_is_true(context: CheckContext) -> None:
    """``measure``, if there is one, counts the messages of the whole subscription."""
    receiver = await context.receiver()
    if not hasattr(receiver, "measure"):
        return
    await _measures(context, receiver, waiting=0)
    await context.send_numbers(5)
    await _measures(context, receiver, waiting=5)
    messages = await context.collect(receiver, 5)
    measured = await cast(MeasuredReceiver, receiver).measure()
    expect(measured.in_flight in (5, None), f"5 messages in flight are {measured.in_flight}")
    await context.ack(receiver, *messages)
    await _measures(context, receiver, waiting=0)


async def _measures(context: CheckContext, receiver: Receiver, *, waiting: int) -> None:
    """Require that the broker reports a backlog of ``waiting`` messages in the end."""
    measured = await cast(MeasuredReceiver, receiver).measure()
    deadline = asyncio.get_running_loop().time() + context.max_wait
    while measured.backlog not in (waiting, None):
        found = f"the measured backlog is {measured.backlog}, not {waiting}"
        expect(asyncio.get_running_loop().time() < deadline, found)
        await asyncio.sleep(0.05)
        measured = await cast(MeasuredReceiver, receiver).measure()
    oldest = measured.oldest
    is_true = oldest is None or (0 <= oldest < 300 if waiting else oldest == 0)
    expect(is_true, f"the oldest of {waiting} messages is {oldest} s old")


@check()
async def the_status_is_told_at_any_time(context: CheckContext) -> None:
    """``status`` works before ``connect`` and after ``aclose``, for metrics."""
    receiver = context.driver.receiver(context.topic, context.subscription, ordered=False)
    context.close_later(receiver.aclose)
    before = receiver.status()
    await receiver.aclose()
    for status in (before, receiver.status()):
        expect(isinstance(status, Status), f"status() returned {status!r}")


@check(ORDER)
async def an_ordered_receiver_gets_all(context: CheckContext) -> None:
    """An ordered receiver gets every message of every key, and those without a key."""
    receiver = await context.receiver(ordered=True)
    await context.send_numbers(30, keys=["a", "b", None])
    got = {message.body for message in await context.collect(receiver, 30, settle=True)}
    expect(len(got) == 30, f"{len(got)} of 30 messages arrived")


@check(REFUSES_UNKNOWN)
async def an_unknown_source_is_not_found(context: CheckContext) -> None:
    """Consuming a topic that does not exist raises TopicNotFound at once."""
    receiver = context.driver.receiver(UNKNOWN, context.subscription, ordered=False)
    context.close_later(receiver.aclose)
    try:
        async with context.in_time("the refusal"):
            await receiver.connect(revoke_at_once)
    except TopicNotFound:
        return
    raise CheckFailed("a topic that does not exist was connected to")


@check(OUTAGE)
async def a_receiver_says_that_a_broker_is_away_for_now(context: CheckContext) -> None:
    """Connecting to an unreachable broker raises a transient error, and can be repeated."""
    receiver = context.driver.receiver(context.topic, context.subscription, ordered=False)
    context.close_later(receiver.aclose)
    async with context.outage(), context.in_time("the answer of a connect"):
        try:
            await receiver.connect(revoke_at_once)
        except PubSubError as error:
            expect(error.transient, f"the error is permanent: {error!r}")
        else:
            raise CheckFailed("a broker that is away was connected to")
    async with context.in_time("the next connect"):
        await receiver.connect(revoke_at_once)
    await context.send(context.message(b"x"))
    await context.collect(receiver, 1, settle=True)
