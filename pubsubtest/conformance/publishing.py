"""A sent message arrives unchanged, once for each subscription."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from gizmopy.errors import PubSubError, TopicNotFound
from gizmopy.pubsub import Message, Sender
from gizmopy.pubsub.message import CONTENT_TYPE
from pubsubtest.conformance.checking import (
    OUTAGE,
    REFUSES_UNKNOWN,
    SEND_DELAY,
    CheckFailed,
    Checks,
    expect,
)
from pubsubtest.conformance.context import UNKNOWN, CheckContext, is_transient

check = Checks()


async def _sent_and_received(context: CheckContext, message: Message) -> Message:
    receiver = await context.receiver()
    await context.send(message)
    (received,) = await context.collect(receiver, 1, settle=True)
    return received


@check()
async def a_message_arrives_as_it_was(context: CheckContext) -> None:
    """Body, key, attributes and topic come out as they went in."""
    sent = context.message(b'{"name": "Tom"}', key="tom", attributes={"colour": "grey"})
    got = await _sent_and_received(context, sent)
    expect(got.body == sent.body, f"the body became {got.body!r}")
    expect(got.key == "tom", f"the key became {got.key!r}")
    expect(got.attributes.get("colour") == "grey", f"attributes became {dict(got.attributes)}")
    expect(got.topic == context.topic, f"the topic became {got.topic!r}")


@check()
async def any_bytes_travel(context: CheckContext) -> None:
    """A body may contain any bytes."""
    body = bytes(range(256)) * 3
    got = await _sent_and_received(context, context.message(body))
    expect(got.body == body, "the body has changed")


@check()
async def json_is_not_mangled(context: CheckContext) -> None:
    """A JSON body arrives byte for byte, not decoded and encoded again."""
    body = b'{ "b": 1,\r\n "a": "\\u00e9", "n": 1.0, "b": 2 }'
    got = await _sent_and_received(context, context.message(body))
    expect(got.body == body, f"the body became {got.body!r}")


@check()
async def an_empty_body_is_no_tombstone(context: CheckContext) -> None:
    """A body without bytes arrives as an empty body."""
    got = await _sent_and_received(context, context.message(b"", key="k"))
    expect(got.body == b"", f"the empty body became {got.body!r}")


@check()
async def a_tombstone_arrives_as_one(context: CheckContext) -> None:
    """A message without a body arrives without a body."""
    got = await _sent_and_received(context, context.message(None, key="k"))
    expect(got.body is None, f"the tombstone became {got.body!r}")


@check()
async def keys_are_text_of_any_kind(context: CheckContext) -> None:
    """A key may have any script, spaces and signs; bytes that are not text are preserved."""
    receiver = await context.receiver()
    keys = ["Ünïcödé 猫", "a b/c:d?e=f&g", "0", b"\xff\x00\xfe".decode("utf-8", "surrogateescape")]
    for key in keys:
        await context.send(context.message(b"x", key=key))
        (got,) = await context.collect(receiver, 1, settle=True)
        expect(got.key == key, f"the key {key!r} became {got.key!r}")


@check()
async def no_key_is_no_key(context: CheckContext) -> None:
    """A message without a key arrives without one."""
    got = await _sent_and_received(context, context.message(b"x"))
    expect(got.key is None, f"no key became {got.key!r}")


@check()
async def odd_attributes_travel(context: CheckContext) -> None:
    """Attributes may be empty, long, in any script, and have any text as their name."""
    attributes = {
        "empty": "",
        "long": "x" * 1024,
        "猫": "ねこ",
        "Mixed-Case.and_signs": "a=b; c, d\t'e' \"f\"",
        "with space": " padded ",
    }
    got = await _sent_and_received(context, context.message(b"x", attributes=attributes))
    for name, text in attributes.items():
        found = got.attributes.get(name)
        expect(found == text, f"attribute {name!r} became {found!r}")


@check()
async def the_content_type_travels(context: CheckContext) -> None:
    """The content type of a body arrives."""
    attributes = {CONTENT_TYPE: "application/json"}
    got = await _sent_and_received(context, context.message(b"{}", attributes=attributes))
    found = got.attributes.get(CONTENT_TYPE)
    expect(found == "application/json", f"the content type became {found!r}")


@check()
async def the_trace_context_travels(context: CheckContext) -> None:
    """``traceparent`` and ``tracestate`` arrive unchanged."""
    trace = {
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate": "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
    }
    got = await _sent_and_received(context, context.message(b"x", attributes=trace))
    expect(trace.items() <= got.attributes.items(), f"it became {dict(got.attributes)}")


@check()
async def cloudevents_travel(context: CheckContext) -> None:
    """The attributes of a CloudEvent, ``ce-…``, arrive unchanged."""
    event = {
        "ce-specversion": "1.0",
        "ce-id": "A234-1234",
        "ce-source": "/cats",
        "ce-type": "cat.born",
        "ce-time": "2018-04-05T17:31:00Z",
    }
    got = await _sent_and_received(context, context.message(b"x", attributes=event))
    expect(event.items() <= got.attributes.items(), f"they became {dict(got.attributes)}")


@check()
async def each_message_has_an_id_of_its_own(context: CheckContext) -> None:
    """Each received message has an id, and no two messages share one."""
    receiver = await context.receiver()
    await context.send_numbers(5)
    ids = [message.id for message in await context.collect(receiver, 5, settle=True)]
    expect(all(ids), f"a message has no id: {ids}")
    expect(len(set(ids)) == 5, f"messages share an id: {ids}")


@check()
async def the_time_of_publishing_is_told(context: CheckContext) -> None:
    """``published_at`` is the time of publishing, in UTC, within the error of a clock."""
    got = await _sent_and_received(context, context.message(b"x"))
    expect(got.published_at.tzinfo is not None, "published_at has no time zone")
    off = abs(datetime.now(UTC) - got.published_at)
    expect(off < timedelta(minutes=5), f"published_at is {off} off")


@check()
async def a_full_batch_arrives(context: CheckContext) -> None:
    """A send takes as many messages as the capabilities state, and returns a result for each."""
    receiver = await context.receiver()
    sender = await context.sender()
    count = min(context.can.batch_messages, 500)
    batch = [context.message(str(number).encode()) for number in range(count)]
    results = await sender.send(batch)
    expect(len(results) == count, f"{len(results)} results for {count} messages")
    expect(not any(results), f"a message was not sent: {[r for r in results if r][:1]}")
    got = {message.body for message in await context.collect(receiver, count, settle=True)}
    expect(got == {message.body for message in batch}, "not all that was confirmed arrived")


@check()
async def a_send_works_after_one_that_was_cancelled(context: CheckContext) -> None:
    """The cancelled send may or may not arrive; the next one is confirmed, and arrives."""
    receiver = await context.receiver()
    sender = await context.sender()
    for turns in range(3):
        cancelled = asyncio.create_task(sender.send([context.message(b"open")]))
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait((cancelled,))
        (error,) = await sender.send([context.message(b"next", attributes={"turns": str(turns)})])
        expect(error is None, f"the next send failed: {error!r}")
    got: list[str] = []
    while len(got) < 3:
        (message,) = await context.collect(receiver, 1, settle=True)
        got += [message.attributes["turns"]] if message.body == b"next" else []
    expect(sorted(got) == ["0", "1", "2"], f"of the sends 0, 1 and 2, {got} arrived")


@check(SEND_DELAY)
async def a_delayed_message_comes_when_it_is_due(context: CheckContext) -> None:
    """A message comes at its ``deliver_at``, or later; it holds back no other until then."""
    receiver = await context.receiver()
    delay = 0.4 if context.can.process_local else 2.0
    due = datetime.now(UTC) + timedelta(seconds=delay)
    past = datetime.now(UTC) - timedelta(seconds=60)
    await context.send(
        context.message(b"later", key="k", deliver_at=due),
        context.message(b"past", key="k", deliver_at=past),
        context.message(b"now", key="k"),
    )
    first = {message.body for message in await context.collect(receiver, 2, settle=True)}
    expect(first == {b"now", b"past"}, f"{first} came first")
    (later,) = await context.collect(receiver, 1, settle=True, within=context.max_wait + delay)
    early = (due - datetime.now(UTC)).total_seconds()
    expect(early < 0.3 * delay, f"a message came {early:.1f} s before it was due")
    expect(later.body == b"later", f"the body became {later.body!r}")


@check()
async def topics_do_not_mix(context: CheckContext) -> None:
    """A message to one topic does not arrive at another."""
    here = await context.receiver()
    there = await context.receiver(topic=context.other_topic)
    await context.send(context.message(b"here"))
    await context.send(
        Message(context.other_topic, b"there", id="there"), topic=context.other_topic
    )
    (first,) = await context.collect(here, 1, settle=True)
    (second,) = await context.collect(there, 1, settle=True)
    expect((first.body, second.body) == (b"here", b"there"), "a message went to the wrong topic")
    await context.expect_nothing(here)


@check(REFUSES_UNKNOWN)
async def an_unknown_topic_is_not_found(context: CheckContext) -> None:
    """Connecting a sender to a topic that does not exist raises TopicNotFound."""
    sender = context.driver.sender(UNKNOWN)
    context.close_later(sender.aclose)
    try:
        await sender.connect()
    except TopicNotFound:
        return
    raise CheckFailed("a topic that does not exist was connected to")


@check(OUTAGE)
async def a_sender_says_that_a_broker_is_away_for_now(context: CheckContext) -> None:
    """A send to an unreachable broker fails with a transient error, and works afterwards."""
    sender, publisher = await context.sender(), await context.publisher()
    async with context.outage(), context.in_time("the answer of a send"):
        error = await _error_of(sender, context.message(b"x"))
    expect(is_transient(error), f"a send to a broker that is away gave {error!r}")
    await publisher.publish(b"x")


async def _error_of(sender: Sender, message: Message) -> Exception | None:
    """Return why a message is not sent, however the driver says it."""
    try:
        (error,) = await sender.send([message])
    except PubSubError as failed:
        return failed
    return error
