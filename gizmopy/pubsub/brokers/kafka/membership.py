"""Join a consumer group, give up partitions in a rebalance, and notice an eviction.

A rebalance waits for its members: aiokafka holds it until ``on_partitions_revoked`` returns. So the
engine gives them up first, then the last commit is made, and only then do partitions move.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, InconsistentGroupProtocolError, KafkaError

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.errors import PubSubError
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import (
    REQUEST_TIMEOUT_MS,
    cancel,
    extend_group_timeouts,
    is_joining,
    member_is_known,
    rejoin,
    stop,
    topic_identity,
)
from gizmopy.pubsub.brokers.kafka.cluster import Cluster, milliseconds
from gizmopy.pubsub.brokers.kafka.committer import Committer
from gizmopy.pubsub.brokers.kafka.errors import translate_errors
from gizmopy.pubsub.brokers.kafka.poller import Poller
from gizmopy.pubsub.driver import Revoke

_START_SECONDS = 10.0
"""How long ``connect`` waits until the group is joined; ``receive`` then waits for the rest."""
_FETCHED_BYTES = 64 * 1024 * 1024
"""How much a receiver fetches in advance, over all partitions of a topic."""
_NEVER_MS = 2**31 - 1
_ORIGIN_SECONDS = 3.0
"""How long a broker may take to tell the ids of the cluster and of the topic."""


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Be a member of ``group`` that consumes ``topic``; own the consumer."""

    def __init__(
        self,
        cluster: Cluster,
        settings: KafkaSettings,
        topic: str,
        group: str,
        committer: Committer,
        poller: Poller,
    ) -> None:
        self.topic = topic
        self.group = group
        self.consumer: AIOKafkaConsumer | None = None
        self.evictions = Evictions(settings)
        self.without_partitions_since: float | None = None
        """When this member gave up its partitions, by the event loop's clock; None: it has
        some, or no problem is known."""
        self._cluster = cluster
        self._settings = settings
        self._committer = committer
        self._poller = poller
        self._revoke: Revoke | None = None
        self._joining: asyncio.Task[None] | None = None
        self._partition_count = 0
        """How many partitions the topic had when this member joined."""
        self._revoke_seconds = _revoke_seconds(settings, committer.timeout)

    # Join.

    def start(self, revoke: Revoke, partition_count: int) -> None:
        """Make a consumer, and let it join the group in the background."""
        self._revoke = revoke
        self._partition_count = partition_count
        consumer = AIOKafkaConsumer(**self._options())
        extend_group_timeouts(consumer, self._settings.rebalance_timeout.total_seconds())
        consumer.subscribe([self.topic], listener=self)
        self.consumer = self._committer.consumer = consumer
        self._joining = asyncio.create_task(consumer.start(), name=f"join {self.group}")

    async def join(self) -> None:
        """Wait ``_START_SECONDS`` at most until the group is joined.

        Raises PubSubError if that has failed, or if no broker was reached in time. A rebalance that
        takes longer is awaited in ``receive``.
        """
        assert self._joining is not None
        await asyncio.wait((self._joining,), timeout=_START_SECONDS)
        consumer = self.consumer
        if self._joining.done() or consumer is None or not is_joining(consumer):
            self.check_joined()
        if self._committer.offsets.commit_start and self._joining.done():
            await self._await_start_offsets()

    async def _await_start_offsets(self) -> None:
        """Wait until the start offsets are known, so that later messages are after them."""
        consumer = self.consumer
        if consumer is None:  # closed meanwhile
            return
        with suppress(IllegalStateError, TimeoutError):  # the committer asks again
            async with asyncio.timeout(_START_SECONDS):
                for tp in consumer.assignment():
                    await consumer.position(tp)

    async def wait_joined(self, seconds: float) -> bool:
        """Wait ``seconds`` at most for the end of joining; return whether it has ended."""
        assert self._joining is not None
        if not self._joining.done():
            await asyncio.wait((self._joining,), timeout=seconds)
        return self._joining.done()

    def check_joined(self, *, forever: bool = False) -> None:
        """Raise PubSubError if the group is not joined.

        With ``forever`` the error is not transient: only a new receiver can help.
        """
        try:
            with translate_errors(f"group {self.group!r} cannot be joined"):
                self._joining_result()
        except PubSubError as error:
            if isinstance(error.__cause__, InconsistentGroupProtocolError):
                raise PubSubError(
                    f"group {self.group!r} has members that do not offer the roundrobin "
                    "assignor; stop them first, or let them offer it too",
                    transient=False,
                ) from error
            raise PubSubError(str(error), transient=error.transient and not forever) from error

    def _joining_result(self) -> None:
        assert self._joining is not None
        if self._joining.cancelled():
            raise TimeoutError("the receiver was closed meanwhile")
        if not self._joining.done():
            raise TimeoutError("its coordinator has not answered yet, or a rebalance goes on")
        self._joining.result()

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        instance = settings.group_instance_id
        per_partition = _FETCHED_BYTES // max(1, self._partition_count)
        return self._cluster.options() | {
            "group_id": self.group,
            "group_instance_id": f"{instance}-{self.topic}" if instance else None,
            "enable_auto_commit": False,
            "auto_offset_reset": settings.auto_offset_reset,
            "isolation_level": settings.isolation_level,
            "session_timeout_ms": milliseconds(settings.session_timeout),
            "heartbeat_interval_ms": milliseconds(settings.session_timeout / 10),
            "rebalance_timeout_ms": milliseconds(settings.rebalance_timeout),
            # The engine detects handlers that hang. aiokafka would leave the group instead, and
            # the partition's next member would hang on the same message.
            "max_poll_interval_ms": _NEVER_MS,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "max_partition_fetch_bytes": min(2**20, per_partition),
        }

    # Rebalance.

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Go on after a rebalance; aiokafka calls this."""
        assert self.consumer is not None
        self.without_partitions_since = None
        self._partition_count = len(self.consumer.partitions_for_topic(self.topic) or ())
        if assigned:
            await self.refresh_origin()
        self._poller.wake()
        self._committer.request()  # start offsets may have to be committed

    async def refresh_origin(self) -> None:
        """Ask for the ids of the cluster and of the topic, which may have been made anew.

        If no broker answers, the ones that are known stay: messages are received without an id.
        """
        consumer = self.consumer
        if consumer is None:
            return
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(_ORIGIN_SECONDS):
                self._committer.offsets.set_origin(await topic_identity(consumer, self.topic))

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Let the engine give up the partitions, and commit for the last time; aiokafka calls it.

        Neither the rebalance nor ``getmany`` goes on before this returns. After an eviction other
        members have the partitions: handlers are cancelled at once, and nothing is committed.
        """
        self.without_partitions_since = asyncio.get_running_loop().time()
        committer, offsets = self._committer, self._committer.offsets
        if self.is_evicted:
            # A commit in progress would be repeated without a generation, and move back an offset
            # that the partition's next member has committed.
            await committer.abort()
            self.evictions.note()
        else:
            committer.record_start_offsets()
        held = offsets.among(revoked)
        assert self._revoke is not None
        try:
            if held:
                # The eviction may also come during that; the commit checks it again.
                await self._revoke(held, 0.0 if self.is_evicted else self._revoke_seconds)
                await committer.commit(committer.timeout)
        finally:
            # Also if the last commit raises: an ack after this would count for the next assignment.
            for partition in held:
                offsets.end(partition)
            self._poller.forget_stopped()
            await committer.abort()

    @property
    def is_evicted(self) -> bool:
        """Whether the group does not have this member, so that others have its partitions."""
        return self.consumer is None or not member_is_known(self.consumer)

    def rejoin_if_partitions_added(self) -> None:
        """Join again if the topic has more partitions than before, as a static member.

        A static member that returns gets its partitions back without a rebalance. After that no
        member of the group watches the topic for new partitions (KAFKA-13435).
        """
        consumer = self.consumer
        assert consumer is not None
        if self._settings.group_instance_id and consumer.assignment():
            count = len(consumer.partitions_for_topic(self.topic) or ())
            if count > self._partition_count:
                self._partition_count = count
                rejoin(consumer)

    # Leave.

    async def leave(self) -> None:
        """Leave the group and stop the consumer, if there is one, in bounded time."""
        consumer, self.consumer = self.consumer, None
        self._committer.consumer = None
        committing = self._committer.detach()
        if self._joining is not None:
            await cancel((self._joining,))
        if consumer is not None:
            await stop(consumer, committing)


class Evictions:
    """Notice that a member is evicted again and again, because another process has its name."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._instance = settings.group_instance_id
        self._window = 2 * settings.session_timeout.total_seconds()
        """Seconds within which a second eviction is due to another process."""
        self._evicted_at = -math.inf
        self._was_fenced = False
        """Whether the last two evictions were within the window."""

    def note(self) -> None:
        """Note an eviction."""
        now = asyncio.get_running_loop().time()
        self._was_fenced = now - self._evicted_at < self._window
        self._evicted_at = now

    def fencing_instance(self) -> str:
        """Return the ``group_instance_id`` that another process uses, too; empty if none does."""
        is_recent = asyncio.get_running_loop().time() - self._evicted_at < self._window
        return self._instance if self._was_fenced and is_recent else ""


def _revoke_seconds(settings: KafkaSettings, commit: float) -> float:
    """Return how long the engine may take: the rebalance without a heartbeat and two commits.

    A member learns of a rebalance with a heartbeat; a commit may be in progress before the last.
    """
    rebalance = settings.rebalance_timeout.total_seconds()
    heartbeat = settings.session_timeout.total_seconds() / 10
    return max(rebalance / 2, rebalance - heartbeat - 2 * commit)
