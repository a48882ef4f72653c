"""Read Kafka records whose header names are not UTF-8, which aiokafka refuses.

A producer in another language may send any bytes as the name of a header. aiokafka raises the same
error for such a record each time, and never gets past its batch. The lenient reader decodes the
name and marks the message as unreadable, so that the engine dead-letters it.

Lenient reading runs in pure Python and costs several times as much. So it is used only for a
partition that could not be read, until the records fetched with the malformed one are consumed.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from gizmopy.pubsub.brokers.kafka.aiokafka_compat import observe_fetches, read_leniently
from gizmopy.pubsub.message import Message, RepeatedAttributes
from gizmopy.untrusted.text import quoted


class LenientReader:
    """Keep the bytes that ``consumer`` fetches of some partitions, to read them leniently."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self.consumer = consumer
        self._kept: set[TopicPartition] = set()
        self._fetched: dict[TopicPartition, bytes] = {}
        """The last fetched bytes of each partition in ``_kept``."""
        observe_fetches(consumer, self._keep)

    def keep(self, tp: TopicPartition) -> None:
        """Keep the fetched bytes of a partition from now on."""
        self._kept.add(tp)

    def drop(self, tp: TopicPartition) -> None:
        """Stop keeping the bytes of a partition."""
        self._kept.discard(tp)
        self._fetched.pop(tp, None)

    def use(self, tp: TopicPartition) -> bool:
        """Read the fetched records of a partition leniently; return whether that is possible."""
        is_lenient = read_leniently(self.consumer, tp, self._fetched.get(tp))
        if is_lenient:
            self._fetched.pop(tp, None)
        return is_lenient

    def _keep(self, tp: TopicPartition, records: bytes | None) -> None:
        if tp in self._kept:
            self._fetched[tp] = bytes(records or b"")


def mark_unreadable(batch: Sequence[Message]) -> None:
    """Mark messages that have a header name that is not UTF-8, and escape and cut the name."""
    for message in batch:
        escaped = {name: quoted(name) for name in message.attributes if not _is_utf8(name)}
        if escaped:
            pairs = [(escaped.get(name, name), text) for name, text in message.attributes.items()]
            message.attributes = RepeatedAttributes(pairs)
            first = next(iter(escaped.values()))
            message.unreadable = f"the name of a header is not UTF-8: {first}"


def _is_utf8(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
