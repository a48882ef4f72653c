"""The real Subscriber on the driver: outcomes, order, and dead letters."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from time import perf_counter
from typing import Any

from gizmopy.errors import PubSubError, Reject, Retry, UndecodableMessage, UsageError
from gizmopy.observe.context import request_id
from gizmopy.pubsub import Message
from gizmopy.pubsub.cloudevents import CloudEvent, data_of
from gizmopy.pubsub.handlers import BatchResults
from gizmopy.pubsub.subscription import Order
from pubsubtest.conformance.checking import (
    ATTRIBUTES,
    BLOCKABLE,
    CAP,
    LASTING,
    LEASES,
    ORDER,
    SHORT_LEASE,
    Checks,
    expect,
)
from pubsubtest.conformance.context import CheckContext
from pubsubtest.conformance.observing import WatchedReceiver

check = Checks()


@check()
async def a_handled_message_is_acked_once(context: CheckContext) -> None:
    """The handler runs once, the message is settled once, and it is not delivered again."""
    handled: list[bytes | None] = []

    async def handle(message: Message) -> None:
        handled.append(message.body)

    running = await context.run(handle)
    await context.send_numbers(10)
    await context.until(lambda: len(running.settled) == 10, "the settling of 10 messages")
    expect(len(set(handled)) == 10, f"handled {handled}")
    expect(Counter(running.settled).most_common(1)[0][1] == 1, "a message was settled twice")
    await running.subscriber.drain(1)
    await context.expect_nothing(await context.receiver())


@check()
async def a_cloudevent_arrives_in_both_modes(context: CheckContext) -> None:
    """Handlers see an event as ``ce-…`` on every broker; in structured mode it is the body."""
    handled: list[Message] = []

    async def handle(message: Message) -> None:
        handled.append(message)

    await context.run(handle)
    publisher = await context.publisher()
    event = CloudEvent(type="cat.born", source="/cats", id="7", subject="größe 1%")
    await publisher.publish({"name": "Tom"}, attributes=event.attributes())
    await context.until(lambda: len(handled) == 1, "the handling of the event in binary mode")
    await publisher.publish(event.structured({"name": "Tom"}))
    await context.until(lambda: len(handled) == 2, "the handling of the event in structured mode")
    binary, structured = handled
    got = {n: text for n, text in binary.attributes.items() if n[:2] == "ce"}
    expect(got == event.attributes(), f"its attributes became {got}")
    for message in (binary, structured):
        read = CloudEvent.from_message(message)
        expect(read == replace(event, datacontenttype="application/json"), f"it became {read}")
        expect(data_of(message) == b'{"name":"Tom"}', f"the data became {data_of(message)!r}")


@check()
async def a_forwarded_message_is_as_it_came(context: CheckContext) -> None:
    """A handler publishes the Message that it got: body, key and attributes go out unchanged."""
    there = await context.receiver(topic=context.other_topic)
    publisher = await context.publisher(context.other_topic)
    running = await context.run(publisher.publish)
    attributes = {"z": "1", "content-type": "a/b", "empty": "", "a": '猫 " = ;'}
    await context.send(
        context.message(b"\x00\xff", key="k/ü", attributes=attributes),
        context.message(None, key="t"),
    )
    got = await context.collect(there, 2, settle=True)
    await context.until(lambda: len(running.settled) == 2, "the settling of 2 messages")
    bodies = {message.body: message for message in got}
    expect(bodies.keys() == {b"\x00\xff", None}, f"the bodies became {list(bodies)}")
    forwarded = bodies[b"\x00\xff"]
    expect(forwarded.key == "k/ü", f"the key became {forwarded.key!r}")
    for name, text in attributes.items():
        found = forwarded.attributes.get(name)
        expect(found == text, f"attribute {name!r} became {found!r}")


@check()
async def the_id_of_a_request_reaches_the_handler(context: CheckContext) -> None:
    """A message has the id of the request that it is published in, and no other one has it."""
    seen: list[tuple[bytes | None, str, str]] = []

    async def handle(message: Message) -> None:
        seen.append((message.body, message.request_id, request_id.get()))

    await context.run(handle)
    publisher = await context.publisher()
    token = request_id.set("request-7")
    await publisher.publish(b"in")
    request_id.reset(token)
    await publisher.publish(b"out")
    await context.until(lambda: len(seen) == 2, "the handling of 2 messages")
    expected = {(b"in", "request-7", "request-7"), (b"out", "", "")}
    expect(set(seen) == expected, f"body, message and context have {seen}")


@check()
async def a_failing_message_becomes_a_dead_letter(context: CheckContext) -> None:
    """After all attempts, the message is published unchanged, with the reason, and acked."""
    dead, publisher = await context.dead_letters()
    handlings = 0

    async def fail(message: Message) -> None:
        nonlocal handlings
        handlings += 1
        raise ValueError("bad cat")

    running = await context.run(fail, dead_letter=publisher.publish)
    await context.send(context.message(b"x", key="k", attributes={"a": "b"}))
    (letter,) = await context.collect(dead, 1, settle=True)
    expect((letter.body, letter.key) == (b"x", "k"), f"the dead letter is {letter!r}")
    attributes = letter.attributes
    expect(attributes.get("a") == "b", "the message's own attribute is gone")
    expect(
        attributes.get("gizmo-dl-reason") == "exhausted", f"its attributes are {dict(attributes)}"
    )
    expect(
        "bad cat" in attributes.get("gizmo-dl-exception", ""),
        f"its attributes are {dict(attributes)}",
    )
    expect(
        attributes.get("gizmo-dl-source-topic") == context.topic,
        f"its attributes are {dict(attributes)}",
    )
    expect(handlings == 4, f"2 attempts in each of 2 deliveries were {handlings} handlings")
    await context.until(lambda: running.bodies("dead_letter"), "the ack of the dead letter")
    await running.subscriber.drain(1)
    await context.expect_nothing(await context.receiver())


@check()
async def a_rejected_message_becomes_a_dead_letter_at_once(context: CheckContext) -> None:
    """``Reject`` is not retried, and its reason is an attribute of the dead letter."""
    dead, publisher = await context.dead_letters()
    handlings = 0

    async def reject(message: Message) -> None:
        nonlocal handlings
        handlings += 1
        raise Reject("no such cat")

    await context.run(reject, dead_letter=publisher.publish)
    await context.send(context.message(b"x"))
    (letter,) = await context.collect(dead, 1, settle=True)
    expect(handlings == 1, f"it was handled {handlings} times")
    expect(letter.attributes.get("gizmo-dl-reason") == "no such cat", f"{dict(letter.attributes)}")


@check()
async def a_group_of_errors_counts_as_the_gravest(context: CheckContext) -> None:
    """``Reject`` in a task group is a ``Reject``; the dead letter names each error."""
    dead, publisher = await context.dead_letters()
    handlings = 0

    async def fail(error: Exception) -> None:
        raise error

    async def reject(message: Message) -> None:
        nonlocal handlings
        handlings += 1
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(ValueError("odd")))
            group.create_task(fail(Reject("no such cat")))

    await context.run(reject, dead_letter=publisher.publish)
    await context.send(context.message(b"x"))
    (letter,) = await context.collect(dead, 1, settle=True)
    attributes = letter.attributes
    expect(handlings == 1, f"it was handled {handlings} times")
    expect(attributes.get("gizmo-dl-reason") == "no such cat", f"{dict(attributes)}")
    expect("ValueError: odd" in attributes.get("gizmo-dl-exception", ""), f"{dict(attributes)}")


@check()
async def an_undecodable_message_holds_up_nobody(context: CheckContext) -> None:
    """It becomes one dead letter at once, and the next message is handled."""
    dead, publisher = await context.dead_letters()
    handled: list[bytes | None] = []

    async def decode(message: Message) -> None:
        if message.body == b"0":
            raise UndecodableMessage("no cat")
        handled.append(message.body)

    await context.run(decode, dead_letter=publisher.publish)
    await context.send_numbers(2, ["k"])
    (letter,) = await context.collect(dead, 1, settle=True)
    expect(letter.attributes.get("gizmo-dl-reason") == "undecodable", f"{dict(letter.attributes)}")
    await context.until(lambda: handled == [b"1"], "the handling of the next message")
    await context.expect_nothing(dead)


@check()
async def a_message_is_kept_until_its_dead_letter_is_confirmed(context: CheckContext) -> None:
    """If the dead letter is refused, the message is not acked, and dead-lettered later."""
    refusals = 0
    published: list[Message] = []

    async def record_dead_letter(message: Message) -> None:
        nonlocal refusals
        if refusals < 2:
            refusals += 1
            raise PubSubError("the dead letters are full", transient=True)
        published.append(message)

    async def reject(message: Message) -> None:
        raise Reject("no")

    running = await context.run(reject, dead_letter=record_dead_letter)
    await context.send(context.message(b"x"))
    await context.until(lambda: running.bodies("dead_letter"), "the dead letter")
    expect(
        refusals == 2 and len(published) == 1, f"{refusals} refusals, {len(published)} dead letters"
    )


@check()
async def retry_after_is_waited_for(context: CheckContext) -> None:
    """``Retry(after=…)`` handles the message again after the delay, and not before."""
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def later(message: Message) -> None:
        times.append(loop.time())
        if len(times) == 1:
            raise Retry(after=0.3)

    running = await context.run(later)
    await context.send(context.message(b"x"))
    await context.until(lambda: running.bodies("ack"), "the second handling")
    expect(times[1] - times[0] >= 0.29, f"it was handled again after {times[1] - times[0]:.2f} s")


@check(LEASES, SHORT_LEASE, LASTING)
async def a_handler_slower_than_the_lease_is_not_disturbed(context: CheckContext) -> None:
    """The lease is extended: the message is delivered once, even if it waits for a worker."""
    handled: list[bytes | None] = []

    async def slow(message: Message) -> None:
        handled.append(message.body)
        await asyncio.sleep(1.3 * context.lease)

    running = await context.run(slow)
    other = await context.run(slow, max_in_flight=1)
    await context.send_numbers(2)
    await context.until(
        lambda: len(running.settled) + len(other.settled) == 2,
        "the handling of 2 messages",
        within=2.6 * context.lease + context.soon,
    )
    expect(len(handled) == len(set(handled)) == 2, f"2 messages were handled as {handled}")


@check(BLOCKABLE)
async def a_handler_that_blocks_the_event_loop_is_reported(context: CheckContext) -> None:
    """While no lease can be extended, messages are lost: a problem names the handler."""

    blockages = [1.5 * context.lease]

    async def block(_: Message) -> None:
        end = perf_counter() + (blockages.pop() if blockages else 0)
        while perf_counter() < end:
            pass

    running = await context.run(block, max_in_flight=1)
    expect(not running.subscriber.problem, f"it has a problem: {running.subscriber.problem}")
    await context.send_numbers(1)
    await context.until(
        lambda: "Conformance.handler" in running.subscriber.problem,
        "a problem of the subscriber that names the handler",
        within=2 * context.lease + context.soon,
    )


@check(CAP)
async def what_is_held_beyond_the_cap_is_not_acked(context: CheckContext) -> None:
    """A handler slower than the cap acks nothing; the next delivery is acked."""
    go_on = asyncio.Event()
    handlings = 0

    async def handle(message: Message) -> None:
        nonlocal handlings
        handlings += 1
        if handlings == 1:
            await go_on.wait()

    running = await context.run(handle, concurrency=2)
    await context.send(context.message(b"x"))
    wait = (context.can.lease_cap or 0) + context.lease + context.max_wait
    await context.until(lambda: running.bodies("ack"), "the ack of another handling", within=wait)
    go_on.set()
    await running.subscriber.drain(context.max_wait)
    outcomes = [outcome for _, outcome in running.settled]
    expect(outcomes.count("ack") == 1, f"the two handlings ended as {outcomes}")


@check(ORDER)
async def a_key_is_handled_in_order_whatever_fails(context: CheckContext) -> None:
    """First handlings of a key are in order, and two messages of a key never run together."""
    await _handle_in_order(context, "key")


@check(ORDER)
async def a_partition_is_handled_in_order_whatever_fails(context: CheckContext) -> None:
    """With ``order="partition"`` two messages of a partition never run together."""
    await _handle_in_order(context, "partition")


async def _handle_in_order(context: CheckContext, order: Order) -> None:
    first: defaultdict[str | None, list[int]] = defaultdict(list)
    at_work: set[Hashable] = set()
    overlaps: list[Hashable] = []

    async def handle(message: Message) -> None:
        number = int(message.body or b"")
        if number not in first[message.key]:
            first[message.key].append(number)
        lane = message.key if order == "key" else message.partition
        if lane in at_work:
            overlaps.append(lane)
        at_work.add(lane)
        await asyncio.sleep(0)
        at_work.discard(lane)
        if number % 7 == 3 and message.attempt == 1 and message.delivery == 1:
            raise ValueError("once")

    running = await context.run(handle, order=order, concurrency=8, max_deliveries=5)
    await context.send_numbers(60, ["a", "b", "c", "d"])
    await context.until(lambda: len(running.bodies("ack")) >= 60, "the handling of 60 messages")
    expect(not overlaps, f"two messages of one {order} were handled at once: {overlaps}")
    for key, numbers in first.items():
        expect(numbers == sorted(numbers), f"key {key!r} was first handled as {numbers}")


@check()
async def no_more_is_in_flight_than_asked_for(context: CheckContext) -> None:
    """Nothing is received beyond the limits of messages and bytes in flight."""
    watched = WatchedReceiver(
        context.driver.receiver(context.topic, context.subscription, ordered=False)
    )
    release = asyncio.Event()

    async def wait(message: Message) -> None:
        await release.wait()

    running = await context.run(
        wait, receiver=watched, concurrency=2, max_in_flight=3, max_in_flight_bytes=10_000
    )
    await context.send_numbers(9)
    await context.until(lambda: watched.received >= 3, "the receipt of 3 messages")
    await asyncio.sleep(context.quiet)
    expect(watched.received == 3, f"{watched.received} messages are held, of 3 at most")
    release.set()
    await context.until(lambda: len(running.bodies("ack")) == 9, "the handling of the rest")
    release.clear()
    await context.send(context.message(b"x" * 12_000))
    await context.until(lambda: watched.received >= 10, "the receipt of a large message")
    await context.send(context.message(b"x"))
    await asyncio.sleep(context.quiet)
    expect(
        watched.received == 10,
        "more messages were received, although the limit of bytes was reached",
    )
    release.set()


@check()
async def a_batch_handler_settles_each(context: CheckContext) -> None:
    """Failed messages of a batch become dead letters, and the others are acked."""
    dead, publisher = await context.dead_letters()

    async def one(message: Message) -> None:
        raise UsageError("this subscription handles batches")

    async def handle(messages: Sequence[Message]) -> BatchResults:
        return [Reject("odd") if int(m.body or b"") % 2 else None for m in messages]

    running = await context.run(
        one, batch_handler=handle, batch_size=4, batch_wait=0.05, dead_letter=publisher.publish
    )
    await context.send_numbers(6, ["k"])
    letters = await context.collect(dead, 3, settle=True)
    expect({m.body for m in letters} == {b"1", b"3", b"5"}, "the wrong ones were rejected")
    await context.until(lambda: len(running.bodies("ack")) == 3, "the ack of the others")


_CONTEXT: ContextVar[str] = ContextVar("conformance", default="clean")


@check()
async def handlers_do_not_see_each_others_context(context: CheckContext) -> None:
    """A handler does not see the context variables that another handling set."""
    seen: list[str] = []

    async def handle(message: Message) -> None:
        seen.append(_CONTEXT.get())
        _CONTEXT.set("dirty")

    running = await context.run(handle)
    await context.send_numbers(3)
    await context.until(lambda: len(running.settled) == 3, "the handling of 3 messages")
    expect(seen == ["clean"] * 3, f"the handlers saw {seen}")


@check()
async def each_handling_sees_the_message_as_it_came(context: CheckContext) -> None:
    """A handler that changes body and attributes changes them for no other handling."""
    dead, publisher = await context.dead_letters()
    seen: list[tuple[bytes | None, str | None]] = []

    async def change(message: Message) -> None:
        attributes: Any = message.attributes
        seen.append((message.body, attributes.get("a")))
        attributes["a"] = "changed"
        message.body = b"changed"
        if len(seen) % 2:
            message.attributes = {"a": "replaced"}
        raise ValueError("no cat")

    await context.run(change, dead_letter=publisher.publish)
    if context.can.fan_out:
        await context.run(
            change, subscription=context.second_subscription, dead_letter=publisher.publish
        )
    await context.send(context.message(b"x", attributes={"a": "b"}))
    letters = await context.collect(dead, 1 + context.can.fan_out, settle=True)
    expect(set(seen) == {(b"x", "b")}, f"the handlers saw {seen}")
    for letter in letters:
        got = letter.body, letter.attributes.get("a")
        expect(got == (b"x", "b"), f"the dead letter has {got}")


@check(ATTRIBUTES)
async def a_dead_letter_has_no_more_attributes_than_the_broker_takes(context: CheckContext) -> None:
    """A message with as many attributes as the limit becomes a dead letter with all of them."""
    dead, publisher = await context.dead_letters()

    async def reject(message: Message) -> None:
        raise Reject("no cat")

    await context.run(reject, dead_letter=publisher.publish)
    most = publisher.limits.message_attributes or 0
    attributes = {f"a{n}": str(n) for n in range(most)}
    await context.send(context.message(b"x", attributes=attributes))
    (letter,) = await context.collect(dead, 1, settle=True)
    expect(len(letter.attributes) <= most, f"it has {len(letter.attributes)} of {most} attributes")
    expect(attributes.items() <= letter.attributes.items(), "an attribute of the message is lost")
