"""The bindings of CloudEvents: the names and values that each broker has on the wire."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gizmopy.errors import UndecodableMessage
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Message, Publisher
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.cloudevents import CloudEvent, data_of, from_http, to_http
from gizmopy.pubsub.event_binding import HTTP, KAFKA, PLAIN, SQS, EventBinding
from gizmopy.pubsub.message import RepeatedAttributes
from pubsubtest.publisher import RecordingSender
from tests.pubsub.support import capabilities, nothing, running, until

REQUIRED = {"ce-specversion": "1.0", "ce-type": "t", "ce-source": "/s", "ce-id": "7"}
ON_KAFKA = {name.replace("ce-", "ce_"): text for name, text in REQUIRED.items()}
BORN = CloudEvent(type="t", source="/s", id="7")
CASES = [
    (PLAIN, REQUIRED),
    (KAFKA, ON_KAFKA),
    (HTTP, REQUIRED),
    (SQS, REQUIRED),
]


def test_a_driver_of_today_has_the_general_binding() -> None:
    """The member has a default: a driver that was written before sends ``ce-type``."""
    assert MemoryDriver().capabilities.events is PLAIN


@pytest.mark.parametrize(("binding", "on_wire"), CASES)
def test_attributes_are_translated_both_ways(
    binding: EventBinding, on_wire: dict[str, str]
) -> None:
    """Each binding has its names, and handlers see one form."""
    body, attributes = binding.to_wire(b"x", {**REQUIRED, "content-type": "a/b", "other": "1"})
    assert (body, attributes) == (b"x", {**on_wire, "content-type": "a/b", "other": "1"})
    assert binding.from_wire(attributes) == {**REQUIRED, "content-type": "a/b", "other": "1"}


@pytest.mark.parametrize(("binding", "on_wire"), CASES)
def test_an_event_of_any_broker_is_forwarded_to_any_other(
    binding: EventBinding, on_wire: dict[str, str]
) -> None:
    """The names on the wire are those of the broker that it goes to."""
    for given in (REQUIRED, ON_KAFKA):
        assert binding.to_wire(b"x", given) == (b"x", on_wire)


@pytest.mark.parametrize("binding", [PLAIN, KAFKA, HTTP, SQS])
def test_what_is_no_event_is_left_as_it_is(binding: EventBinding) -> None:
    """An attribute ce-type alone makes no event."""
    given = {"ce-type": "t", "ce_id": "1", "a": "100% é"}
    assert binding.to_wire(b"x", given) == (b"x", given)
    assert binding.from_wire(given) == given


def test_repeated_attributes_keep_their_order() -> None:
    """All headers of Kafka stay, in their order."""
    pairs = [("a", "1"), *ON_KAFKA.items(), ("a", "2")]
    read = KAFKA.from_wire(RepeatedAttributes(pairs))
    assert [*read.items()] == [("a", "1"), *REQUIRED.items(), ("a", "2")]
    _, written = KAFKA.to_wire(b"x", read)
    assert [*written.items()] == pairs


def test_an_event_with_both_forms_loses_neither() -> None:
    """A message that a bridge gave both forms is not changed."""
    both = {**REQUIRED, **ON_KAFKA}
    assert KAFKA.from_wire(both) == both
    assert KAFKA.to_wire(b"x", both) == (b"x", both)
    assert CloudEvent.from_attributes(both) == BORN


# HTTP.


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("Euro \u20ac \U0001f600", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ('"100%"', "%22100%25%22"),
        ("!#$&'()*+,-./:;<=>?@[\\]^_`{|}~", "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        ("größe 1%", "gr%C3%B6%C3%9Fe%201%25"),
    ],
)
def test_values_are_percent_encoded(text: str, encoded: str) -> None:
    """Space, quotes, percent signs and all but ASCII; nothing else."""
    _, attributes = HTTP.to_wire(b"", {**REQUIRED, "ce-subject": text, "content-type": "a b"})
    assert attributes["ce-subject"] == encoded
    assert attributes["content-type"] == "a b"
    assert HTTP.from_wire(attributes)["ce-subject"] == text


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        ("%41%c3%b6", "Aö"),
        ('"a b"', "a b"),
        (r'"say \"hi\" \\ %20"', 'say "hi" \\  '),
        ("100%", "100%"),
        ("%2541", "%41"),
        ('"', '"'),
    ],
)
def test_values_of_older_senders_are_read(encoded: str, text: str) -> None:
    """Quotes first, then one round of percent-decoding, in lower case too."""
    assert HTTP.from_wire({**REQUIRED, "ce-subject": encoded})["ce-subject"] == text


@pytest.mark.parametrize("encoded", ["%C0%A0", "%ff", "%ED%A0%80", "\udcff"])
def test_values_that_are_not_utf_8_are_refused(encoded: str) -> None:
    """An overlong encoding of a space is one of them."""
    with pytest.raises(UndecodableMessage, match="not percent-encoded UTF-8"):
        HTTP.from_wire({**REQUIRED, "ce-subject": encoded})


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8"])
def test_conformance_http_binary(content_type: str) -> None:
    """The scenario of cloudevents/conformance: binary content mode."""
    headers = {
        "Host": "example.com",
        "ce-specversion": "1.0",
        "ce-type": "com.example.someevent",
        "CE-Time": "2018-04-05T03:56:24Z",
        "ce-id": "1234-1234-1234",
        "ce-source": "/mycontext/subcontext",
        "Content-Type": content_type,
    }
    message = from_http(headers, b'{\n    "message": "Hello World!"\n}')
    _require_someevent(message, content_type)


@pytest.mark.parametrize(
    "content_type",
    ["application/cloudevents+json", "application/cloudevents+json; charset=utf-8"],
)
def test_conformance_http_structured(content_type: str) -> None:
    """The scenario of cloudevents/conformance: structured content mode."""
    body = json.dumps(SOMEEVENT | {"data": {"message": "Hello World!"}}).encode()
    message = from_http({"Content-Type": content_type, "Content-Length": "266"}, body)
    _require_someevent(message, "application/json")


SOMEEVENT = {
    "specversion": "1.0",
    "type": "com.example.someevent",
    "time": "2018-04-05T03:56:24Z",
    "id": "1234-1234-1234",
    "source": "/mycontext/subcontext",
    "datacontenttype": "application/json",
}


def _require_someevent(message: Message, content_type: str) -> None:
    attributes = CloudEvent.from_message(message).attributes()
    assert attributes.pop("content-type") == content_type
    expected = {n: text for n, text in SOMEEVENT.items() if n != "datacontenttype"}
    assert attributes == {f"ce-{name}": text for name, text in expected.items()}
    assert json.loads(data_of(message) or b"") == {"message": "Hello World!"}


def test_an_event_leaves_by_http_in_both_modes() -> None:
    """The headers are those of the SDK; structured mode has the content type only."""
    event = CloudEvent(type="t", source="/s", id="7", subject="größe 1%")
    headers, body = to_http(Message("", b"{}", attributes=event.attributes()))
    assert headers == {**REQUIRED, "ce-subject": "gr%C3%B6%C3%9Fe%201%25"}
    assert body == b"{}"
    headers, body = to_http(event.structured({}))
    assert headers == {"content-type": "application/cloudevents+json"}
    assert json.loads(body)["subject"] == "größe 1%"


# SNS and SQS.


def test_too_many_attributes_are_sent_in_structured_mode() -> None:
    """Ten attributes fit; with eleven the event moves to the body, and the others stay."""
    extensions = {f"x{number}": str(number) for number in range(5)}
    event = CloudEvent(type="t", source="/s", id="7", extensions=extensions)
    ten = {**event.attributes(), "content-type": "application/json"}
    assert SQS.to_wire(b"{}", ten) == (b"{}", ten)
    body, attributes = SQS.to_wire(b'{"a": 1.10}', {**ten, "traceparent": "00-1"})
    assert attributes == {
        "traceparent": "00-1",
        "content-type": "application/cloudevents+json",
    }
    message = Message("", body, attributes=attributes)
    assert CloudEvent.from_message(message) == replace(event, datacontenttype="application/json")
    assert data_of(message) == b'{"a": 1.10}'


async def test_the_limit_of_a_topic_counts() -> None:
    """A broker of any kind that takes few attributes gets the event in structured mode."""
    sender = RecordingSender()
    limits = replace(MemoryDriver().capabilities, message_attributes=4)
    async with Publisher(sender, "cats", limits=limits, metrics=Metrics()) as publisher:
        await publisher.publish(b"", attributes=BORN.attributes())
        await publisher.publish({"a": 1}, attributes=BORN.attributes())
    assert [dict(message.attributes) for message in sender.sent] == [
        {"content-type": "application/cloudevents+json"}
    ] * 2
    assert [CloudEvent.from_message(message).id for message in sender.sent] == ["7", "7"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"\x00", "a/b"), (b"{", "application/json"), (b"\xff", "text/plain"), (b"hi", "text/plain")],
)
def test_data_of_any_kind_survives_structured_mode(body: bytes, content_type: str) -> None:
    """What is neither JSON nor text is base64."""
    attributes = {**REQUIRED, "content-type": content_type, **{f"a{n}": "" for n in range(9)}}
    written, structured = SQS.to_wire(body, attributes)
    assert data_of(Message("", written, attributes=structured)) == body


# The engine.


@pytest.mark.parametrize(("binding", "on_wire"), CASES)
async def test_a_publisher_sends_by_the_binding(
    binding: EventBinding, on_wire: dict[str, str]
) -> None:
    """The driver gets the names of its broker; the partition key is the key of an event."""
    sender = RecordingSender()
    limits = replace(MemoryDriver().capabilities, events=binding)
    event = replace(BORN, extensions={"partitionkey": "p"})
    async with Publisher(sender, "cats", limits=limits, metrics=Metrics()) as publisher:
        await publisher.publish({}, attributes=event.attributes())
        await publisher.publish({}, attributes=event.attributes(), key="k")
        await publisher.publish(Message("", b"{}", attributes=event.attributes()))
        await publisher.publish(event.structured({}))
    assert [message.key for message in sender.sent] == ["p", "k", None, "p"]
    prefix = binding.prefix
    for message in sender.sent[:3]:
        sent = {n: text for n, text in message.attributes.items() if n[:2] == "ce"}
        assert sent == on_wire | {f"{prefix}partitionkey": "p"}
    assert sender.sent[3].attributes == {"content-type": "application/cloudevents+json"}


@pytest.mark.parametrize("given", [REQUIRED, ON_KAFKA])
async def test_a_subscriber_sees_one_form(given: dict[str, str]) -> None:
    """A handler has ``ce-type`` on every broker, also for events of earlier versions on Kafka."""
    seen: list[Message] = []

    async def handle(message: Message) -> None:
        seen.append(message)

    async with running(handle, capabilities(events=KAFKA)) as bench:
        bench.receiver.put(Message("t", b"{}", attributes=given, id="1"))
        await until(lambda: bench.settled)
    assert seen[0].attributes == REQUIRED
    assert CloudEvent.from_message(seen[0]) == BORN


async def test_an_event_that_http_cannot_decode_is_dead_lettered() -> None:
    """The reason names the header."""
    async with running(nothing, capabilities(events=HTTP), dead_letter=True) as bench:
        bench.receiver.put(Message("t", b"{}", attributes={**REQUIRED, "ce-a": "%ff"}, id="1"))
        await until(lambda: bench.settled)
    assert "ce-a='%ff' is not percent-encoded" in bench.dead[0].attributes["gizmo-dl-exception"]
