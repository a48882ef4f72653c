"""What a receiver does after an error, an eviction or an outage."""

from __future__ import annotations

import asyncio
import time
from operator import attrgetter
from typing import Any

import pytest
from aiokafka.admin import NewPartitions, NewTopic

from gizmopy.errors import PubSubError
from tests.pubsub.brokers.kafka.cluster import AnyCluster, Cluster
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster
from tests.pubsub.brokers.kafka.support import (
    GROUP_FORBIDDEN,
    HEARTBEAT,
    JOIN_GROUP,
    NO_COORDINATOR,
    REBALANCE,
    Revoked,
    a_topic,
    ack,
    an_admin,
    assigned,
    bodies,
    collect,
    refused_for_good,
    until,
)


async def test_an_evicted_member_does_not_commit(real_kafka: Cluster) -> None:
    """A member whose session has expired leaves its acked messages to others."""
    async with a_topic(real_kafka) as topic:
        await topic.publish(b"1")
        revoked = Revoked()
        async with topic.member(revoked, session_timeout="1s") as receiver:
            await ack(receiver, *await collect(receiver, 1))
            time.sleep(1.5)  # noqa: ASYNC251 - this test blocks the loop
            await until(lambda: revoked.partitions, receiver)
            assert await topic.committed() is None
            assert bodies(await collect(receiver, 1)) == [b"1"]


async def test_a_forbidden_group_is_an_error_of_receive(mock: MockCluster) -> None:
    """The error is permanent, and raised although no receive was pending when it came."""
    async with a_topic(mock) as topic, topic.member(session_timeout="500ms") as receiver:
        mock.fail(JOIN_GROUP, GROUP_FORBIDDEN)
        mock.fail(HEARTBEAT, REBALANCE)
        await until(lambda: receiver._membership.consumer._coordinator._pending_exception)
        with pytest.raises(PubSubError, match="GroupAuthorization") as caught:
            await collect(receiver, 1)
        assert not caught.value.transient


@pytest.mark.parametrize("instance", ["", "a"])
async def test_added_partitions_are_received(real_kafka: Cluster, instance: str) -> None:
    """From their first message, also by static members that have restarted."""
    settings: dict[str, Any] = {"group_instance_id": instance, "metadata_max_age": "200ms"}
    async with a_topic(real_kafka) as topic:
        async with topic.member(**settings):
            pass
        async with topic.member(**settings) as receiver:
            async with an_admin(real_kafka) as admin:
                await admin.create_partitions({topic.name: NewPartitions(total_count=2)})
            while len(await topic.producer.partitions_for(topic.name)) < 2:
                await topic.producer.client.force_metadata_update()
            await topic.publish(b"1", partition=1)
            (message,) = await collect(receiver, 1)
            assert str(message.partition) == "1"


async def test_a_topic_that_is_created_again_starts_again(real_kafka: Cluster) -> None:
    """Acks of the old topic's messages are refused, and offsets of the new one committed."""
    async with a_topic(real_kafka) as topic, an_admin(real_kafka) as admin:
        await topic.publish(b"1", b"2", b"3")
        settings: dict[str, Any] = {"metadata_max_age": "200ms", "commit_interval": "10ms"}
        async with topic.member(**settings) as receiver:
            old = await collect(receiver, 3)
            await admin.delete_topics([topic.name])
            await admin.create_topics([NewTopic(topic.name, 1, 1)])
            await topic.publish(b"new")
            (new,) = await collect(receiver, 1)
            assert new.body == b"new"
            assert refused_for_good(await receiver.ack([old[-1]])) == [True]
            await ack(receiver, new)
            await topic.until_committed(1)


@pytest.mark.parametrize("task", ["_coordinator._coordination_task", "_fetcher._fetch_task"])
async def test_a_client_that_ends_without_an_error_is_a_stall(kafka: AnyCluster, task: str) -> None:
    """The status reports a background task of aiokafka that has ended."""
    async with a_topic(kafka) as topic, topic.member() as receiver:
        assert receiver.status().stalled == ""
        dying = attrgetter(task)(receiver._membership.consumer)
        dying.cancel()
        await asyncio.wait((dying,))
        assert receiver.status().stalled == "a background task of the Kafka client has ended"


async def test_a_rejoin_that_does_not_end_is_a_stall(
    mock: MockCluster, usual_retries: None
) -> None:
    """The status reports it after two rebalances and a session, until the group is joined again."""
    async with a_topic(mock) as topic:
        settings: dict[str, Any] = {"session_timeout": "500ms", "rebalance_timeout": "500ms"}
        async with topic.member(**settings) as receiver:
            assert receiver.status().stalled == ""
            mock.fail(JOIN_GROUP, *[NO_COORDINATOR] * 6)  # aiokafka retries twice a second
            mock.fail(HEARTBEAT, REBALANCE)
            await until(lambda: receiver.status().stalled, receiver)
            assert f"group '{topic.name}' has not been joined again" in receiver.status().stalled
            await topic.publish(b"1")
            await collect(receiver, 1)
            assert receiver.status().stalled == ""
            receiver._membership.consumer._coordinator.request_rejoin()
            assert receiver.status().stalled == ""  # this rejoin has just begun


async def test_an_outage_is_not_a_stall(mock: MockCluster) -> None:
    """Another client would not help; the member continues once the broker is back."""
    async with a_topic(mock) as topic:
        settings: dict[str, Any] = {"session_timeout": "500ms", "rebalance_timeout": "500ms"}
        async with topic.member(**settings) as receiver:
            await until(lambda: assigned(receiver), receiver)
            mock.kill(1)
            assert await receiver.receive(1, 1.0) == []
            mock.start(1)
            await topic.publish(b"1")
            assert bodies(await collect(receiver, 1)) == [b"1"]
