"""What is sent arrives, once for each subscription, as it was."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from gizmopy.errors import PubSubError, TopicNotFound
from gizmopy.pubsub import Message, Sender
from gizmopy.pubsub.message import CONTENT_TYPE
from pubsubtest.conformance.checking import OUTAGE, REFUSES_UNKNOWN, CheckFailed, Checks, expect
from pubsubtest.conformance.context import UNKNOWN, Bench, is_transient

check = Checks()


async def _sent_and_received(bench: Bench, message: Message) -> Message:
    receiver = await bench.receiver()
    await bench.send(message)
    (received,) = await bench.collect(receiver, 1, settle=True)
    return received


@check()
async def a_message_arrives_as_it_was(bench: Bench) -> None:
    """Body, key, attributes and topic come out as they went in."""
    sent = bench.message(b'{"name": "Tom"}', key="tom", attributes={"colour": "grey"})
    got = await _sent_and_received(bench, sent)
    expect(got.body == sent.body, f"the body became {got.body!r}")
    expect(got.key == "tom", f"the key became {got.key!r}")
    expect(got.attributes.get("colour") == "grey", f"attributes became {dict(got.attributes)}")
    expect(got.topic == bench.topic, f"the topic became {got.topic!r}")


@check()
async def any_bytes_travel(bench: Bench) -> None:
    """A body may hold every byte there is."""
    body = bytes(range(256)) * 3
    got = await _sent_and_received(bench, bench.message(body))
    expect(got.body == body, "the body has changed on the way")


@check()
async def json_is_not_mangled(bench: Bench) -> None:
    """A body that is JSON is not decoded and encoded again on the way."""
    body = b'{ "b": 1,\r\n "a": "\\u00e9", "n": 1.0, "b": 2 }'
    got = await _sent_and_received(bench, bench.message(body))
    expect(got.body == body, f"the body became {got.body!r}")


@check()
async def an_empty_body_is_no_tombstone(bench: Bench) -> None:
    """A body of no bytes arrives as that."""
    got = await _sent_and_received(bench, bench.message(b"", key="k"))
    expect(got.body == b"", f"the empty body became {got.body!r}")


@check()
async def a_tombstone_arrives_as_one(bench: Bench) -> None:
    """A message without a body arrives without a body."""
    got = await _sent_and_received(bench, bench.message(None, key="k"))
    expect(got.body is None, f"the tombstone became {got.body!r}")


@check()
async def keys_are_text_of_any_kind(bench: Bench) -> None:
    """A key may hold letters of any script, spaces and signs; bytes that are no text survive."""
    receiver = await bench.receiver()
    keys = ["Ünïcödé 猫", "a b/c:d?e=f&g", "0", b"\xff\x00\xfe".decode("utf-8", "surrogateescape")]
    for key in keys:
        await bench.send(bench.message(b"x", key=key))
        (got,) = await bench.collect(receiver, 1, settle=True)
        expect(got.key == key, f"the key {key!r} became {got.key!r}")


@check()
async def no_key_is_no_key(bench: Bench) -> None:
    """A message without a key arrives without one."""
    got = await _sent_and_received(bench, bench.message(b"x"))
    expect(got.key is None, f"no key became {got.key!r}")


@check()
async def odd_attributes_travel(bench: Bench) -> None:
    """Attributes may be empty, long, in any script, and have any name that is text."""
    attributes = {
        "empty": "",
        "long": "x" * 1024,
        "猫": "ねこ",
        "Mixed-Case.and_signs": "a=b; c, d\t'e' \"f\"",
        "with space": " padded ",
    }
    got = await _sent_and_received(bench, bench.message(b"x", attributes=attributes))
    for name, text in attributes.items():
        found = got.attributes.get(name)
        expect(found == text, f"attribute {name!r} became {found!r}")


@check()
async def the_content_type_travels(bench: Bench) -> None:
    """The attribute that says how a body is encoded arrives."""
    attributes = {CONTENT_TYPE: "application/json"}
    got = await _sent_and_received(bench, bench.message(b"{}", attributes=attributes))
    found = got.attributes.get(CONTENT_TYPE)
    expect(found == "application/json", f"the content type became {found!r}")


@check()
async def the_trace_context_travels(bench: Bench) -> None:
    """``traceparent`` and ``tracestate`` arrive as they are."""
    context = {
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate": "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
    }
    got = await _sent_and_received(bench, bench.message(b"x", attributes=context))
    expect(context.items() <= got.attributes.items(), f"it became {dict(got.attributes)}")


@check()
async def cloudevents_travel(bench: Bench) -> None:
    """The attributes of a CloudEvent, ``ce-…``, arrive as they are."""
    event = {
        "ce-specversion": "1.0",
        "ce-id": "A234-1234",
        "ce-source": "/cats",
        "ce-type": "cat.born",
        "ce-time": "2018-04-05T17:31:00Z",
    }
    got = await _sent_and_received(bench, bench.message(b"x", attributes=event))
    expect(event.items() <= got.attributes.items(), f"they became {dict(got.attributes)}")


@check()
async def each_message_has_an_id_of_its_own(bench: Bench) -> None:
    """Received messages have ids, no two of them the same."""
    receiver = await bench.receiver()
    await bench.send_numbers(5)
    ids = [message.id for message in await bench.collect(receiver, 5, settle=True)]
    expect(all(ids), f"a message has no id: {ids}")
    expect(len(set(ids)) == 5, f"messages share an id: {ids}")


@check()
async def the_time_of_publishing_is_told(bench: Bench) -> None:
    """``published_at`` is the time of publishing, in UTC, give or take a clock's error."""
    got = await _sent_and_received(bench, bench.message(b"x"))
    expect(got.published_at.tzinfo is not None, "published_at has no time zone")
    off = abs(datetime.now(UTC) - got.published_at)
    expect(off < timedelta(minutes=5), f"published_at is {off} off")


@check()
async def a_full_batch_arrives(bench: Bench) -> None:
    """A send takes as many messages as the capabilities say, with a result for each."""
    receiver = await bench.receiver()
    sender = await bench.sender()
    count = min(bench.can.batch_messages, 500)
    batch = [bench.message(str(number).encode()) for number in range(count)]
    results = await sender.send(batch)
    expect(len(results) == count, f"{len(results)} results for {count} messages")
    expect(not any(results), f"a message was not sent: {[r for r in results if r][:1]}")
    got = {message.body for message in await bench.collect(receiver, count, settle=True)}
    expect(got == {message.body for message in batch}, "not all that was confirmed arrived")


@check()
async def a_send_works_after_one_that_was_cancelled(bench: Bench) -> None:
    """Whether the cancelled one arrives is open; the next one is confirmed, and arrives."""
    receiver = await bench.receiver()
    sender = await bench.sender()
    for turns in range(3):
        cancelled = asyncio.create_task(sender.send([bench.message(b"open")]))
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait((cancelled,))
        (error,) = await sender.send([bench.message(b"next", attributes={"turns": str(turns)})])
        expect(error is None, f"the next send failed: {error!r}")
    got: list[str] = []
    while len(got) < 3:
        (message,) = await bench.collect(receiver, 1, settle=True)
        got += [message.attributes["turns"]] if message.body == b"next" else []
    expect(sorted(got) == ["0", "1", "2"], f"of the sends 0, 1 and 2, {got} arrived")


@check()
async def topics_do_not_mix(bench: Bench) -> None:
    """What is sent to one topic does not arrive at another."""
    here = await bench.receiver()
    there = await bench.receiver(topic=bench.other_topic)
    await bench.send(bench.message(b"here"))
    await bench.send(Message(bench.other_topic, b"there", id="there"), topic=bench.other_topic)
    (first,) = await bench.collect(here, 1, settle=True)
    (second,) = await bench.collect(there, 1, settle=True)
    expect((first.body, second.body) == (b"here", b"there"), "a message went to the wrong topic")
    await bench.expect_nothing(here)


@check(REFUSES_UNKNOWN)
async def an_unknown_topic_is_not_found(bench: Bench) -> None:
    """To send to a topic that does not exist raises TopicNotFound, before anything is sent."""
    sender = bench.driver.sender(UNKNOWN)
    bench.close_at_the_end(sender.aclose)
    try:
        await sender.connect()
    except TopicNotFound:
        return
    raise CheckFailed("a topic that does not exist was connected to")


@check(OUTAGE)
async def a_sender_says_that_a_broker_is_away_for_now(bench: Bench) -> None:
    """What cannot be sent while it is unreachable fails with a transient error, and works after."""
    sender, publisher = await bench.sender(), await bench.publisher()
    async with bench.outage(), bench.in_time("the answer of a send"):
        error = await _error_of(sender, bench.message(b"x"))
    expect(is_transient(error), f"a send to a broker that is away gave {error!r}")
    await publisher.publish(b"x")


async def _error_of(sender: Sender, message: Message) -> Exception | None:
    """Return why a message is not sent, however the driver says it."""
    try:
        (error,) = await sender.send([message])
    except PubSubError as failed:
        return failed
    return error
