"""Ends are closed once or twice, early or late, and nothing is pending after it."""

from __future__ import annotations

import asyncio

from gizmopy.errors import UsageError
from pubsubtest.conformance.bench import Bench
from pubsubtest.conformance.checking import OUTAGE, Checks, expect

check = Checks()


@check()
async def closing_ends_a_pending_receive(bench: Bench) -> None:
    """It returns nothing, soon, and is not cancelled."""
    receiver = await bench.receiver()
    pending = asyncio.create_task(receiver.receive(1, 10 * bench.patience))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(bench.patience):
        await receiver.aclose()
        await asyncio.wait((pending,))
    expect(not pending.cancelled(), "the pending receive was cancelled")
    expect(pending.exception() is None, f"the pending receive raised {pending.exception()!r}")
    expect(not pending.result(), "the pending receive returned messages that were given back")


@check()
async def a_receiver_may_be_closed_twice(bench: Bench) -> None:
    """The second close does nothing."""
    receiver = await bench.receiver()
    await receiver.aclose()
    await receiver.aclose()


@check()
async def a_receiver_may_be_closed_before_it_connects(bench: Bench) -> None:
    """What was never connected is closed without a word."""
    await bench.driver.receiver(bench.topic, bench.subscription, ordered=False).aclose()


@check()
async def a_closed_receiver_refuses_to_receive(bench: Bench) -> None:
    """That is a mistake of its caller, and raises UsageError."""
    receiver = await bench.receiver()
    await receiver.aclose()
    try:
        await receiver.receive(1, 0.1)
    except UsageError:
        return
    expect(False, "a receiver that is closed received")


@check()
async def a_sender_may_be_closed_twice(bench: Bench) -> None:
    """The second close does nothing."""
    sender = await bench.sender()
    await sender.aclose()
    await sender.aclose()


@check()
async def a_sender_may_be_closed_before_it_connects(bench: Bench) -> None:
    """What was never connected is closed without a word."""
    await bench.driver.sender(bench.topic).aclose()


@check()
async def a_closed_sender_refuses_to_send(bench: Bench) -> None:
    """That is a mistake of its caller, and raises UsageError."""
    sender = await bench.sender()
    await sender.aclose()
    try:
        await sender.send([bench.message(b"late")])
    except UsageError:
        return
    expect(False, "a sender that is closed sent")


@check()
async def ends_are_independent(bench: Bench) -> None:
    """To close one sender leaves the other one open, and so for receivers."""
    first, second = await bench.sender(), await bench.sender()
    await first.aclose()
    receiver, other = await bench.receiver(), await bench.receiver(bench.second_subscription)
    await other.aclose()
    (error,) = await second.send([bench.message(b"x")])
    expect(error is None, f"the other sender failed: {error!r}")
    await bench.collect(receiver, 1, settle=True)


@check()
async def a_driver_may_be_closed_twice(bench: Bench) -> None:
    """The second close does nothing."""
    await bench.driver.aclose()
    await bench.driver.aclose()


@check(OUTAGE)
async def an_outage_loses_nothing(bench: Bench) -> None:
    """What was confirmed before it is handled after it, and publishing goes on."""
    handled: set[bytes | None] = set()

    async def handle(message: object) -> None:
        handled.add(getattr(message, "body", None))

    await bench.run(handle)
    publisher = await bench.publisher()
    await publisher.publish(b"before")
    outage = bench.harness.outage
    expect(outage is not None, "there is no way to make an outage")
    if outage is not None:
        async with outage():
            await asyncio.sleep(0.2)
    await publisher.publish(b"after")
    await bench.until(lambda: {b"before", b"after"} <= handled, "the handling of both")
