"""The real Publisher on the driver: confirmed messages arrive, and each key keeps its order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub import Publisher
from gizmopy.pubsub.message import CONTENT_TYPE
from pubsubtest.conformance.checking import (
    ATTRIBUTE_BYTES,
    ATTRIBUTES,
    BYTES,
    LIMIT,
    ORDER,
    CheckFailed,
    Checks,
    expect,
)
from pubsubtest.conformance.context import CheckContext
from pubsubtest.conformance.observing import WatchedSender

check = Checks()


@check()
async def what_is_published_at_once_arrives(context: CheckContext) -> None:
    """Each of many concurrent calls is confirmed, and its message arrives once."""
    receiver = await context.receiver()
    publisher = await context.publisher()
    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(publisher.publish(str(number).encode()))
    got = Counter(message.body for message in await context.collect(receiver, 100, settle=True))
    expect(len(got) == 100, f"{len(got)} of 100 messages arrived")


@check(ORDER)
async def a_key_published_at_once_keeps_the_order_of_the_calls(context: CheckContext) -> None:
    """Messages of concurrent calls with one key arrive in the order of the calls."""
    receiver = await context.receiver(ordered=True)
    publisher = await context.publisher()
    async with asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(publisher.publish(str(number).encode(), key="k"))
    got = [int(m.body or b"") for m in await context.collect(receiver, 30, settle=True)]
    expect(got == list(range(30)), f"they arrived as {got}")


@check()
async def each_value_has_its_own_result(context: CheckContext) -> None:
    """Of many values in one call, one that cannot be encoded fails, and the others arrive."""
    receiver = await context.receiver()
    publisher = await context.publisher()
    results = await publisher.publish_many([b"0", object(), b"2"])
    expect([r is None for r in results] == [True, False, True], f"the results are {results}")
    got = {message.body for message in await context.collect(receiver, 2, settle=True)}
    expect(got == {b"0", b"2"}, f"{got} arrived")


@check()
async def a_send_holds_no_more_than_the_broker_takes(context: CheckContext) -> None:
    """Batches are within the limits: by count, and with one message of each key."""
    receiver = await context.receiver()
    watched = WatchedSender(context.driver.sender(context.topic))
    publisher = await context.publisher(sender=watched)
    most = context.can.batch_messages
    count = min(most + 10, 500)
    keys = [None, "a", "b"]
    numbers = list(range(count))
    results = await publisher.publish_many(
        [str(number).encode() for number in numbers], key=lambda body: keys[int(body) % 3]
    )
    expect(not any(results), f"a message was not sent: {[r for r in results if r][:1]}")
    largest = max(map(len, watched.batches))
    expect(largest <= most, f"a send held {largest} messages, of {most} at most")
    for batch in watched.batches if not context.can.ordered_batches else ():
        twice = [key for key, times in Counter(m.key for m in batch if m.key).items() if times > 1]
        expect(not twice, f"a send held several messages of {twice}, without ordered_batches")
    got = {message.body for message in await context.collect(receiver, count, settle=True)}
    expect(len(got) == count, f"{len(got)} of {count} messages arrived")


@check(BYTES)
async def a_send_holds_no_more_bytes_than_the_broker_takes(context: CheckContext) -> None:
    """Large messages are sent in several batches, each within ``batch_bytes``."""
    receiver = await context.receiver()
    watched = WatchedSender(context.driver.sender(context.topic))
    publisher = await context.publisher(sender=watched)
    most = context.can.batch_bytes or 0
    parts = min(10, context.can.batch_messages)
    size = min(most // parts, (context.can.message_bytes or most) - 1000)
    results = await publisher.publish_many([b"x" * size] * (2 * parts))
    expect(not any(results), f"a message was not sent: {[r for r in results if r][:1]}")
    largest = max(sum(len(m.body or b"") for m in batch) for batch in watched.batches)
    expect(largest <= most, f"a send held {largest} bytes, of {most} at most")
    await context.collect(receiver, 2 * parts, settle=True)


@check(LIMIT)
async def a_message_as_large_as_the_limit_arrives(context: CheckContext) -> None:
    """A message of ``message_bytes`` arrives: the limit is not too high."""
    receiver = await context.receiver()
    publisher = await context.publisher()
    most = publisher.limits.message_bytes or 0
    room = most - len(CONTENT_TYPE) - len("application/octet-stream")
    await publisher.publish(b"x" * room)
    (got,) = await context.collect(receiver, 1, settle=True)
    expect(len(got.body or b"") == room, f"{len(got.body or b'')} of {room} bytes arrived")


@check(LIMIT)
async def a_larger_message_is_refused_before_the_wire(context: CheckContext) -> None:
    """The publisher rejects a message above the limit without sending it, and goes on."""
    watched = WatchedSender(context.driver.sender(context.topic))
    publisher = await context.publisher(sender=watched)
    try:
        await publisher.publish(b"x" * ((publisher.limits.message_bytes or 0) + 1))
    except PubSubError as error:
        expect(not error.transient, "the error is transient, although a retry cannot help")
    else:
        raise CheckFailed("a message above the limit was published")
    expect(not watched.batches, "a message above the limit was given to the driver")
    await publisher.publish(b"small")


@check()
async def a_topic_has_no_higher_limits_than_its_driver(context: CheckContext) -> None:
    """The limits of a sender that is connected are within those of the capabilities."""
    publisher = await context.publisher()
    for name, limit in asdict(publisher.limits).items():
        most = getattr(context.can, name)
        is_within = most is None or (limit is not None and 0 < limit <= most)
        expect(is_within, f"{name} is {limit} for this topic, and {most} in the capabilities")


@check(ATTRIBUTES)
async def as_many_attributes_as_the_limit_arrive(context: CheckContext) -> None:
    """``message_attributes`` of them arrive; one more is refused before the wire."""
    receiver = await context.receiver()
    watched = WatchedSender(context.driver.sender(context.topic))
    publisher = await context.publisher(sender=watched)
    most = publisher.limits.message_attributes or 0
    attributes = {CONTENT_TYPE: "text/plain"} | {f"a{n}": str(n) for n in range(most - 1)}
    await publisher.publish(b"x", attributes=attributes)
    (got,) = await context.collect(receiver, 1, settle=True)
    missing = attributes.items() - got.attributes.items()
    expect(not missing, f"of {most} attributes {len(missing)} did not arrive as they were")
    await _expect_refusal(publisher, watched, attributes | {"one-more": ""})


@check(ATTRIBUTE_BYTES)
async def an_attribute_as_long_as_the_limit_arrives(context: CheckContext) -> None:
    """A text of ``attribute_bytes`` arrives; a longer one is refused before the wire."""
    receiver = await context.receiver()
    watched = WatchedSender(context.driver.sender(context.topic))
    publisher = await context.publisher(sender=watched)
    most = publisher.limits.attribute_bytes or 0
    await publisher.publish(b"x", attributes={"a": "x" * most})
    (got,) = await context.collect(receiver, 1, settle=True)
    expect(got.attributes.get("a") == "x" * most, "the attribute has changed")
    await _expect_refusal(publisher, watched, {"a": "x" * (most - 1) + "ä"})


async def _expect_refusal(
    publisher: Publisher, watched: WatchedSender, attributes: Mapping[str, str]
) -> None:
    sends = len(watched.batches)
    try:
        await publisher.publish(b"x", attributes=attributes)
    except PubSubError as error:
        expect(not error.transient, "the error is transient, although a retry cannot help")
    else:
        raise CheckFailed("attributes above the limit were published")
    expect(len(watched.batches) == sends, "attributes above the limit were given to the driver")


@check()
async def a_delay_is_applied_or_refused(context: CheckContext) -> None:
    """A delay that the broker cannot apply is refused before the wire, and never ignored."""
    receiver = await context.receiver()
    publisher = await context.publisher()
    delay = 0.4 if context.can.process_local else 2.0
    if context.can.send_delay is None:
        try:
            await publisher.publish(b"later", delay=delay)
        except UsageError:
            return
        raise CheckFailed("a broker without delays took a message with a delay")
    begun = asyncio.get_running_loop().time()
    await publisher.publish(b"later", delay=delay)
    await context.collect(receiver, 1, settle=True, within=context.max_wait + delay)
    took = asyncio.get_running_loop().time() - begun
    expect(took >= 0.7 * delay, f"the message came after {took:.2f} s, not {delay:g} s")


@check()
async def closing_a_publisher_sends_what_waits(context: CheckContext) -> None:
    """Messages published before ``aclose`` are confirmed, and arrive."""
    receiver = await context.receiver()
    publisher = await context.publisher()
    calls = [asyncio.create_task(publisher.publish(str(n).encode())) for n in range(50)]
    await asyncio.sleep(0)
    await publisher.aclose()
    failures = [error for error in await asyncio.gather(*calls, return_exceptions=True) if error]
    expect(not failures, f"{len(failures)} calls failed: {failures[:1]}")
    await context.collect(receiver, 50, settle=True)


@check()
async def a_closed_publisher_refuses_to_publish(context: CheckContext) -> None:
    """It raises UsageError; a second ``aclose`` does nothing."""
    publisher = await context.publisher()
    await publisher.aclose()
    await publisher.aclose()
    try:
        await publisher.publish(b"late")
    except UsageError:
        return
    raise CheckFailed("a publisher that is closed published")
