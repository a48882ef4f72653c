"""Find out why a receiver gets nothing. aiokafka retries in silence, or ends without an error."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.errors import PubSubError
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import (
    client_is_alive,
    coordinator_is_unreachable,
    is_rebalancing,
    is_started,
    must_rejoin,
)
from gizmopy.pubsub.brokers.kafka.cluster import Cluster
from gizmopy.pubsub.brokers.kafka.membership import Membership

_UNREACHABLE_SECONDS = 2.0
"""How long the coordinator may be unreachable before it is a problem: it may move, or a login may
be renewed."""


class Diagnosis:
    """Describe the state of a membership for ``Receiver.status``."""

    def __init__(self, membership: Membership, cluster: Cluster, settings: KafkaSettings) -> None:
        self._membership = membership
        self._cluster = cluster
        self._unreachable_since: float | None = None
        """When the group's coordinator was found unreachable, by the event loop's clock."""
        self._reason = ""
        """The error of a broker that was asked why."""
        rebalance = settings.rebalance_timeout.total_seconds()
        self._stall_seconds = 2 * rebalance + settings.session_timeout.total_seconds()
        """How long a member may be without partitions."""

    def problem(self) -> str:
        """Return why nothing is received at present, if that may pass; else an empty string."""
        consumer, group = self._membership.consumer, self._membership.group
        if consumer is None or not coordinator_is_unreachable(consumer):
            self._unreachable_since, self._reason = None, ""
            instance = self._membership.evictions.fencing_instance()
            return f"another process uses group_instance_id={instance}, too" if instance else ""
        now = asyncio.get_running_loop().time()
        if self._unreachable_since is None:
            self._unreachable_since = now
        if now - self._unreachable_since < _UNREACHABLE_SECONDS:
            return ""
        return self._reason or f"the coordinator of group {group!r} cannot be reached"

    async def ask_brokers(self) -> None:
        """Ask the brokers why the coordinator cannot be reached; aiokafka only logs the reason."""
        if self.problem() and self._unreachable_since is not None:
            try:
                await self._cluster.find_again(self._membership.topic)
            except PubSubError as error:
                self._reason = str(error)
            else:
                self._reason = ""

    def stall(self, *, tasks_run: bool) -> str:
        """Return why nothing will be received any more; empty if all is well.

        ``tasks_run``: whether the receiver's own tasks do.
        """
        consumer, membership = self._membership.consumer, self._membership
        if consumer is None or not is_started(consumer):
            return ""
        if not (tasks_run and client_is_alive(consumer)):
            return "a background task of the Kafka client has ended"
        reason = self._why_without_partitions(consumer)
        if not reason:
            # A member without partitions is well if no rebalance is in progress: the group may have
            # more members than the topic has partitions.
            if not is_rebalancing(consumer):
                membership.without_partitions_since = None
            return ""
        now = asyncio.get_running_loop().time()
        if membership.without_partitions_since is None:
            membership.without_partitions_since = now
        seconds = now - membership.without_partitions_since
        return f"{reason}, for {seconds:.0f} s" if seconds > self._stall_seconds else ""

    def _why_without_partitions(self, consumer: AIOKafkaConsumer) -> str:
        topic, group = self._membership.topic, self._membership.group
        if must_rejoin(consumer):
            return f"group {group!r} has not been joined again"
        if consumer.partitions_for_topic(topic) is None:
            return f"topic {topic!r} does not exist any more"
        return ""
