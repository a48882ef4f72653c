"""The messages that wait without working: for their turn, their retry, or their dead letter.

They do not count for ``max_in_flight``: else messages that only wait would keep others from being
received, also those of other partitions, and nothing would report it. They have bounds of their
own, in each partition; a broker without partitions has one room.

At a bound no more of that partition is received. The messages that wait keep their lanes: order is
never given up for room.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from gizmopy.pubsub.message import Message

OnFull = Callable[[Hashable, bool], None]
"""Called with a partition and True when its room gets full, and with False when it has room."""


class _Used:
    """The messages of one partition that wait, and their bytes."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0


class WaitingRoom:
    """Count the messages that wait, and know which partitions have no room for more.

    A message that waits has entered once, and leaves once. One message may exceed the bytes.
    """

    def __init__(self, max_messages: int, max_bytes: int, *, by_partition: bool) -> None:
        self.messages = 0
        self.bytes = 0
        self.full: set[Hashable] = set()
        """The partitions without room; None for a broker without partitions."""
        self.on_full: OnFull = _ignore
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._by_partition = by_partition
        self._used: dict[Hashable, _Used] = {}

    def enter(self, message: Message) -> None:
        """Count a message that begins to wait."""
        partition = message.partition if self._by_partition else None
        used = self._used.get(partition)
        if used is None:
            used = self._used[partition] = _Used()
        size = message._size
        used.messages += 1
        used.bytes += size
        self.messages += 1
        self.bytes += size
        if partition not in self.full and not self._has_room(used):
            self.full.add(partition)
            self.on_full(partition, True)

    def leave(self, message: Message) -> None:
        """Count a message that waits no longer."""
        partition = message.partition if self._by_partition else None
        used = self._used[partition]
        size = message._size
        used.messages -= 1
        used.bytes -= size
        self.messages -= 1
        self.bytes -= size
        if not used.messages:
            del self._used[partition]
        if partition in self.full and self._has_room(used):
            self.full.discard(partition)
            self.on_full(partition, False)

    def is_half_full(self, message: Message) -> bool:
        """Return whether half of the room of the partition of ``message`` is taken.

        From then on a message that may go back to the broker does, so that the rest is for messages
        that cannot: only they make a room full, and stop the intake.
        """
        used = self._used.get(message.partition if self._by_partition else None)
        if used is None:
            return False
        return 2 * used.messages >= self._max_messages or 2 * used.bytes >= self._max_bytes

    def _has_room(self, used: _Used) -> bool:
        return used.messages < self._max_messages and used.bytes < self._max_bytes


def _ignore(partition: Hashable, is_full: bool) -> None:
    """Do nothing: the owner has not set ``on_full`` yet."""
