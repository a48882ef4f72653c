"""Messages that a driver cannot read completely, and records with odd header names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from gizmopy import Message, Service, subscribe
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import LenientRecords
from gizmopy.pubsub.brokers.kafka.lenient_records import mark_unreadable
from gizmopy.pubsub.brokers.kafka.poller import attributes_of
from gizmopy.pubsub.subscription import Subscription, collect_subscriptions
from tests.pubsub.support import message, running, until


class NotUtf8(str):
    """A name whose bytes are not text."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return b"caf\xe9"


def unreadable(**fields: Any) -> Message:
    """Return a message that is marked as unreadable."""
    marked = message(**fields)
    marked.unreadable = "no such name"
    return marked


# The engine


async def test_an_unreadable_message_becomes_a_dead_letter_in_its_turn() -> None:
    """It is not handled, and its successors wait until its dead letter is confirmed."""
    handled: list[str] = []

    async def handle(received: Message) -> None:
        handled.append(received.id)

    async with running(handle, order="key", dead_letter=True) as bench:
        bench.receiver.put(
            message(id="1", key="k"), unreadable(id="2", key="k"), message(id="3", key="k")
        )
        await until(lambda: len(bench.settled) == 3)
    assert bench.outcomes == [("1", "ack"), ("2", "dead_letter"), ("3", "ack")]
    assert handled == ["1", "3"]
    (dead,) = bench.dead
    assert dead.attributes["gizmo-dl-reason"] == "undecodable"
    assert dead.attributes["gizmo-dl-exception"].endswith("UndecodableMessage: no such name")


async def test_an_unreadable_message_is_left_out_of_its_batch() -> None:
    """The batch handler gets the others."""
    batches: list[list[bytes]] = []

    class Cats(Service):
        @subscribe("cats", batch_size=3)
        async def on_cats(self, bodies: list[bytes]) -> None:
            batches.append(bodies)

    subscription: Subscription
    (subscription,) = collect_subscriptions(Cats(), "s")
    assert subscription.batch_handler is not None
    batch: Sequence[Message] = (message(b"a"), unreadable(), message(b"b"))
    first, second, third = await subscription.batch_handler(batch)
    assert (first, str(second), third) == (None, "no such name", None)
    assert batches == [[b"a", b"b"]]


def test_a_copy_of_an_unreadable_message_is_unreadable() -> None:
    """A broker in memory that delivers copies keeps the mark."""
    assert unreadable().copy(1, None, None).unreadable == "no such name"
    assert message().copy(1, None, None).unreadable == ""


@pytest.mark.parametrize(
    ("seconds", "year"),
    [(2**62 / 1000, 9999), (-(2**62) / 1000, 1), (float("nan"), 1), (0.0, 1970)],
)
async def test_a_timestamp_out_of_range_is_the_nearest_date(seconds: float, year: int) -> None:
    """A producer that chooses the timestamp cannot prevent the dead letter of its message."""

    async def handle(received: Message) -> None:
        raise ValueError("no")

    received = Message.received("t", b"", None, {}, "1", seconds, None, None)
    async with running(handle, dead_letter=True, max_deliveries=1) as bench:
        bench.receiver.put(received)
        await until(lambda: bench.settled)
    assert bench.outcomes == [("1", "dead_letter")]
    assert bench.dead[0].published_at.year == year
    assert (
        Message("t", b"", published_at=datetime(2024, 1, 1, tzinfo=UTC)).published_at.year == 2024
    )


# Kafka's records


def batch_of(headers: Sequence[tuple[str, bytes]], compression: int) -> bytes:
    """Return a batch of two records, the second with these headers."""
    builder = _DefaultRecordBatchBuilderPy(2, compression, 0, -1, -1, -1, 1 << 20)
    builder.append(0, timestamp=1, key=None, value=b"a", headers=[])
    builder.append(1, timestamp=2, key=b"k", value=b"b", headers=list(headers))
    return bytes(builder.build())


@pytest.mark.parametrize("compression", [0, 1])
def test_a_name_that_is_not_utf8_is_read(compression: int) -> None:
    """Its bytes are surrogates in the name; all other fields are as usual."""
    headers = [("ok", b"\xff"), (NotUtf8("x"), b"y")]
    records = LenientRecords(batch_of(headers, compression) + batch_of([], compression))
    found = []
    while records.has_next():
        batch = records.next_batch()
        assert batch.validate_crc()
        found += list(batch)
    assert [record.value for record in found] == [b"a", b"b", b"a", b"b"]
    assert found[1].headers == [("ok", b"\xff"), ("caf\udce9", b"y")]
    assert (found[1].key, found[1].offset, found[1].timestamp) == (b"k", 1, 2)


def test_a_record_with_wrong_lengths_is_corrupt() -> None:
    """Nothing is read beyond the end of a batch: the C decoder ended the process by SIGSEGV."""
    whole = batch_of([("name", b"value")], 0)
    far = b"\xfe\xff\xff\xff\xff\x7f"  # a length of 2 TiB
    corrupt = 0
    for place in range(61, len(whole)):
        records = LenientRecords(
            whole[:place] + far[: len(whole) - place] + whole[place + len(far) :]
        )
        try:
            list(records.next_batch())
        except (CorruptRecordException, ValueError):
            corrupt += 1
    assert corrupt > 10


def test_only_the_message_with_such_a_name_is_marked() -> None:
    """The name is escaped, so that a dead letter can have it; other names are unchanged."""
    odd = message(attributes=attributes_of([("caf\udce9", b"y"), ("k\tä", b"\xff")]))
    fine = message(attributes=attributes_of([("käse", b"\xff")]))
    mark_unreadable([odd, fine])
    assert odd.attributes == {r"caf\udce9": "y", "k\tä": "\udcff"}
    assert odd.unreadable == r"the name of a header is not UTF-8: caf\udce9"
    assert (fine.attributes, fine.unreadable) == ({"käse": "\udcff"}, "")


def test_a_long_name_is_quoted_in_part() -> None:
    """The reason for a name of a megabyte has a kilobyte."""
    odd = message(attributes={"\udce9" * 10**6: ""})
    mark_unreadable([odd])
    assert len(odd.unreadable) < 1200
    assert all(len(name) < 1200 for name in odd.attributes)
