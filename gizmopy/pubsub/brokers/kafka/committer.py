"""Commit acked offsets: one call at a time, by interval, by count, and before partitions go.

The offsets are always explicit. aiokafka's own position is that of records that no handler has
finished; committing it would lose them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.errors import PubSubError
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import (
    cancel,
    is_rebalancing,
    member_is_known,
    positions,
)
from gizmopy.pubsub.brokers.kafka.errors import describe_error
from gizmopy.pubsub.brokers.kafka.offsets import Commit, Offsets

_COMMIT_SECONDS = 5.0
"""How long a commit may take; a failed one is repeated."""


def commit_seconds(settings: KafkaSettings) -> float:
    """Return how long a commit may take."""
    return min(_COMMIT_SECONDS, settings.rebalance_timeout.total_seconds() / 10)


class Committer:
    """Commit the acked offsets of ``offsets`` as a member of a group."""

    def __init__(self, offsets: Offsets, settings: KafkaSettings, group: str) -> None:
        self.offsets = offsets
        self.consumer: AIOKafkaConsumer | None = None
        """The member to commit as; None: nothing is committed."""
        self.timeout = commit_seconds(settings)
        self._interval = settings.commit_interval.total_seconds()
        self._every = settings.commit_every
        self._group = group
        self._pending = asyncio.Event()
        """Set if something is acked and not committed."""
        self._due = asyncio.Event()
        """Set if so much is acked that the interval is not awaited."""
        self._call: asyncio.Task[bool] | None = None
        """The commit in progress."""
        self._failure: PubSubError | None = None

    async def run(self) -> None:
        """Commit as often as the settings say, until cancelled."""
        while True:
            await self._pending.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._due.wait()
            self._pending.clear()
            self._due.clear()
            await self.commit(self.timeout)

    def request(self) -> None:
        """Ask for a commit within the interval, or now if ``commit_every`` messages are acked."""
        if self.offsets.uncommitted >= self._every:
            self._due.set()
        self._pending.set()

    def raise_failure(self) -> None:
        """Raise the error of the last failed commit, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def record_start_offsets(self) -> None:
        """Follow the partitions of which nothing is received yet from their current position.

        A group with ``auto_offset_reset=latest`` and without a committed offset would start
        elsewhere after the next rebalance, and lose the messages published in between. So the
        start is committed.
        """
        if not self.offsets.commit_start or self.consumer is None:
            return
        for tp, position, _ in positions(self.consumer):
            if tp not in self.offsets.partitions:
                if position is None:
                    self._pending.set()  # the broker has not answered yet
                else:
                    self.offsets.start(tp, position)

    async def commit(self, seconds: float) -> None:
        """Commit all acked offsets within ``seconds``; a later commit repeats a failed one.

        A call that takes longer goes on: cancelling it would leave a request whose response
        aiokafka does not expect.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while (left := deadline - loop.time()) > 0:
            # One call at a time: the interval, a revoke and a close may all be here. Two calls
            # could arrive in either order, and the older offset would be committed last.
            if is_own := self._call is None:
                commit = self._to_commit()
                if not commit:
                    return
                self._call = asyncio.create_task(self._call_commit(commit))
            call = self._call
            assert call is not None
            await asyncio.wait((call,), timeout=left)
            if not call.done():
                break
            if self._call is call:
                self._call = None
            if call.cancelled() or not call.result():
                break
            if is_own:
                return
            # The call was another caller's, and may have begun before the last ack: once more.
        self._pending.set()

    async def abort(self) -> None:
        """Cancel a call that hangs: aiokafka would repeat it in the next assignment (#933).

        It could then move back an offset that another member has committed.
        """
        call = self.detach()
        if call is not None:
            await cancel((call,))

    def detach(self) -> asyncio.Task[bool] | None:
        """Return the call in progress, for the caller to cancel."""
        call, self._call = self._call, None
        return call

    def _to_commit(self) -> Commit:
        consumer = self.consumer
        if consumer is None or not member_is_known(consumer):
            return []
        if not is_rebalancing(consumer):
            self.record_start_offsets()
        return self.offsets.to_commit()

    async def _call_commit(self, commit: Commit) -> bool:
        """Send ``commit``; return whether the broker has confirmed it."""
        assert self.consumer is not None
        try:
            await self.consumer.commit({partition.tp: acked for partition, acked in commit})
        except (CommitFailedError, IllegalStateError):
            return False  # the assignment is over, or the group rebalances
        except KafkaError as error:
            reason = f"group {self._group!r} cannot commit: {describe_error(error)}"
            self._failure = PubSubError(reason, transient=True)
            return False
        self.offsets.committed(commit)
        return True
