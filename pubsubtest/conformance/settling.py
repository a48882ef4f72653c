"""An ack is for good, a nack is for later, and what is neither comes again."""

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
    POSITIONS,
    SETTLES_EACH,
    SHORT_LEASE,
    Checks,
    expect,
)
from pubsubtest.conformance.context import Bench, is_refused

check = Checks()


async def _received(bench: Bench, count: int = 1) -> tuple[Receiver, list[Message]]:
    """Return a receiver that holds ``count`` messages."""
    receiver = await bench.receiver()
    await bench.send_numbers(count)
    return receiver, await bench.collect(receiver, count)


@check()
async def what_is_acked_never_returns(bench: Bench) -> None:
    """Not to the one that acked it, nor to the next one."""
    receiver, messages = await _received(bench, 5)
    await bench.ack(receiver, *messages)
    await bench.expect_nothing(receiver)
    await receiver.aclose()
    await bench.expect_nothing(await bench.receiver())


@check(LEASES, SHORT_LEASE)
async def what_is_acked_does_not_return_after_its_lease(bench: Bench) -> None:
    """An ack outlives the lease that it ends."""
    receiver, messages = await _received(bench, 3)
    await bench.ack(receiver, *messages)
    await bench.expect_nothing(receiver, 1.5 * bench.lease)


@check()
async def acking_twice_harms_nothing(bench: Bench) -> None:
    """A second ack is refused or done again; what comes next is received and acked as ever."""
    receiver, (message,) = await _received(bench)
    await bench.ack(receiver, message)
    results = await receiver.ack([message])
    expect(len(results) == 1, f"{len(results)} results for 1 message")
    await bench.send(bench.message(b"next"))
    (following,) = await bench.collect(receiver, 1, settle=True)
    expect(following.body == b"next", f"after it {following.body!r} came")


@check(SETTLES_EACH)
async def an_ack_is_for_its_messages_alone(bench: Bench) -> None:
    """Of a batch that is half acked, the other half comes again, and no more."""
    receiver, messages = await _received(bench, 6)
    await bench.ack(receiver, *messages[::2])
    await receiver.aclose()
    again = await bench.collect(await bench.receiver(), 3)
    expected = {message.body for message in messages[1::2]}
    got = {message.body for message in again}
    expect(got == expected, f"{sorted(map(str, got))} came again, not {sorted(map(str, expected))}")


@check(SETTLES_EACH)
async def results_are_in_the_order_of_their_messages(bench: Bench) -> None:
    """Where one of a batch cannot be acked, its own result says so, and the others are acked."""
    receiver, messages = await _received(bench, 3)
    if bench.can.can_nack:
        await receiver.nack([messages[1]], 0)
        (again,) = await bench.collect(receiver, 1)
    results = await receiver.ack(messages)
    expect(len(results) == 3, f"{len(results)} results for 3 messages")
    expect(results[0] is None and results[2] is None, f"a message was not acked: {results}")
    if bench.can.can_nack:
        await bench.ack(receiver, again)
    await bench.expect_nothing(receiver)


@check(NACK)
async def a_nacked_message_comes_again(bench: Bench) -> None:
    """At once where no delay is asked for, and as it was."""
    receiver = await bench.receiver()
    sent = bench.message(b"x", key="k", attributes={"a": "b"})
    await bench.send(sent)
    (message,) = await bench.collect(receiver, 1)
    (refusal,) = await receiver.nack([message], 0)
    expect(refusal is None, f"the nack was refused: {refusal}")
    (again,) = await bench.collect(receiver, 1, settle=True, within=bench.soon)
    same = (again.body, again.key, again.attributes.get("a")) == (b"x", "k", "b")
    expect(same, f"it came again as {again!r} with {dict(again.attributes)}")
    expect(again.id == message.id, "it came again under another id")
    expect(again is not message, "the same object came again: a delivery is a Message of its own")


@check(NACK)
async def a_nack_is_for_its_messages_alone(bench: Bench) -> None:
    """What is nacked comes again; what was acked beside it does not."""
    receiver, messages = await _received(bench, 4)
    await receiver.nack(messages[:2], 0)
    await bench.ack(receiver, *messages[2:])
    returned = await bench.collect(receiver, 2, settle=True, within=bench.soon)
    again = {message.body for message in returned}
    expect(again == {m.body for m in messages[:2]}, f"{again} came again")
    await bench.expect_nothing(receiver)


@check(NACK)
async def a_nack_after_an_ack_brings_nothing_back(bench: Bench) -> None:
    """What is settled is settled: a nack that comes too late is refused, or does nothing."""
    receiver, (message,) = await _received(bench)
    await bench.ack(receiver, message)
    results = await receiver.nack([message], 0)
    expect(len(results) == 1, f"{len(results)} results for 1 message")
    await bench.expect_nothing(receiver)


@check(DELAY)
async def the_delay_of_a_nack_is_waited_for(bench: Bench) -> None:
    """The message comes again after the delay, and not before."""
    receiver, (message,) = await _received(bench)
    delay = 0.4 if bench.can.process_local else 2.0
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await receiver.nack([message], delay)
    await bench.collect(receiver, 1, settle=True, within=bench.patience + delay)
    took = loop.time() - begun
    expect(took >= 0.7 * delay, f"it came again after {took:.2f} s, not {delay:g} s")


@check(NACK, COUNT)
async def deliveries_are_counted(bench: Bench) -> None:
    """``delivery`` is 1 at first, and one more each time."""
    receiver = await bench.receiver()
    await bench.send(bench.message(b"x"))
    for expected in (1, 2, 3):
        (message,) = await bench.collect(receiver, 1)
        expect(message.delivery == expected, f"delivery {expected} is called {message.delivery}")
        await receiver.nack([message], 0)


@check(LEASES, SHORT_LEASE)
async def an_unsettled_message_comes_again_after_its_lease(bench: Bench) -> None:
    """Not before: within the lease nobody else gets it; and it counts as another delivery."""
    loop = asyncio.get_running_loop()
    receiver, other = await bench.receiver(), await bench.receiver()
    await bench.send(bench.message(b"x"))
    begun = loop.time()
    (message,) = await bench.collect(receiver, 1)
    await bench.expect_nothing(other, 0.6 * bench.lease - (loop.time() - begun))
    (again,) = await bench.collect(other, 1, within=bench.lease + bench.patience)
    expect(again.id == message.id, "another message came")
    counted = again.delivery == 2 or not bench.can.delivery_count
    expect(counted, f"its second delivery is called {again.delivery}")
    await bench.ack(other, again)


@check(LEASES, SHORT_LEASE)
async def a_late_ack_is_refused(bench: Bench) -> None:
    """An ack after the lease, when another has the message, says so, and takes nothing from it."""
    receiver, (message,) = await _received(bench)
    other = await bench.receiver()
    (again,) = await bench.collect(other, 1, within=bench.lease + bench.patience)
    (result,) = await receiver.ack([message])
    expect(is_refused(result), f"the late ack gave {result!r}, not a refusal for good")
    await bench.ack(other, again)
    await bench.expect_nothing(other)


@check(LEASES, SHORT_LEASE, LASTING)
async def an_extended_lease_lasts(bench: Bench) -> None:
    """A message whose lease is extended in time is nobody else's, and can be acked."""
    receiver, (message,) = await _received(bench)
    other = await bench.receiver()
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(_keep(bench, receiver, message, 2 * bench.lease))
        await bench.expect_nothing(other, 2 * bench.lease)
    expect(not any(keeping.result()), f"an extension was refused: {keeping.result()}")
    await bench.ack(receiver, message)
    await bench.expect_nothing(other, 1.2 * bench.lease)


async def _keep(bench: Bench, receiver: Receiver, message: Message, seconds: float) -> Results:
    """Extend the lease of a message again and again, and return the results."""
    results: list[Exception | None] = []
    for _ in range(round(3 * seconds / bench.lease)):
        await asyncio.sleep(bench.lease / 3)
        results += await receiver.extend([message], bench.lease)
    return results


@check(CAP)
async def the_cap_on_leases_is_true(bench: Bench) -> None:
    """A message can be kept until its cap, and is another's after it, however it is extended."""
    loop = asyncio.get_running_loop()
    cap = bench.can.lease_cap or 0.0
    receiver, other = await bench.receiver(), await bench.receiver()
    await bench.send(bench.message(b"x"))
    begun = loop.time()
    (message,) = await bench.collect(receiver, 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(_keep_until(begun + cap, receiver, message, bench.lease))
        (again,) = await bench.collect(other, 1, within=cap + bench.lease + bench.patience)
        kept = loop.time() - begun
        await bench.ack(other, again)
    expect(kept >= 0.8 * cap, f"it was kept for {kept:.2f} s, of {cap:g} s")
    expect(kept <= cap + 2 * bench.lease, f"it was kept for {kept:.2f} s, of {cap:g} s at most")


async def _keep_until(end: float, receiver: Receiver, message: Message, lease: float) -> None:
    """Extend a lease as the engine does, up to ``end``; and past it, which is to be in vain."""
    loop = asyncio.get_running_loop()
    while (left := end - loop.time()) > -2 * lease:
        if left > 0:
            await receiver.extend([message], min(lease, left))
        await receiver.extend([message], lease)
        await asyncio.sleep(lease / 3)


@check(LEASES, SHORT_LEASE)
async def a_lost_lease_cannot_be_extended(bench: Bench) -> None:
    """An extension after the lease says so: the message is another's by now."""
    receiver, (message,) = await _received(bench)
    other = await bench.receiver()
    (again,) = await bench.collect(other, 1, within=bench.lease + bench.patience)
    (result,) = await receiver.extend([message], bench.lease)
    expect(
        is_refused(result),
        f"the late extension gave {result!r}, not a refusal for good",
    )
    await bench.ack(other, again)


@check(SETTLES_EACH)
async def what_is_held_at_the_close_is_given_back_at_once(bench: Bench) -> None:
    """The next receiver need not wait for leases to run out."""
    receiver, messages = await _received(bench, 3)
    await receiver.aclose()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    again = await bench.collect(await bench.receiver(), 3, settle=True)
    expect({m.body for m in again} == {m.body for m in messages}, "others came again")
    if bench.lease:
        took = loop.time() - begun
        expect(
            took < 0.8 * bench.lease, f"they came after {took:.2f} s of a {bench.lease:g} s lease"
        )


@check(POSITIONS)
async def an_ack_stands_for_all_before_it(bench: Bench) -> None:
    """A partition's last message acked, none of it comes again."""
    receiver = await bench.receiver(ordered=True)
    await bench.send_numbers(10, keys=["k"])
    messages = await bench.collect(receiver, 10)
    await bench.ack(receiver, messages[-1])
    await receiver.aclose()
    await bench.expect_nothing(await bench.receiver(ordered=True))


@check(POSITIONS)
async def what_follows_the_position_comes_again_in_order(bench: Bench) -> None:
    """Acked up to the third, the next receiver begins at the fourth."""
    receiver = await bench.receiver(ordered=True)
    await bench.send_numbers(10, keys=["k"])
    messages = await bench.collect(receiver, 10)
    await bench.ack(receiver, messages[2])
    await receiver.aclose()
    again = await bench.collect(await bench.receiver(ordered=True), 7)
    got = [message.body for message in again]
    expect(got == [str(n).encode() for n in range(3, 10)], f"{got} came again")


@check(POSITIONS)
async def partitions_are_asked_back_before_another_gets_them(bench: Bench) -> None:
    """When a receiver joins, ``revoke`` of the first is awaited, and what it acks then counts."""
    revoked: list[object] = []
    held: list[Message] = []

    async def revoke(partitions: object, seconds: float) -> None:
        expect(seconds > 0, f"revoke was given {seconds} s")
        revoked.append(partitions)
        if held:
            await bench.ack(first, *held)

    first = await bench.receiver(ordered=True, revoke=revoke)
    await bench.send_numbers(20, keys=[str(number) for number in range(10)])
    held += await bench.collect(first, 20)
    second = await bench.receiver(ordered=True)
    first_again = asyncio.create_task(first.receive(10, 10 * bench.patience))
    async with bench.in_time("the revocation"):
        while not revoked:
            await bench.expect_nothing(second, 0.1)
    await bench.expect_nothing(second)
    await first.aclose()
    expect(not await first_again, "what was acked in the revocation came again")
