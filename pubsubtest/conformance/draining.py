"""The end of a subscriber, by a drain, a cancellation or a crash, loses no message."""

from __future__ import annotations

import asyncio
from collections import Counter

from gizmopy.pubsub import Message
from pubsubtest.conformance.checking import FAN_OUT, LEASES, OUTAGE, SHORT_LEASE, Checks, expect
from pubsubtest.conformance.context import CheckContext
from pubsubtest.conformance.observing import CrashingReceiver, WatchedReceiver

check = Checks()


@check()
async def a_drain_gives_back_what_is_not_started(context: CheckContext) -> None:
    """Running handlers finish, other messages go to the next subscriber, none is dead-lettered."""
    dead, publisher = await context.dead_letters()
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(message: Message) -> None:
        started.set()
        await go_on.wait()

    running = await context.run(slow, dead_letter=publisher.publish)
    await context.send_numbers(6, ["k"])
    async with context.in_time("the first handling"):
        await started.wait()
    running.subscriber.stop_receiving()
    draining = asyncio.create_task(running.subscriber.drain(context.max_wait))
    await asyncio.sleep(0.05)
    go_on.set()
    await draining
    done = set(running.bodies("ack"))
    expect(done, "the handling that had started was not acked")
    handled: set[bytes | None] = set()

    async def handle(message: Message) -> None:
        handled.add(message.body)

    await context.run(handle)
    await context.until(
        lambda: len(done | handled) == 6, "the handling of all", within=context.soon
    )
    expect(
        context.can.positions or not done & handled,
        f"{done & handled} were delivered again, although acked",
    )
    await context.expect_nothing(dead)


@check()
async def a_cancelled_handling_is_never_acked(context: CheckContext) -> None:
    """Cancelled and waiting messages go to the next subscriber, and do not count as failed."""
    dead, publisher = await context.dead_letters()
    started = asyncio.Event()

    async def hang(message: Message) -> None:
        started.set()
        await asyncio.Event().wait()

    running = await context.run(hang, dead_letter=publisher.publish)
    await context.send_numbers(5)
    async with context.in_time("the handling"):
        await started.wait()
    running.subscriber.stop_receiving()
    report = await running.subscriber.drain(0)
    expect(not running.bodies("ack"), "a cancelled handling was acked")
    expect(report.finished == 0, f"the report counts it as finished: {report}")
    await context.collect(await context.receiver(), 5, settle=True, within=context.soon)
    await context.expect_nothing(dead)


@check()
async def a_receive_is_never_cancelled(context: CheckContext) -> None:
    """A drain closes the receiver instead of cancelling its receive."""
    watched = WatchedReceiver(
        context.driver.receiver(context.topic, context.subscription, ordered=False)
    )

    async def handle(message: Message) -> None:
        pass

    running = await context.run(handle, receiver=watched)
    await context.send_numbers(3)
    await context.until(lambda: len(running.settled) == 3, "the handling of 3 messages")
    await running.subscriber.drain(context.max_wait)
    expect(not watched.cancelled, "a receive was cancelled")


@check()
async def nothing_is_lost_by_restarts_under_load(context: CheckContext) -> None:
    """Subscribers drain and start again while messages arrive, and each message is handled."""
    handled: Counter[bytes | None] = Counter()
    total = 150

    async def handle(message: Message) -> None:
        await asyncio.sleep(0.001)
        handled[message.body] += 1

    async def publish() -> None:
        publisher = await context.publisher()
        for number in range(total):
            await publisher.publish(str(number).encode(), key=str(number % 5))
            await asyncio.sleep(0)

    async def run_until(count: int) -> None:
        running = await context.run(handle, concurrency=4)
        await context.until(lambda: len(handled) >= count, f"the handling of {count} messages")
        running.subscriber.stop_receiving()
        await running.subscriber.drain(context.max_wait)

    async with asyncio.TaskGroup() as group:
        group.create_task(publish())
        for count in (30, 60, 90):
            await run_until(count)
        await context.run(handle, concurrency=4)
    await context.until(lambda: len(handled) == total, f"the handling of all {total} messages")


@check(LEASES, SHORT_LEASE)
async def a_death_repeats_what_was_not_acked_and_no_more(context: CheckContext) -> None:
    """After a crash, exactly the messages that were not acked are delivered again."""
    crashing = CrashingReceiver(context.new_receiver(), last=10)
    context.close_later(crashing.close_inner)

    async def half(message: Message) -> None:
        if int(message.body or b"") >= 5:
            await asyncio.Event().wait()

    dying = await context.run(half, receiver=crashing, concurrency=10)
    await context.send_numbers(10)
    await context.until(
        lambda: crashing.received == 10 and len(dying.bodies("ack")) == 5, "the ack of 5 of 10"
    )
    crashing.has_crashed = True
    again: Counter[bytes | None] = Counter()

    async def handle(message: Message) -> None:
        again[message.body] += 1

    await context.run(handle)
    await context.until(
        lambda: len(again) >= 5, "the redelivery of 5", within=context.lease + context.max_wait
    )
    await asyncio.sleep(context.quiet)
    expected = {str(number).encode() for number in range(5, 10)}
    expect(
        set(again) == expected, f"{sorted(map(str, again))} were delivered again, not the last 5"
    )


@check(FAN_OUT)
async def stopping_one_subscriber_leaves_the_other(context: CheckContext) -> None:
    """Two subscriptions handle all messages, and one can drain without the other."""
    first_handled: list[bytes | None] = []
    second_handled: list[bytes | None] = []

    async def handle(message: Message) -> None:
        handled = first_handled if message.subscription == context.subscription else second_handled
        handled.append(message.body)

    first = await context.run(handle)
    await context.run(handle, subscription=context.second_subscription)
    await context.send_numbers(3)
    await context.until(lambda: len(first.settled) == len(second_handled) == 3, "handling by both")
    await first.subscriber.drain(1)
    await context.send(context.message(b"late"))
    await context.until(lambda: len(second_handled) == 4, "the handling by the one that stays")
    expect(len(first_handled) == 3, f"the one that was drained handled {first_handled}")


@check(OUTAGE)
async def a_drain_ends_while_the_broker_is_away(context: CheckContext) -> None:
    """A drain does not wait forever; its report counts the messages it could not settle."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handle(message: Message) -> None:
        started.set()
        await go_on.wait()

    running = await context.run(handle)
    await context.send(context.message(b"x"))
    async with context.in_time("the handling"):
        await started.wait()
    async with context.outage():
        go_on.set()
        async with context.in_time("the drain"):
            report = await running.subscriber.drain(1)
    failed = report.failed_to_settle + len(running.bodies("ack"))
    expect(failed == 1, f"the message is neither acked nor reported: {report}")


@check(OUTAGE)
async def an_outage_loses_nothing(context: CheckContext) -> None:
    """Messages confirmed before or in an outage are handled after it; publishing works again."""
    handled: set[bytes | None] = set()

    async def handle(message: Message) -> None:
        handled.add(message.body)

    await context.run(handle)
    publisher = await context.publisher()
    await publisher.publish(b"before")
    async with context.outage():
        amid = asyncio.create_task(publisher.publish(b"amid"))
        await asyncio.sleep(0.2)
    (refusal,) = await asyncio.gather(amid, return_exceptions=True)
    await publisher.publish(b"after")
    confirmed = {b"before", b"after"} | (set() if refusal else {b"amid"})
    await context.until(lambda: confirmed <= handled, f"the handling of {sorted(confirmed)}")
