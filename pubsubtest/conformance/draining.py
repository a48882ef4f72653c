"""However a subscriber ends, drained, cancelled or dead, nothing is lost by it."""

from __future__ import annotations

import asyncio
from collections import Counter

from gizmopy.pubsub import Message
from pubsubtest.conformance.checking import LEASES, OUTAGE, SHORT_LEASE, Checks, expect
from pubsubtest.conformance.context import Bench
from pubsubtest.conformance.observing import DoomedReceiver, WatchedReceiver

check = Checks()


@check()
async def a_drain_gives_back_what_is_not_started(bench: Bench) -> None:
    """What runs is finished, the rest goes to the next subscriber, nothing to the dead letters."""
    dead, publisher = await bench.dead_letters()
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(message: Message) -> None:
        started.set()
        await go_on.wait()

    running = await bench.run(slow, dead_letter=publisher.publish)
    await bench.send_numbers(6, ["k"])
    async with bench.in_time("the first handling"):
        await started.wait()
    running.subscriber.stop_receiving()
    draining = asyncio.create_task(running.subscriber.drain(bench.patience))
    await asyncio.sleep(0.05)
    go_on.set()
    await draining
    done = set(running.bodies("ack"))
    expect(done, "the handling that had started was not acked")
    handled: set[bytes | None] = set()

    async def handle(message: Message) -> None:
        handled.add(message.body)

    await bench.run(handle)
    await bench.until(lambda: len(done | handled) == 6, "the handling of all", within=bench.soon)
    expect(bench.can.positions or not done & handled, f"{done & handled} came again, though acked")
    await bench.expect_nothing(dead)


@check()
async def a_cancelled_handling_is_never_acked(bench: Bench) -> None:
    """What a drain cancels at its deadline, and what waits, come to the next one; no failures."""
    dead, publisher = await bench.dead_letters()
    started = asyncio.Event()

    async def hang(message: Message) -> None:
        started.set()
        await asyncio.Event().wait()

    running = await bench.run(hang, dead_letter=publisher.publish)
    await bench.send_numbers(5)
    async with bench.in_time("the handling"):
        await started.wait()
    running.subscriber.stop_receiving()
    report = await running.subscriber.drain(0)
    expect(not running.bodies("ack"), "a cancelled handling was acked")
    expect(report.finished == 0, f"the report counts it as finished: {report}")
    await bench.collect(await bench.receiver(), 5, settle=True, within=bench.soon)
    await bench.expect_nothing(dead)


@check()
async def a_receive_is_never_cancelled(bench: Bench) -> None:
    """Not even by a drain: closing the receiver ends it."""
    watched = WatchedReceiver(bench.driver.receiver(bench.topic, bench.subscription, ordered=False))

    async def handle(message: Message) -> None:
        pass

    running = await bench.run(handle, receiver=watched)
    await bench.send_numbers(3)
    await bench.until(lambda: len(running.settled) == 3, "the handling of 3 messages")
    await running.subscriber.drain(bench.patience)
    expect(not watched.cancelled, "a receive was cancelled")


@check()
async def nothing_is_lost_by_restarts_under_load(bench: Bench) -> None:
    """Subscribers are drained and started again while messages come: each is handled."""
    handled: Counter[bytes | None] = Counter()
    total = 150

    async def handle(message: Message) -> None:
        await asyncio.sleep(0.001)
        handled[message.body] += 1

    async def publish() -> None:
        publisher = await bench.publisher()
        for number in range(total):
            await publisher.publish(str(number).encode(), key=str(number % 5))
            await asyncio.sleep(0)

    async def run_until(count: int) -> None:
        running = await bench.run(handle, concurrency=4)
        await bench.until(lambda: len(handled) >= count, f"the handling of {count} messages")
        running.subscriber.stop_receiving()
        await running.subscriber.drain(bench.patience)

    async with asyncio.TaskGroup() as group:
        group.create_task(publish())
        for count in (30, 60, 90):
            await run_until(count)
        await bench.run(handle, concurrency=4)
    await bench.until(lambda: len(handled) == total, f"the handling of all {total} messages")


@check(LEASES, SHORT_LEASE)
async def a_death_repeats_what_was_not_acked_and_no_more(bench: Bench) -> None:
    """When a process dies at work, what it had acked stays away, and all else comes again."""
    doomed = DoomedReceiver(
        bench.driver.receiver(bench.topic, bench.subscription, ordered=False), last=10
    )
    bench.close_at_the_end(doomed.bury)

    async def half(message: Message) -> None:
        if int(message.body or b"") >= 5:
            await asyncio.Event().wait()

    dying = await bench.run(half, receiver=doomed, concurrency=10)
    await bench.send_numbers(10)
    await bench.until(
        lambda: doomed.received == 10 and len(dying.bodies("ack")) == 5, "the ack of 5 of 10"
    )
    doomed.dead = True
    again: Counter[bytes | None] = Counter()

    async def handle(message: Message) -> None:
        again[message.body] += 1

    await bench.run(handle)
    await bench.until(
        lambda: len(again) >= 5, "the redelivery of 5", within=bench.lease + bench.patience
    )
    await asyncio.sleep(bench.quiet)
    expected = {str(number).encode() for number in range(5, 10)}
    expect(set(again) == expected, f"{sorted(map(str, again))} came again, not the last 5")


@check()
async def stopping_one_subscriber_leaves_the_other(bench: Bench) -> None:
    """Two subscriptions each handle all messages, and are drained each for itself."""
    first_handled: list[bytes | None] = []
    second_handled: list[bytes | None] = []

    async def handle(message: Message) -> None:
        handled = first_handled if message.subscription == bench.subscription else second_handled
        handled.append(message.body)

    first = await bench.run(handle)
    await bench.run(handle, subscription=bench.second_subscription)
    await bench.send_numbers(3)
    await bench.until(lambda: len(first.settled) == len(second_handled) == 3, "handling by both")
    await first.subscriber.drain(1)
    await bench.send(bench.message(b"late"))
    await bench.until(lambda: len(second_handled) == 4, "the handling by the one that stays")
    expect(len(first_handled) == 3, f"the one that was drained handled {first_handled}")


@check(OUTAGE)
async def a_drain_ends_while_the_broker_is_away(bench: Bench) -> None:
    """It waits for no answer for ever; what could not be settled is in its report."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handle(message: Message) -> None:
        started.set()
        await go_on.wait()

    running = await bench.run(handle)
    await bench.send(bench.message(b"x"))
    async with bench.in_time("the handling"):
        await started.wait()
    async with bench.outage():
        go_on.set()
        async with bench.in_time("the drain"):
            report = await running.subscriber.drain(1)
    failed = report.failed_to_settle + len(running.bodies("ack"))
    expect(failed == 1, f"the message is neither acked nor reported: {report}")


@check(OUTAGE)
async def an_outage_loses_nothing(bench: Bench) -> None:
    """What was confirmed before it or amid it is handled after it, and publishing goes on."""
    handled: set[bytes | None] = set()

    async def handle(message: Message) -> None:
        handled.add(message.body)

    await bench.run(handle)
    publisher = await bench.publisher()
    await publisher.publish(b"before")
    async with bench.outage():
        amid = asyncio.create_task(publisher.publish(b"amid"))
        await asyncio.sleep(0.2)
    (refusal,) = await asyncio.gather(amid, return_exceptions=True)
    await publisher.publish(b"after")
    confirmed = {b"before", b"after"} | (set() if refusal else {b"amid"})
    await bench.until(lambda: confirmed <= handled, f"the handling of {sorted(confirmed)}")
