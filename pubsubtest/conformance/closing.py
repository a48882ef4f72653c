"""Senders, receivers and drivers can be closed at any time, and twice."""

from __future__ import annotations

import asyncio

from gizmopy.errors import UsageError
from pubsubtest.conformance.checking import CheckFailed, Checks, expect
from pubsubtest.conformance.context import CheckContext

check = Checks()


@check()
async def closing_ends_a_pending_receive(context: CheckContext) -> None:
    """It returns no messages, soon, and is not cancelled."""
    receiver = await context.receiver()
    pending = asyncio.create_task(receiver.receive(1, 10 * context.max_wait))
    await asyncio.sleep(0.05)
    async with context.in_time("the end of a pending receive"):
        await receiver.aclose()
        await asyncio.wait((pending,))
    expect(not pending.cancelled(), "the pending receive was cancelled")
    expect(pending.exception() is None, f"the pending receive raised {pending.exception()!r}")
    expect(not pending.result(), "the pending receive returned messages that were given back")


@check()
async def a_receiver_may_be_closed_twice(context: CheckContext) -> None:
    """The second ``aclose`` does nothing."""
    receiver = await context.receiver()
    await receiver.aclose()
    await receiver.aclose()


@check()
async def a_receiver_may_be_closed_before_it_connects(context: CheckContext) -> None:
    """``aclose`` before ``connect`` raises nothing."""
    await context.driver.receiver(context.topic, context.subscription, ordered=False).aclose()


@check()
async def a_closed_receiver_refuses_to_receive(context: CheckContext) -> None:
    """``receive`` after ``aclose`` raises UsageError."""
    receiver = await context.receiver()
    await receiver.aclose()
    try:
        await receiver.receive(1, 0.1)
    except UsageError:
        return
    raise CheckFailed("a receiver that is closed received")


@check()
async def a_sender_may_be_closed_twice(context: CheckContext) -> None:
    """The second ``aclose`` does nothing."""
    sender = await context.sender()
    await sender.aclose()
    await sender.aclose()


@check()
async def a_sender_may_be_closed_before_it_connects(context: CheckContext) -> None:
    """``aclose`` before ``connect`` raises nothing."""
    await context.driver.sender(context.topic).aclose()


@check()
async def a_closed_sender_refuses_to_send(context: CheckContext) -> None:
    """``send`` after ``aclose`` raises UsageError."""
    sender = await context.sender()
    await sender.aclose()
    try:
        await sender.send([context.message(b"late")])
    except UsageError:
        return
    raise CheckFailed("a sender that is closed sent")


@check()
async def ends_are_independent(context: CheckContext) -> None:
    """Closing one sender does not close another one; the same holds for receivers."""
    first, second = await context.sender(), await context.sender()
    await first.aclose()
    receiver, other = await context.receiver(), await context.receiver(context.second_subscription)
    await other.aclose()
    (error,) = await second.send([context.message(b"x")])
    expect(error is None, f"the other sender failed: {error!r}")
    await context.collect(receiver, 1, settle=True)


@check()
async def a_driver_may_be_closed_twice(context: CheckContext) -> None:
    """The second ``aclose`` does nothing."""
    await context.driver.aclose()
    await context.driver.aclose()
