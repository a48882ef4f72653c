"""Being in a group on Kafka, and being it no more: thrown out, closed while it joins, or mock."""

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
    Holds,
    Topic,
    a_topic,
    ack,
    an_admin,
    bodies,
    collect,
    let_go,
    places,
    refusals,
    soon,
    until,
)
from tests.pubsub.support import turns

UNKNOWN_SERVER_ERROR = -1
LONG = "25s"
"""A session that no test waits for the end of."""


class Times:
    """Let go of partitions at once, and keep how long that might have taken."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, partitions: Collection[Hashable], seconds: float) -> None:
        self.seconds.append(seconds)


# Thrown out.


@pytest.mark.parametrize(
    ("error", "seconds", "again"),
    [
        (UNKNOWN_MEMBER, 0.0, [b"1", b"2"]),
        (ILLEGAL_GENERATION, 0.0, [b"1", b"2"]),
        (REBALANCE, 7.9, [b"2"]),
    ],
)
async def test_who_is_lost_to_its_group_lets_go_at_once(
    mock: MockCluster, error: int, seconds: float, again: list[bytes]
) -> None:
    """Others have what it had: nothing is finished nor committed, unlike in a rebalance."""
    async with a_topic(mock) as topic:
        await topic.publish(b"1")
        times = Times()
        async with topic.member(times, session_timeout="1s") as receiver:
            await ack(receiver, *await collect(receiver, 1))
            mock.fail(HEARTBEAT, error)
            await until_told(times, receiver)
            assert times.seconds == [pytest.approx(seconds)]
            await topic.publish(b"2")
            assert bodies(await collect(receiver, len(again))) == again


async def test_a_commit_that_is_tried_again_ends_with_the_membership(
    real_kafka: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not repeated in the name of nobody, which a broker takes while a group is empty."""
    async with a_topic(real_kafka) as topic:
        await topic.publish(b"1")
        times, commit = Times(), GroupCoordinator._do_commit_offsets
        tried = asyncio.Event()

        async def loading(self: Any, *arguments: Any) -> None:
            tried.set()
            if self.generation > 0:
                raise GroupLoadInProgressError
            await commit(self, *arguments)

        monkeypatch.setattr(GroupCoordinator, "_do_commit_offsets", loading)
        async with topic.member(times, commit_every=1, commit_interval="10ms") as receiver:
            await ack(receiver, *await collect(receiver, 1))
            await soon(tried.wait())
            await throw_out(topic, receiver)
            await until_told(times, receiver)
            assert bodies(await receiver.receive(1, 5.0)) == [b"1"]
            assert await topic.committed() is None


async def throw_out(topic: Topic, receiver: Any) -> None:
    """Have the group's coordinator forget a member, as if its session had ended."""
    node = receiver._membership.consumer._coordinator.coordinator_id
    request = LeaveGroupRequest(topic.name, receiver._membership.consumer._coordinator.member_id)
    await topic.looker._client.send(node, request)


async def test_partitions_are_forgotten_though_the_last_commit_raises(
    mock: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was received before belongs to an assignment that is over, and comes again."""

    commit = DyingCommit()
    async with a_topic(mock) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member() as receiver:
            first, second = await collect(receiver, 2)
            await ack(receiver, first)
            with monkeypatch.context() as patch:
                patch.setattr(AIOKafkaConsumer, "commit", commit)
                mock.fail(HEARTBEAT, REBALANCE)
                await soon(commit.died.wait())
            await turns()
            assert refusals(await receiver.ack([second])) == [True]
            assert bodies(await collect(receiver, 2)) == [b"1", b"2"]


class DyingCommit:
    """Fail as aiokafka does where a connection goes meanwhile."""

    def __init__(self) -> None:
        self.died = asyncio.Event()

    async def __call__(self, *_: object) -> None:
        self.died.set()
        raise KeyError((1, "coordination"))


async def until_told(times: Times, receiver: Any) -> None:
    """Let a receiver work until it has let go, and keep nothing of what it is given."""
    async with asyncio.timeout(20):
        while not times.seconds:
            assert await receiver.receive(100, 0.02) == []


async def test_a_committer_that_has_died_is_a_stall(
    mock: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing would be committed any more; the engine makes a receiver anew."""
    async with a_topic(mock) as topic:
        await topic.publish(b"1")
        async with topic.member(commit_interval="10ms") as receiver:
            messages = await collect(receiver, 1)
            with monkeypatch.context() as patch:
                patch.setattr(AIOKafkaConsumer, "commit", DyingCommit())
                await ack(receiver, *messages)
                await until(lambda: receiver.status().stalled, receiver)
            assert receiver.status().stalled == "a background task of the Kafka client has ended"


async def test_an_error_of_the_group_is_raised_amid_a_rebalance(mock: MockCluster) -> None:
    """Also where nobody received when it came: aiokafka joins no more until it is heard of."""
    async with a_topic(mock) as topic, topic.member(session_timeout="1s") as receiver:
        coordinator = receiver._membership.consumer._coordinator
        mock.fail(JOIN_GROUP, UNKNOWN_SERVER_ERROR)
        mock.fail(HEARTBEAT, REBALANCE)
        await until(lambda: coordinator._pending_exception)
        with pytest.raises(PubSubError, match="UnknownError") as caught:
            await receiver.receive(1, 1.0)
        assert not caught.value.transient


# Closed.


async def test_who_closes_while_it_joins_is_not_waited_for(real_kafka: Cluster) -> None:
    """The group hears of it at once, though its request to join is not answered yet."""
    async with a_topic(real_kafka, partitions=2) as topic:
        for partition in range(2):
            await topic.publish(b"1", partition=partition)
        holds = Holds()
        async with topic.member(holds) as owner:
            await collect(owner, 2)
            async with topic.outsider(session_timeout=LONG, rebalance_timeout=LONG) as newcomer:
                joining = asyncio.create_task(newcomer.connect(let_go))
                await soon(holds.begun.wait())
                await soon(newcomer.aclose())
                with pytest.raises(PubSubError, match=r"cannot be joined.*was closed meanwhile"):
                    await joining
            await soon(until_members(topic, real_kafka, 1))
            holds.go_on.set()
            assert bodies(await soon(collect(owner, 2))) == [b"1", b"1"]


async def until_members(topic: Topic, cluster: Cluster, count: int) -> None:
    """Wait until the group has so many members."""
    async with an_admin(cluster) as admin:
        while True:
            (answer,) = await admin.describe_consumer_groups([topic.name])
            (group,) = answer.to_object()["groups"]
            if len(group["members"]) == count:
                return
            await asyncio.sleep(0.05)


async def test_who_closes_while_it_connects_does_not_join(mock: MockCluster) -> None:
    """Its connect says so, nothing of it goes on, and nobody waits for its session."""
    async with a_topic(mock, partitions=2) as topic:
        async with topic.outsider(session_timeout=LONG) as closed:
            mock.delay(1, 0.2)
            connecting = asyncio.create_task(closed.connect(let_go))
            await asyncio.wait((connecting,), timeout=0.1)
            await closed.aclose()
            with pytest.raises(UsageError, match="connect before aclose"):
                await soon(connecting)
            mock.delay(1, 0.0)
            async with topic.member() as receiver:
                await soon(until(lambda: places(receiver) == ["0", "1"], receiver))


# Silence.


@asynccontextmanager
async def nothing_unheard() -> AsyncIterator[None]:
    """Fail where the loop is told of what nobody has heard, such as a task's error."""
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    yield
    gc.collect()
    assert unheard == []


@pytest.mark.parametrize("seconds", [0.05, 1.2])
async def test_no_error_is_left_unheard_by_a_close_without_answers(
    mock: MockCluster, seconds: float
) -> None:
    """Whatever waits for a broker that has fallen silent: commits, receives and sends."""
    async with a_topic(mock, partitions=2) as topic, AsyncExitStack() as stack:
        for partition in range(2):
            await topic.publish(b"1", partition=partition)
        async with nothing_unheard():
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
            await soon(asyncio.gather(receiver.aclose(), sender.aclose()))
            assert await soon(receiving) == []
            await soon(asyncio.wait((sending,)))
            mock.delay(1, 0)
            del receiver, sender, sending, receiving, messages, message
