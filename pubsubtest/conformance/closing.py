"""Senders, receivers and drivers can be closed at any time, and twice."""

from __future__ import annotations

import asyncio
from typing import cast

from gizmopy.errors import UsageError
from gizmopy.pubsub.driver import PushedReceiver
from pubsubtest.conformance.checking import PUSHES, CheckFailed, Checks, expect
from pubsubtest.conformance.context import CheckContext, revoke_at_once

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


@check(PUSHES)
async def routes_are_known_before_the_connect(context: CheckContext) -> None:
    """A receiver of pushes has at least one route, and the same ones once it is connected."""
    receiver = cast(PushedReceiver, context.new_receiver())
    context.close_later(receiver.aclose)
    before = [(route.method, route.path) for route in receiver.routes()]
    expect(before, "a receiver of pushes has no route")
    for method, path in before:
        expect(method.isupper() and path.startswith("/"), f"{method} {path} is no route")
        expect("{" not in path, f"{path} is a template")
    await receiver.connect(revoke_at_once)
    after = [(route.method, route.path) for route in receiver.routes()]
    expect(before == after, f"the routes {before} became {after}")


@check(PUSHES)
async def a_push_that_cannot_be_received_is_answered_503(context: CheckContext) -> None:
    """Before ``connect``, after ``refuse_pushes`` and after ``aclose``, with ``Retry-After``."""
    receiver = cast(PushedReceiver, context.new_receiver())
    context.close_later(receiver.aclose)
    await _expect_503(context, receiver, "before the connect")
    await receiver.connect(revoke_at_once)
    receiver.refuse_pushes()
    await _expect_503(context, receiver, "after refuse_pushes")
    await receiver.aclose()
    await _expect_503(context, receiver, "after the close")


async def _expect_503(context: CheckContext, receiver: PushedReceiver, when: str) -> None:
    for route in receiver.routes():
        async with context.in_time(f"the answer to a push {when}"):
            status, headers, _ = await route.handle({}, b"{}")
        expect(status == 503, f"a push {when} was answered {status}")
        names = {name.lower() for name in headers}
        expect("retry-after" in names, f"the answer to a push {when} has no Retry-After")
