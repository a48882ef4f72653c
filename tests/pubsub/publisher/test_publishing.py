"""Publishing one value: what is sent, which errors are raised, and what the metrics count."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gizmopy.errors import PubSubError, UsageError
from gizmopy.observe.context import propagated_attributes
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Message, RetryPolicy
from gizmopy.pubsub.message import RepeatedAttributes
from tests.pubsub.publisher.support import (
    PERMANENT,
    TRANSIENT,
    GatedSender,
    Opaque,
    failures,
    publisher,
)
from tests.pubsub.support import turns


async def test_a_single_publish_is_sent_directly() -> None:
    """If nothing else is being sent, publish starts no task; the message has a content type."""
    sender = GatedSender()
    async with publisher(sender) as out:
        before = asyncio.all_tasks()
        await out.publish({"a": 1}, key="k", attributes={"b": "c"})
        assert asyncio.all_tasks() == before
    (message,) = sender.sent
    assert (message.topic, message.body, message.key) == ("t", b'{"a":1}', "k")
    assert message.attributes == {"content-type": "application/json", "b": "c"}
    assert message.id


async def test_publish_returns_after_the_confirmation() -> None:
    """The caller waits until the broker has confirmed."""
    sender = GatedSender()
    async with publisher(sender) as out:
        sender.gate.clear()
        call = asyncio.create_task(out.publish(b"1"))
        await turns()
        assert not call.done()
        sender.gate.set()
        await call


async def test_a_failed_message_raises_in_its_own_caller_only() -> None:
    """The result of each message of a batch reaches the call that published it."""
    sender = GatedSender()
    sender.verdict = lambda m: PERMANENT if m.body == b"bad" else None
    metrics = Metrics()
    async with publisher(sender, metrics) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(b)) for b in (b"1", b"bad", b"2")]
        await turns()
        sender.gate.set()
        assert await asyncio.gather(*calls, return_exceptions=True) == [None, PERMANENT, None]
    assert failures(metrics) == {"permanent": 1}
    seconds = metrics.histogram("gizmo_pubsub_publish_seconds", "")
    assert sum(seconds.child("t").counts) == 2


async def test_an_oversize_message_is_rejected_before_it_is_sent() -> None:
    """The error names the size and the limit; key and attributes count too."""
    sender = GatedSender()
    attributes = len("content-typeapplication/octet-stream")
    async with publisher(sender, message_bytes=attributes + 12) as out:
        await out.publish(b"x" * 10, key="kk")
        with pytest.raises(
            PubSubError, match=f"{attributes + 13} bytes.* at most {attributes + 12}"
        ):
            await out.publish(b"x" * 10, key="kkk")
    assert len(sender.batches) == 1


async def test_bytes_that_are_not_utf8_are_counted_as_bytes() -> None:
    """A received message can be published again: each surrogate is one byte on the wire."""
    sender = GatedSender()
    attributes = {"content-type": "x", "n": "v\udcfe"}
    size = len(b"content-typex") + len(b"nv\xfe") + len(b"k\xfd") + len(b"body")
    async with publisher(sender, message_bytes=size) as out:
        await out.publish(Message("t", b"body", key="k\udcfd", attributes=attributes))
        with pytest.raises(PubSubError, match=f"{size + 1} bytes"):
            await out.publish(Message("t", b"body!", key="k\udcfd", attributes=attributes))
    assert len(sender.batches) == 1


async def test_a_driver_that_returns_too_few_results_has_failed() -> None:
    """No caller waits forever for a result that the driver forgot."""
    sender = GatedSender()
    sender.missing_results = 1
    async with publisher(sender) as out:
        with pytest.raises(PubSubError, match="returned 0 results for 1 messages"):
            await out.publish("1")


@pytest.mark.parametrize(
    ("value", "options", "reason"),
    [
        ("x", {"key": 1}, "key=1 is not text"),
        ("x", {"key": b"k"}, r'not text; use key.decode\("utf-8", "surrogateescape"\)'),
        ("x", {"attributes": {"n": b"k"}}, r'use .decode\("utf-8", "surrogateescape"\)'),
        ("x", {"key": "\ud800"}, "cannot be encoded as UTF-8"),
        ("x", {"attributes": {"n": 1}}, "attribute 'n'=1 is not text"),
        ("x", {"attributes": {"n": "\ud800"}}, "cannot be encoded as UTF-8"),
        ("\ud800", {}, "text cannot be published"),
        (Opaque(), {}, "Opaque has no codec"),
        ({"a": object()}, {}, "dict cannot be published as JSON"),
        (Message("t", "x", id="i"), {}, "body of 'i' is str, not bytes"),  # type: ignore[arg-type]  # it is refused
        (Message("t", bytearray(b"x")), {}, "is bytearray, not bytes"),  # type: ignore[arg-type]  # it is refused
        (Message("t", b"x", attributes={"n\udcff": "x"}), {}, r"'n\\udcff' cannot be encoded"),
        (Message("t", b"x", attributes={"n": 1}), {}, "attribute 'n'=1 is not text"),  # type: ignore[dict-item]  # it is refused
    ],
)
async def test_a_value_that_cannot_be_published_raises_usage_error(
    value: object, options: dict[str, Any], reason: str
) -> None:
    """A value, key or attribute that no broker can carry is rejected by the call."""
    sender = GatedSender()
    async with publisher(sender) as out:
        with pytest.raises(UsageError, match=reason):
            await out.publish(value, **options)
    assert not sender.batches


async def test_a_message_is_published_unchanged() -> None:
    """Publishing a Message keeps body, key and attributes, and adds no content type."""
    sender = GatedSender()
    async with publisher(sender) as out:
        await out.publish(Message("old", b"x", key="\udcff", attributes={"a": "b"}))
        await out.publish(Message("old", None, key="k"), attributes={"c": "d"}, key="other")
    first, second = sender.sent
    assert (first.topic, first.body, first.key) == ("t", b"x", "\udcff")
    assert first.attributes == {"a": "b"}
    assert (second.body, second.key, second.attributes) == (None, "other", {"c": "d"})


async def test_propagated_attributes_are_added() -> None:
    """The attributes of the context are added; those of the message and of the call win."""
    sender = GatedSender()
    token = propagated_attributes.set(
        {"traceparent": "00-1", "content-type": "odd", "a": "carried"}
    )
    try:
        async with publisher(sender) as out:
            await out.publish(b"1", attributes={"a": "call"})
            await out.publish(Message("x", b"2", attributes={"traceparent": "own"}))
            await out.publish_many([b"3"])
    finally:
        propagated_attributes.reset(token)
    first, second, third = (dict(m.attributes) for m in sender.sent)
    octets = {"content-type": "application/octet-stream"}
    assert first == {"traceparent": "00-1", "a": "call"} | octets
    assert second == {"traceparent": "own", "content-type": "odd", "a": "carried"}
    assert third == {"traceparent": "00-1", "a": "carried"} | octets


async def test_failures_are_counted_by_kind() -> None:
    """Each kind has a counter from the start; there are no others."""
    sender, metrics = GatedSender(), Metrics()
    kinds = {"transient", "permanent", "oversize", "encode", "closed"}
    out = publisher(sender, metrics, message_bytes=100, retry=RetryPolicy(attempts=1))
    counter = metrics.counter("gizmo_pubsub_publish_failures", "")
    assert {values for values, _ in counter.children()} == {("t", kind) for kind in kinds}
    verdicts: list[tuple[Any, Exception | None]] = [
        ("1", TRANSIENT),
        ("1", PERMANENT),
        ("1", RuntimeError("a bug")),
        ("1" * 101, None),
        (Opaque(), None),
    ]
    for value, error in verdicts:
        sender.call_error = error
        with pytest.raises(Exception):  # noqa: B017, PT011 - which one is tested elsewhere
            await out.publish(value)
    await out.aclose()
    with pytest.raises(UsageError):
        await out.publish("1")
    assert failures(metrics) == dict.fromkeys(kinds, 1) | {"permanent": 2}


async def test_what_came_in_may_go_out() -> None:
    """Bytes that are not UTF-8, and several attributes of one name, are forwarded as they came."""
    sender = GatedSender()
    pairs = (("via", "a"), ("trace", "\udcff\udcfe"), ("via", "b"))
    async with publisher(sender) as out:
        await out.publish(b"x", key="\udcff", attributes=RepeatedAttributes(pairs))
        received = Message("t", b"x", key="\udcff", attributes=RepeatedAttributes(pairs))
        await out.publish(received, attributes={"more": "1"})
    assert [tuple(message.attributes.items())[-3:] for message in sender.sent] == [
        pairs,
        (*pairs[1:], ("more", "1")),
    ]
    assert tuple(sender.sent[1].attributes.items())[:3] == pairs
