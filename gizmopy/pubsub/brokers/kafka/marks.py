"""Marks: records that say which records of their partition are settled.

Kafka keeps one position for each partition, so a record behind one that stays cannot be settled. A
mark is a record of its own in the same partition, behind those that it names. A partition is read
to its end before anything in it is known to be open.

A sender chooses what it writes: a mark that names anything but earlier offsets, or that is not
well-formed, settles nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka import ConsumerRecord

from gizmopy.observe.context import new_id
from gizmopy.pubsub.message import Message

SETTLED = "gizmo-dl-settled"
"""The header of a mark."""
KEY_PREFIX = b"gizmo-dl-settled-"
"""The beginning of its key. Each mark has a key of its own: a compacted topic keeps them all."""
MOST_OFFSETS = 500
"""How many records one mark settles at most: its body has 10 KB then."""
_LONGEST_BODY = MOST_OFFSETS * 21
_OPEN, _SETTLED = 1, 2
_MOST_RECORDS = 64 * 1024 * 1024
"""The longest part of a partition that is looked through; each record takes a byte of memory."""


def mark(topic: str, offsets: Sequence[int]) -> Message:
    """Return a mark for records of one partition."""
    body = ",".join(map(str, offsets)).encode()
    key = KEY_PREFIX.decode() + new_id()
    return Message(topic, body, key=key, attributes={SETTLED: str(len(offsets))})


def is_mark(record: ConsumerRecord) -> bool:
    """Return whether a record is a mark: it has the key and the header of one."""
    key = record.key
    if key is None or not key.startswith(KEY_PREFIX):
        return False
    return any(name == SETTLED for name, _ in record.headers)


def offsets_in(record: ConsumerRecord) -> list[int]:
    """Return the offsets that a mark settles, all of them below its own."""
    body = record.value or b""
    if len(body) > _LONGEST_BODY:
        return []
    words = body.split(b",")
    if not all(word.isdigit() and len(word) <= 19 for word in words):
        return []
    return [offset for offset in map(int, words) if offset < record.offset]


class OpenRecords:
    """Know which records of one partition are open, from ``start`` on."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._states = bytearray()

    @property
    def next(self) -> int:
        """The next offset to read."""
        return self.start + len(self._states)

    @property
    def count(self) -> int:
        """How many records are open."""
        return self._states.count(_OPEN)

    @property
    def first(self) -> int:
        """The offset of the first open record, or the next offset to read."""
        found = self._states.find(_OPEN)
        return self.next if found < 0 else self.start + found

    def has_room_for(self, offset: int) -> bool:
        """Return whether the records up to ``offset`` can be remembered."""
        return not self._states or offset - self.start < _MOST_RECORDS

    def read(self, record: ConsumerRecord) -> None:
        """Note a record, unless it was read before. Offsets may have holes."""
        if record.offset < self.next:
            return
        if not self._states:
            self.start = record.offset
        self.skip_to(record.offset)
        if not is_mark(record):
            self._states.append(_OPEN)
            return
        self._states.append(_SETTLED)
        for offset in offsets_in(record):
            self.settle(offset)

    def settle(self, offset: int) -> None:
        """Note that a record is settled; one before the start is already."""
        if self.start <= offset < self.next:
            self._states[offset - self.start] = _SETTLED

    def skip_to(self, offset: int) -> None:
        """Note that there is no record up to ``offset``."""
        self._states.extend(bytes(max(0, offset - self.next)))

    def is_open(self, offset: int) -> bool:
        """Return whether a record that was read is open."""
        return self.start <= offset < self.next and self._states[offset - self.start] == _OPEN

    def forget_before(self, offset: int) -> None:
        """Forget the records before ``offset``: the broker has deleted them, or all are settled."""
        if offset > self.start:
            self._states = self._states[offset - self.start :]
            self.start = offset
