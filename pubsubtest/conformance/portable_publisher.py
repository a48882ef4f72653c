"""The real publisher on top of the driver: nothing that it confirms is lost, nothing overtakes."""

from __future__ import annotations

import asyncio
from collections import Counter

from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub.message import CONTENT_TYPE
from pubsubtest.conformance.checking import BYTES, LIMIT, ORDER, CheckFailed, Checks, expect
from pubsubtest.conformance.context import Bench
from pubsubtest.conformance.observing import WatchedSender

check = Checks()


@check()
async def what_is_published_at_once_arrives(bench: Bench) -> None:
    """Many calls at the same time are each confirmed, and each arrives once."""
    receiver = await bench.receiver()
    publisher = await bench.publisher()
    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(publisher.publish(str(number).encode()))
    got = Counter(message.body for message in await bench.collect(receiver, 100, settle=True))
    expect(len(got) == 100, f"{len(got)} of 100 messages arrived")


@check(ORDER)
async def a_key_published_at_once_keeps_the_order_of_the_calls(bench: Bench) -> None:
    """Concurrent calls with one key arrive in the order in which they were made."""
    receiver = await bench.receiver(ordered=True)
    publisher = await bench.publisher()
    async with asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(publisher.publish(str(number).encode(), key="k"))
    got = [int(m.body or b"") for m in await bench.collect(receiver, 30, settle=True)]
    expect(got == list(range(30)), f"they arrived as {got}")


@check()
async def each_value_has_its_own_result(bench: Bench) -> None:
    """Of many published in one call, the one that cannot be encoded fails, the others arrive."""
    receiver = await bench.receiver()
    publisher = await bench.publisher()
    results = await publisher.publish_many([b"0", object(), b"2"])
    expect([r is None for r in results] == [True, False, True], f"the results are {results}")
    got = {message.body for message in await bench.collect(receiver, 2, settle=True)}
    expect(got == {b"0", b"2"}, f"{got} arrived")


@check()
async def a_send_holds_no_more_than_the_broker_takes(bench: Bench) -> None:
    """Many messages go out in batches within the limits: by count, and one of a key in each."""
    receiver = await bench.receiver()
    watched = WatchedSender(bench.driver.sender(bench.topic))
    publisher = await bench.publisher(sender=watched)
    most = bench.can.batch_messages
    count = min(most + 10, 500)
    keys = [None, "a", "b"]
    numbers = list(range(count))
    results = await publisher.publish_many(
        [str(number).encode() for number in numbers], key=lambda body: keys[int(body) % 3]
    )
    expect(not any(results), f"a message was not sent: {[r for r in results if r][:1]}")
    largest = max(map(len, watched.batches))
    expect(largest <= most, f"a send held {largest} messages, of {most} at most")
    for batch in watched.batches if not bench.can.ordered_batches else ():
        twice = [key for key, times in Counter(m.key for m in batch if m.key).items() if times > 1]
        expect(not twice, f"a send held several messages of {twice}, without ordered_batches")
    got = {message.body for message in await bench.collect(receiver, count, settle=True)}
    expect(len(got) == count, f"{len(got)} of {count} messages arrived")


@check(BYTES)
async def a_send_holds_no_more_bytes_than_the_broker_takes(bench: Bench) -> None:
    """Large messages go out in as many batches as it takes, and ``batch_bytes`` is true."""
    receiver = await bench.receiver()
    watched = WatchedSender(bench.driver.sender(bench.topic))
    publisher = await bench.publisher(sender=watched)
    most = bench.can.batch_bytes or 0
    parts = min(10, bench.can.batch_messages)
    size = min(most // parts, (bench.can.message_bytes or most) - 1000)
    results = await publisher.publish_many([b"x" * size] * (2 * parts))
    expect(not any(results), f"a message was not sent: {[r for r in results if r][:1]}")
    largest = max(sum(len(m.body or b"") for m in batch) for batch in watched.batches)
    expect(largest <= most, f"a send held {largest} bytes, of {most} at most")
    await bench.collect(receiver, 2 * parts, settle=True)


@check(LIMIT)
async def a_message_as_large_as_the_limit_arrives(bench: Bench) -> None:
    """``message_bytes`` is what the broker takes, not a guess that is too high."""
    receiver = await bench.receiver()
    publisher = await bench.publisher()
    room = (bench.can.message_bytes or 0) - len(CONTENT_TYPE) - len("application/octet-stream")
    await publisher.publish(b"x" * room)
    (got,) = await bench.collect(receiver, 1, settle=True)
    expect(len(got.body or b"") == room, f"{len(got.body or b'')} of {room} bytes arrived")


@check(LIMIT)
async def a_larger_message_is_refused_before_the_wire(bench: Bench) -> None:
    """The publisher refuses what the broker would, and goes on."""
    watched = WatchedSender(bench.driver.sender(bench.topic))
    publisher = await bench.publisher(sender=watched)
    try:
        await publisher.publish(b"x" * ((bench.can.message_bytes or 0) + 1))
    except PubSubError as error:
        expect(not error.transient, "it is called transient, but trying again cannot help")
    else:
        raise CheckFailed("a message above the limit was published")
    expect(not watched.batches, "a message above the limit was given to the driver")
    await publisher.publish(b"small")


@check()
async def closing_a_publisher_sends_what_waits(bench: Bench) -> None:
    """What was published before the close is confirmed, and arrives."""
    receiver = await bench.receiver()
    publisher = await bench.publisher()
    calls = [asyncio.create_task(publisher.publish(str(n).encode())) for n in range(50)]
    await asyncio.sleep(0)
    await publisher.aclose()
    failures = [error for error in await asyncio.gather(*calls, return_exceptions=True) if error]
    expect(not failures, f"{len(failures)} calls failed: {failures[:1]}")
    await bench.collect(receiver, 50, settle=True)


@check()
async def a_closed_publisher_refuses_to_publish(bench: Bench) -> None:
    """That is a mistake of its caller, and raises UsageError; a second close does nothing."""
    publisher = await bench.publisher()
    await publisher.aclose()
    await publisher.aclose()
    try:
        await publisher.publish(b"late")
    except UsageError:
        return
    raise CheckFailed("a publisher that is closed published")
