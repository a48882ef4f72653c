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
    Holds,
    Tells,
    a_topic,
    ack,
    bodies,
    collect,
    places,
    refusals,
    share,
    soon,
    until,
)


async def test_who_lets_go_finishes_and_commits_first(real_kafka: Cluster) -> None:
    """Another member gets a partition once its owner has drained, from where that committed."""
    async with a_topic(real_kafka, partitions=2) as topic, AsyncExitStack() as stack:
        for partition in range(2):
            await topic.publish(b"1", b"2", partition=partition)
        holds = Holds()
        owner = await stack.enter_async_context(topic.member(holds))
        messages = await collect(owner, 4)
        joining = asyncio.create_task(stack.enter_async_context(topic.member()))
        await soon(holds.begun.wait())
        await ack(owner, *(message for message in messages if message.body == b"1"))
        assert not joining.done()
        holds.go_on.set()
        newcomer = await joining
        assert bodies(await collect(newcomer, 1)) == [b"2"]
        assert bodies(await collect(owner, 1)) == [b"2"]


async def test_what_was_received_before_a_rebalance_is_acked_in_vain(kafka: AnyCluster) -> None:
    """It belongs to an assignment that is over, also where the partition stays: it comes again."""
    async with a_topic(kafka, partitions=2) as topic:
        for partition in range(2):
            await topic.publish(b"1", partition=partition)
        told = Tells()
        async with topic.member(told) as owner:
            messages = await collect(owner, 2)
            async with topic.member() as newcomer:
                assert bodies(await collect(newcomer, 1)) == [b"1"]
                assert sorted(told.revoked) == ["0", "1"]
                assert refusals(await owner.ack(messages)) == [True, True]
                assert bodies(await collect(owner, 1)) == [b"1"]
        assert [await topic.committed(partition) for partition in range(2)] == [None, None]


async def test_a_receive_ends_after_its_wait_amid_a_rebalance(kafka: AnyCluster) -> None:
    """It does not wait for what others, or the engine, take to let go."""
    async with a_topic(kafka) as topic, AsyncExitStack() as stack:
        await topic.publish(b"1")
        holds = Holds()
        owner = await stack.enter_async_context(topic.member(holds))
        await collect(owner, 1)
        joining = asyncio.create_task(stack.enter_async_context(topic.member()))
        await soon(holds.begun.wait())
        assert await soon(owner.receive(10, 0.05)) == []
        holds.go_on.set()
        await joining


async def test_a_member_that_leaves_is_not_waited_for(kafka: AnyCluster) -> None:
    """Its close tells the group: another member has its partitions long before its session ends."""
    async with a_topic(kafka, partitions=2) as topic:
        async with topic.member() as other:
            async with topic.member(session_timeout="60s", rebalance_timeout="60s") as leaver:
                await until(lambda: share(other, leaver), other, leaver)
            await until(lambda: places(other) == ["0", "1"], other)


async def test_a_close_amid_a_rebalance_commits_and_leaves(real_kafka: Cluster) -> None:
    """It waits neither for the engine to let go nor for its session: it commits and leaves."""
    async with a_topic(real_kafka) as topic, AsyncExitStack() as stack:
        await topic.publish(b"1", b"2")
        holds = Holds()
        async with topic.member(holds, session_timeout="25s", rebalance_timeout="25s") as owner:
            first, _ = await collect(owner, 2)
            joining = asyncio.create_task(stack.enter_async_context(topic.member()))
            await soon(holds.begun.wait())
            await ack(owner, first)
            await soon(owner.aclose())
            assert await topic.committed() == 1
        assert bodies(await collect(await joining, 1)) == [b"2"]


async def test_a_static_member_restarts_unnoticed(real_kafka: Cluster) -> None:
    """Within its session timeout it gets its partition again, and no other member lets go."""
    async with a_topic(real_kafka, partitions=2) as topic:
        told = Tells()
        async with AsyncExitStack() as stack:
            other = await stack.enter_async_context(topic.member(told, group_instance_id="a"))
            async with topic.member(group_instance_id="b") as member:
                await until(lambda: share(other, member), other, member)
                (before,) = places(member)
                for partition in range(2):
                    await topic.publish(b"1", b"2", partition=partition)
                await ack(member, (await collect(member, 2))[0])
                await collect(other, 2)
            async with topic.member(group_instance_id="b") as member:
                assert bodies(await collect(member, 1)) == [b"2"]
                assert places(member) == [before]
                assert told.revoked == []


async def test_a_member_may_be_idle_for_ever(
    kafka: AnyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its handlers take, it stays in the group, and joins it again with others."""
    monkeypatch.setattr(SubscriptionState, "fetcher_idle_time", DAY)
    async with a_topic(kafka, partitions=2) as topic:
        async with topic.member(session_timeout="3s") as idle, topic.member() as other:
            await until(lambda: share(idle, other), idle, other)


def test_one_group_for_two_subscriptions_to_a_topic_is_refused() -> None:
    """Each would get a part of the messages."""
    driver = drivers.open_driver("kafka://127.0.0.1:9?group=friends")
    driver.receiver("cats", "a", ordered=True)
    driver.receiver("dogs", "b", ordered=True)
    with pytest.raises(StartError, match=r"'a' and 'b'.*leave group out"):
        driver.receiver("cats", "b", ordered=True)
