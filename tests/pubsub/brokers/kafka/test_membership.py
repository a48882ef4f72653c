"""Evictions from a group, closes while joining, and brokers that do not answer."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Collection, Hashable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import GroupLoadInProgressError
from aiokafka.protocol.group import LeaveGroupRequest

from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub import Message
from gizmopy.pubsub import registry as drivers
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster
from tests.pubsub.brokers.kafka.support import (
    HEARTBEAT,
    ILLEGAL_GENERATION,
    JOIN_GROUP,
    REBALANCE,
    UNKNOWN_MEMBER,
    BlockedRevoke,
    Topic,
    a_topic,
    ack,
    an_admin,
    assigned,
    bodies,
    collect,
    in_time,
    refused_for_good,
    revoke_at_once,
    until,
)
from tests.pubsub.support import turns

UNKNOWN_SERVER_ERROR = -1
LONG = "25s"
"""A session that no test outlives."""


class RevokeTimes:
    """Give up partitions at once, and record the seconds that were allowed."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, partitions: Collection[Hashable], seconds: float) -> None:
        self.seconds.append(seconds)


# Evictions.


@pytest.mark.parametrize(
    ("error", "seconds", "again"),
    [
        (UNKNOWN_MEMBER, 0.0, [b"1", b"2"]),
        (ILLEGAL_GENERATION, 0.0, [b"1", b"2"]),
        (REBALANCE, 7.9, [b"2"]),
    ],
)
async def test_an_evicted_member_gives_up_its_partitions_at_once(
    mock: MockCluster, error: int, seconds: float, again: list[bytes]
) -> None:
    """Others have them: unlike in a rebalance, no message is finished or committed."""
    async with a_topic(mock) as topic:
        await topic.publish(b"1")
        times = RevokeTimes()
        async with topic.member(times, session_timeout="1s") as receiver:
            await ack(receiver, *await collect(receiver, 1))
            mock.fail(HEARTBEAT, error)
            await until_revoked(times, receiver)
            assert times.seconds == [pytest.approx(seconds)]
            await topic.publish(b"2")
            assert bodies(await collect(receiver, len(again))) == again


async def test_a_pending_commit_ends_with_the_membership(
    real_kafka: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not repeated without a generation, which a broker accepts if the group is empty."""
    async with a_topic(real_kafka) as topic:
        await topic.publish(b"1")
        times, commit = RevokeTimes(), GroupCoordinator._do_commit_offsets
        tried = asyncio.Event()

        async def loading(self: Any, *arguments: Any) -> None:
            tried.set()
            if self.generation > 0:
                raise GroupLoadInProgressError
            await commit(self, *arguments)

        monkeypatch.setattr(GroupCoordinator, "_do_commit_offsets", loading)
        async with topic.member(times, commit_every=1, commit_interval="10ms") as receiver:
            await ack(receiver, *await collect(receiver, 1))
            await in_time(tried.wait())
            await evict(topic, receiver)
            await until_revoked(times, receiver)
            assert bodies(await receiver.receive(1, 5.0)) == [b"1"]
            assert await topic.committed() is None


async def evict(topic: Topic, receiver: Any) -> None:
    """Remove a member from its group, as if its session had expired."""
    node = receiver._membership.consumer._coordinator.coordinator_id
    request = LeaveGroupRequest(topic.name, receiver._membership.consumer._coordinator.member_id)
    await topic.observer._client.send(node, request)


async def test_an_assignment_ends_although_its_last_commit_fails(
    mock: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acks of its messages are refused, and the messages come again."""

    commit = FailingCommit()
    async with a_topic(mock) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member() as receiver:
            first, second = await collect(receiver, 2)
            await ack(receiver, first)
            with monkeypatch.context() as patch:
                patch.setattr(AIOKafkaConsumer, "commit", commit)
                mock.fail(HEARTBEAT, REBALANCE)
                await in_time(commit.died.wait())
            await turns()
            assert refused_for_good(await receiver.ack([second])) == [True]
            assert bodies(await collect(receiver, 2)) == [b"1", b"2"]


class FailingCommit:
    """Fail as aiokafka does if a connection is closed meanwhile."""

    def __init__(self) -> None:
        self.died = asyncio.Event()

    async def __call__(self, *_: object) -> None:
        self.died.set()
        raise KeyError((1, "coordination"))


async def until_revoked(times: RevokeTimes, receiver: Any) -> None:
    """Let a receiver work until it has given up its partitions."""
    async with asyncio.timeout(20):
        while not times.seconds:
            assert await receiver.receive(100, 0.02) == []


async def test_a_committer_that_has_ended_is_a_stall(
    mock: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing would be committed any more, so the engine makes another receiver."""
    async with a_topic(mock) as topic:
        await topic.publish(b"1")
        async with topic.member(commit_interval="10ms") as receiver:
            messages = await collect(receiver, 1)
            with monkeypatch.context() as patch:
                patch.setattr(AIOKafkaConsumer, "commit", FailingCommit())
                await ack(receiver, *messages)
                await until(lambda: receiver.status().stalled, receiver)
            assert receiver.status().stalled == "a background task of the Kafka client has ended"


async def test_an_error_of_the_group_is_raised_during_a_rebalance(mock: MockCluster) -> None:
    """Also if no receive was pending: aiokafka does not join again until the error was raised."""
    async with a_topic(mock) as topic, topic.member(session_timeout="1s") as receiver:
        coordinator = receiver._membership.consumer._coordinator
        mock.fail(JOIN_GROUP, UNKNOWN_SERVER_ERROR)
        mock.fail(HEARTBEAT, REBALANCE)
        await until(lambda: coordinator._pending_exception)
        with pytest.raises(PubSubError, match="UnknownError") as caught:
            await receiver.receive(1, 1.0)
        assert not caught.value.transient


# Closing while joining.


async def test_a_close_while_joining_leaves_the_group(real_kafka: Cluster) -> None:
    """The group does not wait for it, although its join request is not answered yet."""
    async with a_topic(real_kafka, partitions=2) as topic:
        for partition in range(2):
            await topic.publish(b"1", partition=partition)
        blocked = BlockedRevoke()
        async with topic.member(blocked) as owner:
            await collect(owner, 2)
            async with topic.unconnected(session_timeout=LONG, rebalance_timeout=LONG) as newcomer:
                joining = asyncio.create_task(newcomer.connect(revoke_at_once))
                await in_time(blocked.started.wait())
                await in_time(newcomer.aclose())
                with pytest.raises(PubSubError, match=r"cannot be joined.*was closed meanwhile"):
                    await joining
            await in_time(until_members(topic, real_kafka, 1))
            blocked.release.set()
            assert bodies(await in_time(collect(owner, 2))) == [b"1", b"1"]


async def until_members(topic: Topic, cluster: Cluster, count: int) -> None:
    """Wait until the group has ``count`` members."""
    async with an_admin(cluster) as admin:
        while True:
            (answer,) = await admin.describe_consumer_groups([topic.name])
            (group,) = answer.to_object()["groups"]
            if len(group["members"]) == count:
                return
            await asyncio.sleep(0.05)


async def test_a_close_while_connecting_prevents_joining(mock: MockCluster) -> None:
    """Its connect raises an error, no task is left, and the group does not wait for its session."""
    async with a_topic(mock, partitions=2) as topic:
        async with topic.unconnected(session_timeout=LONG) as closed:
            mock.delay(1, 0.2)
            connecting = asyncio.create_task(closed.connect(revoke_at_once))
            await asyncio.wait((connecting,), timeout=0.1)
            await closed.aclose()
            with pytest.raises(UsageError, match="connect before aclose"):
                await in_time(connecting)
            mock.delay(1, 0.0)
            async with topic.member() as receiver:
                await in_time(until(lambda: assigned(receiver) == ["0", "1"], receiver))


# Brokers that do not answer.


@asynccontextmanager
async def no_unretrieved_error() -> AsyncIterator[None]:
    """Fail if asyncio reports an error that was never retrieved."""
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    yield
    gc.collect()
    assert unheard == []


@pytest.mark.parametrize("seconds", [0.05, 1.2])
async def test_a_close_without_answers_retrieves_all_errors(
    mock: MockCluster, seconds: float
) -> None:
    """Commits, receives and sends that wait for a silent broker end without a report of asyncio."""
    async with a_topic(mock, partitions=2) as topic, AsyncExitStack() as stack:
        for partition in range(2):
            await topic.publish(b"1", partition=partition)
        async with no_unretrieved_error():
            receiver = await stack.enter_async_context(topic.member(commit_interval="10ms"))
            messages = await collect(receiver, 2)
            sender = drivers.open_driver(mock.url).sender(topic.name)
            await sender.connect()
            message = Message(topic.name, b"x", key="k")
            await sender.send([message])
            mock.delay(1, 3600)
            await ack(receiver, *messages)
            sending = asyncio.create_task(sender.send([message]))
            receiving = asyncio.create_task(receiver.receive(1, 60.0))
            await asyncio.wait((sending, receiving), timeout=seconds)
            await in_time(asyncio.gather(receiver.aclose(), sender.aclose()))
            assert await in_time(receiving) == []
            await in_time(asyncio.wait((sending,)))
            mock.delay(1, 0)
            del receiver, sender, sending, receiving, messages, message
