"""Read Kafka records whose header names are not UTF-8, which aiokafka refuses.

A producer in another language may send any bytes as the name of a header. aiokafka raises an
error for them, each time anew, and never gets past their batch. Here such a name is read, and the
message is marked as unreadable: the engine sends it to the dead letters.

This reading is done in Python and costs several times as much. So it is done only for the records
that a partition has fetched since they could not be read otherwise. Of the undocumented parts of
aiokafka this uses: ``AIOKafkaConsumer._client.send``; ``Fetcher._records``, ``FetchResult`` and
``PartitionRecords`` with their attributes; and the readers of batches that it has for PyPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.record.util import decode_varint_py

from gizmopy.pubsub.message import Message
from gizmopy.untrusted.text import quoted

_V2 = 2
"""The format of batches that has headers."""


class LenientReader:
    """Keep the bytes that ``consumer`` fetches of some partitions, and read them for any names."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self.consumer = consumer
        self._wanted: set[TopicPartition] = set()
        self._fetched: dict[TopicPartition, bytes] = {}
        """The last fetched bytes of each partition that is wanted."""
        client, self._send = consumer._client, consumer._client.send
        client.send = self._keeping

    def want(self, tp: TopicPartition) -> None:
        """Keep the fetched bytes of a partition from now on."""
        self._wanted.add(tp)

    def leave(self, tp: TopicPartition) -> None:
        """Keep nothing more of a partition."""
        self._wanted.discard(tp)
        self._fetched.pop(tp, None)

    def use(self, tp: TopicPartition) -> bool:
        """Read the fetched bytes of a partition leniently; return whether that is possible."""
        result = self.consumer._fetcher._records.get(tp)
        strict = result._partition_records if isinstance(result, FetchResult) else None
        if strict is None:
            return False
        if (fetched := self._fetched.pop(tp, None)) is not None:
            result._partition_records = PartitionRecords(
                tp,
                _Records(fetched),
                strict._aborted_transactions,
                strict.next_fetch_offset,
                None,
                None,
                strict._check_crcs,
                strict._isolation_level,
            )
        return isinstance(result._partition_records._records, _Records)

    async def _keeping(
        self, node: int, request: Any, *, group: Any = ConnectionGroup.DEFAULT
    ) -> Any:
        response = await self._send(node, request, group=group)
        if self._wanted and type(response).__name__.startswith("FetchResponse"):
            for topic, partitions in response.topics:
                for number, *_, records in partitions:
                    if (tp := TopicPartition(topic, number)) in self._wanted:
                        self._fetched[tp] = bytes(records or b"")
        return response


def mark_unreadable(batch: Sequence[Message]) -> None:
    """Mark those messages of which a header's name is not UTF-8, and escape and cut the name."""
    for message in batch:
        odd = {name: quoted(name) for name in message.attributes if not _is_utf8(name)}
        if odd:
            message.attributes = {odd.get(n, n): text for n, text in message.attributes.items()}
            first = next(iter(odd.values()))
            message.unreadable = f"the name of a header is not UTF-8: {first}"


def _is_utf8(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


class _Records:
    """Yield batches as aiokafka's ``MemoryRecords`` does."""

    def __init__(self, data: bytes) -> None:
        self._records = _MemoryRecordsPy(data)

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        piece = self._records._next_slice
        batch = self._records.next_batch()
        assert piece is not None
        return batch if piece[_MemoryRecordsPy.MAGIC_OFFSET] < _V2 else _Batch(piece)


class _Batch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka has no types
    """Read a batch whose names may be any bytes."""

    def _read_msg(self, decode_varint: Any = decode_varint_py) -> Any:
        # That in C reads beyond the end of what a broker has sent: the process ends with SIGSEGV.
        return super()._read_msg(decode_varint)

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Bytes(self._buffer)  # type: ignore[has-type]  # as above


class _Bytes(bytearray):
    """Bytes of which each slice can be decoded as UTF-8, as ``_read_msg`` decodes it."""

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return _Bytes(part) if isinstance(part, bytearray) else part

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "surrogateescape")
