"""Ends are closed once or twice, early or late, and nothing is pending after it."""

from __future__ import annotations

import asyncio

from gizmopy.errors import UsageError
from pubsubtest.conformance.checking import CheckFailed, Checks, expect
from pubsubtest.conformance.context import Bench

check = Checks()


@check()
async def closing_ends_a_pending_receive(bench: Bench) -> None:
    """It returns nothing, soon, and is not cancelled."""
    receiver = await bench.receiver()
    pending = asyncio.create_task(receiver.receive(1, 10 * bench.patience))
    await asyncio.sleep(0.05)
    async with bench.in_time("the end of a pending receive"):
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
    raise CheckFailed("a receiver that is closed received")


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
    raise CheckFailed("a sender that is closed sent")


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
