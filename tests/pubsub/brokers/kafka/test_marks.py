"""Marks say which records are settled; those that are forged or odd settle nothing."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from gizmopy.pubsub.brokers.kafka.marks import OpenRecords, is_mark, mark, offsets_in
from gizmopy.pubsub.brokers.kafka.offsets import Offsets


def record(offset: int, body: bytes | None = b"cat", **fields: Any) -> ConsumerRecord[Any, Any]:
    """Return a record of the first partition."""
    values: dict[str, Any] = {"key": None, "headers": ()}
    return ConsumerRecord(
        topic="dead",
        partition=0,
        offset=offset,
        timestamp=0,
        timestamp_type=0,
        value=body,
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=0,
        **(values | fields),
    )


def a_mark(offset: int, *offsets: int, body: bytes | None = None) -> ConsumerRecord[Any, Any]:
    """Return the record of a mark, or of one with another body."""
    made = mark("dead", offsets)
    assert made.key is not None
    headers = [(name, text.encode()) for name, text in made.attributes.items()]
    return record(
        offset, made.body if body is None else body, key=made.key.encode(), headers=headers
    )


def test_a_mark_is_told_from_messages() -> None:
    """Only a record with both the key and the header is a mark."""
    whole = a_mark(5, 1)
    assert is_mark(whole)
    assert not is_mark(record(5))
    assert not is_mark(record(5, key=whole.key))
    assert not is_mark(record(5, key=b"cat", headers=whole.headers))


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"1,2,3", [1, 2, 3]),
        (b"3,7,99999999999", [3]),
        (b"7", []),
        (b"", []),
        (b"1,,2", []),
        (b"-1", []),
        (b"\xd9\xa3", []),
        (b"1" * 20_000, []),
        (b"1" * 20, []),
        (b"1," * 20_000, []),
    ],
)
def test_a_mark_settles_earlier_records_alone(body: bytes, found: list[int]) -> None:
    """Anything else that a sender could write settles nothing."""
    assert offsets_in(a_mark(7, body=body)) == found


def test_a_tombstone_with_the_key_of_a_mark_settles_nothing() -> None:
    """Its body is none."""
    whole = a_mark(7, 1)
    assert offsets_in(record(7, None, key=whole.key, headers=whole.headers)) == []


def test_open_records_are_counted() -> None:
    """Holes and marks are not open; what a mark names is not either."""
    records = OpenRecords(0)
    for each in (record(3), record(4), record(7), a_mark(8, 4), record(12)):
        records.read(each)
    assert (records.start, records.next) == (3, 13)
    assert [offset for offset in range(20) if records.is_open(offset)] == [3, 7, 12]
    assert (records.count, records.first) == (3, 3)

    records.read(record(7))
    records.settle(3)
    records.settle(999)
    records.forget_before(records.first)
    assert (records.count, records.first, records.start) == (2, 7, 7)

    records.skip_to(20)
    records.forget_before(50)
    assert (records.count, records.first, records.next) == (0, 50, 50)


def test_a_gap_beyond_the_memory_is_told() -> None:
    """An offset far behind the first that is open is refused before any memory is taken."""
    records = OpenRecords(0)
    assert records.has_room_for(10**12)
    records.read(record(10))
    assert records.has_room_for(1000)
    assert not records.has_room_for(10**12)


def test_marks_need_no_ack() -> None:
    """An ack passes the marks behind it, and a mark with nothing before it counts at once."""
    offsets = Offsets(100, commit_start=False)
    partition = offsets.at(TopicPartition("dead", 0), 5)
    offsets.skip(partition, 5)
    assert partition.acked == 6
    offsets.skip(partition, 8)
    offsets.skip(partition, 9)
    assert partition.acked == 6
    offsets.ack(partition, 6)
    assert partition.acked == 7
    offsets.ack(partition, 7)
    assert partition.acked == 10
    assert partition.skipped == set()
    assert offsets.uncommitted == 5
