"""How partitions move between the members of a group."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from aiokafka.consumer.subscription_state import SubscriptionState

from gizmopy.errors import StartError
from gizmopy.pubsub import registry as drivers
from tests.pubsub.brokers.kafka.cluster import AnyCluster, Cluster
from tests.pubsub.brokers.kafka.support import (
    DAY,
    BlockedRevoke,
    Revoked,
    a_topic,
    ack,
    assigned,
    bodies,
    collect,
    in_time,
    refused_for_good,
    share_partitions,
    until,
)


async def test_a_member_drains_and_commits_before_a_partition_moves(real_kafka: Cluster) -> None:
    """Another member gets the partition only then, and starts at the committed offset."""
    async with a_topic(real_kafka, partitions=2) as topic, AsyncExitStack() as stack:
        for partition in range(2):
            await topic.publish(b"1", b"2", partition=partition)
        blocked = BlockedRevoke()
        owner = await stack.enter_async_context(topic.member(blocked))
        messages = await collect(owner, 4)
        joining = asyncio.create_task(stack.enter_async_context(topic.member()))
        await in_time(blocked.started.wait())
        await ack(owner, *(message for message in messages if message.body == b"1"))
        assert not joining.done()
        blocked.release.set()
        newcomer = await joining
        assert bodies(await collect(newcomer, 1)) == [b"2"]
        assert bodies(await collect(owner, 1)) == [b"2"]


async def test_messages_received_before_a_rebalance_cannot_be_acked(kafka: AnyCluster) -> None:
    """Their assignment has ended, also if the partition stays; they come again."""
    async with a_topic(kafka, partitions=2) as topic:
        for partition in range(2):
            await topic.publish(b"1", partition=partition)
        revoked = Revoked()
        async with topic.member(revoked) as owner:
            messages = await collect(owner, 2)
            async with topic.member() as newcomer:
                assert bodies(await collect(newcomer, 1)) == [b"1"]
                assert sorted(revoked.partitions) == ["0", "1"]
                assert refused_for_good(await owner.ack(messages)) == [True, True]
                assert bodies(await collect(owner, 1)) == [b"1"]
        assert [await topic.committed(partition) for partition in range(2)] == [None, None]


async def test_a_receive_ends_after_its_wait_during_a_rebalance(kafka: AnyCluster) -> None:
    """It does not wait until other members and the engine have given up their partitions."""
    async with a_topic(kafka) as topic, AsyncExitStack() as stack:
        await topic.publish(b"1")
        blocked = BlockedRevoke()
        owner = await stack.enter_async_context(topic.member(blocked))
        await collect(owner, 1)
        joining = asyncio.create_task(stack.enter_async_context(topic.member()))
        await in_time(blocked.started.wait())
        assert await in_time(owner.receive(10, 0.05)) == []
        blocked.release.set()
        await joining


async def test_a_member_that_closes_leaves_the_group(kafka: AnyCluster) -> None:
    """Another member gets its partitions long before its session would expire."""
    async with a_topic(kafka, partitions=2) as topic:
        async with topic.member() as other:
            async with topic.member(session_timeout="60s", rebalance_timeout="60s") as leaver:
                await until(lambda: share_partitions(other, leaver), other, leaver)
            await until(lambda: assigned(other) == ["0", "1"], other)


async def test_a_close_during_a_rebalance_commits_and_leaves(real_kafka: Cluster) -> None:
    """It waits neither for the engine to drain nor for its session."""
    async with a_topic(real_kafka) as topic, AsyncExitStack() as stack:
        await topic.publish(b"1", b"2")
        blocked = BlockedRevoke()
        async with topic.member(blocked, session_timeout="25s", rebalance_timeout="25s") as owner:
            first, _ = await collect(owner, 2)
            joining = asyncio.create_task(stack.enter_async_context(topic.member()))
            await in_time(blocked.started.wait())
            await ack(owner, first)
            await in_time(owner.aclose())
            assert await topic.committed() == 1
        assert bodies(await collect(await joining, 1)) == [b"2"]


async def test_a_static_member_restarts_without_a_rebalance(real_kafka: Cluster) -> None:
    """Within its session timeout it gets its partition again, and no other member gives up one."""
    async with a_topic(real_kafka, partitions=2) as topic:
        revoked = Revoked()
        async with AsyncExitStack() as stack:
            other = await stack.enter_async_context(topic.member(revoked, group_instance_id="a"))
            async with topic.member(group_instance_id="b") as member:
                await until(lambda: share_partitions(other, member), other, member)
                (before,) = assigned(member)
                for partition in range(2):
                    await topic.publish(b"1", b"2", partition=partition)
                await ack(member, (await collect(member, 2))[0])
                await collect(other, 2)
            async with topic.member(group_instance_id="b") as member:
                assert bodies(await collect(member, 1)) == [b"2"]
                assert assigned(member) == [before]
                assert revoked.partitions == []


async def test_a_member_may_be_idle_for_ever(
    kafka: AnyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its handlers take, it stays in the group and takes part in rebalances."""
    monkeypatch.setattr(SubscriptionState, "fetcher_idle_time", DAY)
    async with a_topic(kafka, partitions=2) as topic:
        async with topic.member(session_timeout="3s") as idle, topic.member() as other:
            await until(lambda: share_partitions(idle, other), idle, other)


def test_one_group_for_two_subscriptions_to_a_topic_is_refused() -> None:
    """Each subscription would get only a part of the messages."""
    driver = drivers.open_driver("kafka://127.0.0.1:9?group=friends")
    driver.receiver("cats", "a", ordered=True)
    driver.receiver("dogs", "b", ordered=True)
    with pytest.raises(StartError, match=r"'a' and 'b'.*leave group out"):
        driver.receiver("cats", "b", ordered=True)
