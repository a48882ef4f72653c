"""CloudEvents in structured mode: the whole event in JSON, read, written, and given to handlers.

The bodies called "of the SDK" are the bytes that the Python SDK of CloudEvents, 2.2, has written.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from gizmopy.errors import UndecodableMessage, UsageError
from gizmopy.pubsub import Message
from gizmopy.pubsub.cloudevents import CloudEvent, data_of
from pubsubtest import FakeSubscriber, RecordingPublisher, incoming

STRUCTURED = {"content-type": "application/cloudevents+json"}
SDK_JSON = (
    b'{"id": "1234-1234-1234", "type": "com.example.someevent", '
    b'"source": "/mycontext/subcontext", "specversion": "1.0", "time": "2018-04-05T03:56:24Z", '
    b'"datacontenttype": "application/json", "partitionkey": "7", '
    b'"subject": "gr\\u00f6\\u00dfe 1%", "data": {"message": "Hello World!"}}'
)
SDK_TEXT = (
    b'{"id": "1", "type": "t", "source": "/s", "specversion": "1.0", '
    b'"datacontenttype": "text/plain", "data": "H\\u00e4llo"}'
)
SDK_BINARY = (
    b'{"id": "1", "type": "t", "source": "/s", "specversion": "1.0", '
    b'"datacontenttype": "application/octet-stream", "data_base64": "AP8="}'
)


class Cat(BaseModel):
    name: str


def event(**members: Any) -> Message:
    """Return an event in structured mode with the required attributes and ``members``."""
    whole = {"specversion": "1.0", "type": "t", "source": "/s", "id": "1", **members}
    body = json.dumps({n: value for n, value in whole.items() if value is not ...}).encode()
    return Message("cats", body, attributes=STRUCTURED)


def raw(body: bytes, content_type: str = "application/cloudevents+json") -> Message:
    """Return a message with this body."""
    return Message("cats", body, attributes={"content-type": content_type})


# Read.


@pytest.mark.parametrize(
    "content_type",
    ["application/cloudevents+json", "Application/CloudEvents+JSON; Charset=UTF-8"],
)
def test_an_event_of_the_sdk_is_read(content_type: str) -> None:
    """Its attributes and its data are those that were written, whatever the media type's case."""
    message = raw(SDK_JSON, content_type)
    assert CloudEvent.from_message(message) == CloudEvent(
        id="1234-1234-1234",
        type="com.example.someevent",
        source="/mycontext/subcontext",
        time=datetime(2018, 4, 5, 3, 56, 24, tzinfo=UTC),
        datacontenttype="application/json",
        subject="größe 1%",
        extensions={"partitionkey": "7"},
    )
    assert data_of(message) == b'{"message": "Hello World!"}'


@pytest.mark.parametrize(
    ("message", "data", "content_type"),
    [
        (raw(SDK_TEXT), "Hällo".encode(), "text/plain"),
        (raw(SDK_BINARY), b"\x00\xff", "application/octet-stream"),
        (event(), None, None),
        (event(data=None), b"null", "application/json"),
        (event(data="a string"), b'"a string"', "application/json"),
        (event(data=[1], datacontenttype="application/vnd.cat+json"), b"[1]", ...),
        (event(data="<a/>", datacontenttype="application/xml"), b"<a/>", "application/xml"),
        (event(data="\xe4", datacontenttype="text/plain; charset=ISO-8859-1"), b"\xe4", ...),
        (event(data_base64="AP8="), b"\x00\xff", None),
        (event(data_base64=None, data=1), b"1", "application/json"),
        (event(data_base64="e30=", datacontenttype="application/json"), b"{}", ...),
    ],
)
def test_the_data_depends_on_its_content_type(
    message: Message, data: bytes | None, content_type: Any
) -> None:
    """JSON stays JSON, text is encoded, base64 is decoded; without a type, data is JSON."""
    assert data_of(message) == data
    if content_type is not ...:
        assert CloudEvent.from_message(message).datacontenttype == content_type


def test_data_keeps_its_digits() -> None:
    """The data is the text in the event: no number is parsed and written again."""
    body = b'{"specversion":"1.0","type":"t","source":"/s","id":"1", "data" : {"a": 1.10} }'
    assert data_of(raw(body)) == b'{"a": 1.10}'


def test_extensions_keep_their_types() -> None:
    """Booleans and integers are read as such; a null is an attribute that is not set."""
    read = CloudEvent.from_message(event(flag=True, count=5, word="5", none=None, subject=None))
    assert read.extensions == {"flag": True, "count": 5, "word": "5"}
    assert read.subject is None


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (event(type=...), "the attributes type are missing"),
        (event(id=None, source=...), "source, id are missing"),
        (event(specversion=...), "specversion are missing"),
        (event(specversion="0.3"), "specversion='0.3' is not supported"),
        (event(specversion=1.0), "a number with a fraction"),
        (event(id=7), "id=7 is not text"),
        (event(id=""), "id is empty"),
        (event(time="yesterday"), "time='yesterday' is not a time"),
        (event(time=5), "time=5 is not a time"),
        (event(ratio=0.5), "'ratio' is a number with a fraction"),
        (event(count=2**31), "more than 32 bits"),
        (event(nested={}), "'nested' is an object"),
        (event(several=[]), "'several' is a list"),
        (event(Upper="x"), "'Upper'; use lower-case"),
        (event(data=1, data_base64="AA=="), "data and data_base64"),
        (event(data_base64="A"), "not base64"),
        (event(data_base64="AP8=\n"), "not base64"),
        (event(data_base64=5), "not base64"),
        (event(data={}, datacontenttype="application/xml"), "so its data must be text"),
        (event(data="\u20ac", datacontenttype="text/a;charset=us-ascii"), "use data_base64"),
        (event(data="x", datacontenttype="text/a; charset=idna"), "use data_base64"),
        (raw(b"[]"), "not an object"),
        (raw(b"{"), "not a CloudEvent in JSON"),
        (raw(b"\xff"), "not a CloudEvent in JSON"),
        (raw(b'{"id": NaN}'), "NaN"),
        (raw(b"[" * 100_000), "not a CloudEvent in JSON"),
        (raw(SDK_TEXT[:-1] + b', "id": "2"}'), "'id' twice"),
        (Message("cats", None, attributes=STRUCTURED), "has no body"),
        (raw(b"[]", "application/cloudevents-batch+json"), "is a batch of CloudEvents"),
        (raw(b"Obj", "application/cloudevents+avro"), "a format that is not supported"),
        (raw(SDK_TEXT, "application/cloudevents+json; charset=utf-16"), "not supported"),
        (raw(SDK_TEXT, "application/cloudevents"), "not supported"),
    ],
)
def test_an_event_that_is_not_valid_is_undecodable(message: Message, problem: str) -> None:
    """The reason names the attribute, and the data is refused with the event."""
    for read in (CloudEvent.from_message, data_of):
        with pytest.raises(UndecodableMessage, match=problem):
            read(message)


# Write.


@pytest.mark.parametrize(
    ("value", "datacontenttype", "members"),
    [
        (Cat(name="Tom"), None, {"datacontenttype": "application/json", "data": {"name": "Tom"}}),
        ({"a": 1}, "application/a+json", {"datacontenttype": "application/a+json", "data": ...}),
        ("Tom", None, {"datacontenttype": "text/plain; charset=utf-8", "data": "Tom"}),
        ("Tom", "application/json", {"datacontenttype": "application/json", "data": "Tom"}),
        (b"{}", "application/json", {"data_base64": "e30=", "datacontenttype": ...}),
        (b"\x00\xff", None, {"data_base64": "AP8=", "datacontenttype": ...}),
        (None, None, {}),
    ],
)
def test_an_event_is_written_as_json(
    value: object, datacontenttype: str | None, members: dict[str, Any]
) -> None:
    """JSON is data, text is a string, bytes are base64; and the event is read back as it was."""
    born = CloudEvent(type="t", source="/s", id="1", datacontenttype=datacontenttype)
    message = born.structured(value)
    written = json.loads(message.body or b"")
    assert message.attributes == STRUCTURED
    assert written.keys() == {"specversion", "type", "source", "id", *members}
    for name, expected in members.items():
        assert expected in (written[name], ...)
    assert CloudEvent.from_message(message).id == "1"


def test_extensions_and_the_key_are_written() -> None:
    """Booleans and integers stay; bytes and times are text; ``partitionkey`` is the key."""
    since = datetime(2018, 4, 5, tzinfo=UTC)
    extensions: dict[str, Any] = {
        "flag": True,
        "count": 5,
        "raw": b"\xff",
        "since": since,
        "partitionkey": "7",
    }
    born = CloudEvent(type="t", source="/s", id="1", extensions=extensions, time=since)
    message = born.structured(None)
    written = json.loads(message.body or b"")
    assert (written["flag"], written["count"], written["raw"]) == (True, 5, "/w==")
    assert written["since"] == written["time"] == "2018-04-05T00:00:00Z"
    assert message.key == "7"
    assert born.structured(None, key="8").key == "8"


def test_json_with_another_content_type_is_refused() -> None:
    """A model cannot be sent as XML."""
    born = CloudEvent(type="t", source="/s", datacontenttype="application/xml")
    with pytest.raises(UsageError, match="a Cat is sent as JSON"):
        born.structured(Cat(name="Tom"))


async def test_a_value_that_is_no_event_is_not_published_as_one() -> None:
    """A handler that passes on the attributes of an event, with another value, is told so."""
    async with RecordingPublisher() as publisher:
        with pytest.raises(UsageError, match="a Cat is a CloudEvent in structured mode"):
            await publisher.publish(Cat(name="Tom"), attributes=STRUCTURED)
        with pytest.raises(UsageError, match="a NoneType is a CloudEvent"):
            await publisher.publish(None, attributes=STRUCTURED)
        whole = event(data={})
        for value in (whole, whole.body, json.loads(whole.body or b"")):
            await publisher.publish(value, attributes=STRUCTURED)
    assert [CloudEvent.from_message(incoming(each)).id for each in sent(publisher)] == ["1"] * 3


def sent(publisher: RecordingPublisher) -> list[Message]:
    """Return the messages that were published."""
    return publisher.sender.sent


# A handler.


async def test_a_handler_gets_the_data_in_both_modes() -> None:
    """The payload is the data, the message is as it came, and the event is read from it."""
    got: list[Any] = []

    async def on_cat(cat: Cat, message: Message) -> None:
        got.append((cat.name, CloudEvent.from_message(message).type, message.body))

    born = CloudEvent(type="t", source="/s")
    whole = born.structured(Cat(name="Tom"))
    binary = Message("cats", b'{"name":"Tom"}', attributes=born.attributes())
    assert await FakeSubscriber(on_cat, concurrency=1).run([whole, binary]) == ["ack", "ack"]
    assert got == [("Tom", "t", whole.body), ("Tom", "t", binary.body)]


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (bytes, b"\x00", b"\x00"),
        (str, "Tom", "Tom"),
        (dict[str, Decimal], {"a": 1.5}, {"a": Decimal("1.5")}),
        (Cat | None, None, None),
    ],
)
async def test_each_type_gets_the_data(annotation: Any, value: object, expected: object) -> None:
    """Bytes, text, JSON and no data are decoded as in binary mode."""
    got: list[Any] = []

    async def on_cat(cat: Any) -> None:
        got.append(cat)

    on_cat.__annotations__["cat"] = annotation
    whole = CloudEvent(type="t", source="/s").structured(value)
    assert await FakeSubscriber(on_cat, concurrency=1).run([whole]) == ["ack"]
    assert got == [expected]


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (event(data={}), "name: Field required"),
        (event(type=..., data={"name": "Tom"}), "type are missing"),
        (event(specversion="2.0", data={"name": "Tom"}), "specversion='2.0'"),
        (event(), "tombstone"),
        (raw(b"[]", "application/cloudevents-batch+json"), "is a batch of CloudEvents"),
        (raw(b"{}", "application/cloudevents+avro"), "not supported"),
    ],
)
async def test_an_invalid_event_is_dead_lettered_at_once(message: Message, problem: str) -> None:
    """The dead letter has the reason, and the body as it came."""

    async def on_cat(cat: Cat) -> None: ...

    (outcome,) = await FakeSubscriber(on_cat, dead_letter="dead").run([message])
    assert outcome.dead_letter is not None
    assert outcome.dead_letter.attributes["gizmo-dl-reason"] == "undecodable"
    assert problem in outcome.dead_letter.attributes["gizmo-dl-exception"]
    assert outcome.dead_letter.body == message.body


async def test_an_event_that_a_handler_cannot_read_is_dead_lettered_at_once() -> None:
    """A message without an event is undecodable, where the handler reads it itself."""

    async def on_cat(message: Message) -> None:
        CloudEvent.from_message(message)

    (outcome,) = await FakeSubscriber(on_cat, dead_letter="dead").run([b"x"])
    assert outcome.dead_letter is not None
    assert outcome.dead_letter.attributes["gizmo-dl-reason"] == "undecodable"
    assert outcome.message.attempt == 1


async def test_an_invalid_event_of_a_batch_fails_alone() -> None:
    """The others are handled."""
    got: list[Cat] = []

    async def on_cats(cats: list[Cat]) -> None:
        got.extend(cats)

    given = [CloudEvent(type="t", source="/s").structured(Cat(name="Tom")), event(id=...)]
    fake = FakeSubscriber(on_cats, batch_size=2, dead_letter="dead")
    assert await fake.run(given) == ["ack", "dead_letter"]
    assert [cat.name for cat in got] == ["Tom"]


async def test_bytes_of_another_format_are_given_as_they_came() -> None:
    """A handler that takes bytes may read an event in Avro."""
    got: list[bytes] = []

    async def on_event(body: bytes) -> None:
        got.append(body)

    await FakeSubscriber(on_event, concurrency=1).run([raw(b"Obj", "application/cloudevents+avro")])
    assert got == [b"Obj"]
