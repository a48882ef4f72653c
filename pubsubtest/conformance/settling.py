"""Acks, nacks and leases: which messages are delivered again, and when."""

from __future__ import annotations

import asyncio

from gizmopy.pubsub import Message, Receiver
from gizmopy.pubsub.driver import Results
from pubsubtest.conformance.checking import (
    CAP,
    COUNT,
    DELAY,
    LASTING,
    LEASES,
    NACK,
    NO_COUNT,
    POSITIONS,
    SETTLES_EACH,
    SHORT_LEASE,
    Checks,
    expect,
)
from pubsubtest.conformance.context import CheckContext, is_refused

check = Checks()


async def _received(context: CheckContext, count: int = 1) -> tuple[Receiver, list[Message]]:
    """Return a receiver that holds ``count`` messages."""
    receiver = await context.receiver()
    await context.send_numbers(count)
    return receiver, await context.collect(receiver, count)


@check()
async def what_is_acked_never_returns(context: CheckContext) -> None:
    """An acked message is not delivered again, to the same receiver or to another."""
    receiver, messages = await _received(context, 5)
    await context.ack(receiver, *messages)
    await context.expect_nothing(receiver)
    await receiver.aclose()
    await context.expect_nothing(await context.receiver())


@check(LEASES, SHORT_LEASE)
async def what_is_acked_does_not_return_after_its_lease(context: CheckContext) -> None:
    """An acked message is not delivered again when its lease would have ended."""
    receiver, messages = await _received(context, 3)
    await context.ack(receiver, *messages)
    await context.expect_nothing(receiver, 1.5 * context.lease)


@check()
async def acking_twice_harms_nothing(context: CheckContext) -> None:
    """A second ack is refused or repeated; later messages are received and acked as usual."""
    receiver, (message,) = await _received(context)
    await context.ack(receiver, message)
    results = await receiver.ack([message])
    expect(len(results) == 1, f"{len(results)} results for 1 message")
    await context.send(context.message(b"next"))
    (following,) = await context.collect(receiver, 1, settle=True)
    expect(following.body == b"next", f"after it {following.body!r} came")


@check(SETTLES_EACH)
async def an_ack_is_for_its_messages_alone(context: CheckContext) -> None:
    """If half of a batch is acked, exactly the other half is delivered again."""
    receiver, messages = await _received(context, 6)
    await context.ack(receiver, *messages[::2])
    await receiver.aclose()
    again = await context.collect(await context.receiver(), 3)
    expected = {message.body for message in messages[1::2]}
    got = {message.body for message in again}
    expect(
        got == expected,
        f"{sorted(map(str, got))} were delivered again, not {sorted(map(str, expected))}",
    )


@check(SETTLES_EACH)
async def results_are_in_the_order_of_their_messages(context: CheckContext) -> None:
    """If one message of a batch cannot be acked, its result is an error; the others are acked."""
    receiver, messages = await _received(context, 3)
    if context.can.can_nack:
        await receiver.nack([messages[1]], 0)
        (again,) = await context.collect(receiver, 1)
    results = await receiver.ack(messages)
    expect(len(results) == 3, f"{len(results)} results for 3 messages")
    expect(results[0] is None and results[2] is None, f"a message was not acked: {results}")
    if context.can.can_nack:
        await context.ack(receiver, again)
    await context.expect_nothing(receiver)


@check(NACK)
async def a_nacked_message_comes_again(context: CheckContext) -> None:
    """A nack without delay delivers the same message again at once."""
    receiver = await context.receiver()
    sent = context.message(b"x", key="k", attributes={"a": "b"})
    await context.send(sent)
    (message,) = await context.collect(receiver, 1)
    (refusal,) = await receiver.nack([message], 0)
    expect(refusal is None, f"the nack was refused: {refusal}")
    (again,) = await context.collect(receiver, 1, settle=True, within=context.soon)
    same = (again.body, again.key, again.attributes.get("a")) == (b"x", "k", "b")
    expect(same, f"it was delivered again as {again!r} with {dict(again.attributes)}")
    expect(again.id == message.id, "it was delivered again with another id")
    expect(
        again is not message,
        "the same object was delivered again: a delivery is a Message of its own",
    )


@check(NACK)
async def a_nack_is_for_its_messages_alone(context: CheckContext) -> None:
    """A nacked message is delivered again; an acked one of the same batch is not."""
    receiver, messages = await _received(context, 4)
    await receiver.nack(messages[:2], 0)
    await context.ack(receiver, *messages[2:])
    returned = await context.collect(receiver, 2, settle=True, within=context.soon)
    again = {message.body for message in returned}
    expect(again == {m.body for m in messages[:2]}, f"{again} were delivered again")
    await context.expect_nothing(receiver)


@check(NACK)
async def a_nack_after_an_ack_brings_nothing_back(context: CheckContext) -> None:
    """A nack of an acked message is refused, or has no effect."""
    receiver, (message,) = await _received(context)
    await context.ack(receiver, message)
    results = await receiver.nack([message], 0)
    expect(len(results) == 1, f"{len(results)} results for 1 message")
    await context.expect_nothing(receiver)


@check(DELAY)
async def the_delay_of_a_nack_is_waited_for(context: CheckContext) -> None:
    """The message is delivered again after the delay, and not before."""
    receiver, (message,) = await _received(context)
    delay = 0.4 if context.can.process_local else 2.0
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await receiver.nack([message], delay)
    await context.collect(receiver, 1, settle=True, within=context.max_wait + delay)
    took = loop.time() - begun
    expect(took >= 0.7 * delay, f"it was delivered again after {took:.2f} s, not {delay:g} s")


@check(NACK, COUNT)
async def deliveries_are_counted(context: CheckContext) -> None:
    """``delivery`` is 1 for the first delivery, and one more for each further one."""
    receiver = await context.receiver()
    await context.send(context.message(b"x"))
    for expected in (1, 2, 3):
        (message,) = await context.collect(receiver, 1)
        expect(message.delivery == expected, f"delivery {expected} has number {message.delivery}")
        await receiver.nack([message], 0)


@check(NO_COUNT)
async def a_delivery_that_is_not_counted_is_the_first(context: CheckContext) -> None:
    """Without a count, ``delivery`` is 1, also for a message that is delivered again."""
    receiver, (message,) = await _received(context)
    await receiver.aclose()
    (again,) = await context.collect(await context.receiver(), 1)
    numbers = (message.delivery, again.delivery)
    expect(numbers == (1, 1), f"two deliveries have the numbers {numbers}")


@check(LEASES, SHORT_LEASE)
async def an_unsettled_message_comes_again_after_its_lease(context: CheckContext) -> None:
    """No other receiver gets it during the lease; the next delivery is counted."""
    loop = asyncio.get_running_loop()
    receiver, other = await context.receiver(), await context.receiver()
    await context.send(context.message(b"x"))
    begun = loop.time()
    (message,) = await context.collect(receiver, 1)
    await context.expect_nothing(other, 0.6 * context.lease - (loop.time() - begun))
    (again,) = await context.collect(other, 1, within=context.lease + context.max_wait)
    expect(again.id == message.id, "another message was delivered")
    counted = again.delivery == 2 or not context.can.delivery_count
    expect(counted, f"its second delivery has the number {again.delivery}")
    await context.ack(other, again)


@check(LEASES, SHORT_LEASE)
async def a_late_ack_is_refused(context: CheckContext) -> None:
    """An ack after the lease is refused, and does not affect the message's new receiver."""
    receiver, (message,) = await _received(context)
    other = await context.receiver()
    (again,) = await context.collect(other, 1, within=context.lease + context.max_wait)
    (result,) = await receiver.ack([message])
    expect(is_refused(result), f"the late ack gave {result!r}, not a permanent error")
    await context.ack(other, again)
    await context.expect_nothing(other)


@check(LEASES, SHORT_LEASE, LASTING)
async def an_extended_lease_lasts(context: CheckContext) -> None:
    """No other receiver gets a message whose lease is extended in time, and it can be acked."""
    receiver, (message,) = await _received(context)
    other = await context.receiver()
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(_keep(context, receiver, message, 2 * context.lease))
        await context.expect_nothing(other, 2 * context.lease)
    expect(not any(keeping.result()), f"an extension was refused: {keeping.result()}")
    await context.ack(receiver, message)
    await context.expect_nothing(other, 1.2 * context.lease)


async def _keep(
    context: CheckContext, receiver: Receiver, message: Message, seconds: float
) -> Results:
    """Extend the lease of a message again and again, and return the results."""
    results: list[Exception | None] = []
    for _ in range(round(3 * seconds / context.lease)):
        await asyncio.sleep(context.lease / 3)
        results += await receiver.extend([message], context.lease)
    return results


@check(CAP)
async def the_cap_on_leases_is_true(context: CheckContext) -> None:
    """A message can be kept until the cap; then another receiver gets it."""
    loop = asyncio.get_running_loop()
    cap = context.can.lease_cap or 0.0
    receiver, other = await context.receiver(), await context.receiver()
    await context.send(context.message(b"x"))
    begun = loop.time()
    (message,) = await context.collect(receiver, 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(_keep_until(begun + cap, receiver, message, context.lease))
        (again,) = await context.collect(other, 1, within=cap + context.lease + context.max_wait)
        kept = loop.time() - begun
        await context.ack(other, again)
    expect(kept >= 0.8 * cap, f"it was kept for {kept:.2f} s, of {cap:g} s")
    expect(kept <= cap + 2 * context.lease, f"it was kept for {kept:.2f} s, of {cap:g} s at most")


async def _keep_until(end: float, receiver: Receiver, message: Message, lease: float) -> None:
    """Extend a lease up to ``end`` as the engine does, and past it, which must be refused."""
    loop = asyncio.get_running_loop()
    while (left := end - loop.time()) > -2 * lease:
        if left > 0:
            await receiver.extend([message], min(lease, left))
        await receiver.extend([message], lease)
        await asyncio.sleep(lease / 3)


@check(LEASES, SHORT_LEASE)
async def a_lost_lease_cannot_be_extended(context: CheckContext) -> None:
    """An extension after the lease is refused: another receiver has the message."""
    receiver, (message,) = await _received(context)
    other = await context.receiver()
    (again,) = await context.collect(other, 1, within=context.lease + context.max_wait)
    (result,) = await receiver.extend([message], context.lease)
    expect(
        is_refused(result),
        f"the late extension gave {result!r}, not a permanent error",
    )
    await context.ack(other, again)


@check(SETTLES_EACH)
async def what_is_held_at_the_close_is_given_back_at_once(context: CheckContext) -> None:
    """The next receiver gets the messages of a closed one before their leases end."""
    receiver, messages = await _received(context, 3)
    await receiver.aclose()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    again = await context.collect(await context.receiver(), 3, settle=True)
    expect({m.body for m in again} == {m.body for m in messages}, "others were delivered again")
    if context.lease:
        took = loop.time() - begun
        expect(
            took < 0.8 * context.lease,
            f"they came after {took:.2f} s of a {context.lease:g} s lease",
        )


@check(POSITIONS)
async def an_ack_stands_for_all_before_it(context: CheckContext) -> None:
    """After an ack of a partition's last message, none of it is delivered again."""
    receiver = await context.receiver(ordered=True)
    await context.send_numbers(10, keys=["k"])
    messages = await context.collect(receiver, 10)
    await context.ack(receiver, messages[-1])
    await receiver.aclose()
    await context.expect_nothing(await context.receiver(ordered=True))


@check(POSITIONS)
async def what_follows_the_position_comes_again_in_order(context: CheckContext) -> None:
    """After an ack of the third message, the next receiver begins at the fourth."""
    receiver = await context.receiver(ordered=True)
    await context.send_numbers(10, keys=["k"])
    messages = await context.collect(receiver, 10)
    await context.ack(receiver, messages[2])
    await receiver.aclose()
    again = await context.collect(await context.receiver(ordered=True), 7)
    got = [message.body for message in again]
    expect(got == [str(n).encode() for n in range(3, 10)], f"{got} were delivered again")


@check(POSITIONS)
async def partitions_are_asked_back_before_another_gets_them(context: CheckContext) -> None:
    """When a receiver joins, ``revoke`` of the first is awaited, and its acks count."""
    revoked: list[object] = []
    held: list[Message] = []

    async def revoke(partitions: object, seconds: float) -> None:
        expect(seconds > 0, f"revoke was given {seconds} s")
        revoked.append(partitions)
        if held:
            await context.ack(first, *held)

    first = await context.receiver(ordered=True, revoke=revoke)
    await context.send_numbers(20, keys=[str(number) for number in range(10)])
    held += await context.collect(first, 20)
    second = await context.receiver(ordered=True)
    first_again = asyncio.create_task(first.receive(10, 10 * context.max_wait))
    async with context.in_time("the revocation"):
        while not revoked:
            await context.expect_nothing(second, 0.1)
    await context.expect_nothing(second)
    await first.aclose()
    expect(not await first_again, "messages acked during the revocation were delivered again")
