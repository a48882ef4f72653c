"""CloudEvents: from an event to a message's attributes, and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gizmopy.errors import UndecodableMessage, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Message
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.cloudevents import CloudEvent
from gizmopy.pubsub.message import RepeatedAttributes
from gizmopy.pubsub.publisher import Publisher

REQUIRED = {"ce-specversion": "1.0", "ce-type": "cat.born", "ce-source": "/cats", "ce-id": "7"}


def born(**fields: Any) -> CloudEvent:
    """Return an event with the required attributes and ``fields``."""
    return CloudEvent(**{"type": "cat.born", "source": "/cats", "id": "7", **fields})


def test_an_event_has_at_least_its_required_attributes() -> None:
    """Type, source, id and version are present; optional ones are left out."""
    assert born().attributes() == REQUIRED


def test_an_event_has_all_its_attributes() -> None:
    """Each attribute has its name with ce-, except the content type; the time is RFC 3339."""
    event = born(
        subject="tom",
        time=datetime(2018, 4, 5, 19, 31, 0, 5000, tzinfo=timezone(timedelta(hours=2))),
        dataschema="https://cats.example/cat.json",
        datacontenttype="application/json",
        extensions={"partitionkey": "7", "empty": ""},
    )
    assert event.attributes() == {
        **REQUIRED,
        "ce-subject": "tom",
        "ce-time": "2018-04-05T17:31:00.005000Z",
        "ce-dataschema": "https://cats.example/cat.json",
        "content-type": "application/json",
        "ce-partitionkey": "7",
        "ce-empty": "",
    }
    assert CloudEvent.from_attributes(event.attributes()) == event


def test_each_event_has_an_id_of_its_own() -> None:
    """An event without an id gets a new one."""
    one, other = (CloudEvent(type="cat.born", source="/cats") for _ in range(2))
    assert one.id
    assert one.id != other.id


_text = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), min_size=1)


@given(
    type=_text,
    source=_text,
    id=_text,
    subject=st.none() | _text,
    time=st.none() | st.datetimes(timezones=st.just(UTC)),
    extensions=st.dictionaries(st.from_regex("x[a-z0-9]*", fullmatch=True), _text),
)
def test_an_event_is_read_as_it_was_written(**attributes: Any) -> None:
    """Every valid event is read back as the same event."""
    event = CloudEvent(**attributes)
    assert CloudEvent.from_attributes(event.attributes()) == event


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"type": ""}, "type is empty"),
        ({"source": ""}, "source is empty"),
        ({"id": ""}, "id is empty"),
        ({"subject": ""}, "subject is empty"),
        ({"dataschema": ""}, "dataschema is empty"),
        ({"datacontenttype": ""}, "datacontenttype is empty"),
        ({"id": 7}, r"id=7 is not text; use str"),
        ({"type": None}, "type=None is not text"),
        ({"subject": "a\nb"}, "that CloudEvents forbid"),
        ({"subject": "\ud800"}, "that CloudEvents forbid"),
        ({"subject": "\ufffe"}, "that CloudEvents forbid"),
        ({"subject": "\U0010ffff"}, "that CloudEvents forbid"),
        ({"time": datetime(2018, 4, 5)}, "has no time zone"),  # noqa: DTZ001 - it is rejected
        ({"extensions": {"Name": "x"}}, "'Name'; use lower-case letters and digits"),
        ({"extensions": {"with-hyphen": "x"}}, "lower-case"),
        ({"extensions": {"name\n": "x"}}, "lower-case"),
        ({"extensions": {"": "x"}}, "lower-case"),
        ({"extensions": {"data": "x"}}, "reserved name 'data'"),
        ({"extensions": {"specversion": "x"}}, "reserved name"),
        ({"extensions": {"time": "x"}}, "reserved name"),
        ({"extensions": {"ratio": 0.5}}, "ratio=0.5 is not text"),
        ({"extensions": {"count": 2**31}}, "more than 32 bits"),
        ({"extensions": {"since": datetime(2018, 4, 5)}}, "has no time zone"),  # noqa: DTZ001 - as above
    ],
)
def test_an_invalid_event_is_rejected(fields: dict[str, Any], problem: str) -> None:
    """An attribute that the specification forbids is rejected by its name."""
    with pytest.raises(UsageError, match=problem):
        born(**fields)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ce-type": None}, "not a CloudEvent: the attributes ce-type are missing"),
        ({"ce-type": None, "ce-id": None}, "ce-type, ce-id"),
        ({"ce-specversion": None}, "ce-specversion"),
        ({"ce-specversion": "0.3"}, "'0.3' is not supported"),
        ({"ce-source": ""}, "source is empty"),
        ({"ce-time": "yesterday"}, "'yesterday' is not a time as in RFC 3339"),
        ({"ce-time": "2018-04-05"}, "RFC 3339"),
        ({"ce-time": "2018-04-05T17:31:00"}, "RFC 3339"),
        ({"ce-time": "2018-02-30T17:31:00Z"}, "RFC 3339"),
        ({"ce-time": "20180405T173100Z"}, "RFC 3339"),
        ({"ce-Bad": "x"}, "'Bad'"),
        ({"ce-data": "x"}, "'data'"),
        ({"ce-datacontenttype": "text/plain"}, "'datacontenttype'"),
        ({"ce-time": "9999-12-31T23:59:60Z"}, "RFC 3339"),
        ({"ce-time": ""}, "RFC 3339"),
        ({"content-type": "Application/CloudEvents+json; charset=UTF-8"}, "structured mode"),
    ],
)
def test_attributes_without_a_valid_event_are_undecodable(
    changes: dict[str, str | None], problem: str
) -> None:
    """A message without a valid event is dead-lettered, with the reason."""
    attributes = {n: text for n, text in {**REQUIRED, **changes}.items() if text is not None}
    with pytest.raises(UndecodableMessage, match=problem):
        CloudEvent.from_attributes(attributes)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2018-04-05T17:31:00Z", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
        ("2018-04-05t17:31:00z", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
        ("2018-04-05T19:31:00+02:00", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
        ("2018-04-05T17:31:00-00:00", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2018-04-05T17:31:00.123456789Z", datetime(2018, 4, 5, 17, 31, 0, 123456, UTC)),
    ],
)
def test_all_times_of_rfc_3339_are_read(text: str, time: datetime) -> None:
    """All times of RFC 3339 are read, to the microsecond."""
    assert CloudEvent.from_attributes({**REQUIRED, "ce-time": text}).time == time


def test_other_attributes_are_not_part_of_the_event() -> None:
    """Attributes without ce- belong to the message, not to the event."""
    attributes = {**REQUIRED, "correlation-id": "1", "content-type": ""}
    assert CloudEvent.from_attributes(attributes) == born()


def test_extensions_of_all_types_are_text_in_binary_mode() -> None:
    """Each type has the text that CloudEvents defines for it."""
    extensions = {
        "flag": True,
        "count": -5,
        "raw": b"\x00\xff",
        "since": datetime(2018, 4, 5, 19, tzinfo=timezone(timedelta(hours=2))),
    }
    assert born(extensions=extensions).attributes() == {
        **REQUIRED,
        "ce-flag": "true",
        "ce-count": "-5",
        "ce-raw": "AP8=",
        "ce-since": "2018-04-05T17:00:00Z",
    }


def test_the_names_of_kafka_are_read_too() -> None:
    """A message that did not come through a subscriber may have the names of Kafka's binding."""
    attributes = {name.replace("ce-", "ce_"): text for name, text in REQUIRED.items()}
    assert CloudEvent.from_attributes(attributes) == born()


def test_an_attribute_that_is_there_twice_is_refused() -> None:
    """Two readers would see two events."""
    pairs = [*REQUIRED.items(), ("ce-id", "8")]
    with pytest.raises(UndecodableMessage, match="'ce-id' twice"):
        CloudEvent.from_attributes(RepeatedAttributes(pairs))


async def test_an_event_travels_with_its_message() -> None:
    """The receiver reads the event; its content type is the codec's."""
    driver = MemoryDriver()
    receiver = driver.receiver("cats", "s", ordered=False)
    await receiver.connect(revoke=_keep)
    async with Publisher(
        driver.sender("cats"), "cats", limits=driver.capabilities, metrics=Metrics()
    ) as publisher:
        await publisher.publish({"name": "Tom"}, attributes=born().attributes())
    received: list[Message] = list(await receiver.receive(1, 1))
    await receiver.aclose()
    event = CloudEvent.from_attributes(received[0].attributes)
    assert event == born(datacontenttype="application/json")
    assert received[0].body == b'{"name":"Tom"}'


async def _keep(partitions: object, seconds: float) -> None:
    """Keep all partitions."""
