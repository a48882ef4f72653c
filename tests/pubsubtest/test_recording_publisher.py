"""RecordingPublisher: a real publisher without a broker."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from gizmopy.errors import PubSubError, UndecodableMessage, UsageError
from gizmopy.pubsub import Publisher
from pubsubtest.publisher import RecordingPublisher

TRANSIENT = PubSubError("throttled", transient=True)
PERMANENT = PubSubError("no permission", transient=False)


class Cat(BaseModel):
    name: str


async def test_published_messages_are_recorded() -> None:
    """Body, key, attributes and the decoded value are recorded."""
    async with RecordingPublisher("cats") as publisher:
        assert isinstance(publisher, Publisher)
        await publisher.publish(Cat(name="Tom"), key="1", attributes={"a": "b"})
    (message,) = publisher.messages
    assert message.value(Cat) == Cat(name="Tom")
    assert message.value(dict[str, str]) == {"name": "Tom"}
    assert (message.topic, message.body, message.key) == ("cats", b'{"name":"Tom"}', "1")
    assert message.attributes == {"content-type": "application/json", "a": "b"}


async def test_a_tombstone_has_no_value() -> None:
    """The error of ``value`` says that it is a tombstone."""
    async with RecordingPublisher() as publisher:
        await publisher.publish(None, key="1")
    with pytest.raises(UndecodableMessage, match="tombstone"):
        publisher.messages[0].value(Cat)


async def test_a_scripted_failure_is_raised_and_not_recorded() -> None:
    """A permanent error fails the planned number of messages."""
    async with RecordingPublisher() as publisher:
        publisher.fail(PERMANENT, times=2)
        for _ in range(2):
            with pytest.raises(PubSubError, match="no permission"):
                await publisher.publish("x")
        await publisher.publish("y")
    assert [m.value(str) for m in publisher.messages] == ["y"]


async def test_transient_failures_are_retried() -> None:
    """The real publisher retries."""
    async with RecordingPublisher() as publisher:
        publisher.fail(TRANSIENT, times=2)
        await publisher.publish("x")
    assert len(publisher.sender.batches) == 3
    assert len(publisher.messages) == 1


async def test_a_failure_may_choose_its_message() -> None:
    """One message of a batch fails; the others do not."""
    async with RecordingPublisher() as publisher:
        publisher.fail(PERMANENT, when=lambda message: message.key == "bad")
        results = await asyncio.gather(
            *(publisher.publish("x", key=key) for key in ("a", "bad", "b")),
            return_exceptions=True,
        )
    assert results == [None, PERMANENT, None]


async def test_limits_and_aclose_are_real() -> None:
    """Oversize messages are rejected, and so is publishing after aclose."""
    publisher = RecordingPublisher(message_bytes=100)
    with pytest.raises(PubSubError, match="at most 100"):
        await publisher.publish(b"x" * 101)
    await publisher.aclose()
    with pytest.raises(UsageError, match="closed"):
        await publisher.publish(b"x")


async def test_many_are_recorded_with_their_results() -> None:
    """Each value has its result; confirmed messages are recorded in order."""
    async with RecordingPublisher() as publisher:
        publisher.fail(PERMANENT, when=lambda message: message.key == "bad")
        cats = [Cat(name=name) for name in ("a", "bad", "b")]
        results = await publisher.publish_many(cats, key=lambda cat: cat.name)
    assert results == [None, PERMANENT, None]
    assert [message.value(Cat).name for message in publisher.messages] == ["a", "b"]
